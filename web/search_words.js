// Lets the node search find this pack's nodes under the words that people use. The words are in locales/<language>/main.json.
import { api } from '../../scripts/api.js'
import { app } from '../../scripts/app.js'

const wordsOf = {}

app.registerExtension({
  name: 'pfv-mepa.searchWords',

  async init() {
    const languages = await (await api.fetchApi('/i18n')).json()
    const chosen = app.ui.settings.getSettingValue('Comfy.Locale')
    for (const language of new Set([chosen, 'en']))
      for (const [node, words] of Object.entries(languages[language]?.pfvMepa?.searchWords ?? {}))
        wordsOf[node] = [...(wordsOf[node] ?? []), ...words.split(', ')]
  },

  // A page that knows search_aliases declares them on every node; a host that does not know them sends none, and a newer one
  // sends them to every page. Without what the host sends, the node itself shows what the page knows.
  addCustomNodeDefs(definitions) {
    for (const node of Object.keys(wordsOf)) delete definitions[node]?.search_aliases
  },

  // Pages without search_aliases search in the name alone, and in its first 30 letters: there the words come first. The name in
  // the search is not the one on the canvas.
  beforeRegisterVueAppNodeDefs(definitions) {
    definitions.forEach((definition, index) => {
      const words = wordsOf[definition.name]
      if (!words) return
      const aliasesAreKnown = 'search_aliases' in (LiteGraph.registered_node_types[definition.name]?.nodeData ?? {})
      definitions[index] = aliasesAreKnown
        ? { ...definition, search_aliases: words }
        : { ...definition, display_name: `${words.join(', ')} · ${definition.display_name}` }
    })
  }
})
