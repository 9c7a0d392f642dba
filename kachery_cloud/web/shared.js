// What several pages show.

import { command, h } from './dom.js'
import { bytes, shortened } from './format.js'

/** How a computer comes to store here. */
export function initCommand () {
  return command(`kachery-cloud-init --node ${location.origin}`)
}

/** A peer ID: short to see, whole to copy and in its title. */
export function peerName (peer) {
  return h('span', { class: 'uri', title: peer }, shortened(peer, 8, 8))
}

/** What is used of a quota. */
export function quotaMeter (used, quota) {
  if (!quota) return h('p', {}, `${bytes(used)} are stored; there is no limit.`)
  const text = `${bytes(used)} of ${bytes(quota)} used`
  return [
    h('p', {}, text),
    h('meter', { min: 0, max: quota, high: quota * 0.8, optimum: 0, value: Math.min(used, quota), 'aria-label': text }, text)
  ]
}

const STATES = {
  queued: ['warn', 'waiting'],
  pinning: ['warn', 'being fetched'],
  pinned: ['good', 'kept'],
  failed: ['bad', 'failed']
}

/** How far the node is with a file. */
export function stateBadge (status) {
  const [kind, text] = STATES[status] ?? ['', status ?? 'unknown']
  return h('span', { class: `badge ${kind}` }, text)
}

const VISIBILITY = { public: 'Anyone with the URI', members: 'Members alone' }

/** Who may load what is in a project. */
export function visibilityBadge (visibility) {
  return h('span', { class: 'badge' }, VISIBILITY[visibility] ?? visibility)
}

export const ROLES = [['reader', 'may read'], ['writer', 'may store'], ['administrator', 'administers']]
