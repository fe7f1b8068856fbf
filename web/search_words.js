// Lets the node search find this pack's nodes under the words that people use. The words are in locales/<language>/main.json.
import { api } from '../../scripts/api.js'
import { app } from '../../scripts/app.js'

let languages = {}
let aliasesAreKnown // whether this page knows search_aliases

// Node -> its words in the language of the page, which may be changed while it is open, and in English.
const wordsByNode = () => {
  const found = {}
  for (const language of new Set([app.ui.settings.getSettingValue('Comfy.Locale'), 'en']))
    for (const [node, words] of Object.entries(languages[language]?.pfvMepa?.searchWords ?? {}))
      found[node] = [...(found[node] ?? []), ...words.split(', ')]
  return found
}

app.registerExtension({
  name: 'pfv-mepa.searchWords',

  async init() {
    languages = await (await api.fetchApi('/i18n')).json()
  },

  // A page that knows search_aliases declares them on every node; a host that does not know them sends none, and a newer one
  // sends them to every page. Without what the host sends, the node itself shows what the page knows.
  addCustomNodeDefs(definitions) {
    for (const node of Object.keys(wordsByNode())) delete definitions[node]?.search_aliases
  },

  // Pages without search_aliases search in the name alone, and in its first 30 letters: there the words come first. The name in
  // the search is not the one on the canvas. Nodes that are read anew come here without addCustomNodeDefs, so what the page
  // knows is seen at the first time.
  beforeRegisterVueAppNodeDefs(definitions) {
    const wordsOf = wordsByNode()
    definitions.forEach((definition, index) => {
      const words = wordsOf[definition.name]
      if (!words) return
      aliasesAreKnown ??= 'search_aliases' in (LiteGraph.registered_node_types[definition.name]?.nodeData ?? {})
      definitions[index] = aliasesAreKnown
        ? { ...definition, search_aliases: words }
        : { ...definition, display_name: `${words.join(', ')} · ${definition.display_name}` }
    })
  }
})
