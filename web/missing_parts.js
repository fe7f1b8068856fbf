// Says, when a workflow is opened, what this ComfyUI lacks of what it uses but can do without: nodes of newer versions, and files of
// models. The pack's own nodes then find by themselves what would have come over a link, and the message names that link. What
// nothing takes the place of, the page says by itself.
import { app } from '../../scripts/app.js'
import { graphs } from './graphs.js'

// Nodes of ours: the input that may stay open, and what they do then.
const OWN_WAY = {
  PFVCutOut: ['found', 'a packshot on plain ground is cut out'],
  PFVReference: ['found', 'what stands out is hidden'],
  PFVGround: ['depth', 'ground and depth come by geometry'],
  PFVProductDepth: ['depth', 'the product gets a plain depth']
}

// The ComfyUI that a node of its own came with.
const SINCE = {
  LoadBackgroundRemovalModel: '0.21',
  RemoveBackground: '0.21',
  SAM3_Detect: '0.20',
  LoadDA3Model: '0.25',
  DA3Inference: '0.25',
  DA3Render: '0.25'
}

const BYPASSED = 4

const said = new Set()

const valuesOf = (widget, node) => {
  const { values } = widget.options ?? {}
  return typeof values === 'function' ? values(widget, node) : values
}

const isThere = (node) => node.type in LiteGraph.registered_node_types

const isOff = (node) => node.mode === LiteGraph.NEVER || node.mode === BYPASSED

const source = (url) => {
  if (!URL.canParse(url)) return ''
  const { hostname, pathname } = new URL(url)
  return ` (from ${hostname}${pathname.split('/').slice(0, 3).join('/')})`
}

const isAbsent = (name, widget, node) => name && widget.value === name && valuesOf(widget, node)?.includes?.(name) === false

// Of a loader, each file that is not in its list, and where it can be had. What stands in a workflow may be anything.
const absentFiles = (node) =>
  [node.properties?.models]
    .flat()
    .filter((model) => node.widgets?.some((widget) => isAbsent(model?.name, widget, node)))
    .map(({ name, directory, url }) => `${name} in models/${directory}${source(url)}`)

const absentIn = (node) => {
  if (isOff(node)) return []
  if (isThere(node)) return absentFiles(node)
  return [node.type in SINCE ? `${node.type} of ComfyUI ${SINCE[node.type]}` : node.type]
}

const mayStayOpen = (node, input) => node.type in OWN_WAY && OWN_WAY[node.type][0] === input?.name

const originOf = (graph, input) => graph.getNodeById(graph.links.get(input.link)?.origin_id)

// The nodes before an input, up to the next one that may stay open. Each is read once, whatever circles links may form.
const allBefore = (graph, input) => {
  const found = new Set([originOf(graph, input)])
  for (const node of found)
    for (const further of node?.inputs ?? []) if (!mayStayOpen(node, further)) found.add(originOf(graph, further))
  return [...found].filter(Boolean)
}

// Whether all that a node gives comes to inputs that may stay open, and nowhere else.
const canBeDoneWithout = (graph, node) => {
  const reached = new Set([node])
  for (const one of reached) {
    const links = (one.outputs ?? []).flatMap((output) => output.links ?? [])
    if (!links.length) return false
    for (const id of links) {
      const { target_id: target, target_slot: slot } = graph.links.get(id) ?? {}
      const further = graph.getNodeById(target)
      if (!further) return false // out of a subgraph
      if (!mayStayOpen(further, further.inputs?.[slot])) reached.add(further)
    }
  }
  return true
}

// What a node lacks before its input that may stay open.
const lackedBy = (graph, node) => {
  const input = node.inputs?.find((input) => mayStayOpen(node, input))
  if (!input) return []
  return allBefore(graph, input).flatMap((before) => {
    const parts = absentIn(before)
    return parts.length && canBeDoneWithout(graph, before) ? parts : []
  })
}

// "node (input)" -> what it lacks, and what is done without; nodes that lack the same stand together.
const lacks = () => {
  const joined = new Map()
  for (const graph of graphs())
    for (const node of graph.nodes) {
      const what = [...new Set(lackedBy(graph, node))].sort().join(', ')
      if (!what) continue
      const [input, instead] = OWN_WAY[node.type]
      const { links = [], ways = [] } = joined.get(what) ?? {}
      joined.set(what, { links: [...links, `${node.title} (${input})`], ways: [...ways, instead] })
    }
  return [...joined].map(([what, { links, ways }]) => `${links.join(', ')}: lacks ${what}. Without: ${ways.join('; ')}.`)
}

app.registerExtension({
  name: 'pfv-mepa.missingParts',

  afterConfigureGraph() {
    const lines = lacks()
    const detail = [...lines, 'Without a node: mute the group it stands in. Without a file: delete the link in brackets.'].join('\n')
    if (!lines.length || said.has(detail)) return
    said.add(detail)
    app.extensionManager.toast.add({ severity: 'warn', summary: 'PFV+MEPA can do without what is missing', detail })
  }
})
