// All files that I may see; uploading.

import { list } from '../api.js'
import { add, empty, field, h, select } from '../dom.js'
import { fileList } from '../file_list.js'
import { initCommand } from '../shared.js'
import { uploader } from '../upload.js'

export async function show (into, { me }) {
  const [projects] = await list('/projects')
  const mine = h('input', { type: 'checkbox', name: 'mine' })
  const files = fileList({
    me,
    projects: new Map(projects.map(project => [project.id, project.name])),
    empty: empty(h('p', {}, 'Nothing is stored here yet. Drop a file above, or register a computer and store from there:'), initCommand())
  })
  add(files.bar, h('label', {}, mine, ' Mine alone'))
  mine.addEventListener('change', () => files.choose(mine.checked))
  const writable = projects.filter(project => project.role !== 'reader')
  const choice = select([['', 'None'], ...writable.map(project => [project.id, project.name])], '', { name: 'project' })
  add(into,
    h('h1', {}, 'Files'),
    uploader({ project: () => choice.value, done: () => files.refresh(), options: field('Into the project', choice) }),
    files.element)
  await files.refresh()
}
