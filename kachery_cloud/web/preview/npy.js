// NumPy's .npy files (NEP 1): the header says what is in it; each claim is compared with the size of the file before
// anything is read or counted by it. Pickled objects are never read.

import { add, h } from '../dom.js'
import { bytes } from '../format.js'
import { arrayView } from './array_view.js'
import { dtype, numbers } from './numbers.js'
import { NoPreview } from './ranges.js'

/** The longest header: numpy itself reads no longer ones without being told to. */
const MOST_HEADER = 10_000
/** Rows of texts that are shown. */
const TEXTS = 100
const MOST_TEXT = 64 * 1024

export async function show (into, file, head) {
  const { descr, fortran, shape, start } = header(head)
  if (Array.isArray(descr)) {
    add(into, h('p', {}, 'A structured array: each value has these fields.'),
      h('ul', {}, descr.map(([name, kind]) => h('li', {}, h('code', {}, `${name}: ${kind}`)))))
    return
  }
  const type = dtype(descr)
  if (type === null) throw new NoPreview(`This array is of a type that is not known here: ${descr.slice(0, 60)}.`)
  if (type.kind === 'O') throw new NoPreview('This array has Python objects in it, pickled. They could run anything when read, so they are not.')
  const count = shape.reduce((product, length) => product * BigInt(length), 1n)
  const claimed = BigInt(start) + count * BigInt(type.size)
  if (claimed !== BigInt(file.size)) {
    throw new NoPreview(`This array is damaged: by its header the file should have ${claimed} bytes, and it has ${file.size}.`)
  }
  const about = [['Type', h('code', {}, descr)]]
  if (!type.plots) return await texts(into, file, type, start, Number(count), about)
  // With Fortran's order, memory holds the axes the other way round: it is shown as it lies there.
  const axes = fortran ? [...shape].reverse() : shape
  await arrayView(into, {
    shape: axes,
    size: file.size,
    about,
    note: fortran && shape.length > 1 ? 'It is stored in the order of Fortran; its axes are shown the other way round.' : null,
    read: async (from, counts) => {
      const [offset, length] = extent(axes, from, counts)
      const data = await file.read(start + offset * type.size, start + (offset + length) * type.size)
      return columnsOf(numbers(data, type), axes, counts)
    }
  })
}

/** Where a block lies, in values: from the first of its first row to the end of its last. */
export function extent (shape, from, counts) {
  if (shape.length === 0) return [0, 1]
  let offset = 0
  for (let axis = 0; axis < shape.length; axis++) offset = offset * shape[axis] + from[axis]
  const row = shape.length > 1 ? shape[shape.length - 1] : 1
  const rows = counts[Math.max(0, shape.length - 2)]
  return shape.length > 1 ? [offset, (rows - 1) * row + counts[counts.length - 1]] : [offset, rows]
}

/** Rows are cut to the columns that were asked for. */
function columnsOf (values, shape, counts) {
  if (shape.length < 2) return values
  const [row, wanted] = [shape[shape.length - 1], counts[counts.length - 1]]
  if (row === wanted) return values
  const rows = counts[counts.length - 2]
  const out = new Float64Array(rows * wanted)
  for (let at = 0; at < rows; at++) out.set(values.subarray(at * row, at * row + wanted), at * wanted)
  return out
}

