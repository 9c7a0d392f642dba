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
  return h('ul', { class: 'tree', 'aria-label': label }, !top ? h('li', {}, leaf(value)) : isEmpty(value) ? h('li', {}, summary(value)) : parts(value))
}

function branch (value) {
  return value !== null && typeof value === 'object'
}

function isEmpty (value) {
  return (Array.isArray(value) ? value : Object.keys(value)).length === 0
}

function summary (value) {
  return Array.isArray(value) ? `list of ${plural(value.length, 'value')}` : plural(Object.keys(value).length, 'key')
}

function leaf (value) {
  const text = typeof value === 'string' ? JSON.stringify(value) : String(value)
  return h('code', {}, text.length > TEXT ? `${text.slice(0, TEXT)}… (${plural(text.length, 'character')})` : text)
}

function parts (value) {
  const one = (key, each) => branch(each)
    ? openable([h('span', { class: 'name' }, key), ' ', h('span', { class: 'muted' }, summary(each))], () => parts(each))
    : h('li', {}, h('div', { class: 'leaf' }, h('span', { class: 'name' }, key), ': ', leaf(each)))
  // A list of millions is not copied to show two hundred of it.
  return Array.isArray(value)
    ? stepwise(value, (each, index) => one(String(index), each))
    : stepwise(Object.keys(value), key => one(key, value[key]))
}

/** The first items as elements, and a button for those that follow. `draw` gets an item and its index. */
export function stepwise (items, draw, from = 0) {
  const shown = items.slice(from, from + STEP).map((each, index) => draw(each, from + index))
  const left = items.length - from - STEP
  if (left <= 0) return shown
  const rest = h('li', {})
  rest.append(action(`Show more (${plural(left, 'other')})`, () => rest.replaceWith(...stepwise(items, draw, from + STEP)), { kind: 'quiet small' }))
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
