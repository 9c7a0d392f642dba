// What a file is, and which preview shows it. Nothing of a file is ever given to the browser as a document: text goes
// into the page as text, pictures are only those that have no script in them, and all of it has bounds.

import { add, fill, h, notice } from '../dom.js'
import { bytes } from '../format.js'
import { IsFolder, NoPreview, RangeFile } from './ranges.js'

/** What is read to see what a file is. */
const HEAD = 64 * 1024
const HDF5 = [0x89, 0x48, 0x44, 0x46, 0x0d, 0x0a, 0x1a, 0x0a]
const NPY = [0x93, 0x4e, 0x55, 0x4d, 0x50, 0x59]
const PICTURES = [
  ['png', [0x89, 0x50, 0x4e, 0x47, 0x0d, 0x0a, 0x1a, 0x0a]],
  ['jpeg', [0xff, 0xd8, 0xff]],
  ['gif', [0x47, 0x49, 0x46, 0x38]]
]
const JSON_NAMES = /\.(json|geojson|ipynb|zattrs|zarray|zgroup|vl|plotly)$/i

/** Show what is in a file; what cannot be shown is said in a sentence. `folder` is called where it is a folder. */
export async function preview (into, { url, name, folder = null }) {
  fill(into, h('p', { class: 'muted', role: 'status' }, 'Reading…'))
  try {
    const [file, head] = await RangeFile.open(url, HEAD)
    const shown = h('div', {})
    await show(shown, file, head, name)
    fill(into, shown)
  } catch (error) {
    if (error instanceof IsFolder && folder) return await folder()
    if (!(error instanceof NoPreview)) console.error(error)
    fill(into, notice('warn', error instanceof NoPreview
      ? error.message
      : `This file cannot be shown: ${error.message}`))
  }
}

async function show (into, file, head, name) {
  if (file.size === 0) throw new NoPreview('The file is empty.')
  if (begins(head, NPY)) return await (await import('./npy.js')).show(into, file, head)
  // A user block may stand before it: 512 bytes, or twice that, and so on.
  if ([0, 512, 1024, 2048, 4096].some(at => begins(head, HDF5, at))) return await (await import('./hdf5.js')).show(into, file)
  const picture = pictureKind(head)
  if (picture) return await (await import('./picture.js')).show(into, file, head, picture, name)
  if (!isText(head, file.size)) return binary(into, head, file.size)
  if (JSON_NAMES.test(name) || looksLikeJson(head)) {
    if (await (await import('./json.js')).show(into, file)) return
  }
  await (await import('./text.js')).show(into, file)
}

function begins (head, magic, at = 0) {
  return magic.every((byte, index) => head[at + index] === byte)
}

function pictureKind (head) {
  for (const [kind, magic] of PICTURES) if (begins(head, magic)) return kind
  const riff = begins(head, [0x52, 0x49, 0x46, 0x46]) && begins(head, [0x57, 0x45, 0x42, 0x50], 8)
  return riff ? 'webp' : null
}

/** Whether the bytes are UTF-8 without control characters that no text has. */
function isText (head, size) {
  try {
    const text = new TextDecoder('utf-8', { fatal: true }).decode(head, { stream: head.length < size })
    return !/[\u0000-\u0008\u000e-\u001a\u001c-\u001f]/.test(text)
  } catch {
    return false
  }
}

function looksLikeJson (head) {
  const first = new TextDecoder().decode(head.subarray(0, 256)).trimStart()
  return /^[{[]\s*(["{[\]}\d-]|true|false|null)/.test(first)
}

/** What is none of these: its first bytes, as hexadecimal numbers and letters. */
function binary (into, head, size) {
  const lines = []
  for (let at = 0; at < Math.min(head.length, 256); at += 16) {
    const row = [...head.subarray(at, Math.min(at + 16, 256))]
    const hex = row.map(byte => byte.toString(16).padStart(2, '0')).join(' ')
    const letters = row.map(byte => byte >= 32 && byte < 127 ? String.fromCharCode(byte) : '.').join('')
    lines.push(`${at.toString(16).padStart(6, '0')}  ${hex.padEnd(47)}  ${letters}`)
  }
  add(into,
    h('p', {}, `There is no preview of this kind of file (${bytes(size)}). Its first bytes:`),
    h('pre', { class: 'hex', tabindex: '0', role: 'region', 'aria-label': 'The first bytes' }, lines.join('\n')))
}
