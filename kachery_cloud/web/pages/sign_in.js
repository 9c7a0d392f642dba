// For whoever is not signed in. It is shown at the address that was asked for, and signing in leads back to it.

import { add, h } from '../dom.js'

export async function show (into, { about, me }) {
  const asked = new URLSearchParams(location.search)
  const back = location.pathname === '/sign-in' ? asked.get('next') ?? '/' : location.pathname + location.search
  const registering = location.pathname.startsWith('/register/')
  const name = about?.name || 'this node'
  add(into, h('div', { class: 'reading card' },
    h('h1', {}, 'Sign in'),
    me ? h('p', {}, `You are signed in as ${me.name}. `, h('a', { href: '/' }, 'To the overview')) : null,
    h('p', {}, registering
      ? 'A computer asks to be registered as yours. Sign in, and you will see which one.'
      : `Members see here what they store on ${name}: projects, files, and who uses how much.`),
    about?.sign_in === 'openid' ? openid(about, back) : invitation(name),
    h('p', { class: 'hint' }, 'Storing, sharing and loading data work without signing in.')))
}

function openid (about, back) {
  let issuer = 'the account that your lab uses'
  try {
    const host = new URL(about.issuer).hostname
    issuer = host === 'accounts.google.com' ? 'Google' : host
  } catch { /* The node has told no issuer: then there is no name to give. */ }
  return h('p', {}, h('a', { class: 'button', href: `/sign-in?next=${encodeURIComponent(back)}` }, `Sign in with ${issuer}`))
}

function invitation (name) {
  return [
    h('p', {}, `On ${name}, one signs in with a link that an administrator makes, once:`),
    h('div', { class: 'command' }, h('code', {}, 'kachery-cloud-node members invite NAME')),
    h('p', {}, 'Ask an administrator of your lab for yours, and open it in this browser.')
  ]
}
