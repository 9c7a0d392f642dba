// Text, as text; HTML and SVG, too.

import { action, add, fill, h } from '../dom.js'
import { bytes } from '../format.js'

/** What is read at a time, and the most that is shown. */
const STEP = 128 * 1024
const MOST = 2 * 1024 * 1024

export async function show (into, file, note = null) {
  const decoder = new TextDecoder('utf-8')
  const shown = h('pre', { tabindex: '0', role: 'region', 'aria-label': 'The text' })
  const more = h('div', { class: 'row' })
  let read = 0

  async function next () {
    const part = await file.read(read, read + STEP)
    read += part.length
    shown.append(document.createTextNode(decoder.decode(part, { stream: read < file.size })))
    if (read >= file.size) fill(more)
    else if (read >= MOST) fill(more, h('p', {}, `These are the first ${bytes(read)} of ${bytes(file.size)}. Load the file to see all of it.`))
    else fill(more, action('Show more', next, { kind: 'quiet small' }), h('span', { class: 'hint' }, `${bytes(read)} of ${bytes(file.size)}`))
  }

  if (note) add(into, h('p', {}, note))
  add(into, shown, more)
  await next()
}
