// Keeps a line of text on a node after its run: what the node gave out as pfv_line. Progress text would do it on older pages, but
// newer ones take it away when the run ends.
import { app } from '../../scripts/app.js'

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

app.registerExtension({
  name: 'pfv-mepa.nodeLine',

  beforeRegisterNodeDef(nodeType, definition) {
    if (!/^PFV-MEPA(\/|$)/.test(definition.category)) return // its subcategories too
    const { onExecuted } = nodeType.prototype
    nodeType.prototype.onExecuted = function (output) {
      onExecuted?.call(this, output)
      if (output?.[NAME]) show(this, output[NAME].join(', '))
    }
  }
})
