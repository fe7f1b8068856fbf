// Keeps a line of text on a node after its run: what the node gave out as pfv_line. It is read where the page keeps what nodes
// gave out, as their pictures are, so it is there again on nodes that an undo or another tab has built anew. Progress text would
// do it on older pages, but newer ones take it away when the run ends.
import { api } from '../../scripts/api.js'
import { app } from '../../scripts/app.js'
import { graphs } from './graphs.js'

const NAME = 'pfv_line'
const HEIGHT = 22

const show = (node, text) => {
  let widget = node.widgets?.find((widget) => widget.name === NAME)
  if (!widget) {
    const line = document.createElement('div')
    line.style = 'overflow: hidden; text-overflow: ellipsis; white-space: nowrap; text-align: center; font-size: 12px'
    const options = { serialize: false, margin: 3, getMinHeight: () => HEIGHT, getMaxHeight: () => HEIGHT }
    widget = node.addDOMWidget(NAME, NAME, line, options)
    widget.serialize = false // neither in the workflow's file nor in what is sent
  }
  widget.element.textContent = widget.element.title = text
}

const showAll = () => {
  for (const graph of graphs())
    for (const node of graph.nodes) {
      const line = app.nodeOutputs[graph.isRootGraph ? node.id : `${graph.id}:${node.id}`]?.[NAME]
      if (line) show(node, line.join(', '))
    }
}

app.registerExtension({
  name: 'pfv-mepa.nodeLine',
  setup: () => api.addEventListener('executed', showAll), // the page has listened before, and kept it
  afterConfigureGraph: showAll,
  onNodeOutputsUpdated: showAll
})
