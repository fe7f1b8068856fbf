// Shows what a node warned of while the workflow ran, which otherwise only the server's log says; each warning once in a run.
import { api } from '../../scripts/api.js'
import { app } from '../../scripts/app.js'

const EVENT = 'pfv_told'
const LIFE = 20000 // ms

const told = new Set()

const show = ({ detail: { message } }) => {
  if (told.has(message)) return
  told.add(message)
  app.extensionManager.toast.add({ severity: 'warn', summary: 'PFV+MEPA', detail: message, life: LIFE })
}

app.registerExtension({
  name: 'pfv-mepa.told',
  setup: () => {
    api.addEventListener('execution_start', () => told.clear())
    api.addEventListener(EVENT, show)
  }
})
