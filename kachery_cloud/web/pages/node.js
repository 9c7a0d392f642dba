// How the node is: peers, traffic, disk, queue. Read anew every few seconds while somebody looks.

import { get } from '../api.js'
import { add, empty, facts, fill, h, notice, say, table } from '../dom.js'
import { bytes, latency, plural, span, when, whole } from '../format.js'
import { peerName } from '../shared.js'

const LOOK_AGAIN = 10_000

export async function show (into, { about }) {
  const body = h('div', {})
  const live = h('input', { type: 'checkbox', name: 'live', checked: true })
  add(into, h('div', { class: 'row ends' }, h('h1', {}, 'Node'), h('label', {}, live, ' Keep up to date')), body)
  fill(body, draw(await get('/node'), about))
  const again = async () => {
    if (!live.checked || document.hidden || body.contains(document.activeElement)) return
    try {
      fill(body, draw(await get('/node'), about))
    } catch (error) {
      live.checked = false
      body.prepend(notice('bad', `${error.message} What follows is how it was before.`))
    }
  }
  setInterval(again, LOOK_AGAIN)
  live.addEventListener('change', () => say(live.checked ? 'It is kept up to date.' : 'It stays as it is.'))
}

function draw (node, about) {
  const { disk = {}, queue = {}, traffic = {} } = node
  const peers = [...(node.peers ?? [])].sort((one, other) => (one.round_trip_ms ?? Infinity) - (other.round_trip_ms ?? Infinity))
  const free = !Number.isFinite(disk.free) ? null : `${bytes(disk.free)} free`
  return [
    h('div', { class: 'grid figures' },
      card('Up for', span(node.uptime), `kachery-cloud ${about.version}`),
      card('Peers', whole(node.peers_count ?? peers.length), peers.length ? `nearest ${latency(peers[0].round_trip_ms)}` : 'none connected'),
      card('Disk', bytes(disk.used), free, meter(disk, node.storage?.limit)),
      card('Queue', whole((queue.queued ?? 0) + (queue.pinning ?? 0)), `${whole(queue.pinning ?? 0)} being fetched, ${whole(queue.failed ?? 0)} failed`),
      card('Served', bytes(traffic.bytes_sent), `${whole(traffic.blocks_sent)} blocks`),
      card('Fetched', bytes(traffic.bytes_received), `${whole(traffic.blocks_received)} blocks`)),
    node.ready === false ? notice('warn', `The node cannot do all of its work now: ${whyNot(node.why)}`) : null,
    h('h2', {}, 'Peers'),
    peers.length
      ? table({
          caption: 'Connected peers, nearest first',
          columns: [
            { head: 'Peer', header: true, cell: peer => peer.label || 'not one of the lab' },
            { head: 'Peer ID', cell: peer => peerName(peer.peer) },
            { head: 'Round trip', number: true, cell: peer => latency(peer.round_trip_ms) },
            ...(peers.some(peer => peer.address) ? [{ head: 'Address', cell: peer => h('span', { class: 'uri' }, peer.address) }] : []),
            { head: 'Served to it', number: true, cell: peer => bytes(peer.bytes_sent) },
            { head: 'Fetched from it', number: true, cell: peer => bytes(peer.bytes_received) }
          ],
          rows: peers
        })
      : empty(h('p', {}, 'No other computer is connected now. Those of the lab connect when they store or load.')),
    ...storage(node.storage),
    h('h2', {}, 'Where it is'),
    facts([
      ['Peer ID', h('span', { class: 'uri' }, about.peer_id)],
      ['Addresses', (about.addresses ?? []).length ? h('ul', {}, about.addresses.map(each => h('li', { class: 'uri' }, each))) : 'none that others can dial'],
      ['Pinning service', h('code', {}, about.pins)]
    ])
  ]
}

/** For administrators: what becomes of the disk. */
function storage (found) {
  if (!found) return []
  const went = found.evicted_roots
    ? `${plural(found.evicted_roots, 'file or folder', 'files and folders')}, ${bytes(found.evicted_bytes)}`
    : 'nothing'
  return [
    h('h2', {}, 'Storage'),
    facts([
      ['Limit', found.limit === null ? 'none: nothing goes by itself' : bytes(found.limit)],
      ['May go', `${bytes(found.cache)} that nobody pinned`],
      ['Went to make room', `${went}, since the start`],
      ['Read through last', found.scrubbed ? when(found.scrubbed) : 'not yet'],
      ['Damaged', found.damaged ? h('span', { class: 'badge bad' }, plural(found.damaged, 'thing')) : 'nothing'],
      ['Mended', found.mended ? `${plural(found.mended, 'thing')}, since the start` : null]
    ])
  ]
}

/** Why it is not ready, as a sentence. */
function whyNot (why) {
  return Array.isArray(why) ? why.join(' ') : typeof why === 'string' ? why : 'its log says why.'
}

function card (title, figure, more, extra = null) {
  return h('section', { class: 'card' }, h('h2', {}, title), h('span', { class: 'figure-number' }, figure), more ? h('p', { class: 'muted' }, more) : null, extra)
}

function meter (disk, limit) {
  const whole = limit || ((disk.free ?? 0) + (disk.used ?? 0))
  if (!whole || !Number.isFinite(disk.used)) return null
  return h('meter', { min: 0, max: whole, high: whole * 0.9, optimum: 0, value: Math.min(disk.used, whole), 'aria-label': `${bytes(disk.used)} of ${bytes(whole)} used` })
}
