// In a worker: libhdf5 (h5wasm) over a file whose parts are fetched when they are read.
//
// libhdf5 reads when it wants to, so its reads are answered by synchronous requests, which only workers may make. What is
// read is bounded, in all and for each question, whatever the file says of itself.

import './quiet.js'
import { FS, File, Dataset, Group, BrokenSoftLink, ExternalLink, ready } from '../vendor/h5wasm/hdf5_hl.js'

const PIECE = 256 * 1024
/** Pieces that are kept (32 MiB), and the most that is fetched for one question. */
const KEPT = 128
const MOST_FETCHED = 96 * 1024 * 1024
/** The most members of a group, attributes of an object, and bytes of a value, that are told. */
const MOST_MEMBERS = 5000
const MOST_ATTRIBUTES = 500
const MOST_VALUE = 64 * 1024
/** The largest chunk that is unpacked, and what a slice may have, in bytes. */
const MOST_CHUNK = 64 * 1024 * 1024
const MOST_SLICE = 16 * 1024 * 1024
/** Groups within groups, as a path has them. */
const MOST_DEPTH = 64

let file = null
let fetched = 0
/** Why the node gave no bytes. libhdf5 is told of a read that failed, as from any disk, and ends in good order. */
let trouble = null
/** EIO, as the C library that libhdf5 stands on has it. */
const IO_ERROR = 29

/** A sentence for whoever looks. */
class Told extends Error {}

function fail (why) {
  trouble = why
  throw new FS.ErrnoError(IO_ERROR)
}

/** A file of Emscripten's whose bytes come from the node. */
function mount (url, size) {
  const pieces = new Map()

  function piece (index) {
    let data = pieces.get(index)
    if (data !== undefined) {
      pieces.delete(index) // what was used last is kept longest
    } else {
      const [from, to] = [index * PIECE, Math.min((index + 1) * PIECE, size)]
      fetched += to - from
      if (fetched > MOST_FETCHED) fail('More of the file would have to be read for this than a preview may. Load the file to look at it.')
      const request = new XMLHttpRequest()
      request.open('GET', url, false)
      request.setRequestHeader('Range', `bytes=${from}-${to - 1}`)
      request.responseType = 'arraybuffer'
      request.send()
      if (request.status !== 206 || request.response.byteLength !== to - from) {
        fail(`The node did not give a part of this file (status ${request.status}). Reload the page to try again.`)
      }
      data = new Uint8Array(request.response)
    }
    pieces.set(index, data)
    if (pieces.size > KEPT) pieces.delete(pieces.keys().next().value)
    return data
  }

  const node = FS.createDataFile('/', 'file.h5', new Uint8Array(1), true, false, false) ?? FS.lookupPath('/file.h5').node
  Object.defineProperty(node, 'usedBytes', { get: () => size, set: () => {} })
  node.stream_ops = {
    ...node.stream_ops,
    read (stream, buffer, offset, length, position) {
      const end = Math.min(position + length, size)
      for (let at = position; at < end;) {
        const index = Math.floor(at / PIECE)
        const part = piece(index).subarray(at - index * PIECE, Math.min(end - index * PIECE, PIECE))
        buffer.set(part, offset + at - position)
        at += part.length
      }
      return Math.max(0, end - position)
    }
  }
}

async function open (url, size) {
  if (file !== null) return
  await ready
  mount(url, size)
  file = new File('/file.h5', 'r')
  if (file.file_id < 0n) {
    file = null
    throw new Told('This begins like an HDF5 file, but cannot be read as one: it is damaged, or cut off.')
  }
}

/** What is at a path. */
function at (path) {
  if (path.split('/').length > MOST_DEPTH) throw new Told(`Groups are opened ${MOST_DEPTH} deep, and no deeper.`)
  const found = path === '/' ? file : file.get(path)
  if (found === null || found === undefined) throw new Told(`There is nothing at ${path}, or it cannot be read.`)
  return found
}

