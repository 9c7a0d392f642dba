// HDF5 files, and NWB, which are such: the tree, attributes, and arrays as plots. libhdf5 runs in a worker, as
// WebAssembly; the worker reads the parts it needs and never the whole file. A file that keeps it busy too long, or that
// makes it fail, costs the worker and nothing else.

import { action, add, facts, h } from '../dom.js'
import { bytes, whole } from '../format.js'
import { arrayView } from './array_view.js'
import { NoPreview } from './ranges.js'
import { openable, stepwise, valueTree } from './tree.js'

/** How long one answer may take, in milliseconds. */
const PATIENCE = 30_000

// The one address that a worker may be made of, however this is called.
const workers = globalThis.trustedTypes?.createPolicy('workers', {
  createScriptURL: () => new URL('./hdf5_worker.js', import.meta.url).href
}) ?? { createScriptURL: () => new URL('./hdf5_worker.js', import.meta.url).href }

/** The worker, and questions to it. */
class Reader {
  constructor (url, size) {
    this.url = url
    this.size = size
    this.worker = null
    this.waiting = new Map()
    this.number = 0
  }

  /** Start it anew, where it has ended. */
  start () {
    this.worker = new Worker(workers.createScriptURL(''), { type: 'module' })
    this.worker.addEventListener('message', ({ data }) => {
      const asked = this.waiting.get(data.number)
      this.waiting.delete(data.number)
      clearTimeout(asked?.timer)
      if (data.error !== undefined) asked?.failed(new NoPreview(data.error))
      else asked?.done(data.value)
    })
    this.worker.addEventListener('error', event => {
      event.preventDefault()
      this.end('The reader of HDF5 files has failed on this file.')
    })
  }

  /** End it; whoever waits is told why. */
  end (why) {
    this.worker?.terminate()
    this.worker = null
    for (const { failed, timer } of this.waiting.values()) {
      clearTimeout(timer)
      failed(new NoPreview(why))
    }
    this.waiting.clear()
  }

  ask (what, parameters = {}) {
    if (this.worker === null) this.start()
    const number = ++this.number
    return new Promise((done, failed) => {
      const timer = setTimeout(() => this.end('Reading this took too long, so it was stopped.'), PATIENCE)
      this.waiting.set(number, { done, failed, timer })
      this.worker.postMessage({ number, what, url: this.url, size: this.size, ...parameters })
    })
  }
}

export async function show (into, file) {
  const reader = new Reader(new URL(file.url, location.href).href, file.size)
  const children = await reader.ask('list', { path: '/' })
  add(into,
    h('ul', { class: 'tree', 'aria-label': 'What is in the file' }, attributesOf(reader, '/', children.attributes), nodes(reader, '/', children)))
}

function nodes (reader, path, { members }) {
  return stepwise(members, member => node(reader, path === '/' ? `/${member.name}` : `${path}/${member.name}`, member))
}

function node (reader, path, { name, kind, target }) {
  if (kind === 'group') {
    return openable(h('span', { class: 'name' }, `${name}/`), async () => {
      const children = await reader.ask('list', { path })
      return [attributesOf(reader, path, children.attributes), ...nodes(reader, path, children)]
    })
  }
  if (kind === 'dataset') return openable(h('span', { class: 'name' }, name), async () => await dataset(reader, path))
  return h('li', {}, h('div', { class: 'leaf' }, h('span', { class: 'name' }, name), ' ', h('span', { class: 'muted' }, target ? `${kind} to ${target}` : kind)))
}

function attributesOf (reader, path, count) {
  if (!count) return null
  return openable(h('span', { class: 'muted' }, `${whole(count)} ${count === 1 ? 'attribute' : 'attributes'}`), async () => {
    const value = await reader.ask('attributes', { path })
    return [h('li', {}, valueTree(value, `Attributes of ${path}`))]
  })
}

async function dataset (reader, path) {
  const about = await reader.ask('dataset', { path })
  const pairs = [['Type', h('code', {}, about.type)], ['Filters', about.filters.join(', ') || null], ['Chunks', about.chunks?.map(whole).join(' × ') ?? null]]
  const body = h('li', {})
  const attributes = attributesOf(reader, path, about.attributes)
  if (about.plots) {
    const open = action('Plot', async () => {
      open.remove()
      const view = h('div', {})
      add(body, view)
      await arrayView(view, { shape: about.shape, size: about.bytes, about: [], read: (from, counts) => reader.ask('slice', { path, from, counts }) })
    }, { kind: 'quiet small', label: `Plot ${path}` })
    add(body, facts([...pairs, ['Shape', about.shape.map(whole).join(' × ') || 'one number'], ['Size', bytes(about.bytes)]]), open)
  } else {
    add(body, facts([...pairs, ['Shape', about.shape?.map(whole).join(' × ') || 'one value'], ['Size', about.bytes === null ? null : bytes(about.bytes)]]))
    if (about.why) add(body, h('p', { class: 'hint' }, about.why))
    if (about.value !== null) add(body, valueTree(about.value, `Value of ${path}`))
  }
  return [attributes, body]
}
