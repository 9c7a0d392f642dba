// An array as a plot: lines where it has one axis, a heat map where it has two; of more axes, two are shown at a time.
// Only the part that is shown is read.

import { action, add, facts, field, fill, h, notice, select } from '../dom.js'
import { bytes, whole } from '../format.js'
import { COLOURS, heatMap, linePlot } from '../plot.js'
import { short, statistics, thinned } from './numbers.js'

/** Values that are read at a time (4 MB as double precision), points of a line, and cells of the table. */
const MOST_VALUES = 500_000
const MOST_POINTS = 4000
const CELLS = 10

/**
 * Show an array.
 *
 * `read(start, count)` gives a promise of the numbers of a block, row by row: one start and one count for each axis.
 * `facts` are shown above it.
 */
export async function arrayView (into, { shape, size, about, read, note = null }) {
  const holder = h('div', {})
  add(into, facts([...about, ['Shape', shape.length ? shape.map(whole).join(' × ') : 'one number'], ['Size', bytes(size)]]),
    note ? h('p', { class: 'hint' }, note) : '', holder)
  if (shape.some(length => length === 0)) {
    fill(holder, h('p', { class: 'muted' }, 'It has no values.'))
    return
  }
  const leading = shape.slice(0, -2).map(() => 0)
  const last = shape.slice(-2)
  // A few columns and many rows are several lines.
  const view = { from: 0, lines: last.length < 2 || (last[1] <= COLOURS && last[0] > last[1]) }
  const axis = last.length < 2 ? (last[0] ?? 1) : last[0]
  const columns = last.length < 2 ? 1 : Math.min(last[1], MOST_VALUES)
  const step = Math.max(1, Math.min(axis, Math.floor(MOST_VALUES / columns)))
  const shown = h('div', {})
  const bar = h('div', { class: 'row' })

  async function draw () {
    const count = Math.min(step, axis - view.from)
    const block = shape.length === 0
      ? [[], []]
      : last.length < 2
        ? [[view.from], [count]]
        : [[...leading, view.from, 0], [...leading.map(() => 1), count, columns]]
    const values = await read(...block)
    fill(shown, ...picture(values, count, columns, view, last, axis))
  }

  const guarded = () => draw().catch(error => fill(shown, notice('warn', error.message)))
  leading.forEach((_, index) => {
    const box = h('input', { type: 'number', min: 0, max: shape[index] - 1, value: 0 })
    box.addEventListener('change', () => {
      const value = Math.trunc(Number(box.value))
      leading[index] = Math.min(Math.max(Number.isFinite(value) ? value : 0, 0), shape[index] - 1)
      box.value = leading[index]
      guarded()
    })
    add(bar, field(`Index of axis ${index}`, box))
  })
  if (last.length === 2) {
    const choice = select([['heat', 'Heat map'], ['lines', 'Lines']], view.lines ? 'lines' : 'heat')
    choice.addEventListener('change', () => {
      view.lines = choice.value === 'lines'
      guarded()
    })
    add(bar, field('Show as', choice))
  }
  if (step < axis) {
    const move = by => async () => {
      view.from = Math.min(Math.max(0, view.from + by), Math.max(0, axis - step))
      await draw()
    }
    add(bar, action('Earlier', move(-step), { kind: 'quiet' }), action('Later', move(step), { kind: 'quiet' }))
  }
  fill(holder, bar.childElementCount ? bar : null, shown)
  await draw()
}

function picture (values, count, columns, view, last, axis) {
  const found = statistics(values)
  const which = count < axis
    ? `${last.length < 2 ? 'Values' : 'Rows'} ${whole(view.from)} to ${whole(view.from + count - 1)} of ${whole(axis)}`
    : last.length < 2 ? 'All values' : 'All rows'
  const missing = last.length === 2 && columns < last[1] ? `, the first ${whole(columns)} columns` : ''
  const words = found.finite
    ? `${which}${missing}: from ${short(found.least)} to ${short(found.greatest)}, mean ${short(found.mean)}` +
      (found.others ? `; ${whole(found.others)} are not finite` : '') + '.'
    : `${which}${missing}: none is a finite number.`
  const plot = found.finite === 0 || values.length === 1 ? [] : last.length === 2 && !view.lines
    ? heatMap({ label: `Heat map. ${words}`, values, rows: count, columns, least: found.least, greatest: found.greatest, format: short })
    : [linesOf(values, count, columns, view.from, words)]
  const more = columns > COLOURS && last.length === 2 && view.lines ? [h('p', { class: 'hint' }, `The first ${COLOURS} columns are drawn.`)] : []
  return [...plot, ...more, h('p', {}, words), numbersOf(values, count, columns, view.from)]
}

function linesOf (values, count, columns, from, words) {
  const drawn = Math.min(columns, COLOURS)
  let xs = null
  const lines = []
  for (let column = 0; column < drawn; column++) {
    const line = columns === 1 ? values : Float64Array.from({ length: count }, (_, row) => values[row * columns + column])
    // Lines that stand over one axis keep the same points: those of the first choose them.
    const [indices, kept] = xs === null ? thinned(line, MOST_POINTS) : [xs, xs.map(at => line[at])]
    xs = indices
    lines.push({ label: columns === 1 ? 'Value' : `Column ${column}`, values: kept.map(value => Number.isFinite(value) ? value : null) })
  }
  return linePlot({ label: `Plot of lines. ${words}`, xs: xs.map(at => at + from), lines, format: short, xFormat: value => whole(value) })
}

function numbersOf (values, count, columns, from) {
  const [rows, across] = columns === 1 ? [Math.min(count, CELLS), 1] : [Math.min(count, CELLS), Math.min(columns, CELLS)]
  const body = Array.from({ length: rows }, (_, row) => h('tr', {}, h('th', { scope: 'row' }, whole(from + row)),
    Array.from({ length: across }, (_, column) => h('td', { class: 'number' }, short(values[row * columns + column])))))
  const heads = h('tr', {}, h('td', {}), Array.from({ length: across }, (_, column) => h('th', { scope: 'col', class: 'number' }, columns === 1 ? 'Value' : column)))
  return h('details', {}, h('summary', {}, 'The first numbers'),
    h('div', { class: 'scroll', tabindex: '0', role: 'region', 'aria-label': 'The first numbers' },
      h('table', {}, h('caption', { class: 'visually-hidden' }, 'The first numbers'), h('thead', {}, heads), h('tbody', {}, body))))
}
