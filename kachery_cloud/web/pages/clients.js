// The computers that are registered as mine.

import { change, list } from '../api.js'
import { action, add, confirmed, empty, fill, h, notice, say, table } from '../dom.js'
import { when } from '../format.js'
import { initCommand, peerName } from '../shared.js'

export async function show (into, context) {
  const body = h('div', {})
  add(into,
    h('h1', {}, 'My clients'),
    h('p', {}, 'Computers that store on this node in your name. What they store counts towards your quota.'), body)
  await refresh(body, context)
}

async function refresh (body, context) {
  const [clients] = await list('/clients')
  if (clients.length === 0) {
    fill(body, empty(
      h('p', {}, 'No computer is registered as yours yet. Type this on one:'), initCommand(),
      h('p', {}, 'It prints a link; open it, and press “Register client”.')))
    return
  }
  fill(body, table({
    caption: 'Clients registered as yours',
    hideCaption: true,
    columns: [
      { head: 'Label', header: true, cell: client => client.label || 'without a label' },
      { head: 'Peer ID', cell: client => peerName(client.peer) },
      { head: 'Registered', cell: client => when(client.registered) },
      { head: 'Last seen', cell: client => client.seen ? when(client.seen) : 'not yet' },
      { head: '', cell: client => remove(client, body, context) }
    ],
    rows: clients
  }), h('h2', {}, 'Another computer'), initCommand())
}

function remove (client, body, context) {
  const name = client.label || client.peer
  return action('Remove', async () => {
    const sure = await confirmed(`Remove ${name}?`, 'Remove', 'What it stored stays here. It can store more only after it was registered again.')
    if (!sure) return
    await change('DELETE', `/clients/${encodeURIComponent(client.peer)}`)
    say(`${name} was removed.`)
    await refresh(body, context)
  }, { kind: 'danger small', label: `Remove ${name}`, onerror: error => body.prepend(notice('bad', error.message)) })
}
