// Says, when a workflow is opened, what this ComfyUI lacks of what it uses but can do without: nodes of newer versions, and files of
// models. The pack's own nodes then find by themselves what would have come over a link, and the message names that link. What
// nothing takes the place of, the page says by itself.
import { app } from '../../scripts/app.js'

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

const graphs = () => {
  const found = new Set([app.rootGraph ?? app.graph])
  for (const graph of found) for (const node of graph.nodes) if (node.subgraph) found.add(node.subgraph)
  return [...found]
}

const valuesOf = (widget, node) => {
  const { values } = widget.options ?? {}
  return typeof values === 'function' ? values(widget, node) : values
}

const isThere = (node) => node.type in LiteGraph.registered_node_types

const isOff = (node) => node.mode === LiteGraph.NEVER || node.mode === BYPASSED

// Of a loader, each file that is not in its list, and where it can be had.
const absentFiles = (node) =>
  (node.properties?.models ?? [])
    .filter(({ name }) => node.widgets?.some((widget) => widget.value === name && valuesOf(widget, node)?.includes?.(name) === false))
    .map(({ name, directory, url }) => {
      const { hostname, pathname } = new URL(url)
      return `${name} in models/${directory} (from ${hostname}${pathname.split('/').slice(0, 3).join('/')})`
    })

const absentIn = (node) => {
  if (isThere(node)) return absentFiles(node)
  return [node.type in SINCE ? `${node.type} of ComfyUI ${SINCE[node.type]}` : node.type]
}

// The first inputs with a way of their own that a node's outputs lead to; null where one leads somewhere else.
const replacedBy = (graph, node) => {
  const reached = new Map()
  for (const output of node.outputs ?? [])
    for (const id of output.links ?? []) {
      const link = graph.links.get(id)
      const target = link && graph.getNodeById(link.target_id)
      if (!target) return null // out of a subgraph
      const name = target.inputs[link.target_slot]?.name
      const further = OWN_WAY[target.type]?.[0] === name ? new Map([[target, name]]) : replacedBy(graph, target)
      if (!further?.size) return null
      for (const [other, input] of further) reached.set(other, input)
    }
  return reached
}

// "node (input)" -> what it lacks, and what is done without; nodes that lack the same stand together.
const lacks = () => {
  const absent = new Map()
  for (const graph of graphs())
    for (const node of graph.nodes) {
      const parts = isOff(node) ? [] : absentIn(node)
      for (const target of (parts.length && replacedBy(graph, node)?.keys()) || [])
        absent.set(target, [...(absent.get(target) ?? []), ...parts])
    }
  const joined = new Map()
  for (const [target, parts] of absent) {
    const what = [...new Set(parts)].sort().join(', ')
    const [input, instead] = OWN_WAY[target.type]
    const { links = [], ways = [] } = joined.get(what) ?? {}
    joined.set(what, { links: [...links, `${target.title} (${input})`], ways: [...ways, instead] })
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
