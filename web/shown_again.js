// A run in which the host has everything in its cache: older hosts tell the page only what output nodes and those right before a node
// that ran have shown, so a page that was opened anew has no pictures and lines of the others. They are in the history of the run
// that made them. Newer hosts send them by themselves (has_intermediate_output); what came is not asked for.
import { api } from '../../scripts/api.js'
import { app } from '../../scripts/app.js'
import { root } from './graphs.js'

const CATEGORY = /^PFV-MEPA(\/|$)/
const MOST = 64 // runs of the history that are looked at, the newest
const ENDS = ['execution_success', 'execution_error', 'execution_interrupted']

const waiting = new Map() // run -> its cached nodes of which nothing came yet
const showing = new WeakSet() // nodes of the page

const get = async (path) => (await api.fetchApi(path)).json()

// As it was sent: a run is in the queue until it is in the history.
const promptOf = async (run) => {
  const { queue_running: running } = await get('/queue')
  const item = running.find(([, id]) => id === run)
  return (item ?? (await get(`/history/${run}`))[run]?.prompt)?.[2]
}

// Of an id such as 12:3, which is node 3 in the subgraph of node 12.
const nodeOf = (id) => {
  let graph = root(), node
  for (const part of String(id).split(':')) {
    node = graph?.getNodeById(Number(part))
    graph = node?.subgraph
  }
  return node
}

const isEmpty = (id) => {
  const node = nodeOf(id)
  return CATEGORY.test(node?.constructor.nodeData?.category ?? '') && !showing.has(node)
}

const isLink = (value) => Array.isArray(value) && value.length === 2 && typeof value[0] === 'string'

// A node and all before it, as text that is the same where they are: ids, classes, values and links.
const withAllBefore = (prompt, id, seen = new Map()) => {
  if (seen.has(id) || !prompt[id]) return seen
  const { class_type: kind, inputs } = prompt[id]
  const names = Object.keys(inputs).sort()
  seen.set(id, JSON.stringify([kind, names.map((name) => [name, inputs[name]])]))
  for (const name of names) if (isLink(inputs[name])) withAllBefore(prompt, inputs[name][0], seen)
  return seen
}

const isSame = (one, other) => one.size === other.size && [...one].every(([id, text]) => other.get(id) === text)

// Temporary pictures may have been deleted since: then nothing is shown.
const isThere = async ({ filename, subfolder, type }) => {
  const address = new URLSearchParams({ filename, subfolder, type })
  return (await api.fetchApi(`/view?${address}`, { method: 'HEAD' })).ok
}

const areThere = async (output) => (await Promise.all((output.images ?? []).map(isThere))).every(Boolean)

const showAgain = async (run, cached) => {
  const empty = [...cached].filter(isEmpty)
  const prompt = empty.length && (await promptOf(run))
  if (!prompt) return
  const history = Object.values(await get(`/history?max_items=${MOST}`)).reverse() // the newest first
  for (const id of empty) {
    const wanted = withAllBefore(prompt, id)
    const output = history.find((made) => made.outputs[id] && isSame(wanted, withAllBefore(made.prompt[2], id)))?.outputs[id]
    if (!output || !(await areThere(output))) continue
    const detail = { node: id, display_node: id, output, prompt_id: run }
    api.dispatchEvent(new CustomEvent('executed', { detail })) // as if the host had sent it
  }
  app.canvas?.setDirty(true, true) // the run is over: nothing else would draw the lines
}

app.registerExtension({
  name: 'pfv-mepa.shownAgain',

  beforeRegisterNodeDef(nodeType, definition) {
    if (!CATEGORY.test(definition.category)) return
    const { onExecuted } = nodeType.prototype
    nodeType.prototype.onExecuted = function (output) {
      onExecuted?.call(this, output)
      if (output) showing.add(this)
    }
  },

  setup() {
    api.addEventListener('execution_cached', ({ detail }) => waiting.set(detail.prompt_id, new Set(detail.nodes)))
    api.addEventListener('executed', ({ detail }) => waiting.get(detail.prompt_id)?.delete(detail.node))
    for (const end of ENDS)
      api.addEventListener(end, ({ detail }) => {
        const cached = waiting.get(detail.prompt_id)
        waiting.delete(detail.prompt_id)
        if (cached?.size) showAgain(detail.prompt_id, cached).catch((error) => console.warn('pfv-mepa:', error))
      })
  }
})
