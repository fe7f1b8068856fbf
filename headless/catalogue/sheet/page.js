'use strict'
// Shows the records that stand in this page: a filtered, paged grid, a large view, and a list of what was not made. All that
// comes from a table or a server is written as text; nothing here makes HTML of it.

const PER_PAGE = 200
const LISTED = 100 // products, in the list beside the grid
const CODE = 8 // characters that are looked for in hashes and file names too: fewer stand in many by chance
const SHOWS = { all: 'All', passed: 'Passed', failed: 'Failed a check', unchecked: 'Product not checked', superseded: 'Superseded, made again', unmade: 'Given up and bad rows' }
const MARKS = { passed: ['✓', 'passed'], failed: ['✕', 'failed a check'], unchecked: ['–', 'product not checked'], 'not asked': ['·', 'not asked for'] }
const SIZES = { s: 'small', m: 'medium', l: 'large' }
const DEFAULTS = { show: 'all', format: '', product: '', q: '', size: 'm', page: '1', ad: '' }

const ads = [] // what the grid and the filters need of each; the rest stays packed until it is opened
const failures = []
const texts = [] // distinct, lower case: many ads share a prompt
const placeOfText = new Map()
let state = { ...DEFAULTS }
let found = [] // ads that the filters leave
let unmade = []
let unmadeShown = PER_PAGE
let reading = true
let names = [] // of all products, in the order of the list; sorted once, when all are read

const COLLATOR = new Intl.Collator('en', { numeric: true })
const $ = (id) => document.getElementById(id)
const count = (number) => number.toLocaleString('en')
const counted = (number, one, many = `${one}s`) => `${count(number)} ${number === 1 ? one : many}`
const folded = (text) => text.normalize('NFC').toLowerCase()

/** An element with attributes (functions are listeners) and children; strings become text. */
const make = (tag, attributes = {}, ...children) => {
  const made = document.createElement(tag)
  for (const [name, value] of Object.entries(attributes)) {
    if (typeof value === 'function') made.addEventListener(name, value)
    else if (value !== false && value !== undefined) made.setAttribute(name, value)
  }
  made.append(...children.filter((child) => child !== undefined))
  return made
}
/** Text from elsewhere: its direction is its own and does not spread. */
const foreign = (text) => make('bdi', { dir: 'auto' }, text)
const mark = (kind) => make('span', { class: `mark mark-${kind === 'not asked' ? 'none' : kind}`, role: 'img', 'aria-label': MARKS[kind][1] }, MARKS[kind][0])
const markOf = (ad) => (ad.failed ? 'failed' : ad.unchecked ? 'unchecked' : 'passed')

// Reading

const unpack = async (block) => {
  const packed = atob(block.textContent)
  const bytes = new Uint8Array(packed.length)
  for (let place = 0; place < packed.length; place++) bytes[place] = packed.charCodeAt(place)
  const stream = new Blob([bytes]).stream().pipeThrough(new DecompressionStream('deflate'))
  return new Response(stream).json()
}

const pooled = (text) => {
  const key = folded(text)
  if (!placeOfText.has(key)) placeOfText.set(key, texts.push(key) - 1)
  return placeOfText.get(key)
}

const addAds = async (block) => {
  const records = await unpack(block)
  records.forEach((record, place) => {
    const { name, row, job, seed, earlier, superseded, path, href, format, size, title, several, notes, failed, unchecked } = record
    const words = [...record.inputs.map((input) => input.value), ...notes.map((note) => note[1]), ...record.run.slice(0, 1).map((fact) => fact[1])]
    const own = folded([name, title, format, `seed ${seed}`].join('\n'))
    const shown = failed || unchecked ? notes.filter((note) => note[0] === 'failed' || note[0] === 'unchecked') : []
    ads.push({ name, row, job, seed, earlier, superseded, path, href, format, size, about: [format, seed && `seed\u00a0${seed}`, several && title, superseded && 'superseded'].filter(Boolean).join(' · '), notes: shown, failed, unchecked, own, code: folded(`${job}\n${path}`), texts: words.map(pooled), block, place })
  })
}

