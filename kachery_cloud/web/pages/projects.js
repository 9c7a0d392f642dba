// All projects that I may see, and making another one.

import { change, list } from '../api.js'
import { add, empty, field, fill, h, notice, select, table } from '../dom.js'
import { bytes, whole } from '../format.js'
import { visibilityBadge } from '../shared.js'

export async function show (into) {
  const [projects, more] = await list('/projects')
  add(into,
    h('h1', {}, 'Projects'),
    projects.length
      ? table({
          caption: 'Projects',
          hideCaption: true,
          columns: [
            { head: 'Project', header: true, cell: project => [h('a', { href: `/projects/${encodeURIComponent(project.id)}` }, project.name), project.description ? h('div', { class: 'hint' }, project.description) : null] },
            { head: 'May be loaded by', cell: project => visibilityBadge(project.visibility) },
            { head: 'You', cell: project => project.role ?? '–' },
            { head: 'Files', number: true, cell: project => whole(project.files) },
            { head: 'Size', number: true, cell: project => bytes(project.bytes) }
          ],
          rows: projects
        })
      : empty(h('p', {}, 'There is no project yet. Make one below. Computers then store into it by its name, with the option --project.')),
    more ? h('p', {}, 'There are more; the command kachery-cloud-projects lists them all.') : null,
    maker())
}

function maker () {
  const name = h('input', { name: 'name', required: true, maxlength: 64, autocomplete: 'off' })
  const description = h('input', { name: 'description', maxlength: 2000, autocomplete: 'off' })
  const visibility = select([['public', 'Anyone with the URI'], ['members', 'Members alone (encrypted for them)']], 'public', { name: 'visibility' })
  const trouble = h('div', {})
  const form = h('form', { class: 'card' },
    h('h2', {}, 'Make a project'),
    field('Name', name, 'One word, as people type it after --project.'),
    field('What it is about', description),
    field('What is stored in it may be loaded by', visibility),
    trouble, h('button', { type: 'submit' }, 'Make project'))
  form.addEventListener('submit', async event => {
    event.preventDefault()
    try {
      const made = await change('POST', '/projects', { name: name.value.trim(), description: description.value.trim(), visibility: visibility.value })
      location.assign(`/projects/${encodeURIComponent(made.id)}`)
    } catch (error) {
      fill(trouble, notice('bad', error.message))
    }
  })
  return form
}
