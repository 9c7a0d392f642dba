// Arrays of numpy: the npy format, versions 1 to 3 (numpy.lib.format).
import { MAX_DIMENSIONS } from './limits.js'

// Bytes that are read first: the header, of nearly all files.
export const HEAD = 4096
const MAGIC = [0x93, 0x4e, 0x55, 0x4d, 0x50, 0x59]

/** What the head of an npy file says. Throws where it is none, or one that is not drawn. */
export function readHeader (bytes) {
  if (bytes.length < 12 || MAGIC.some((byte, at) => bytes[at] !== byte)) throw new Error('it is not an npy file')
  const view = new DataView(bytes.buffer, bytes.byteOffset, bytes.byteLength)
  const wide = bytes[6] > 1
  const length = wide ? view.getUint32(8, true) : view.getUint16(8, true)
  const start = wide ? 12 : 10
  if (length > 1024 * 1024) throw new Error('its header has no end')
  if (bytes.length < start + length) return { needs: start + length }
  const text = new TextDecoder('latin1').decode(bytes.subarray(start, start + length))
  const descr = /'descr'\s*:\s*'([<>|=])([a-zA-Z])(\d*)(?:\[([0-9]*)([a-zA-Z]+)\])?'/.exec(text)
  const shape = /'shape'\s*:\s*\(([0-9,\s]*)\)/.exec(text)
  const order = /'fortran_order'\s*:\s*(True|False)/.exec(text)
  if (!descr || !shape || !order) throw new Error('its type is none that can be drawn')
  const lengths = shape[1].split(',').filter(each => each.trim() !== '').map(Number)
  if (lengths.length > MAX_DIMENSIONS) throw new Error(`it has ${lengths.length} dimensions`)
  if (!lengths.every(Number.isSafeInteger)) throw new Error('its shape makes no sense')
  const kind = descr[2]
  const given = Number(descr[3] || 0)
  const item = kind === 'U' ? 4 * given : given
  const known = { b: [1], i: [1, 2, 4, 8], u: [1, 2, 4, 8], f: [2, 4, 8], M: [8] }
  if (!(known[kind] ? known[kind].includes(item) : 'SU'.includes(kind) && item > 0 && item <= 65536)) {
    throw new Error(`its type ${descr[0].slice(9)} is none that can be drawn`)
  }
  const size = lengths.reduce((product, each) => product * each, item)
  if (!Number.isSafeInteger(size)) throw new Error('its shape makes no sense')
  return {
    kind, item, shape: lengths, size, start: start + length, big: descr[1] === '>', fortran: order[1] === 'True',
    count: Number(descr[4] || 1), unit: descr[5]
  }
}

/** The values of the bytes of an array, in the order in which they lie: a typed array, or a list of texts. */
export function readValues (header, bytes) {
  const { kind, item, big } = header
  const length = Math.floor(bytes.length / item)
  if (kind === 'S') return texts(length, at => new TextDecoder('latin1').decode(upToNull(bytes, at * item, item)))
  let data = bytes.slice(0, length * item)
  if (big && (kind === 'U' ? 4 : item) > 1) swap(data, kind === 'U' ? 4 : item)
  const as = Type => new Type(data.buffer, 0, data.byteLength / Type.BYTES_PER_ELEMENT)
  if (kind === 'U') {
    const points = as(Uint32Array)
    return texts(length, at => {
      let end = (at + 1) * item / 4
      while (end > at * item / 4 && points[end - 1] === 0) end--
      return Array.from(points.subarray(at * item / 4, end), one => one > 0x10ffff ? '\ufffd' : String.fromCodePoint(one)).join('')
    })
  }
  if (kind === 'b') return Array.from(data, Boolean)
  if (kind === 'M') return dates(as(BigInt64Array), header)
  if (kind === 'f') return item === 8 ? as(Float64Array) : item === 4 ? as(Float32Array) : halves(as(Uint16Array))
  const types = kind === 'i'
    ? { 1: Int8Array, 2: Int16Array, 4: Int32Array }
    : { 1: Uint8Array, 2: Uint16Array, 4: Uint32Array }
  if (item < 8) return as(types[item])
  // Integers beyond 2 ** 53 lose their last digits, as all numbers of JavaScript do.
  return Float64Array.from(as(kind === 'i' ? BigInt64Array : BigUint64Array), Number)
}

const texts = (length, text) => Array.from({ length }, (_, at) => text(at))

function upToNull (bytes, start, length) {
  let end = start + length
  while (end > start && bytes[end - 1] === 0) end--
  return bytes.subarray(start, end)
}

function swap (bytes, width) {
  for (let at = 0; at < bytes.length; at += width) bytes.subarray(at, at + width).reverse()
}

function halves (values) {
  return Float32Array.from(values, half => {
    const sign = half & 0x8000 ? -1 : 1
    const exponent = (half >> 10) & 31
    const fraction = half & 1023
    if (exponent === 31) return fraction ? NaN : sign * Infinity
    return exponent ? sign * 2 ** (exponent - 15) * (1 + fraction / 1024) : sign * 2 ** -14 * (fraction / 1024)
  })
}

const MILLISECONDS = { ms: 1, s: 1000, m: 60_000, h: 3_600_000, D: 86_400_000, W: 604_800_000 }
const PARTS = { us: 1000n, ns: 1_000_000n, ps: 1_000_000_000n }

function dates (values, { unit, count }) {
  return Array.from(values, value => {
    if (value === -(2n ** 63n)) return null // NaT
    let date
    if (Object.hasOwn(MILLISECONDS, unit)) date = new Date(Number(value) * count * MILLISECONDS[unit])
    else if (Object.hasOwn(PARTS, unit)) date = new Date(Number(value * BigInt(count) / PARTS[unit]))
    else if (unit === 'M' || unit === 'Y') date = new Date(Date.UTC(1970, Number(value) * count * (unit === 'Y' ? 12 : 1), 1))
    return date && !Number.isNaN(date.getTime()) ? date.toISOString().slice(0, -1) : null
  })
}

/** Values in a shape, as nested lists whose innermost are typed arrays; a single value where there is no dimension. */
export function nested (values, shape) {
  if (shape.length === 0) return values[0]
  if (shape.length === 1) return values
  const width = shape.slice(1).reduce((product, each) => product * each, 1)
  const part = values.subarray ? 'subarray' : 'slice'
  return Array.from({ length: shape[0] }, (_, at) => nested(values[part](at * width, (at + 1) * width), shape.slice(1)))
}

/** Values that lie column by column (Fortran's order) in the order of rows. */
export function byRows (values, shape) {
  if (shape.length < 2) return values
  const strides = []
  shape.reduce((product, each) => { strides.push(product); return product * each }, 1)
  const found = values.slice()
  const index = shape.map(() => 0)
  for (let at = 0; at < values.length; at++) {
    found[at] = values[index.reduce((sum, each, axis) => sum + each * strides[axis], 0)]
    for (let axis = shape.length - 1; axis >= 0 && ++index[axis] === shape[axis]; axis--) index[axis] = 0
  }
  return found
}