const addFailures = async (block) => {
  for (const record of await unpack(block)) {
    failures.push({ ...record, own: folded([record.name, record.reason, ...record.problems].join('\n')), code: record.job, texts: [] })
  }
}

const parsed = new Promise((resolve) => {
  if (document.readyState === 'loading') document.addEventListener('DOMContentLoaded', resolve, { once: true })
  else resolve()
})

const readAll = async () => {
  const read = new Set()
  let drawn = 0
  const readBlocks = async (kind, add) => {
    for (const block of document.querySelectorAll(`script.${kind}`)) {
      if (read.has(block)) continue
      read.add(block)
      await add(block)
      if (performance.now() - drawn > 400) { // the grid once, then the counts as they grow
        drawn ? refreshCounts() : refresh()
        await new Promise((resolve) => setTimeout(resolve))
        drawn = performance.now()
      }
    }
  }
  await readBlocks('ads', addAds) // those above this script
  await parsed
  await readBlocks('ads', addAds)
  await readBlocks('failures', addFailures)
  reading = false
  names = [...new Set([...ads, ...failures].map((record) => record.name))].sort(COLLATOR.compare)
  summarise()
  refresh()
  if (state.ad) openNamed(state.ad)
}

const summarise = () => {
  const totals = $('totals') && JSON.parse($('totals').textContent)
  const current = ads.filter((ad) => !ad.superseded).length
  if (!totals || totals.ads !== current || totals.failures !== failures.length || totals.superseded !== ads.length - current) {
    trouble('This page was cut off on its way: not all ads are shown. Load it again, or write it again.')
    return
  }
  const givenUp = failures.filter((failure) => failure.job).length
  const parts = [
    totals.jobs === totals.ads ? counted(totals.ads, 'ad') : `${counted(totals.ads, 'ad')} of ${counted(totals.jobs, 'job')}`,
    `${count(givenUp)} given up`,
    counted(failures.length - givenUp, 'bad row'),
    `written ${totals.written}`
  ]
  $('summary').textContent = parts.join(' · ')
}

const trouble = (text) => {
  $('trouble').textContent = text
  $('trouble').hidden = false
}

// Filters

const shows = {
  all: (ad) => !ad.superseded,
  passed: (ad) => !ad.superseded && !ad.failed && !ad.unchecked,
  failed: (ad) => !ad.superseded && ad.failed,
  unchecked: (ad) => !ad.superseded && ad.unchecked,
  superseded: (ad) => ad.superseded,
  unmade: () => false
}

/** Function: a record -> whether each word of the search stands in it. Each distinct text is searched once. */
const matcher = () => {
  const words = folded(state.q).split(/\s+/).filter(Boolean)
  if (!words.length) return () => true
  const inTexts = words.map((word) => texts.map((text) => text.includes(word)))
  const inCode = (record, word) => word.length >= CODE && record.code.includes(word)
  return (record) => words.every((word, number) => record.own.includes(word) || inCode(record, word) || record.texts.some((text) => inTexts[number][text]))
}

const increase = (counts, key) => counts.set(key, (counts.get(key) ?? 0) + 1)

/** Find what is left, and count beside each filter what it would leave together with the others. */
const filter = () => {
  const counts = { show: new Map(), format: new Map(), product: new Map() }
  const matches = matcher()
  found = []
  for (const ad of ads) {
    if (!matches(ad)) continue
    const inShow = shows[state.show](ad)
    const inFormat = !state.format || ad.format === state.format
    const inProduct = !state.product || ad.name === state.product
    if (inFormat && inProduct) for (const show in shows) if (shows[show](ad)) increase(counts.show, show)
    if (inShow && inProduct) increase(counts.format, ad.format)
    if (inShow && inFormat) increase(counts.product, ad.name)
    if (inShow && inFormat && inProduct) found.push(ad)
  }
  const others = failures.filter((failure) => !state.format && matches(failure))
  const ofProduct = others.filter((failure) => !state.product || failure.name === state.product)
  counts.show.set('unmade', ofProduct.length)
  unmade = state.show === 'all' || state.show === 'unmade' ? ofProduct : []
  if (state.show === 'unmade') for (const failure of others) if (failure.name) increase(counts.product, failure.name)
  return counts
}

