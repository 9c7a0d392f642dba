// Who uses how much, over time: plots, and the same as tables.

import { get, list } from '../api.js'
import { add, empty, field, fill, h, notice, select, table } from '../dom.js'
import { bytes, whole } from '../format.js'
import { linePlot } from '../plot.js'
import { initCommand, peerName } from '../shared.js'

const DAYS = [[7, 'a week'], [30, '30 days'], [90, '90 days'], [365, 'a year']]
const DAY = 86400

export async function show (into, { me }) {
  const [projects] = await list('/projects')
  const names = new Map(projects.map(project => [project.id, project.name]))
  const days = select(DAYS, 30, { name: 'days' })
  const project = select([['', 'All'], ...projects.map(each => [each.id, each.name])], '', { name: 'project' })
  const body = h('div', {})
  add(into, h('h1', {}, 'Usage'), h('div', { class: 'row' }, field('Of the last', days), field('Project', project)), body)
  const draw = async () => {
    try {
      await drawn(body, Number(days.value), project.value, names, me)
    } catch (error) {
      fill(body, notice('bad', error.message))
    }
  }
  days.addEventListener('change', draw)
  project.addEventListener('change', draw)
  await draw()
}

/** A day as the API has it: 2026-11-30, in UTC. */
function dayOf (seconds) {
  return new Date(seconds * 1000).toISOString().slice(0, 10)
}

async function drawn (body, count, project, names, me) {
  const today = Math.floor(Date.now() / 1000 / DAY) * DAY
  const from = dayOf(today - (count - 1) * DAY)
  const ask = by => get('/usage', { by, from, to: dayOf(today), project })
  const [byDay, byProject, byClient, byMember] = await Promise.all([
    ask('day'), ask('project'), ask('client'), me.role === 'administrator' ? ask('member') : Promise.resolve(null)])
  const rows = byDay.items
  if (rows.length === 0) {
    fill(body, empty(h('p', {}, 'Nothing was stored or served in this time. Connect a computer, and store something:'), initCommand()))
    return
  }
  const days = Array.from({ length: count }, (_, index) => today - (count - 1 - index) * DAY)
  const found = new Map(rows.map(row => [row.day, row]))
  fill(body,
    overTime('Stored', 'bytes_stored', days, found, { carried: true, format: bytes }),
    overTime('Served to others', 'bytes_served', days, found, { format: bytes }),
    sums('By project', byProject.items, row => row.names?.project ?? names.get(row.project) ?? row.project ?? 'None'),
    sums('By client', byClient.items, row => row.names?.client ?? (row.client ? peerName(row.client) : 'Uploaded here')),
    byMember ? sums('By member', byMember.items, row => row.names?.member ?? row.member ?? 'Nobody of the lab') : null)
}

/** A plot over the days, and its table. What is stored stays from day to day (`carried`); what is served does not. */
function overTime (title, key, days, found, { carried = false, format }) {
  let last = 0
  const values = days.map(day => {
    const row = found.get(dayOf(day))
    if (row && row[key] !== null) last = row[key]
    else if (!carried) return 0
    return last
  })
  const highest = Math.max(...values)
  const label = `${title} by day: ${format(values.at(-1))} on the last day, ${format(highest)} at the most.`
  return h('div', {},
    h('h2', {}, title),
    h('div', { class: 'beside' },
      linePlot({ label, xs: days, lines: [{ label: title, values }], time: true, format, bars: true, xFormat: value => dayOf(value).slice(5) }),
      table({
        caption: `${title}, by day`,
        columns: [
          { head: 'Day', header: true, cell: row => row[0] },
          { head: title, number: true, cell: row => format(row[1]) }
        ],
        rows: days.map((day, index) => [dayOf(day), values[index]]).reverse()
      })))
}

/** A table of sums, largest first. */
function sums (title, rows, name) {
  const sorted = [...rows].sort((one, other) => (other.bytes_stored ?? 0) - (one.bytes_stored ?? 0))
  if (sorted.length === 0) return null
  return h('div', {},
    h('h2', {}, title),
    table({
      caption: title,
      hideCaption: true,
      columns: [
        { head: title.replace('By ', '').replace(/^./, letter => letter.toUpperCase()), header: true, cell: name },
        { head: 'Stored', number: true, cell: row => bytes(row.bytes_stored ?? 0) },
        { head: 'Pins', number: true, cell: row => whole(row.pins ?? 0) },
        { head: 'Served', number: true, cell: row => bytes(row.bytes_served ?? 0) },
        { head: 'Blocks served', number: true, cell: row => whole(row.blocks_served ?? 0) }
      ],
      rows: sorted
    }))
}
