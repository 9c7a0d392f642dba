// What a figure draws, loaded through the gateway that this page came from, and through no other.
import * as limits from './limits.js'
import { ARRAY, isReference, parseUri } from './format.js'
import { HEAD, byRows, nested, readHeader, readValues } from './npy.js'

/** Something that the gateway does not give; `status` is that of HTTP, 0 where there was no answer. */
export class Unavailable extends Error {
  constructor (status, message) {
    super(message)
    this.status = status
  }
}

/** Where `/ipfs/` is, as seen from a page of the gateway: the viewer's own, or one in a folder of IPFS. */
export function ipfsRoot (location) {
  const found = /^(.*?)\/(?:figure|ipfs)\//.exec(location.pathname)
  return `${found ? found[1] : ''}/ipfs/`
}

export class Gateway {
  /**
   * @param {string} root the path that CIDs are below
   * @param {string} token shown to the gateway; empty for none. It is kept in this object alone
   * @param {(bytes: number) => void} onBytes told of what has arrived
   */
  constructor (root, token = '', onBytes = () => {}) {
    this.root = root
    this.token = token
    this.onBytes = onBytes
    this.left = limits.MAX_DATA + limits.MAX_DOCUMENT
    this.arrays = new Map()
  }

  /** The address of a URI of a figure whose files are in `folder`. */
  address (uri, folder) {
    const { cid, path } = parseUri(uri)
    const names = path.map(encodeURIComponent).join('/')
    return cid ? `${this.root}${cid}${names && '/' + names}` : folder + names
  }

  /** The bytes at an address, or some of them: {bytes, whole, size, type}. */
  async fetch (address, { start = 0, end = 0, most = limits.MAX_DATA } = {}) {
    const headers = {}
    if (end) headers.Range = `bytes=${start}-${end - 1}`
    if (this.token) headers.Authorization = `Bearer ${this.token}`
    let answer
    try {
      answer = await fetch(address, { headers, credentials: 'omit', referrerPolicy: 'no-referrer', redirect: 'error' })
    } catch {
      throw new Unavailable(0, 'The gateway gives no answer.')
    }
    if (!answer.ok) throw new Unavailable(answer.status, `The gateway does not give it (HTTP status ${answer.status}).`)
    const whole = answer.status !== 206
    const range = /\/(\d+)$/.exec(answer.headers.get('Content-Range') ?? '')
    const bytes = await this.body(answer, whole ? most : Math.min(most, end - start))
    const size = whole ? bytes.length : range ? Number(range[1]) : undefined
    return { bytes, whole, size, type: answer.headers.get('Content-Type') ?? '' }
  }

  async body (answer, most) {
    const pieces = []
    let length = 0
    const reader = answer.body.getReader()
    for (;;) {
      const { done, value } = await reader.read()
      if (done) break
      length += value.length
      this.left -= value.length
      if (length > most || this.left < 0) {
        await reader.cancel()
        throw new Error('it is larger than a figure may be')
      }
      pieces.push(value)
      this.onBytes(value.length)
    }
    const bytes = new Uint8Array(length)
    let at = 0
    for (const piece of pieces) {
      bytes.set(piece, at)
      at += piece.length
    }
    return bytes
  }

  async text (address, most) {
    return new TextDecoder().decode((await this.fetch(address, { most })).bytes)
  }

  /** The array that an object stands for: nested lists of typed arrays. Each is loaded once. */
  async array (reference, arrays, folder) {
    const key = JSON.stringify([reference[ARRAY], reference.rows ?? null, reference.column ?? null])
    if (!this.arrays.has(key)) this.arrays.set(key, this.loadArray(reference, arrays, folder))
    return this.arrays.get(key)
  }