const choice = (key, value, label, number) => {
  const pressed = state[key] === value
  const choose = () => set({ [key]: pressed ? DEFAULTS[key] : value, page: '1' })
  const kind = number || pressed ? undefined : 'none'
  return make('button', { type: 'button', 'aria-pressed': String(pressed), class: kind, click: choose, 'data-value': value },
    make('span', { class: 'of' }, label), make('span', { class: 'count' }, count(number)))
}

/** Put buttons in the place of others; the one that had the focus keeps it. */
const replace = (holder, ...children) => {
  const focused = holder.contains(document.activeElement) ? document.activeElement.dataset.value : undefined
  const top = holder.scrollTop
  holder.replaceChildren(...children)
  holder.scrollTop = top
  if (focused !== undefined) [...holder.children].find((child) => child.dataset.value === focused)?.focus()
}

const drawFilters = (counts) => {
  const optional = (show) => show !== 'superseded' || counts.show.get(show) || state.show === show
  replace($('show'), ...Object.keys(SHOWS).filter(optional).map((show) => choice('show', show, SHOWS[show], counts.show.get(show) ?? 0)))
  drawFormats(counts.format)
  drawProducts(counts.product)
  const number = [state.show !== 'all', state.format, state.product, state.q].filter(Boolean).length
  $('filters-set').textContent = number ? `(${number} set)` : ''
}

const drawFormats = (counts) => {
  if (state.format && !counts.has(state.format)) counts.set(state.format, 0)
  const area = (format) => format.split('x').reduce((product, side) => product * Number(side), 1)
  const formats = [...counts].sort((one, other) => area(one[0]) - area(other[0]) || one[0].localeCompare(other[0]))
  $('formats').hidden = !formats.length
  replace($('format'), ...formats.map(([format, number]) => choice('format', format, format || 'no picture', number)))
}

const drawProducts = (counts) => {
  if (state.product && !counts.has(state.product)) counts.set(state.product, 0)
  const words = folded($('product-words').value)
  const there = (reading ? [...counts.keys()] : names).filter((name) => counts.has(name) && name !== state.product && folded(name).includes(words))
  if (state.product) there.unshift(state.product)
  const rest = there.length - LISTED
  const more = rest > 0 ? [make('p', { class: 'rest' }, `and ${count(rest)} more: type to narrow`)] : []
  const none = there.length ? [] : [make('p', { class: 'rest' }, 'No product has that name here.')]
  replace($('product'), ...there.slice(0, LISTED).map((name) => choice('product', name, foreign(name), counts.get(name))), ...more, ...none)
}

// The grid

const tile = (ad, number) => {
  const kind = markOf(ad)
  const reasons = ad.notes.map((note) => make('span', { class: `why why-${note[0]}` }, foreign(note[1])))
  const caption = make('span', { class: 'caption' }, make('span', { class: 'name' }, foreign(ad.name)), mark(kind), make('span', { class: 'of' }, foreign(ad.about)), ...reasons)
  const open = () => openAt(number)
  return make('li', { class: `is-${kind}` },
    make('button', { type: 'button', class: 'tile', click: open, 'data-number': number, tabindex: -1 }, make('span', { class: 'picture' }, picture(ad, true)), caption))
}

const picture = (ad, isLazy) => {
  if (!ad.href) return gone('no picture', 'the ledger names none')
  const [width, height] = ad.size.split('x')
  const image = make('img', { loading: isLazy ? 'lazy' : false, decoding: 'async', width: width || false, height: height || false, alt: '' })
  image.addEventListener('error', () => image.replaceWith(gone('gone', 'not in ads/, or no whole picture')))
  image.src = ad.href
  return image
}
const gone = (what, why) => make('span', { class: 'gone' }, make('b', {}, what), why)

const pageCount = () => Math.max(1, Math.ceil(found.length / PER_PAGE))
const pageNumber = () => Math.min(pageCount(), Math.max(1, Number.parseInt(state.page, 10) || 1))

