// An invitation: the link signs in once. A button uses it, so that a program which only looks at links does not.

import { get, refusal } from '../api.js'
import { action, add, fill, h, notice } from '../dom.js'
import { when } from '../format.js'

export async function show (into, { me, names }) {
  const found = await get(`/invitations/${encodeURIComponent(names.secret)}`)
  const trouble = h('div', {})
  add(into, h('div', { class: 'reading card' },
    h('h1', {}, `Welcome to ${found.lab || 'the lab'}`),
    h('p', {}, `This invitation is for ${found.name}${found.role === 'administrator' ? ', as an administrator' : ''}. It can be used once, until ${when(found.expires)}.`),
    me ? notice('warn', `You are signed in as ${me.name}. Going on signs you in as ${found.name} instead.`) : null,
    trouble,
    action(`Sign in as ${found.name}`, async () => {
      const response = await fetch(`/invitation/${encodeURIComponent(names.secret)}`, { method: 'POST', credentials: 'same-origin', redirect: 'error' })
      const text = await response.text()
      if (!response.ok) throw refusal(response.status, text)
      location.assign(own(JSON.parse(text).next))
    }, { onerror: error => fill(trouble, notice('bad', error.message)) })))
}

/** A path of this node. */
function own (path) {
  return typeof path === 'string' && /^\/(?![/\\])/.test(path) ? path : '/'
}
