// A stored folder: its tree; and of a zarr store, what its metadata says of groups and arrays.

import { address, list } from '../api.js'
import { facts, fill, h, notice } from '../dom.js'
import { bytes, whole } from '../format.js'
import { preview } from './preview.js'
import { NoPreview, RangeFile } from './ranges.js'
import { openable, stepwise, valueTree } from './tree.js'

/** What says that a folder is a zarr group or array, version 3 and version 2. */
const ZARR = new Set(['zarr.json', '.zarray', '.zgroup', '.zattrs'])
const MOST_METADATA = 1024 * 1024
const MOST_ENTRIES = 2000

/** Show a folder. `path` is that of the file in the API. */
export async function folderPreview (into, { path, label }) {
  fill(into, h('p', { class: 'muted', role: 'status' }, 'Reading…'))
  try {
    const inside = await entries(path, '')
    fill(into, h('ul', { class: 'tree', 'aria-label': `What is in ${label}` }, await branch(path, '', inside)))
  } catch (error) {
    fill(into, notice('warn', error.message))
  }
}

async function entries (path, below) {
  const [items, more] = await list(`${path}/entries`, { path: below }, MOST_ENTRIES)
  return { items, more }
}

function contentOf (path, below) {
  return address(`${path}/content`, { path: below })
}

/** The elements of a folder: its metadata, where it is of zarr, and what lies in it. */
async function branch (path, below, { items, more }) {
  const shown = []
  const marks = items.filter(item => item.type !== 'directory' && ZARR.has(item.name))
  let array = false
  for (const mark of marks) {
    const value = await metadata(path, joined(below, mark.name), mark.size)
    array ||= mark.name === '.zarray' || (mark.name === 'zarr.json' && value?.node_type === 'array')
    shown.push(h('li', {}, described(mark.name, value)))
  }
  const others = items.filter(item => !marks.includes(item))
  // The chunks of an array are many, and of no use to look at.
  if (array && others.length) shown.push(openable(h('span', { class: 'muted' }, `${whole(others.length)}${more ? ' and more' : ''} parts`), () => nodes(path, below, others)))
  else shown.push(...nodes(path, below, others))
  if (more && !array) shown.push(h('li', { class: 'muted' }, `These are the first ${whole(items.length)}.`))
  return shown
}

function joined (below, name) {
  return below ? `${below}/${name}` : name
}

function nodes (path, below, items) {
  return stepwise(items, item => {
    const inside = joined(below, item.name)
    if (item.type === 'directory') return openable(h('span', { class: 'name' }, `${item.name}/`), async () => await branch(path, inside, await entries(path, inside)))
    return openable([h('span', { class: 'name' }, item.name), ' ', h('span', { class: 'muted' }, bytes(item.size))], async () => {
      const shown = h('div', {})
      await preview(shown, { url: contentOf(path, inside), size: item.size, name: item.name })
      return [h('li', {}, shown)]
    })
  })
}

async function metadata (path, below, size) {
  if (size > MOST_METADATA) return null
  try {
    const data = await new RangeFile(contentOf(path, below), size).read(0, size)
    return JSON.parse(new TextDecoder().decode(data))
  } catch (error) {
    if (error instanceof SyntaxError || error instanceof NoPreview) return null
    throw error
  }
}

/** What a file of metadata says, in words where it describes an array. */
function described (name, value) {
  if (value === null || typeof value !== 'object') return notice('warn', `${name} cannot be read: it is no JSON, or too large.`)
  const array = name === '.zarray' || value.node_type === 'array'
  const chunks = value.chunks ?? value.chunk_grid?.configuration?.chunk_shape
  const product = list => Array.isArray(list) ? list.map(String).join(' × ') : null
  const title = array ? 'Array of zarr' : name === '.zattrs' ? 'Attributes' : 'Group of zarr'
  return h('div', {}, h('p', {}, h('strong', {}, title)), array
    ? facts([
        ['Type', h('code', {}, typeof (value.dtype ?? value.data_type) === 'string' ? value.dtype ?? value.data_type : JSON.stringify(value.dtype ?? value.data_type))],
        ['Shape', product(value.shape)],
        ['Chunks', product(chunks)]
      ])
    : null, valueTree(value, name))
}