const drawGrid = () => {
  const first = (pageNumber() - 1) * PER_PAGE
  const tiles = found.slice(first, first + PER_PAGE).map((ad, place) => tile(ad, first + place))
  $('grid').dataset.size = state.size
  $('grid').replaceChildren(...tiles)
  if (tiles.length) tiles[0].firstChild.tabIndex = 0
  else if (!reading && !unmade.length) $('grid').append(make('li', { class: 'nothing' }, ads.length ? 'No ad is like that.' : 'No ad has been made yet.'))
  drawPages()
}

const drawPages = () => {
  const page = pageNumber()
  const to = (label, number) => make('button', { type: 'button', click: () => turnTo(number), ...(number < 1 || number > pageCount() ? { disabled: '' } : {}) }, label)
  const nav = pageCount() > 1 ? [to('Previous', page - 1), make('span', {}, `Page ${count(page)} of ${count(pageCount())}`), to('Next', page + 1)] : []
  $('pages').replaceChildren(...nav)
}

const turnTo = (page) => {
  set({ page: String(page) })
  scrollTo(0, 0)
}

const drawAbove = () => {
  const all = ads.filter((ad) => !ad.superseded).length
  const special = { unmade: `${count(unmade.length)} not made`, superseded: `${count(found.length)} superseded` }
  const shown = special[state.show] ?? `${count(found.length)} of ${counted(all, 'ad')}`
  const first = (pageNumber() - 1) * PER_PAGE
  const part = found.length > PER_PAGE ? `, ${count(first + 1)} to ${count(Math.min(found.length, first + PER_PAGE))} here` : ''
  $('found').textContent = reading ? `${shown} so far` : shown + part
  const labels = { show: SHOWS[state.show], format: state.format, product: state.product, q: `“${state.q}”` }
  const chosen = Object.keys(labels).filter((key) => state[key] !== DEFAULTS[key])
  const chip = (key) => make('button', { type: 'button', title: 'Take this filter away', click: () => set({ [key]: DEFAULTS[key], page: '1' }) }, foreign(labels[key]))
  $('set').replaceChildren(...chosen.map(chip))
}

const drawUnmade = () => {
  const section = $('not-made')
  section.hidden = !unmade.length
  section.querySelector('h2').textContent = `Given up and bad rows of the last run: ${count(unmade.length)}`
  section.querySelector('ol').replaceChildren(...unmade.slice(0, unmadeShown).map(unmadeItem))
  const more = section.querySelector('.more')
  more.hidden = unmade.length <= unmadeShown
  more.textContent = `Show ${count(Math.min(PER_PAGE, unmade.length - unmadeShown))} more`
}

const unmadeItem = (failure) => {
  const kind = failure.job ? 'given up' : 'bad row'
  const problems = failure.problems.map((problem) => make('div', {}, foreign(problem)))
  const attempts = problems.length ? [make('details', {}, make('summary', {}, counted(problems.length, 'attempt')), ...problems)] : []
  return make('li', {}, make('span', { class: 'row' }, `line ${failure.row}`),
    make('span', { class: 'name' }, foreign(failure.name), make('span', { class: 'kind' }, kind)),
    make('span', { class: 'reason' }, foreign(failure.reason)), ...attempts)
}

const refreshCounts = () => {
  drawFilters(filter())
  drawAbove()
  drawPages()
}

const refresh = () => {
  drawFilters(filter())
  drawGrid()
  drawAbove()
  drawUnmade()
}

// The large view

let opened = -1

const openNamed = (path) => {
  const number = found.findIndex((ad) => ad.path === path)
  if (number >= 0) openAt(number)
  else trouble(`${path} is not here: it was superseded, or the filters leave it out.`)
}

const openAt = async (number) => {
  const ad = found[number]
  if (!ad) return
  opened = number
  const record = (await unpack(ad.block))[ad.place]
  if (opened !== number) return // another one was asked for meanwhile
  drawLarge(ad, record, number)
  if (!$('large').open) $('large').showModal()
  $('large').scrollTop = 0
  set({ ad: ad.path, page: String(Math.floor(number / PER_PAGE) + 1) })
}

