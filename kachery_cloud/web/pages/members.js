// For administrators: who is in the lab, what each may store and does, and invitations.

import { change, list } from '../api.js'
import { action, add, confirmed, copyButton, empty, field, fill, h, notice, say, select, table } from '../dom.js'
import { bytes, when } from '../format.js'

const ROLES = [['member', 'member'], ['administrator', 'administrator']]
const UNITS = { '': 1, b: 1, kb: 1e3, mb: 1e6, gb: 1e9, tb: 1e12, kib: 2 ** 10, mib: 2 ** 20, gib: 2 ** 30, tib: 2 ** 40 }

export async function show (into, { me }) {
  if (me.role !== 'administrator') {
    add(into, h('h1', {}, 'Members'), notice('warn', 'This page is for administrators of the lab.'))
    return
  }
  const body = h('div', {})
  const trouble = h('div', {})
  const onerror = error => fill(trouble, notice('bad', error.message))
  const refresh = async () => {
    fill(trouble)
    const [members, more] = await list('/members')
    fill(body, drawn(members, more, me, refresh, onerror))
  }
  add(into, h('h1', {}, 'Members'), trouble, body, inviter(refresh))
  await refresh()
}

function drawn (members, more, me, refresh, onerror) {
  if (members.length === 0) return empty(h('p', {}, 'Nobody is a member yet. Invite somebody below.'))
  const sorted = [...members].sort((one, other) => (other.used ?? 0) - (one.used ?? 0))
  const total = sorted.reduce((sum, member) => sum + (member.used ?? 0), 0)
  return [
    h('p', {}, `${bytes(total)} are stored in all. Those who store most come first.`),
    table({
      caption: 'Members, by what they store',
      hideCaption: true,
      columns: [
        { head: 'Member', header: true, cell: member => [member.name, member.email && member.email !== member.name ? h('div', { class: 'hint' }, member.email) : null] },
        { head: 'Stored', number: true, cell: member => bytes(member.used) },
        { head: 'Quota', number: true, cell: member => quotaOf(member, refresh, onerror) },
        { head: 'Share', cell: member => h('meter', { min: 0, max: total || 1, value: member.used ?? 0, 'aria-label': `${bytes(member.used)} of ${bytes(total)}` }) },
        { head: 'Role', cell: member => roleOf(member, me, refresh, onerror) },
        { head: 'Last seen', cell: member => member.seen ? when(member.seen) : 'not yet' },
        { head: '', cell: member => member.id === me.id ? '' : buttons(member, refresh, onerror) }
      ],
      rows: sorted
    }),
    more ? h('p', {}, 'There are more; kachery-cloud-node members list shows them all.') : null
  ]
}

function path (member) {
  return `/members/${encodeURIComponent(member.id)}`
}

function roleOf (member, me, refresh, onerror) {
  if (member.id === me.id) return member.role
  const choice = select(ROLES, member.role, { 'aria-label': `Role of ${member.name}` })
  choice.addEventListener('change', async () => {
    try {
      await change('PATCH', path(member), { role: choice.value })
      say('Changed.')
    } catch (error) {
      choice.value = member.role
      onerror(error)
    }
  })
  return choice
}

function quotaOf (member, refresh, onerror) {
  const shown = member.quota === null || member.quota === undefined ? 'no limit' : bytes(member.quota)
  return action(shown, async button => {
    const box = h('input', { value: member.quota === null ? '' : shown, 'aria-label': `Quota of ${member.name}`, placeholder: 'no limit', size: 9 })
    const form = h('form', {}, box, h('div', { class: 'hint' }, 'As 500 GB; empty for no limit.'))
    let sent = false
    const save = async () => {
      if (sent) return
      sent = true
      try {
        await change('PATCH', path(member), { quota: parsed(box.value) })
        say('Changed.')
        await refresh()
      } catch (error) {
        form.replaceWith(button)
        onerror(error)
      }
    }
    form.addEventListener('submit', event => {
      event.preventDefault()
      save()
    })
    box.addEventListener('keydown', event => {
      if (event.key === 'Escape') form.replaceWith(button)
    })
    button.replaceWith(form)
    box.focus()
    box.select()
  }, { kind: 'quiet small', label: `Quota of ${member.name}: ${shown}. Change it`, onerror })
}

/** A size as it is typed, in bytes; null where there is to be no limit. */
export function parsed (text) {
  const match = /^\s*(\d+(?:\.\d+)?)\s*([kmgt]?i?b?)\s*$/i.exec(text)
  if (/^\s*(no limit)?\s*$/i.test(text)) return null
  const unit = match === null ? undefined : UNITS[match[2].toLowerCase()] ?? UNITS[`${match[2].toLowerCase()}b`]
  if (unit === undefined) throw new Error(`“${text}” is no size. Write it as 500 GB, 2 TB or 300 MiB.`)
  return Math.round(Number(match[1]) * unit)
}

function buttons (member, refresh, onerror) {
  return h('div', { class: 'row' },
    action('Invite again', async button => {
      const made = await change('POST', `${path(member)}/invitation`)
      button.after(link(made.invitation))
    }, { kind: 'quiet small', label: `Invite again: ${member.name}`, onerror }),
    action('Remove', async () => {
      if (!await confirmed(`Remove ${member.name}?`, 'Remove', 'They can no longer sign in, and their computers can no longer store here.')) return
      await change('DELETE', path(member))
      say(`${member.name} was removed.`)
      await refresh()
    }, { kind: 'danger small', label: `Remove ${member.name}`, onerror }))
}

function link (address) {
  return h('div', {}, h('p', { class: 'hint' }, 'This link signs in once. It is shown this one time:'),
    h('div', { class: 'command' }, h('code', {}, address), copyButton(address, 'Copy the invitation')))
}

function inviter (refresh) {
  const name = h('input', { name: 'name', required: true, maxlength: 100, autocomplete: 'off' })
  const email = h('input', { name: 'email', type: 'email', maxlength: 254, autocomplete: 'off' })
  const role = select(ROLES, 'member', { name: 'role' })
  const quota = h('input', { name: 'quota', autocomplete: 'off', placeholder: 'no limit' })
  const outcome = h('div', {})
  const form = h('form', { class: 'card' },
    h('h2', {}, 'Invite somebody'),
    h('div', { class: 'row' }, field('Name', name), field('E-mail address', email), field('Role', role), field('Quota', quota)),
    outcome, h('button', { type: 'submit' }, 'Invite'))
  form.addEventListener('submit', async event => {
    event.preventDefault()
    try {
      const value = { name: name.value.trim(), role: role.value, quota: parsed(quota.value) }
      if (email.value.trim()) value.email = email.value.trim()
      const made = await change('POST', '/members', value)
      form.reset()
      fill(outcome, notice('good', h('p', {}, `${made.name} is a member now.`), made.invitation ? link(made.invitation) : null))
      await refresh()
    } catch (error) {
      fill(outcome, notice('bad', error.message))
    }
  })
  return form
}
