// One stored file: what is known of it, who has it, and what is in it.

import { address, change, get } from '../api.js'
import { action, command, confirmed, copyButton, facts, fill, h, notice, table } from '../dom.js'
import { bytes, latency, when } from '../format.js'
import { mayDelete, nameOf } from '../file_list.js'
import { preview } from '../preview/preview.js'
import { folderPreview } from '../preview/folder.js'
import { peerName, stateBadge } from '../shared.js'

export async function show (into, { me, names }) {
  const path = `/files/${encodeURIComponent(names.file)}`
  const file = await get(path)
  const label = file.label || file.uri
  document.title = document.title.replace(/^File/, label)
  const content = address(`${path}/content`)
  const folder = file.kind === 'directory' || file.kind === 'folder'
  const trouble = h('div', {})
  const copies = h('div', {}, h('p', { class: 'muted', role: 'status' }, 'Asking who has it…'))
  const shown = h('div', { class: 'preview' })
  const there = file.status === 'pinned' || file.status === undefined
  into.append(
    h('h1', {}, label),
    h('div', { class: 'row' },
      there && !folder ? h('a', { class: 'button', href: content, download: fileName(label) }, 'Download') : null,
      mayDelete(file, me)
        ? action('Delete', async () => {
            if (!await confirmed(`Delete ${label}?`, 'Delete', 'This node no longer keeps it. Computers that have it keep theirs.')) return
            await change('DELETE', path)
            location.assign(file.project ? `/projects/${encodeURIComponent(file.project)}` : '/files')
          }, { kind: 'danger', onerror: error => fill(trouble, notice('bad', error.message)) })
        : null),
    trouble,
    facts([
      ['State', stateBadge(file.status)],
      ['Size', bytes(file.size)],
      ['Address', h('span', { class: 'row' }, h('code', { class: 'uri' }, file.uri), copyButton(file.uri, 'Copy the address'))],
      ['Project', file.project ? h('a', { href: `/projects/${encodeURIComponent(file.project)}` }, file.project_name ?? 'its project') : null],
      ['Owner', nameOf(file.owner)],
      ['Client', file.client ? peerName(file.client) : null],
      ['Stored', when(file.stored)]
    ]),
    h('h2', {}, 'What is in it'), shown,
    h('h2', {}, 'Who has it'), copies,
    h('h2', {}, 'Load it'), command(`kachery-cloud-load ${file.uri}`))
  if (!there) fill(shown, h('p', { class: 'muted' }, 'It is shown as soon as this node has all of it.'))
  // Neither is waited for: the page is there before them.
  else if (folder) folderPreview(shown, { path, label })
  else preview(shown, { url: content, size: file.size, name: label })
  seeders(copies, path)
}

/** The last part of a label, as the name of what is downloaded. */
function fileName (label) {
  return label.split('/').at(-1) || 'file'
}

async function seeders (into, path) {
  try {
    const found = await get(`${path}/copies`)
    const items = found.items ?? []
    fill(into, items.length
      ? table({
          caption: 'Who has it',
          hideCaption: true,
          columns: [
            { head: 'Peer', header: true, cell: copy => copy.name || copy.label || peerName(copy.peer) },
            { head: 'Peer ID', cell: copy => peerName(copy.peer) },
            { head: 'Has', cell: copy => copy.complete === false ? 'a part' : copy.complete ? 'all of it' : (copy.has ?? 'says that it has it') },
            { head: 'Round trip', number: true, cell: copy => latency(copy.latency) }
          ],
          rows: items
        })
      : h('p', {}, 'No other computer says that it has it; this node does.'))
  } catch (error) {
    fill(into, notice('warn', error.message))
  }
}
