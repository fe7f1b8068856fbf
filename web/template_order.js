// The templates of this pack by name, so that `ad` comes first: the host lists them as they lie on the disk, in no order, and the page
// shows them so. Other packs' stay as they are.
import { api } from '../../scripts/api.js'

const PACK = decodeURIComponent(new URL(import.meta.url).pathname.split('/').at(-2)) // the folder that the pack is in

const getWorkflowTemplates = api.getWorkflowTemplates.bind(api)
api.getWorkflowTemplates = async (...values) => {
  const templates = await getWorkflowTemplates(...values)
  templates[PACK]?.sort()
  return templates
}
