// figure.json, the format kachery-figure version 1 (docs/figures.md). Nothing in it is believed: it is from a stranger.
import * as limits from './limits.js'

export const ARRAY = '$array'
const NAME = /^[A-Za-z0-9_][A-Za-z0-9_.-]{0,99}$/
const KINDS = ['vega-lite', 'vega', 'plotly']
const TYPES = ['json', 'csv', 'tsv', 'topojson']

const isObject = value => typeof value === 'object' && value !== null && !Array.isArray(value)
export const isReference = value => isObject(value) && Object.hasOwn(value, ARRAY)
const isCount = value => Number.isSafeInteger(value) && value >= 0

/** The document of a figure, looked through. Throws an Error with a sentence where it is none. */
export function readDocument (text) {
  let found
  try {
    found = JSON.parse(text)
  } catch {
    throw new Error('it is not JSON')
  }
  if (!isObject(found) || found.format !== 'kachery-figure') throw new Error('it does not say that it is a figure')
  if (found.version !== 1) throw new Error(`it is of version ${String(found.version).slice(0, 20)}, and this page reads version 1`)
  if (!KINDS.includes(found.kind)) throw new Error('it is of a kind that is not known here')
  if (!isObject(found.spec)) throw new Error('it has no specification')
  const title = found.title ?? ''
  if (typeof title !== 'string' || title.length > limits.MAX_TITLE) throw new Error('its title makes no sense')
  const arrays = entries(found.arrays, 'arrays')
  for (const entry of arrays.values()) checkUri(entry.uri)
  const data = entries(found.data, 'data')
  for (const [name, table] of data) checkTable(name, table, arrays)
  checkReferences(found.spec, arrays)
  return { kind: found.kind, spec: found.spec, title, arrays, data }
}

function entries (value, what) {
  if (value === undefined) return new Map()
  if (!isObject(value)) throw new Error(`its ${what} make no sense`)
  const found = new Map(Object.entries(value))
  if (found.size > limits.MAX_ENTRIES) throw new Error(`it has more than ${limits.MAX_ENTRIES} ${what}`)
  for (const [name, entry] of found) {
    if (!NAME.test(name) || !isObject(entry)) throw new Error(`its ${what} make no sense`)
  }
  return found
}

function checkTable (name, table, arrays) {
  if (table.uri !== undefined) {
    checkUri(table.uri)
    if (!TYPES.includes(table.type)) throw new Error(`its table ${name} is of a type that is not known here`)
  } else if (isObject(table.columns)) {
    for (const column of Object.values(table.columns)) {
      if (!Array.isArray(column) && !isReference(column)) throw new Error(`its table ${name} makes no sense`)
      if (isReference(column)) checkReference(column, arrays)
    }
  } else if (isReference(table.array)) {
    checkReference(table.array, arrays)
  } else {
    throw new Error(`its table ${name} makes no sense`)
  }
}

function checkReferences (spec, arrays) {
  const waiting = [[spec, 0]]
  while (waiting.length) {
    const [value, depth] = waiting.pop()
    if (depth > limits.MAX_DEPTH) throw new Error(`it is nested more than ${limits.MAX_DEPTH} deep`)
    if (isReference(value)) checkReference(value, arrays)
    else if (typeof value === 'object' && value !== null) {
      for (const each of Object.values(value)) {
        if (typeof each === 'object' && each !== null) waiting.push([each, depth + 1])
      }
    }
  }
}

function checkReference (value, arrays) {
  const { [ARRAY]: name, rows, column, ...rest } = value
  if (typeof name !== 'string' || !arrays.has(name)) throw new Error('it draws an array that it does not have')
  const pair = Array.isArray(rows) && rows.length === 2 && rows.every(isCount) && rows[0] <= rows[1]
  if ((rows !== undefined && !pair) || (column !== undefined && !isCount(column)) || Object.keys(rest).length) {
    throw new Error(`what it draws of the array ${name} makes no sense`)
  }
}

/** A URI of a figure: {cid, path} of ipfs://, or {path} in its own folder. Throws for all others. */
export function parseUri (uri) {
  const found = typeof uri === 'string' ? /^ipfs:\/\/([A-Za-z0-9]{8,200})((?:\/[^/?#@\\]+)*)$/.exec(uri) : null
  if (found) return { cid: found[1], path: found[2].split('/').slice(1).map(segment) }
  if (typeof uri !== 'string' || !/^[\w./ -]+$/.test(uri)) throw new Error(refused(uri))
  return { path: uri.split('/').map(part => checkName(part, uri)) }
}

const refused = uri => `it loads ${JSON.stringify(String(uri).slice(0, 100))}, and figures load nothing but ipfs:// and their own files`
export const checkUri = uri => { parseUri(uri) }

function segment (part) {
  try {
    return checkName(decodeURIComponent(part), part)
  } catch {
    throw new Error(refused(part))
  }
}

function checkName (name, uri) {
  if (name === '' || name === '.' || name === '..' || /[/\\\0]/.test(name)) throw new Error(refused(uri))
  return name
}
