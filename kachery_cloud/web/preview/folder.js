// A stored folder: its tree; and of a zarr store, what its metadata says of groups and arrays.

import { address, get } from '../api.js'
import { facts, fill, h, notice } from '../dom.js'
import { bytes, whole } from '../format.js'
import { preview } from './preview.js'
import { IsFolder, NoPreview, RangeFile } from './ranges.js'
import { openable, stepwise, valueTree } from './tree.js'

/** What says that a folder is a zarr group or array, version 3 and version 2. */
const ZARR = new Set(['zarr.json', '.zarray', '.zgroup', '.zattrs'])
const MOST_METADATA = 1024 * 1024
const MOST_ENTRIES = 5000

/** Show a folder. `path` is that of the file in the API. */
export async function folderPreview (into, { path, label }) {
  try {
    const inside = await entries(path, '')
    fill(into, h('ul', { class: 'tree', 'aria-label': `What is in ${label}` }, await branch(path, '', inside)))
  } catch (error) {
    fill(into, notice('warn', error.message))
  }
}

async function entries (path, below) {
  const { items } = await get(`${path}/entries`, { path: below })
  return { items: items.slice(0, MOST_ENTRIES), count: items.length }
}

function contentOf (path, below) {
  return address(`${path}/content`, { path: below })
}

/** The elements of a folder: its metadata, where it is of zarr, and what lies in it. */
async function branch (path, below, { items, count }) {
  const shown = []
  const marks = items.filter(item => ZARR.has(item.name))
  let array = false
  for (const mark of marks) {
    const value = await metadata(path, joined(below, mark.name))
    array ||= mark.name === '.zarray' || (mark.name === 'zarr.json' && value?.node_type === 'array')
    shown.push(h('li', {}, described(mark.name, value)))
  }
  const others = items.filter(item => !marks.includes(item))
  // The chunks of an array are many, and of no use to look at.
  if (array && others.length) shown.push(openable(h('span', { class: 'muted' }, `${whole(count - marks.length)} parts`), () => nodes(path, below, others)))
  else shown.push(...nodes(path, below, others))
  if (count > items.length) shown.push(h('li', { class: 'muted' }, `These are the first ${whole(items.length)} of ${whole(count)}.`))
  return shown
}

function joined (below, name) {
  return below ? `${below}/${name}` : name
}

/** Whether something is a folder or a file, the node says when it is opened. */
function nodes (path, below, items) {
  return stepwise(items, item => {
    const inside = joined(below, item.name)
    return openable([h('span', { class: 'name' }, item.name), ' ', h('span', { class: 'muted' }, bytes(item.bytes))], async () => {
      const shown = h('div', {})
      let folder = null
      await preview(shown, {
        url: contentOf(path, inside),
        name: item.name,
        folder: async () => { folder = await branch(path, inside, await entries(path, inside)) }
      })
      return folder ?? [h('li', {}, shown)]
    })
  })
}

async function metadata (path, below) {
  try {
    const [file, head] = await RangeFile.open(contentOf(path, below), MOST_METADATA)
    return file.size > MOST_METADATA ? null : JSON.parse(new TextDecoder().decode(head))
  } catch (error) {
    if (error instanceof SyntaxError || error instanceof NoPreview || error instanceof IsFolder) return null
    throw error
  }
}

/** What a file of metadata says, in words where it describes an array. */
function described (name, value) {
  if (value === null || typeof value !== 'object') return notice('warn', `${name} cannot be read: it is no JSON, or too large.`)
  const array = name === '.zarray' || value.node_type === 'array'
  const type = value.dtype ?? value.data_type
  const product = list => Array.isArray(list) ? list.map(String).join(' × ') : null
  const title = array ? 'Array of zarr' : name === '.zattrs' ? 'Attributes' : 'Group of zarr'
  return h('div', {}, h('p', {}, h('strong', {}, title)), array
    ? facts([
        ['Type', h('code', {}, typeof type === 'string' ? type : JSON.stringify(type))],
        ['Shape', product(value.shape)],
        ['Chunks', product(value.chunks ?? value.chunk_grid?.configuration?.chunk_shape)]
      ])
    : null, valueTree(value, name))
}
