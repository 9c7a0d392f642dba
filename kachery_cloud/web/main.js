// What every page has: who is signed in, the way to the other pages; then the page that the address asks for.

import { ApiError, changeHeaders, get, refusal, useCsrf } from './api.js'
import { action, fill, h, notice } from './dom.js'

/** [address, module, title, in the menu as, for administrators alone] */
const PAGES = [
  [/^\/$/, 'home', 'Overview', 'Overview'],
  [/^\/files$/, 'files', 'Files', 'Files'],
  [/^\/files\/(?<file>[^/]+)$/, 'file', 'File'],
  [/^\/projects$/, 'projects', 'Projects', 'Projects'],
  [/^\/projects\/(?<project>[^/]+)$/, 'project', 'Project'],
  [/^\/clients$/, 'clients', 'My clients', 'My clients'],
  [/^\/usage$/, 'usage', 'Usage', 'Usage'],
  [/^\/node$/, 'node', 'Node', 'Node'],
  [/^\/members$/, 'members', 'Members', 'Members', true],
  [/^\/register\/(?<registration>[^/]+)$/, 'register', 'Register a client'],
  [/^\/sign-in$/, 'sign_in', 'Sign in']
]
const ADDRESSES = { home: '/', files: '/files', projects: '/projects', clients: '/clients', usage: '/usage', node: '/node', members: '/members' }

const main = document.getElementById('main')

function pageOf (path) {
  for (const [pattern, module, title] of PAGES) {
    const match = pattern.exec(path)
    if (match) {
      const names = Object.entries(match.groups ?? {}).map(([name, text]) => [name, decoded(text)])
      return { module, title, names: Object.fromEntries(names) }
    }
  }
  return null
}

function decoded (text) {
  try {
    return decodeURIComponent(text)
  } catch {
    return text // a percent sign that stands for itself
  }
}

function menu (me, current) {
  const shown = PAGES.filter(page => page[3] && (!page[4] || me.role === 'administrator'))
  fill(document.getElementById('nav'), h('ul', {}, shown.map(([, module, , name]) =>
    h('li', {}, h('a', { href: ADDRESSES[module], 'aria-current': module === current ? 'page' : null }, name)))))
  fill(document.getElementById('who'), h('span', {}, me.name || me.email), action('Sign out', async () => {
    await send('/sign-out')
    location.assign('/')
  }, { kind: 'quiet small' }))
}

/** Signing out is a page of the node, not of its API. */
async function send (path) {
  const response = await fetch(path, { method: 'POST', headers: changeHeaders(), redirect: 'manual' })
  if (response.status >= 400) throw refusal(response.status, await response.text())
}

function head (about) {
  document.getElementById('name').textContent = about?.name || 'kachery-cloud'
  if (about) fill(document.getElementById('foot'), h('p', {}, `kachery-cloud ${about.version}`))
}

async function show (name, title, context) {
  document.title = `${title} – ${context.about?.name || 'kachery-cloud'}`
  const page = await import(`./pages/${name}.js`)
  const shown = h('div', {})
  main.setAttribute('aria-busy', 'true')
  try {
    await page.show(shown, context)
    fill(main, shown)
  } catch (error) {
    if (!(error instanceof ApiError)) throw error
    fill(main, h('h1', {}, title), notice('bad', error.message))
  } finally {
    main.removeAttribute('aria-busy')
  }
}

async function start () {
  const found = pageOf(location.pathname)
  // Both at once: neither needs the other.
  const [about, me] = await Promise.all([get(''), get('/me').catch(error => {
    if (error.status === 401) return null
    throw error
  })])
  head(about)
  if (me === null) return await show('sign_in', 'Sign in', { about, me, names: {} })
  useCsrf(me.csrf)
  menu(me, found?.module)
  if (found === null) {
    document.title = 'Not found'
    return fill(main, h('h1', {}, 'Not found'), h('p', {}, 'There is no such page.'))
  }
  await show(found.module, found.title, { about, me, names: found.names })
}

start().catch(error => {
  head(null)
  fill(main, h('h1', {}, 'This page cannot be shown'), notice('bad', error instanceof ApiError
    ? error.message
    : `Something in this page does not work: ${error.message}. Reload it; if that does not help, tell the node's administrator.`))
  if (!(error instanceof ApiError)) console.error(error)
})