  async loadArray ({ [ARRAY]: name, rows, column }, arrays, folder) {
    const address = this.address(arrays.get(name).uri, folder)
    try {
      const { values, shape } = await this.values(address, rows)
      if (column === undefined) return nested(values, shape)
      if (shape.length !== 2 || column >= shape[1]) throw new Error(`it has no column ${column}`)
      return values.filter((_, at) => at % shape[1] === column)
    } catch (error) {
      if (error instanceof Unavailable) throw new Unavailable(error.status, `The array ${name} cannot be had. ${error.message}`)
      throw new Error(`The array ${name} cannot be drawn: ${error.message}.`)
    }
  }

  async values (address, rows) {
    let head = await this.fetch(address, { end: HEAD })
    let header = readHeader(head.bytes)
    if (header.needs) {
      head = await this.fetch(address, { end: header.needs + HEAD })
      header = readHeader(head.bytes)
      if (header.needs) throw new Error('it ends in its header')
    }
    const { shape } = header
    if (header.size > limits.MAX_DATA) throw new Error('it is larger than a figure may be')
    if (head.size !== undefined && head.size < header.start + header.size) throw new Error('it is shorter than it says')
    const some = rows && shape.length
    const [first, last] = some ? rows.map(row => Math.min(row, shape[0])) : [0, shape[0] ?? 1]
    const width = shape.length && shape[0] ? header.size / shape[0] : header.size
    // Rows lie together, but in the order of Fortran.
    const [start, end] = header.fortran && shape.length > 1
      ? [header.start, header.start + header.size]
      : [header.start + first * width, header.start + last * width]
    let bytes
    if (end <= start) bytes = new Uint8Array(0)
    else if (end <= head.bytes.length) bytes = head.bytes.subarray(start, end)
    else {
      const more = await this.fetch(address, { start, end, most: limits.MAX_DATA + HEAD })
      bytes = more.whole ? more.bytes.subarray(start, end) : more.bytes
    }
    if (bytes.length !== Math.max(0, end - start)) throw new Error('it is shorter than it says')
    let values = readValues(header, bytes)
    const taken = [last - first, ...shape.slice(1)]
    if (header.fortran && shape.length > 1) {
      values = byRows(values, shape)
      values = values.slice(first * (values.length / (shape[0] || 1)), last * (values.length / (shape[0] || 1)))
    }
    return { values, shape: shape.length ? taken : shape }
  }

  /** A specification with arrays in place of what stands for them. */
  async filled (value, arrays, folder) {
    if (isReference(value)) return await this.array(value, arrays, folder)
    if (Array.isArray(value)) {
      if (!value.some(each => typeof each === 'object' && each !== null)) return value
      return await Promise.all(value.map(each => this.filled(each, arrays, folder)))
    }
    if (typeof value !== 'object' || value === null) return value
    const found = await Promise.all(
      Object.entries(value).map(async ([key, each]) => [key, await this.filled(each, arrays, folder)])
    )
    return Object.fromEntries(found)
  }

  /** A table: {text, type}, or {columns} of lists and typed arrays. */
  async table (name, table, arrays, folder) {
    if (table.uri !== undefined) {
      try {
        return { text: await this.text(this.address(table.uri, folder)), type: table.type }
      } catch (error) {
        throw new Error(`The table ${name} cannot be had. ${error.message}`)
      }
    }
    if (table.columns) return { columns: await this.filled(table.columns, arrays, folder) }
    return { columns: cells(await this.array(table.array, arrays, folder), name) }
  }
}

/** The cells of an array of one or two dimensions as a table. */
export function cells (array, name) {
  const rows = array[0] !== undefined && typeof array[0] === 'object' && array[0] !== null ? array : null
  const count = rows ? rows.length * rows[0].length : array.length
  if (!(count <= limits.MAX_ROWS)) throw new Error(`The table ${name} has more than ${limits.MAX_ROWS} rows.`)
  if (!rows) return { index: Array.from(array, (_, at) => at), value: array }
  const width = rows[0].length
  return {
    row: Int32Array.from({ length: count }, (_, at) => Math.floor(at / width)),
    column: Int32Array.from({ length: count }, (_, at) => at % width),
    value: Array.prototype.concat.apply([], rows.map(row => Array.from(row)))
  }
}
