// The page around a figure: finds out what is to be shown, loads it, and has it drawn in a frame of its own.
//
// The frame is sandboxed without an origin, and its policy lets it load nothing: all that a figure draws is loaded here
// and handed to it. So whatever a stranger's specification might do in a library, it reaches neither this page (with the
// token, if one was given) nor the network.
import * as limits from './limits.js'
import { readDocument } from './format.js'
import { Gateway, Unavailable, ipfsRoot } from './gateway.js'

const element = id => document.getElementById(id)
const KINDS = { 'vega-lite': 'Vega-Lite', vega: 'Vega', plotly: 'Plotly' }
const IMAGES = /^image\/(png|jpeg|gif|webp|avif|svg\+xml)\b/
// A figure is shown at a time; what comes late of another is dropped.
let current = 0
let port = null

/** What the address names: {uri, addresses} to look for the document at, in turn; null for nothing. */
export function named (location) {
  const root = ipfsRoot(location)
  let hash = location.hash.slice(1)
  try {
    hash = hash.includes('://') ? hash : decodeURIComponent(hash)
  } catch { /* it is no URI then, either */ }
  if (hash === '' || hash === 'main') {
    if (!/\/ipfs\/|^[a-z0-9]+\.ipfs\./.test(`${location.pathname}\n${location.host}`) && !location.host.includes('.ipfs.')) return null
    const folder = location.pathname.replace(/[^/]*$/, '')
    return { uri: '', places: [{ address: `${folder}figure.json`, folder }] }
  }
  const found = /^(?:ipfs:\/\/|\/ipfs\/)?([A-Za-z0-9]{46,200})((?:\/[^/?#@\\]+)*)\/?(?:\?.*)?$/.exec(hash)
  const names = found ? found[2].split('/').slice(1) : []
  if (!found || names.some(name => /^(\.|%2e){1,2}$/i.test(name))) throw new Error('That is not the URI of a figure.')
  const path = [found[1], ...names].join('/')
  const inside = { address: `${root}${path}/figure.json`, folder: `${root}${path}/` }
  const itself = { address: `${root}${path}`, folder: names.length ? `${root}${[found[1], ...names.slice(0, -1)].join('/')}/` : '' }
  return { uri: `ipfs://${path}`, places: path.endsWith('.json') ? [itself, inside] : [inside, itself] }
}

async function show (token = '') {
  const mine = ++current
  const still = () => mine === current
  clear()
  try {
    const what = named(window.location)
    if (what === null) {
      element('open').hidden = false
      return
    }
    let arrived = 0
    const gateway = new Gateway(ipfsRoot(window.location), token, count => {
      arrived += count
      if (still()) element('status').textContent = `Loading: ${size(arrived)}`
    })
    element('status').textContent = 'Loading'
    const { document: figure, folder } = await load(gateway, what)
    const spec = await gateway.filled(figure.spec, figure.arrays, folder)
    const data = Object.create(null)
    for (const [name, table] of figure.data) data[name] = await gateway.table(name, table, figure.arrays, folder)
    if (!still()) return
    title(figure.title)
    element('status').textContent = 'Drawing'
    await draw({ kind: figure.kind, spec, data, title: figure.title }, uri => image(gateway, uri, folder))
    if (!still()) return
    element('status').textContent = ''
    describe(figure, what.uri, gateway, folder)
    document.documentElement.dataset.state = 'drawn'
  } catch (error) {
    if (still()) fail(error)
  }
}

function clear () {
  for (const id of ['failure', 'open', 'unlock', 'drawn', 'about']) element(id).hidden = true
  element('place').replaceChildren()
  element('status').textContent = ''
  document.documentElement.dataset.state = 'loading'
  port?.close()
  port = null
  title('')
}

function title (text) {
  element('title').textContent = text || 'Figure'
  document.title = text ? `${text} · Figure` : 'Figure'
}

function fail (error) {
  element('status').textContent = ''
  element('place').replaceChildren()
  element('drawn').hidden = true
  element('reason').textContent = error instanceof Error ? error.message : String(error)
  element('failure').hidden = false
  // In a page of somebody else a token must not be asked for: who is asked cannot see by whom.
  const hidden = error instanceof Unavailable && [401, 403, 404].includes(error.status)
  element('unlock').hidden = !(hidden && window.top === window)
  element('open').hidden = error instanceof Unavailable
  document.documentElement.dataset.state = 'failed'
}

async function load (gateway, what) {
  let first = null
  for (const { address, folder } of what.places) {
    let text
    try {
      text = await gateway.text(address, limits.MAX_DOCUMENT)
    } catch (error) {
      first ??= error
      continue
    }
    try {
      return { document: readDocument(text), folder }
    } catch (error) {
      throw new Error(`This is no figure that can be shown: ${error.message}.`)
    }
  }
  if (first instanceof Unavailable && [400, 404, 504].includes(first.status)) {
    throw new Unavailable(first.status, 'There is no figure at this address that this gateway can give: nobody has it, it is not for everybody, or it is something else.')
  }
  throw first
}

/** A picture that a figure draws: its bytes and type. Throws where it is none. */
async function image (gateway, uri, folder) {
  const { bytes, type } = await gateway.fetch(gateway.address(uri, folder))
  return { bytes, type: IMAGES.exec(type)?.[0] ?? 'application/octet-stream' }
}

/** Have the frame draw; resolved when it has. */
function draw (figure, load) {
  const frame = document.createElement('iframe')
  frame.title = figure.title || 'The figure'
  frame.setAttribute('sandbox', 'allow-scripts')
  frame.src = new URL('frame.html', import.meta.url).href
  element('place').replaceChildren(frame)
  element('drawn').hidden = false
  return new Promise((resolve, reject) => {
    const ready = event => {
      if (event.source !== frame.contentWindow || event.data !== 'ready') return
      window.removeEventListener('message', ready)
      const channel = new MessageChannel()
      port = channel.port1
      port.onmessage = ({ data }) => answer(data, frame, load, resolve, reject)
      const dark = window.matchMedia('(prefers-color-scheme: dark)').matches
      frame.contentWindow.postMessage({ figure, dark }, '*', [channel.port2])
    }
    window.addEventListener('message', ready)
  })
}

async function answer (message, frame, load, resolve, reject) {
  const { type } = message
  if (type === 'drawn') resolve()
  else if (type === 'failed') reject(new Error(String(message.message).slice(0, 500)))
  else if (type === 'height' && message.height > 0) frame.style.height = `${Math.min(message.height, 20_000)}px`
  else if (type === 'saved') save(message)
  else if (type === 'load') {
    const reply = { type: 'loaded', id: message.id }
    try {
      Object.assign(reply, await load(message.uri))
    } catch (error) {
      reply.error = error.message
    }
    port?.postMessage(reply)
  }
}

function save ({ bytes, kind }) {
  if (!(bytes instanceof Uint8Array) || !(kind === 'png' || kind === 'svg')) return
  const link = document.createElement('a')
  link.href = URL.createObjectURL(new Blob([bytes], { type: 'application/octet-stream' }))
  const name = element('title').textContent.replace(/[^\p{L}\p{N} _.-]+/gu, ' ').trim().slice(0, 100) || 'figure'
  link.download = `${name}.${kind}`
  link.click()
  setTimeout(() => URL.revokeObjectURL(link.href), 60_000)
}

for (const kind of ['svg', 'png']) {
  element(`save-${kind}`).addEventListener('click', () => port?.postMessage({ type: 'save', kind }))
}

// --- what it is made of

function describe (figure, uri, gateway, folder) {
  const facts = element('facts')
  facts.replaceChildren()
  const fact = (name, ...values) => {
    const term = document.createElement('dt')
    term.textContent = name
    const text = document.createElement('dd')
    text.append(...values)
    facts.append(term, text)
  }
  if (uri) fact('URI', code(uri))
  fact('Drawn by', KINDS[figure.kind])
  const files = [
    ...[...figure.arrays].map(([name, entry]) => [name, entry.uri, shape(entry)]),
    ...[...figure.data].filter(([, table]) => table.uri).map(([name, table]) => [name, table.uri, table.type])
  ]
  if (files.length) {
    const list = document.createElement('ul')
    list.append(...files.slice(0, 100).map(([name, where, about]) => {
      const item = document.createElement('li')
      const link = document.createElement('a')
      link.href = gateway.address(where, folder)
      link.textContent = name
      item.append(link, ` ${about}`)
      return item
    }))
    fact('Its data', list)
  }
  element('about').hidden = false
}

function shape ({ dtype, shape }) {
  const lengths = Array.isArray(shape) ? shape.slice(0, limits.MAX_DIMENSIONS).map(Number).join(' × ') : ''
  return [lengths, typeof dtype === 'string' ? dtype.slice(0, 20) : ''].filter(Boolean).join(', ')
}

function code (text) {
  const found = document.createElement('code')
  found.textContent = text
  return found
}

const size = bytes => bytes < 1e6 ? `${Math.ceil(bytes / 1e3)} kB` : `${(bytes / 1e6).toFixed(1)} MB`

element('open').addEventListener('submit', event => {
  event.preventDefault()
  window.location.hash = element('uri').value.trim()
})
element('unlock').addEventListener('submit', event => {
  event.preventDefault()
  const token = element('token').value.trim()
  element('token').value = ''
  show(token)
})
window.addEventListener('hashchange', () => { if (window.location.hash !== '#main') show() })
show()
