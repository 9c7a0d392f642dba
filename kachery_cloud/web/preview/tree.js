// Trees: of JSON values, and of what is in a file of groups and arrays. Branches are made when they are opened, so depth
// and number cost nothing before.

import { action, fill, h, notice } from '../dom.js'
import { plural } from '../format.js'

/** How many branches are shown before one asks for more. */
const STEP = 200
/** Longer texts are cut. */
const TEXT = 2000

/** A tree of a JSON value. */
export function valueTree (value, label) {
  const top = branch(value)
  return h('ul', { class: 'tree', 'aria-label': label }, top ? [...entries(value)].length === 0 ? h('li', {}, summary(value)) : parts(value) : h('li', {}, leaf(value)))
}

function branch (value) {
  return value !== null && typeof value === 'object'
}

function * entries (value) {
  if (Array.isArray(value)) {
    for (let index = 0; index < value.length; index++) yield [String(index), value[index]]
  } else {
    for (const key of Object.keys(value)) yield [key, value[key]]
  }
}

function summary (value) {
  return Array.isArray(value) ? `list of ${plural(value.length, 'value')}` : plural(Object.keys(value).length, 'key')
}

function leaf (value) {
  const text = typeof value === 'string' ? JSON.stringify(value) : String(value)
  return h('code', {}, text.length > TEXT ? `${text.slice(0, TEXT)}… (${plural(text.length, 'character')})` : text)
}

function parts (value) {
  return stepwise([...entries(value)], ([key, each]) => branch(each)
    ? openable([h('span', { class: 'name' }, key), ' ', h('span', { class: 'muted' }, summary(each))], () => parts(each))
    : h('li', {}, h('div', { class: 'leaf' }, h('span', { class: 'name' }, key), ': ', leaf(each))))
}

/** The first items as elements, and a button for those that follow. */
export function stepwise (items, draw) {
  const shown = items.slice(0, STEP).map(draw)
  if (items.length <= STEP) return shown
  const rest = h('li', {})
  const button = action(`Show more (${plural(items.length - STEP, 'other')})`, () => rest.replaceWith(...stepwise(items.slice(STEP), draw)), { kind: 'quiet small' })
  rest.append(button)
  return [...shown, rest]
}

/**
 * A branch. `children` gives its elements, or a promise of them, when it is first opened; errors are shown in it.
 */
export function openable (head, children) {
  const inside = h('ul', {})
  const details = h('details', {}, h('summary', {}, head), inside)
  let made = false
  details.addEventListener('toggle', async () => {
    if (!details.open || made) return
    made = true
    try {
      const found = children()
      if (found instanceof Promise) fill(inside, h('li', { class: 'muted', role: 'status' }, 'Reading…'))
      fill(inside, await found)
      if (!inside.childElementCount) fill(inside, h('li', { class: 'muted' }, 'empty'))
    } catch (error) {
      made = false
      fill(inside, h('li', {}, notice('warn', error.message)))
    }
  })
  return h('li', {}, details)
}