const drawLarge = (ad, record, number) => {
  const shown = picture(ad, false)
  const stage = ad.href ? make('a', { href: ad.href, target: '_blank', rel: 'noopener', title: 'Open the file' }, shown) : shown
  document.querySelector('.stage').replaceChildren(stage)
  const step = (label, to) => make('button', { type: 'button', click: () => openAt(to), ...(found[to] ? {} : { disabled: '' }) }, label)
  const close = make('button', { type: 'button', autofocus: '', click: () => $('large').close() }, 'Close')
  document.querySelector('.bar').replaceChildren(step('Previous', number - 1), step('Next', number + 1), close)
  const about = [ad.about, record.several ? '' : record.title && `saved by ${record.title}`].filter(Boolean).join(' · ')
  const facts = document.querySelector('.facts')
  facts.replaceChildren(make('h2', { id: 'large-name' }, foreign(ad.name)), make('p', { class: 'of' }, foreign(about)),
    make('ol', { class: 'checks' }, ...record.notes.map((note) => make('li', {}, mark(note[0]), foreign(note[1])))),
    ...versions(ad), ...inputsOf(record), ...runOf(record))
  facts.scrollTop = 0
}

const versions = (ad) => {
  if (ad.superseded) return [make('p', { class: 'of' }, 'This job was made again since: a later ad counts.')]
  if (!ad.earlier) return []
  const show = () => { opened = -1; $('large').close(); set({ ...DEFAULTS, size: state.size, show: 'superseded', q: ad.job.slice(0, 16) }) }
  return [make('button', { type: 'button', class: 'more', click: show }, `Show ${counted(ad.earlier, 'earlier version')}`)]
}

const inputsOf = (record) => {
  const isLong = (input) => input.is_text && input.value.length > 40
  const long = record.inputs.filter(isLong).flatMap((input) => [make('h3', {}, foreign(input.name)), make('div', { class: 'long', dir: 'auto', tabindex: 0 }, input.value)])
  const short = record.inputs.filter((input) => !isLong(input)).map((input) => [input.name, input.value, input.notes])
  return [...long, ...(short.length ? [make('h3', {}, 'Inputs'), list(short)] : [])]
}

const runOf = (record) => {
  const [path, href] = record.workflow
  const file = make('a', { href: record.href, target: '_blank', rel: 'noopener' }, foreign(record.path))
  const rows = [['file', record.href ? file : record.path], ['size', record.size], ...record.file]
  const workflow = href ? make('a', { href, target: '_blank', rel: 'noopener' }, foreign(path)) : path
  const made = [['table', `line ${record.row}`], ...record.run, ...(path ? [['workflow', workflow]] : []), ['job', record.job]]
  const shown = record.texts.map(([node, text]) => [make('h3', {}, node), make('div', { class: 'long', dir: 'auto', tabindex: 0 }, text)]).flat()
  return [make('h3', {}, 'Made'), list(made), make('h3', {}, 'Picture'), list(rows),
    ...(shown.length ? [make('details', {}, make('summary', {}, 'What its nodes showed as text'), ...shown)] : [])]
}

const list = (rows) => make('dl', {}, ...rows.filter((row) => row[1] !== '').flatMap(([label, value, notes = []]) => [
  make('dt', {}, foreign(label)),
  make('dd', {}, typeof value === 'string' ? foreign(value) : value, ...notes.map((note) => make('small', { class: note.startsWith('converted') ? 'converted' : undefined }, foreign(note))))
]))

// The state stands in the address, so that what is seen can be shared

const fromAddress = () => {
  const given = Object.fromEntries(new URLSearchParams(location.hash.slice(1)))
  const known = Object.fromEntries(Object.entries(given).filter(([key]) => key in DEFAULTS))
  const next = { ...DEFAULTS, ...known }
  if (!(next.show in SHOWS)) next.show = DEFAULTS.show
  if (!(next.size in SIZES)) next.size = DEFAULTS.size
  return next
}

