// The frame in which a figure is drawn. It has no origin and loads nothing: what is to be drawn comes from the page
// around it, through one port, and pictures are asked for there.
const place = document.getElementById('figure')
let port
let drawing
const waiting = new Map()

window.addEventListener('message', event => {
  if (event.source !== window.parent || port || !event.data?.figure) return
  port = event.ports[0]
  port.onmessage = ({ data }) => answer(data)
  start(event.data)
})
window.parent.postMessage('ready', '*')

async function start ({ figure, dark }) {
  new ResizeObserver(() => {
    port.postMessage({ type: 'height', height: Math.ceil(document.documentElement.getBoundingClientRect().height) })
  }).observe(document.documentElement)
  try {
    const { draw } = await import(figure.kind === 'plotly' ? './draw-plotly.js' : './draw-vega.js')
    drawing = await draw(figure, { place, dark, load, script })
    port.postMessage({ type: 'drawn' })
  } catch (error) {
    port.postMessage({ type: 'failed', message: `The figure cannot be drawn: ${error?.message ?? error}` })
  }
}

async function answer (message) {
  if (message.type === 'loaded') {
    const { resolve, reject } = waiting.get(message.id) ?? {}
    waiting.delete(message.id)
    if (message.error !== undefined) reject?.(new Error(message.error))
    else resolve?.(message)
  } else if (message.type === 'save' && drawing) {
    const text = await drawing.save(message.kind)
    port.postMessage({ type: 'saved', kind: message.kind, bytes: bytesOf(text) })
  }
}

/** The bytes of a picture that is a data: URL, or text. */
function bytesOf (text) {
  const found = /^data:[^,;]*(?:;[^,;]*)*?(;base64)?,/.exec(text)
  if (!found) return new TextEncoder().encode(text)
  const rest = text.slice(found[0].length)
  if (!found[1]) return new TextEncoder().encode(decodeURIComponent(rest))
  return Uint8Array.from(atob(rest), letter => letter.charCodeAt(0))
}

/** What a figure names, by the page around: {bytes, type}. */
function load (uri) {
  return new Promise((resolve, reject) => {
    const id = waiting.size + 1 + Math.random()
    waiting.set(id, { resolve, reject })
    port.postMessage({ type: 'load', id, uri: String(uri).slice(0, 2000) })
  })
}

/** Load a library that is no module. */
function script (name) {
  return new Promise((resolve, reject) => {
    const made = document.createElement('script')
    made.src = new URL(name, import.meta.url).href
    made.onload = resolve
    made.onerror = () => reject(new Error(`${name} cannot be loaded.`))
    document.head.append(made)
  })
}