const QUESTIONS = {
  list ({ path }) {
    const group = at(path)
    if (!(group instanceof Group)) throw new Told(`${path} is no group.`)
    const names = group.keys()
    const members = names.slice(0, MOST_MEMBERS).map(name => member(group, path, name))
    if (names.length > MOST_MEMBERS) members.push({ name: `… and ${names.length - MOST_MEMBERS} more`, kind: '' })
    return { members, attributes: attributeNames(group).length }
  },

  attributes ({ path }) {
    const object = at(path)
    const found = {}
    for (const name of attributeNames(object).slice(0, MOST_ATTRIBUTES)) {
      try {
        const attribute = object.get_attribute ? object.attrs[name] : null
        const size = attribute.metadata.size * attribute.metadata.total_size
        found[name] = size > MOST_VALUE ? `(${size} bytes)` : plain(attribute.json_value)
      } catch (error) {
        if (error instanceof Told) throw error
        found[name] = '(cannot be read)'
      }
    }
    return found
  },

  dataset ({ path }) {
    const set = at(path)
    if (!(set instanceof Dataset)) throw new Told(`${path} is no array.`)
    const about = set.metadata
    const total = about.shape === null ? 0 : about.shape.reduce((product, length) => product * length, 1)
    const filters = set.filters
    const numeric = ((about.type === 0 && about.size <= 8) || (about.type === 1 && [4, 8].includes(about.size))) && !about.vlen
    const chunk = (about.chunks ?? []).reduce((product, length) => product * length, about.chunks ? about.size : 0)
    const why = chunk > MOST_CHUNK ? `Its chunks have ${chunk} bytes each, too much to unpack here.` : null
    const small = total * about.size <= MOST_VALUE && total <= 1000 && why === null && !numeric
    return {
      type: about.compound_type ? 'compound' : typeName(set),
      shape: about.shape,
      // Texts of any length lie elsewhere; here are only pointers to them.
      bytes: about.vlen ? null : total * about.size,
      chunks: about.chunks ?? null,
      filters: filters.map(filter => filter.name),
      attributes: attributeNames(set).length,
      plots: numeric && total > 0 && why === null,
      why,
      value: small && total > 0 ? plain(set.json_value) : null
    }
  },

  slice ({ path, from, counts }) {
    const set = at(path)
    const bytes = counts.reduce((product, length) => product * length, set.metadata.size)
    if (bytes > MOST_SLICE) throw new Told('This is more than is shown at once.')
    const values = counts.length === 0 ? [set.value] : set.slice(from.map((start, axis) => [start, start + counts[axis]]))
    return Float64Array.from(values, Number)
  }
}

function attributeNames (object) {
  return Object.keys(object.attrs)
}

function member (group, path, name) {
  try {
    const found = group.get(name)
    if (found instanceof Group) return { name, kind: 'group' }
    if (found instanceof Dataset) return { name, kind: 'dataset' }
    if (found instanceof BrokenSoftLink) return { name, kind: 'broken link', target: found.target }
    if (found instanceof ExternalLink) return { name, kind: 'link to another file', target: `${found.filename}, ${found.obj_path}` }
    return { name, kind: 'type' }
  } catch (error) {
    if (error instanceof Told) throw error
    return { name, kind: 'cannot be read' }
  }
}

function typeName (set) {
  try {
    return typeof set.dtype === 'string' ? set.dtype : JSON.stringify(set.dtype).slice(0, 200)
  } catch {
    return 'unknown'
  }
}

/** A value that can be sent on and shown. */
function plain (value) {
  return JSON.parse(JSON.stringify(value, (_, each) => typeof each === 'bigint'
    ? (Number.isSafeInteger(Number(each)) ? Number(each) : String(each))
    : ArrayBuffer.isView(each) ? Array.from(each) : each) ?? 'null')
}

// Questions come one after the other: the first opens the file, and the others wait for it.
let last = Promise.resolve()
addEventListener('message', ({ data }) => {
  last = last.then(async () => {
    fetched = 0
    trouble = null
    let answer
    try {
      await open(data.url, data.size)
      answer = { value: QUESTIONS[data.what](data) }
    } catch (error) {
      answer = { error: error instanceof Told ? error.message : `This part cannot be read: it is damaged, or leads nowhere. (${String(error.message ?? error).slice(0, 200)})` }
    }
    postMessage({ number: data.number, ...(trouble === null ? answer : { error: trouble }) })
  })
})
