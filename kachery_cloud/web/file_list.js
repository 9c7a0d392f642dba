// A list of files with a filter: those of a project, mine, or all that I may see.

import { change, get } from './api.js'
import { action, confirmed, fill, h, notice, say, table } from './dom.js'
import { bytes, when } from './format.js'
import { stateBadge } from './shared.js'

const PAGE = 100
/** How long the filter waits for the next key, in milliseconds. */
const TYPING = 250
/** How often a file that is being fetched is looked at, in milliseconds. */
const LOOK_AGAIN = 5000

/**
 * A list that fills itself. `project` and `mine` choose; `empty` is shown where there is nothing.
 *
 * It has `element`, and `refresh()`, which reads the first page again.
 */
export function fileList ({ project = null, mine = null, me, empty, projects = null }) {
  const filter = h('input', { type: 'search', name: 'label', autocomplete: 'off', 'aria-label': 'Filter by label', placeholder: 'Filter by label' })
  const count = h('span', { class: 'hint', role: 'status' })
  const body = h('div', {})
  const more = h('div', { class: 'row' })
  const state = { items: [], next: null, asked: 0, timer: null, mine }
  const bar = h('div', { class: 'row' }, filter, count)
  const element = h('div', {}, bar, body, more)

  async function page (after) {
    const asked = ++state.asked
    const label = filter.value.trim()
    const answer = await get('/files', { project, mine: state.mine ? '1' : null, label, limit: PAGE, after })
    if (asked !== state.asked) return // another question was asked meanwhile
    state.items = after ? [...state.items, ...answer.items] : answer.items
    state.next = answer.next
    draw(label)
  }

  function draw (label) {
    count.textContent = state.items.length ? `${state.items.length}${state.next ? ' and more' : ''}` : ''
    if (state.items.length === 0) fill(body, label ? h('p', { class: 'muted' }, `No label has “${label}” in it.`) : empty)
    else fill(body, table({ caption: 'Files', hideCaption: true, columns: columns(), rows: state.items }))
    fill(more, state.next ? action('Show more', () => page(state.next), { kind: 'quiet' }) : null)
    clearTimeout(state.timer)
    if (state.items.some(file => file.status === 'queued' || file.status === 'pinning')) {
      state.timer = setTimeout(() => { document.hidden ? draw(label) : refresh().catch(() => {}) }, LOOK_AGAIN)
    }
  }

  function columns () {
    const shown = [
      { head: 'Label', header: true, cell: file => h('a', { href: `/files/${encodeURIComponent(file.id)}` }, file.label || file.uri) },
      { head: 'Size', number: true, cell: file => bytes(file.size) }
    ]
    if (!project) shown.push({ head: 'Project', cell: file => projectOf(file, projects) })
    if (!state.mine) shown.push({ head: 'Owner', cell: file => nameOf(file.owner) })
    shown.push(
      { head: 'Stored', cell: file => when(file.stored) },
      { head: 'State', cell: file => stateBadge(file.status) },
      { head: '', cell: file => mayDelete(file, me) ? remover(file) : '' })
    return shown
  }

  function remover (file) {
    const name = file.label || file.uri
    return action('Delete', async () => {
      if (!await confirmed(`Delete ${name}?`, 'Delete', 'This node no longer keeps it. Computers that have it keep theirs.')) return
      await change('DELETE', `/files/${encodeURIComponent(file.id)}`)
      say(`${name} was deleted.`)
      await refresh()
    }, { kind: 'danger small', label: `Delete ${name}`, onerror: error => body.prepend(notice('bad', error.message)) })
  }

  async function refresh () {
    await page(null)
  }

  let typing = null
  filter.addEventListener('input', () => {
    clearTimeout(typing)
    typing = setTimeout(() => page(null).catch(error => fill(body, notice('bad', error.message))), TYPING)
  })
  return {
    element,
    bar,
    refresh,
    choose: async value => {
      state.mine = value
      await refresh()
    }
  }
}

/** Whether a file is shown with a button to delete it; the node decides in the end. */
export function mayDelete (file, me) {
  return me.role === 'administrator' || idOf(file.owner) === me.id
}

/** The name of a member, as files have it: a name alone, or with the ID. */
export function nameOf (owner) {
  return (typeof owner === 'object' ? owner?.name : owner) || '–'
}

function idOf (owner) {
  return typeof owner === 'object' ? owner?.id : owner
}

function projectOf (file, projects) {
  if (!file.project) return '–'
  const name = projects?.get(file.project) ?? 'a project'
  return h('a', { href: `/projects/${encodeURIComponent(file.project)}` }, name)
}
