// The graphs of the page. Older pages have their root as app.graph alone; newer ones call the graph in view so.
import { app } from '../../scripts/app.js'

export const root = () => app.rootGraph ?? app.graph

// The root and every subgraph in it.
export const graphs = () => {
  const found = new Set([root()])
  for (const graph of found) for (const node of graph.nodes) if (node.subgraph) found.add(node.subgraph)
  return [...found]
}