const toAddress = () => {
  const changed = Object.entries(state).filter(([key, value]) => value !== DEFAULTS[key])
  history.replaceState(null, '', changed.length ? `#${new URLSearchParams(changed)}` : location.pathname + location.search)
}

const set = (changes) => {
  const before = state
  state = { ...state, ...changes }
  toAddress()
  if (Object.keys(changes).every((key) => key === 'ad' || state[key] === before[key])) return
  if ('q' in changes && $('words').value !== state.q) $('words').value = state.q
  unmadeShown = PER_PAGE
  refresh()
  drawSizes()
}

const drawSizes = () => {
  const button = (size) => make('button', { type: 'button', 'aria-pressed': String(state.size === size), 'aria-label': SIZES[size], 'data-value': size, click: () => set({ size }) }, size.toUpperCase())
  const legend = $('sizes').querySelector('legend')
  replace($('sizes'), legend, ...Object.keys(SIZES).map(button))
}

// Keys

const focusTile = (number) => {
  if (number < 0 || number >= found.length) return
  const page = Math.floor(number / PER_PAGE) + 1
  if (page !== pageNumber()) turnTo(page)
  for (const old of $('grid').querySelectorAll('.tile[tabindex="0"]')) old.tabIndex = -1
  const tileThere = $('grid').querySelector(`[data-number="${number}"]`)
  tileThere.tabIndex = 0
  tileThere.focus()
}

const columns = () => getComputedStyle($('grid')).gridTemplateColumns.split(' ').length

const onGridKey = (event) => {
  const number = Number(event.target.dataset?.number)
  if (Number.isNaN(number) || event.altKey || event.ctrlKey || event.metaKey) return
  const last = found.length - 1
  const to = { ArrowLeft: number - 1, ArrowRight: number + 1, ArrowUp: number - columns(), ArrowDown: Math.min(number + columns(), Math.max(number, last)), Home: 0, End: last, PageUp: Math.max(0, number - PER_PAGE), PageDown: Math.min(last, number + PER_PAGE) }[event.key]
  if (to === undefined) return
  event.preventDefault()
  focusTile(to)
}

const onLargeKey = (event) => {
  if (event.target.matches('.long') && /^Arrow(Up|Down)$/.test(event.key)) return
  const step = { ArrowLeft: -1, ArrowUp: -1, ArrowRight: 1, ArrowDown: 1 }[event.key]
  if (!step || event.altKey || event.ctrlKey || event.metaKey) return
  event.preventDefault()
  openAt(opened + step)
}

const onKey = (event) => {
  if ($('large').open) return
  const isWriting = event.target.matches?.('input')
  if (event.key === '/' && !isWriting) { event.preventDefault(); $('words').focus() }
  if (!isWriting && event.target === document.body && event.key.startsWith('Arrow') && found.length) { event.preventDefault(); focusTile((pageNumber() - 1) * PER_PAGE) }
}

let waiting
$('words').addEventListener('input', () => {
  clearTimeout(waiting)
  waiting = setTimeout(() => set({ q: $('words').value, page: '1' }), 150)
})
$('product-words').addEventListener('input', () => refreshCounts())
$('grid').addEventListener('keydown', onGridKey)
$('large').addEventListener('keydown', onLargeKey)
$('large').addEventListener('close', () => {
  const number = opened
  opened = -1
  set({ ad: '' })
  focusTile(number)
})
$('not-made').querySelector('.more').addEventListener('click', () => { unmadeShown += PER_PAGE; drawUnmade() })
document.addEventListener('keydown', onKey)
addEventListener('hashchange', () => {
  state = fromAddress()
  $('words').value = state.q
  refresh()
  drawSizes()
  if (state.ad) openNamed(state.ad)
  else if ($('large').open) $('large').close()
})

const narrow = matchMedia('(max-width: 760px)')
const fold = () => { $('filters').open = !narrow.matches }
narrow.addEventListener('change', fold)
fold()

state = fromAddress()
$('words').value = state.q
drawSizes()
readAll().catch((error) => trouble(typeof DecompressionStream === 'undefined'
  ? 'This browser is too old for this page: use one of 2023 or newer.'
  : `This page cannot be read: ${error}. Write it again.`))
