// One stored file: what is known of it, who has it, and what is in it.

import { address, change, get } from '../api.js'
import { action, add, command, confirmed, copyButton, facts, fill, h, notice, table } from '../dom.js'
import { bytes, latency, when } from '../format.js'
import { mayDelete, nameOf } from '../file_list.js'
import { preview } from '../preview/preview.js'
import { folderPreview } from '../preview/folder.js'
import { peerName, stateBadge } from '../shared.js'

export async function show (into, { me, names }) {
  const path = `/files/${encodeURIComponent(names.file)}`
  const file = await get(path)
  const project = file.project ? await projectName(file.project) : null
  const label = file.label || file.uri
  document.title = document.title.replace(/^File/, label)
  const content = address(`${path}/content`)
  const trouble = h('div', {})
  const copies = h('div', {}, h('p', { class: 'muted', role: 'status' }, 'Asking who has it…'))
  const shown = h('div', { class: 'preview' })
  const there = file.status === 'pinned'
  const download = h('a', { class: 'button', href: address(`${path}/content`, { download: '1' }), download: fileName(label) }, 'Download')
  add(into,
    h('h1', {}, label),
    h('div', { class: 'row' },
      there ? download : null,
      mayDelete(file, me)
        ? action('Delete', async () => {
            if (!await confirmed(`Delete ${label}?`, 'Delete', 'This node no longer keeps it. Computers that have it keep theirs.')) return
            await change('DELETE', path)
            location.assign(file.project ? `/projects/${encodeURIComponent(file.project)}` : '/files')
          }, { kind: 'danger', onerror: error => fill(trouble, notice('bad', error.message)) })
        : null),
    trouble,
    facts([
      ['State', [stateBadge(file.status), file.details ? h('p', { class: 'hint' }, typeof file.details === 'string' ? file.details : Object.values(file.details).join(' ')) : null]],
      ['Size', bytes(file.size)],
      ['Address', h('span', { class: 'row' }, h('code', { class: 'uri' }, file.uri), copyButton(file.uri, 'Copy the address'))],
      ['Project', file.project ? h('a', { href: `/projects/${encodeURIComponent(file.project)}` }, project) : null],
      ['Owner', nameOf(file.owner)],
      ['Client', file.client ? peerName(file.client) : null],
      ['Stored', when(file.stored)]
    ]),
    h('h2', {}, 'What is in it'), shown,
    h('h2', {}, 'Who has it'), copies,
    h('h2', {}, 'Load it'), command(`kachery-cloud-load ${file.uri}`))
  if (!there) fill(shown, h('p', { class: 'muted' }, 'It is shown as soon as this node has all of it.'))
  // Neither is waited for: the page is there before them.
  else {
    const folder = async () => {
      download.remove()
      await folderPreview(shown, { path, label })
    }
    preview(shown, { url: content, name: label, folder })
  }
  seeders(copies, path)
}

/** What a project is called; the file may be mine, and the project no longer. */
async function projectName (id) {
  try {
    return (await get(`/projects/${encodeURIComponent(id)}`)).name
  } catch (error) {
    if (error.status === 403 || error.status === 404) return 'a project that is not yours to see'
    throw error
  }
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
            { head: 'Computer', header: true, cell: copy => copy.label || 'not one of the lab' },
            { head: 'Peer ID', cell: copy => copy.peer ? peerName(copy.peer) : '–' },
            { head: 'Found by', cell: copy => (copy.found_by ?? []).join(', ') },
            { head: 'Connected', cell: copy => copy.connected ? 'yes' : 'no' },
            { head: 'Round trip', number: true, cell: copy => latency(copy.round_trip_ms) }
          ],
          rows: items
        })
      : h('p', {}, 'No other computer says that it has it; this node does.'))
  } catch (error) {
    fill(into, notice('warn', error.message))
  }
}
