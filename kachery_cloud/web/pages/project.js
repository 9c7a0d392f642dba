// One project: its files, its members, and how one stores into it.

import { change, get, list } from '../api.js'
import { action, add, command, confirmed, empty, facts, field, fill, h, notice, say, select, table } from '../dom.js'
import { bytes, plural } from '../format.js'
import { fileList } from '../file_list.js'
import { ROLES, visibilityBadge } from '../shared.js'
import { uploader } from '../upload.js'

export async function show (into, { me, names }) {
  const path = `/projects/${encodeURIComponent(names.project)}`
  const project = await get(path)
  document.title = document.title.replace(/^Project/, project.name)
  const manages = project.role === 'administrator' || me.role === 'administrator'
  const writes = manages || project.role === 'writer'
  const files = fileList({ project: project.id, me, empty: nothing(project, writes) })
  add(into,
    h('h1', {}, project.name),
    project.description ? h('p', {}, project.description) : null,
    facts([
      ['Size', `${bytes(project.bytes)} in ${plural(project.files, 'file')}`],
      ['May be loaded by', visibilityBadge(project.visibility)],
      ['You', project.role ?? 'not a member']
    ]),
    h('h2', {}, 'Files'),
    ...(writes ? [uploader({ project: project.id, done: () => files.refresh() })] : []),
    files.element,
    h('h2', {}, 'Members'), members(project, path, manages),
    h('h2', {}, 'Store from a computer'), command(`kachery-cloud-store FILE --project ${quoted(project.name)}`))
  if (manages) add(into, h('h2', {}, 'Change'), changes(project, path))
  await files.refresh()
}

/** A name as a shell takes it. */
function quoted (name) {
  return /^[\w.-]+$/.test(name) ? name : `'${name.replaceAll("'", "'\\''")}'`
}

function nothing (project, writes) {
  return empty(h('p', {}, writes ? 'Nothing is stored in this project yet. Drop a file above, or on a computer of yours:' : 'Nothing is stored in this project yet.'),
    writes ? command(`kachery-cloud-store FILE --project ${quoted(project.name)}`) : null)
}

function members (project, path, manages) {
  const shown = h('div', {})
  const trouble = h('div', {})
  const onerror = error => fill(trouble, notice('bad', error.message))
  const put = async (id, role) => {
    await change('PUT', `${path}/members/${encodeURIComponent(id)}`, { role })
    draw((await get(path)).members)
  }
  const draw = current => fill(shown, current.length
    ? table({
        caption: 'Members of this project',
        hideCaption: true,
        columns: [
          { head: 'Member', header: true, cell: member => member.name },
          { head: 'Role', cell: member => manages ? roleOf(member, put, onerror) : member.role },
          ...(manages
            ? [{ head: '', cell: member => action('Take out', async () => {
                if (!await confirmed(`Take ${member.name} out of ${project.name}?`, 'Take out', 'What they stored stays.')) return
                await change('DELETE', `${path}/members/${encodeURIComponent(member.id)}`)
                say(`${member.name} is no longer a member.`)
                draw((await get(path)).members)
              }, { kind: 'danger small', label: `Take out ${member.name}`, onerror }) }]
            : [])
        ],
        rows: current
      })
    : h('p', { class: 'muted' }, 'It has no members but its administrators.'))
  draw(project.members ?? [])
  return [shown, trouble, manages ? adder(put, onerror) : null]
}

function roleOf (member, put, onerror) {
  const choice = select(ROLES, member.role, { 'aria-label': `Role of ${member.name}` })
  choice.addEventListener('change', () => put(member.id, choice.value).then(() => say('Changed.'), onerror))
  return choice
}

function adder (put, onerror) {
  const who = h('select', { name: 'member' }, h('option', { value: '' }, 'Choose…'))
  const role = select(ROLES, 'reader', { name: 'role' })
  // Those who may not list the lab's members type an ID that somebody gave them.
  list('/members').then(([found]) => who.append(...found.map(each => h('option', { value: each.id }, each.name || each.email))), () => {
    const typed = h('input', { name: 'member', id: who.id, autocomplete: 'off' })
    who.replaceWith(typed)
  })
  const form = h('form', {}, h('div', { class: 'row' },
    field('Another member', who), field('Role', role), h('button', { type: 'submit', class: 'quiet' }, 'Add')))
  form.addEventListener('submit', event => {
    event.preventDefault()
    const id = form.elements.namedItem('member').value.trim()
    if (id) put(id, role.value).then(() => say('Added.'), onerror)
  })
  return form
}

function changes (project, path) {
  const name = h('input', { name: 'name', value: project.name, required: true, maxlength: 64 })
  const description = h('input', { name: 'description', value: project.description ?? '', maxlength: 2000 })
  const trouble = h('div', {})
  const form = h('form', { class: 'card' }, field('Name', name), field('What it is about', description), trouble,
    h('div', { class: 'row' },
      h('button', { type: 'submit' }, 'Save'),
      action('Delete project', async () => {
        if (!await confirmed(`Delete the project ${project.name}?`, 'Delete project', 'Its files are no longer kept for it.')) return
        await change('DELETE', path)
        location.assign('/projects')
      }, { kind: 'danger', onerror: error => fill(trouble, notice('bad', error.message)) })))
  form.addEventListener('submit', async event => {
    event.preventDefault()
    try {
      await change('PATCH', path, { name: name.value.trim(), description: description.value.trim() })
      location.reload()
    } catch (error) {
      fill(trouble, notice('bad', error.message))
    }
  })
  return form
}
