// Vega-Lite and Vega. Expressions are interpreted, never compiled, so that no policy has to allow eval.
import { MAX_ROWS } from './limits.js'

// As SVG, which is sharp at any size, up to so many rows; beyond, as a canvas.
const ROWS_AS_SVG = 3000

const DARK = {
  background: null,
  title: { color: '#e4ecea', subtitleColor: '#a3b4b0' },
  style: { 'guide-label': { fill: '#a3b4b0' }, 'guide-title': { fill: '#e4ecea' }, 'group-title': { fill: '#e4ecea' } },
  axis: { domainColor: '#788a86', tickColor: '#788a86', gridColor: '#2e3c39' },
  header: { labelColor: '#a3b4b0', titleColor: '#e4ecea' },
  view: { stroke: '#2e3c39' }
}
const LIGHT = { background: null }

export async function draw ({ kind, spec, data, title }, { place, dark, load, script }) {
  await script('vendor/vega/vega.min.js')
  if (kind === 'vega-lite') await script('vendor/vega-lite/vega-lite.min.js')
  const { expressionInterpreter } = await import('./vendor/vega-interpreter/vega-interpreter.js')
  const { vega, vegaLite } = window
  const plain = unpacked(spec)
  checkSequences(plain)
  const tables = Object.fromEntries(Object.entries(data).map(([name, table]) => [name, rows(vega, name, table)]))
  const given = plain.background ?? plain.config?.background
  const own = given !== undefined && given !== null && given !== 'transparent'
  if (own) place.classList.add('on-white')
  const theme = dark && !own ? DARK : LIGHT
  const config = vega.mergeConfig({}, own ? {} : theme, plain.config ?? {})
  const compiled = kind === 'vega-lite' ? vegaLite.compile(fitted(named(plain, tables)), { config }).spec : withTables(plain, tables)
  checkSequences(compiled)
  const runtime = vega.parse(compiled, kind === 'vega-lite' ? {} : config, { ast: true })
  const logger = vega.logger(vega.Warn)
  const faults = []
  const view = new vega.View(runtime, {
    expr: expressionInterpreter,
    loader: loader(load, faults),
    renderer: count(tables, plain) > ROWS_AS_SVG ? 'canvas' : 'svg',
    container: place,
    hover: true,
    logger
  })
  if (title) view.description(title)
  await view.runAsync()
  // Vega would draw nothing, and leave it at that.
  if (faults.length) throw faults[0]
  return {
    save: async how => how === 'svg' ? await view.toSVG() : await view.toImageURL('png', 2)
  }
}

/** The loader of Vega: it hands everything to the page around, and follows no link. */
function loader (load, faults) {
  const refuse = async uri => { throw new Error(`${String(uri).slice(0, 100)} is not loaded.`) }
  return {
    options: {},
    load: async uri => {
      try {
        return new TextDecoder().decode((await load(uri)).bytes)
      } catch (error) {
        faults.push(error)
        throw error
      }
    },
    sanitize: async (uri, options) => {
      if (options?.context !== 'image') return await refuse(uri)
      if (/^data:image\/(png|jpeg|gif|webp|svg\+xml)[;,]/.test(uri)) return { href: uri }
      const { bytes, type } = await load(uri)
      return { href: URL.createObjectURL(new Blob([bytes], { type })) }
    },
    http: refuse,
    file: refuse
  }
}

const isObject = value => typeof value === 'object' && value !== null && !Array.isArray(value) && !ArrayBuffer.isView(value)

/** With plain lists in place of typed arrays; and inputs where Vega puts them, not in an element that it would empty. */
function unpacked (value, under = '') {
  if (ArrayBuffer.isView(value)) return Array.from(value)
  if (Array.isArray(value)) return value.map(each => unpacked(each, under))
  if (!isObject(value)) return value
  const kept = Object.entries(value).filter(([key]) => !(under === 'bind' && key === 'element'))
  return Object.fromEntries(kept.map(([key, each]) => [key, unpacked(each, under === 'bind' ? under : key)]))
}

/** The rows of a table, or its whole content where only the specification says how it is read. */
function rows (vega, name, table) {
  if (table.text !== undefined) {
    const found = table.type === 'topojson' ? JSON.parse(table.text) : vega.read(table.text, { type: table.type, parse: 'auto' })
    if (Array.isArray(found) && found.length > MAX_ROWS) throw new Error(`The table ${name} has more than ${MAX_ROWS} rows.`)
    return found
  }
  const columns = Object.entries(table.columns)
  const lengths = new Set(columns.map(([, values]) => values.length))
  if (lengths.size > 1) throw new Error(`The columns of the table ${name} have different lengths.`)
  const length = [...lengths][0] ?? 0
  if (length > MAX_ROWS) throw new Error(`The table ${name} has more than ${MAX_ROWS} rows.`)
  return Array.from({ length }, (_, at) => Object.fromEntries(columns.map(([key, values]) => [key, values[at]])))
}

const named = (spec, tables) => Object.keys(tables).length ? { ...spec, datasets: { ...spec.datasets, ...tables } } : spec

/** A chart that does not say how wide it is takes the width that there is. */
function fitted (spec) {
  const single = (spec.mark !== undefined || spec.layer !== undefined) &&
    !['row', 'column', 'facet'].some(channel => spec.encoding?.[channel] !== undefined)
  if (!single || spec.width !== undefined || spec.config?.view?.continuousWidth !== undefined) return spec
  return { ...spec, width: 'container' }
}

function withTables (spec, tables) {
  const data = (Array.isArray(spec.data) ? spec.data : []).map(each =>
    isObject(each) && Object.hasOwn(tables, each.name) && each.values === undefined && each.url === undefined && each.source === undefined
      ? { ...each, values: tables[each.name] }
      : each
  )
  return { ...spec, data }
}

function count (tables, spec) {
  const inline = [...Object.values(spec.datasets ?? {}), spec.data?.values, ...(Array.isArray(spec.data) ? spec.data.map(each => each?.values) : [])]
  return [...Object.values(tables), ...inline].reduce((sum, each) => sum + (Array.isArray(each) ? each.length : 0), 0)
}

/** Numbers that a specification makes by itself are bounded as tables are; so they are to be said, not computed. */
function checkSequences (spec) {
  const waiting = [spec]
  while (waiting.length) {
    const each = waiting.pop()
    if (isObject(each)) {
      const made = isObject(each.sequence) ? each.sequence : each.type === 'sequence' ? each : null
      if (made) {
        const { start = 0, stop, step = 1 } = made
        if (!((stop - start) / step <= MAX_ROWS)) throw new Error(`It makes a sequence of more than ${MAX_ROWS} numbers.`)
      }
      waiting.push(...Object.values(each).filter(inner => typeof inner === 'object' && inner !== null))
    } else if (Array.isArray(each)) {
      for (const inner of each) if (typeof inner === 'object' && inner !== null) waiting.push(inner)
    }
  }
}
