// A client asks to be registered: which one it is, and whether it is yours.

import { change, get } from '../api.js'
import { action, add, facts, fill, h, notice } from '../dom.js'
import { when } from '../format.js'

export async function show (into, { me, names }) {
  const path = `/registrations/${encodeURIComponent(names.registration)}`
  const asked = await get(path)
  const card = h('div', { class: 'reading card' })
  add(into, card)
  if (asked.state !== 'waiting') return done(card, asked.state, asked)

  const trouble = h('div', {})
  const decide = (verb, state) => async () => {
    const answer = await change('POST', `${path}/${verb}`)
    done(card, answer?.state ?? state, asked)
  }
  const onerror = error => fill(trouble, notice('bad', error.message))
  fill(card,
    h('h1', {}, 'Register a client'),
    h('p', {}, 'A computer asks to be registered as yours. Its files and its traffic will count as yours, and it will be able to store on this node within your quota.'),
    asked.code ? [
      h('p', { class: 'muted' }, 'The command that you started shows this code. If it shows another one, or you started none, refuse.'),
      h('p', { class: 'short-code' }, asked.code)
    ] : null,
    facts([
      ['Label', asked.label || 'none'],
      ['Peer ID', h('span', { class: 'uri' }, asked.peer)],
      ['Asks from', asked.address || null],
      ['Will belong to', me.email && me.email !== me.name ? `${me.name} (${me.email})` : me.name],
      ['Asked until', asked.expires ? when(asked.expires) : null]
    ]),
    trouble,
    h('div', { class: 'row' },
      action('Register client', decide('register', 'registered'), { onerror }),
      action('Refuse', decide('refuse', 'refused'), { kind: 'quiet', onerror })))
}

function done (card, state, asked) {
  const label = asked.label ? ` “${asked.label}”` : ''
  const texts = {
    registered: ['good', 'Registered', `The client${label} is registered. The command on that computer notices by itself; you can close this page.`],
    refused: ['warn', 'Refused', `The client${label} was refused. It stores nothing here in your name.`],
    expired: ['warn', 'Too late', 'This link is no longer valid. Start kachery-cloud-init on that computer again; it prints another link.']
  }
  const [kind, title, text] = texts[state] ?? ['warn', 'Unknown', `The node says that this registration is “${state}”.`]
  const heading = h('h1', { tabindex: '-1' }, title)
  fill(card, heading, notice(kind, text), h('p', {}, h('a', { href: '/clients' }, 'My clients')))
  if (card.isConnected && document.activeElement !== document.body) heading.focus()
}
