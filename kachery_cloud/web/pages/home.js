// The first page: what I use, what came last, how another computer comes in.

import { get, list } from '../api.js'
import { add, empty, h, table } from '../dom.js'
import { bytes, plural, when } from '../format.js'
import { initCommand, quotaMeter, stateBadge } from '../shared.js'

export async function show (into, { me, about }) {
  const [[projects], files] = await Promise.all([list('/projects'), get('/files', { mine: '1', limit: 8 })])
  const clients = me.clients ?? []
  add(into,
    h('h1', {}, about.name || 'Overview'),
    h('div', { class: 'grid' },
      h('section', { class: 'card', 'aria-labelledby': 'quota' },
        h('h2', { id: 'quota' }, 'Your storage'), quotaMeter(me.used, me.quota)),
      h('section', { class: 'card', 'aria-labelledby': 'projects' },
        h('h2', { id: 'projects' }, 'Projects'),
        projects.length
          ? h('ul', {}, projects.slice(0, 6).map(project => h('li', {}, link(`/projects/${encodeURIComponent(project.id)}`, project.name), ` – ${bytes(project.bytes)}`)))
          : h('p', { class: 'muted' }, 'None yet.'),
        h('p', {}, link('/projects', projects.length > 6 ? `All ${projects.length} projects` : 'All projects'))),
      h('section', { class: 'card', 'aria-labelledby': 'clients' },
        h('h2', { id: 'clients' }, 'Your clients'),
        h('p', {}, clients.length ? `${plural(clients.length, 'computer')} registered as yours.` : 'No computer is registered as yours.'),
        h('p', {}, link('/clients', 'My clients')))),
    h('h2', {}, 'What you stored last'),
    files.items.length
      ? [table({
          caption: 'What you stored last',
          hideCaption: true,
          columns: [
            { head: 'File', header: true, cell: file => link(`/files/${encodeURIComponent(file.id)}`, file.label || file.uri) },
            { head: 'Size', number: true, cell: file => bytes(file.size) },
            { head: 'Stored', cell: file => when(file.stored) },
            { head: 'State', cell: file => stateBadge(file.status) }
          ],
          rows: files.items
        }), h('p', {}, link('/files', 'All files'))]
      : empty(h('p', {}, 'You have stored nothing here yet. Drop a file on the page ', link('/files', 'Files'), ', or register a computer and store from there:'), initCommand()),
    h('h2', {}, 'Connect a computer'), initCommand())
}

function link (href, text) {
  return h('a', { href }, text)
}
