// Kinds of numbers in arrays, and reading them from bytes. Pure.

/** kind + bytes -> a function of (DataView, offset, little-endian) that gives a number. */
const READERS = {
  b1: (view, at) => view.getUint8(at) ? 1 : 0,
  i1: (view, at) => view.getInt8(at),
  u1: (view, at) => view.getUint8(at),
  i2: (view, at, little) => view.getInt16(at, little),
  u2: (view, at, little) => view.getUint16(at, little),
  i4: (view, at, little) => view.getInt32(at, little),
  u4: (view, at, little) => view.getUint32(at, little),
  i8: (view, at, little) => Number(view.getBigInt64(at, little)),
  u8: (view, at, little) => Number(view.getBigUint64(at, little)),
  f2: (view, at, little) => half(view.getUint16(at, little)),
  f4: (view, at, little) => view.getFloat32(at, little),
  f8: (view, at, little) => view.getFloat64(at, little),
  c8: (view, at, little) => Math.hypot(view.getFloat32(at, little), view.getFloat32(at + 4, little)),
  c16: (view, at, little) => Math.hypot(view.getFloat64(at, little), view.getFloat64(at + 8, little))
}
READERS.M8 = READERS.m8 = READERS.i8

/** Half precision (IEEE 754, binary16). */
function half (bits) {
  const sign = bits & 0x8000 ? -1 : 1
  const exponent = (bits >> 10) & 0x1f
  const fraction = bits & 0x3ff
  if (exponent === 0) return sign * fraction * 2 ** -24
  if (exponent === 0x1f) return fraction ? NaN : sign * Infinity
  return sign * (1 + fraction / 1024) * 2 ** (exponent - 15)
}

/**
 * What numpy's name of a type says ('<f8'): { kind, size, little, plots }; null where it is none.
 *
 * Texts ('U', 'S') and raw bytes ('V') have a size, and no plot.
 */
export function dtype (descr) {
  const match = /^([<>|=]?)(?:(O)|([biufcmMUSV])(\d{1,9})(?:\[[\w/]+\])?)$/.exec(descr)
  if (match === null) return null
  const [order, kind, digits] = [match[1], match[2] ?? match[3], match[4] ?? '8']
  const size = kind === 'U' ? 4 * Number(digits) : Number(digits)
  return { kind, size, little: order !== '>', plots: `${kind}${digits}` in READERS, read: READERS[`${kind}${digits}`] ?? null }
}

/** Numbers of a type, out of bytes. */
export function numbers (data, type) {
  const view = new DataView(data.buffer, data.byteOffset, data.byteLength)
  const count = Math.floor(data.byteLength / type.size)
  const out = new Float64Array(count)
  for (let index = 0; index < count; index++) out[index] = type.read(view, index * type.size, type.little)
  return out
}

/** Least, greatest and mean of what is finite, and how many are not. */
export function statistics (values) {
  let [least, greatest, sum, count] = [Infinity, -Infinity, 0, 0]
  for (const value of values) {
    if (!Number.isFinite(value)) continue
    if (value < least) least = value
    if (value > greatest) greatest = value
    sum += value
    count += 1
  }
  return { least, greatest, mean: count ? sum / count : NaN, finite: count, others: values.length - count }
}

/** A number as a person reads it. */
export function short (value) {
  if (!Number.isFinite(value)) return Number.isNaN(value) ? 'not a number' : value > 0 ? 'infinite' : '−infinite'
  if (Number.isInteger(value) && Math.abs(value) < 1e7) return String(value)
  return String(Number(value.toPrecision(5)))
}

/**
 * So many of a row of values that a line of `most` points shows what all would: least and greatest of each piece.
 *
 * Gives [indices, values].
 */
export function thinned (values, most) {
  const piece = Math.max(1, Math.ceil(values.length / (most / 2)))
  if (piece === 1) return [Array.from(values, (_, index) => index), Array.from(values)]
  const [indices, kept] = [[], []]
  for (let start = 0; start < values.length; start += piece) {
    let low = start
    let high = start
    for (let at = start; at < Math.min(start + piece, values.length); at++) {
      if (values[at] < values[low]) low = at
      if (values[at] > values[high]) high = at
    }
    for (const at of low < high ? [low, high] : low > high ? [high, low] : [low]) {
      indices.push(at)
      kept.push(values[at])
    }
  }
  return [indices, kept]
}
