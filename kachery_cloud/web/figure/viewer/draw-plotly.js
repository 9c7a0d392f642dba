// Plotly: the bundle of what is drawn in two dimensions as SVG.

// What Plotly draws by WebGL is drawn as SVG; and what it has no part for here is said.
const SAME = { scattergl: 'scatter', heatmapgl: 'heatmap', scatterpolargl: 'scatterpolar' }

const DARK = {
  paper_bgcolor: 'rgba(0,0,0,0)',
  plot_bgcolor: 'rgba(0,0,0,0)',
  font: { color: '#e4ecea' },
  colorway: ['#5fd0bf', '#f2995c', '#9db5f7', '#ec93bf', '#d6d45c', '#a3b4b0']
}

export async function draw ({ spec }, { place, dark, load, script }) {
  await script('vendor/plotly/plotly-cartesian.min.js')
  const { Plotly } = window
  if (!Array.isArray(spec.data)) throw new Error('it has no list of data.')
  const pictures = new Map()
  await collect(spec, load, pictures)
  const cleaned = clean(spec, pictures)
  const known = Plotly.PlotSchema.get().traces
  const traces = cleaned.data.map(trace => {
    const given = trace?.type ?? 'scatter'
    const type = Object.hasOwn(SAME, given) ? SAME[given] : given
    if (!Object.hasOwn(known, type)) throw new Error(`it has data of the type ${JSON.stringify(String(type).slice(0, 40))}, which this viewer does not draw.`)
    return { ...trace, type }
  })
  const layout = themed(typeof cleaned.layout === 'object' && cleaned.layout ? cleaned.layout : {}, dark, place)
  place.classList.add('plotly-figure')
  // The settings are ours alone: those of a figure could name a server.
  const config = {
    responsive: true,
    displaylogo: false,
    plotlyServerURL: '',
    modeBarButtons: [['zoom2d', 'pan2d', 'zoomIn2d', 'zoomOut2d', 'resetScale2d']]
  }
  await Plotly.newPlot(place, { data: traces, layout, config, frames: Array.isArray(cleaned.frames) ? cleaned.frames : [] })
  return { save: async how => await Plotly.toImage(place, { format: how, scale: how === 'png' ? 2 : 1 }) }
}

/** Without a width the figure takes what there is; in the dark, where it says no colours, it has light lines. */
function themed (layout, dark, place) {
  const own = layout.paper_bgcolor ?? layout.template?.layout?.paper_bgcolor
  if (own !== undefined) place.classList.add('on-white')
  const base = dark && own === undefined
    ? { template: { layout: { ...DARK, xaxis: AXIS, yaxis: AXIS } } }
    : own === undefined ? { paper_bgcolor: 'rgba(0,0,0,0)', plot_bgcolor: 'rgba(0,0,0,0)' } : {}
  const bare = { bgcolor: 'rgba(0,0,0,0)', color: '#7a8a87', activecolor: dark && own === undefined ? '#e4ecea' : '#17211f' }
  const template = layout.template ?? base.template
  return { height: 450, ...base, ...layout, ...(template ? { template } : {}), modebar: { ...bare, ...layout.modebar } }
}

const AXIS = { gridcolor: '#2e3c39', zerolinecolor: '#788a86', linecolor: '#788a86' }

const isText = value => typeof value === 'string'
const PICTURE = /^data:image\/(png|jpeg|gif|webp|svg\+xml)[;,]/

/** Load the pictures that a figure names. */
async function collect (value, load, pictures) {
  if (typeof value !== 'object' || value === null || ArrayBuffer.isView(value)) return
  for (const [key, each] of Object.entries(value)) {
    if (key === 'source' && isText(each) && !PICTURE.test(each) && !pictures.has(each)) {
      const { bytes, type } = await load(each)
      pictures.set(each, URL.createObjectURL(new Blob([bytes], { type })))
    } else if (!isText(each)) await collect(each, load, pictures)
  }
}

/** A copy in which texts have no links, and pictures are those that were loaded. */
function clean (value, pictures, key = '') {
  if (isText(value)) return key === 'source' ? pictures.get(value) ?? value : withoutLinks(value)
  if (ArrayBuffer.isView(value) || typeof value !== 'object' || value === null) return value
  if (Array.isArray(value)) return value.map(each => clean(each, pictures, key))
  return Object.fromEntries(Object.entries(value).map(([name, each]) => [name, clean(each, pictures, name)]))
}

/** Plotly makes links of `<a href=...>` in texts. Where they lead, somebody unknown has said. */
export function withoutLinks (text) {
  let found = text
  for (;;) {
    const next = found.replace(/<\s*\/?\s*a\b[^>]*>/gi, '')
    if (next === found) return found
    found = next
  }
}