/** What the head of the file says: { descr, fortran, shape, start }. */
export function header (head) {
  const view = new DataView(head.buffer, head.byteOffset, head.byteLength)
  const wrong = why => new NoPreview(`This array is damaged: ${why}.`)
  if (head.length < 12) throw wrong('its header is cut off')
  const version = head[6]
  if (version < 1 || version > 3) throw wrong(`its header is of a version that is not known (${version})`)
  const [at, length] = version === 1 ? [10, view.getUint16(8, true)] : [12, view.getUint32(8, true)]
  if (length > MOST_HEADER || at + length > head.length) throw wrong(`its header would have ${bytes(length)}`)
  const text = new TextDecoder(version === 3 ? 'utf-8' : 'latin1').decode(head.subarray(at, at + length))
  const value = literal(text)
  if (value === null || typeof value !== 'object' || Array.isArray(value)) throw wrong('its header cannot be read')
  const { descr, fortran_order: fortran, shape } = value
  const simple = typeof descr === 'string' || (Array.isArray(descr) && descr.every(each => Array.isArray(each) && typeof each[0] === 'string'))
  if (!simple || typeof fortran !== 'boolean' || !Array.isArray(shape)) throw wrong('its header does not say what is in it')
  if (shape.length > 64 || !shape.every(each => Number.isSafeInteger(each) && each >= 0)) throw wrong('its shape is none')
  return { descr, fortran, shape, start: at + length }
}

/** A Python literal of dictionaries, tuples, lists, texts, whole numbers and truth values; null where it is none. */
export function literal (text) {
  const token = /\s*(?:([{}()[\],:])|'((?:[^'\\]|\\.)*)'|"((?:[^"\\]|\\.)*)"|(-?\d{1,20})L?|(True|False|None))/y
  let current = null
  const next = () => {
    const match = token.exec(text)
    current = match === null ? { end: true } : { mark: match[1], text: match[2] ?? match[3], number: match[4], word: match[5] }
  }
  const fail = () => { throw new SyntaxError('no literal') }

  function value (depth) {
    if (depth > 8 || current.end) fail()
    const { mark, text: string, number, word } = current
    next()
    if (string !== undefined) return string.replace(/\\(.)/g, '$1')
    if (number !== undefined) return Number(number)
    if (word !== undefined) return { True: true, False: false, None: null }[word]
    if (mark === '{') return pairs(depth)
    if (mark === '(') return items(')', depth)
    if (mark === '[') return items(']', depth)
    return fail()
  }

  function items (close, depth) {
    const found = []
    while (current.mark !== close) {
      found.push(value(depth + 1))
      if (current.mark === ',') next()
      else if (current.mark !== close) fail()
    }
    next()
    return found
  }

  function pairs (depth) {
    const found = Object.create(null)
    while (current.mark !== '}') {
      const key = value(depth + 1)
      if (typeof key !== 'string' || current.mark !== ':') fail()
      next()
      found[key] = value(depth + 1)
      if (current.mark === ',') next()
      else if (current.mark !== '}') fail()
    }
    next()
    return found
  }

  try {
    next()
    return value(0)
  } catch (error) {
    if (error instanceof SyntaxError) return null
    throw error
  }
}

async function texts (into, file, type, start, count, about) {
  const shown = type.size === 0 ? 0 : Math.min(count, TEXTS, Math.floor(MOST_TEXT / type.size))
  const data = await file.read(start, start + shown * type.size)
  const decoder = new TextDecoder(type.kind === 'U' ? 'utf-8' : 'latin1')
  const text = at => {
    const part = data.subarray(at * type.size, (at + 1) * type.size)
    return type.kind === 'U' ? utf32(part, type.little) : decoder.decode(part).replace(/\0+$/, '')
  }
  add(into, h('dl', { class: 'facts' }, about.map(([name, value]) => [h('dt', {}, name), h('dd', {}, value)])),
    type.kind === 'V'
      ? h('p', {}, 'Its values are raw bytes, which have no picture.')
      : h('ol', { start: 0 }, Array.from({ length: shown }, (_, at) => h('li', {}, text(at)))),
    shown < count ? h('p', { class: 'hint' }, `These are the first ${shown} of ${count}.`) : '')
}

function utf32 (data, little) {
  const view = new DataView(data.buffer, data.byteOffset, data.byteLength)
  let text = ''
  for (let at = 0; at + 4 <= data.length; at += 4) {
    const point = view.getUint32(at, little)
    if (point) text += point <= 0x10ffff ? String.fromCodePoint(point) : '\ufffd'
  }
  return text
}
