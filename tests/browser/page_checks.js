// Put into the page once it is open: what the tests ask of it.
(() => {
  const started = performance.now()
  const state = (window.pageChecks = { events: [] })
  const record = (type, detail) =>
    state.events.push({ type, at: performance.now() - started, detail: JSON.parse(JSON.stringify(detail ?? null)) })
  for (const type of ['execution_start', 'executed', 'progress', 'progress_state', 'execution_success', 'execution_error'])
    app.api.addEventListener(type, (event) => record(type, event.detail))
  const queuePrompt = app.api.queuePrompt.bind(app.api)
  app.api.queuePrompt = async (...values) => {
    try {
      return await queuePrompt(...values)
    } catch (error) {
      record('rejected', error.response ?? String(error))
      throw error
    }
  }

  // What is wrong with the graph on the canvas and in its subgraphs, one line each; nothing for a whole one.
  state.faults = () => {
    const graphs = new Set([app.graph])
    for (const graph of graphs) for (const node of graph.nodes) if (node.subgraph) graphs.add(node.subgraph)
    return [...graphs].flatMap(faultsOf)
  }

  const faultsOf = (graph) => {
    const faults = []
    for (const node of graph.nodes) {
      if (!(node.type in LiteGraph.registered_node_types)) {
        faults.push(`${node.type} is missing`)
        continue
      }
      const wanted = node.constructor.nodeData?.input?.required ?? {}
      for (const slot of node.inputs ?? []) {
        if (slot.link != null && !graph.links.get(slot.link)) faults.push(`${node.title}.${slot.name}: link to nowhere`)
        if (slot.link == null && !slot.widget && slot.name in wanted) faults.push(`${node.title}.${slot.name}: no link`)
      }
      for (const widget of node.widgets ?? []) faults.push(...widgetFaults(node, widget))
    }
    for (const link of graph.links.values()) faults.push(...linkFaults(graph, link))
    return faults
  }

  const widgetFaults = (node, widget) => {
    const { values, min, max } = widget.options ?? {}
    const allowed = typeof values === 'function' ? values(widget, node) : values
    const painted = / \[input\]$/.test(widget.value)
    if (widget.type === 'combo' && Array.isArray(allowed) && !painted && !allowed.includes(widget.value))
      return [`${node.title}.${widget.name} is ${widget.value}, not one of ${allowed}`]
    if (widget.type === 'number' && !(widget.value >= min && widget.value <= max))
      return [`${node.title}.${widget.name} is ${widget.value}, not ${min} to ${max}`]
    return []
  }

  // A subgraph's two ends have numbers below 0, and are no nodes.
  const linkFaults = (graph, link) => {
    if (Number(link.origin_id) < 0 || Number(link.target_id) < 0) return []
    const output = graph.getNodeById(link.origin_id)?.outputs?.[link.origin_slot]
    const input = graph.getNodeById(link.target_id)?.inputs?.[link.target_slot]
    if (!output || !input || input.link !== link.id) return [`link ${link.id} has no two ends`]
    return LiteGraph.isValidConnection(output.type, input.type) ? [] : [`link ${link.id}: ${output.type} into ${input.type}`]
  }
})()
