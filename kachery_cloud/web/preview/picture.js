// Pictures: PNG, JPEG, GIF, WebP. How large one becomes stands in its first bytes, and is looked at before the browser
// unpacks it.

import { add, h } from '../dom.js'
import { bytes, whole } from '../format.js'
import { NoPreview } from './ranges.js'

/** The most bytes, and the most pixels: 40 million take 160 MB of memory. */
const MOST_BYTES = 32 * 1024 * 1024
const MOST_PIXELS = 40_000_000
/** Where a JPEG's size may stand, after all that a camera wrote before it. */
const JPEG_HEAD = 2 * 1024 * 1024

export async function show (into, file, head, kind, name) {
  if (file.size > MOST_BYTES) {
    throw new NoPreview(`This picture has ${bytes(file.size)}; ${bytes(MOST_BYTES)} are the most that is shown here. Load it to see it.`)
  }
  if (kind === 'jpeg') head = await file.read(0, JPEG_HEAD)
  const size = dimensions(head, kind)
  if (size === null) throw new NoPreview('This picture does not say how large it is, so it is not shown.')
  const [width, height] = size
  if (width * height > MOST_PIXELS || width === 0 || height === 0) {
    throw new NoPreview(`This picture would have ${whole(width)} × ${whole(height)} pixels, so it is not shown here. Load it to see it.`)
  }
  const data = await file.read(0, file.size)
  const url = URL.createObjectURL(new Blob([data], { type: `image/${kind}` }))
  const shown = h('img', { src: url, alt: `The picture ${name}`, width, height })
  try {
    await shown.decode()
  } catch {
    throw new NoPreview('The browser cannot read this picture: it is damaged, or not what its first bytes say.')
  } finally {
    URL.revokeObjectURL(url)
  }
  add(into, shown, h('p', { class: 'hint' }, `${whole(width)} × ${whole(height)} pixels, ${kind.toUpperCase()}, ${bytes(file.size)}`))
}

/** Width and height in pixels as the first bytes have them; null where they do not say. */
export function dimensions (head, kind) {
  const view = new DataView(head.buffer, head.byteOffset, head.byteLength)
  try {
    if (kind === 'png') return [view.getUint32(16), view.getUint32(20)]
    if (kind === 'gif') return gif(view)
    if (kind === 'webp') return webp(view)
    return jpeg(view)
  } catch (error) {
    if (error instanceof RangeError) return null // it ends before it says
    throw error
  }
}

/** Of the screen or of the first frame, whichever is larger. */
function gif (view) {
  const [width, height] = [view.getUint16(6, true), view.getUint16(8, true)]
  const table = flags => flags & 0x80 ? 3 * 2 ** ((flags & 7) + 1) : 0
  let at = 13 + table(view.getUint8(10))
  while (view.getUint8(at) === 0x21) {
    at += 2
    while (view.getUint8(at) !== 0) at += view.getUint8(at) + 1
    at += 1
  }
  if (view.getUint8(at) !== 0x2c) return null
  return [
    Math.max(width, view.getUint16(at + 1, true) + view.getUint16(at + 5, true)),
    Math.max(height, view.getUint16(at + 3, true) + view.getUint16(at + 7, true))
  ]
}

function webp (view) {
  const kind = view.getUint32(12)
  if (kind === 0x56503820) return [view.getUint16(26, true) & 0x3fff, view.getUint16(28, true) & 0x3fff]
  if (kind === 0x5650384c) {
    const bits = view.getUint32(21, true)
    return [(bits & 0x3fff) + 1, ((bits >> 14) & 0x3fff) + 1]
  }
  if (kind !== 0x56503858) return null
  const three = at => view.getUint16(at, true) + view.getUint8(at + 2) * 65536
  return [three(24) + 1, three(27) + 1]
}

/** From the first frame header (ITU T.81, B.2.2). */
function jpeg (view) {
  let at = 2
  for (;;) {
    if (view.getUint8(at) !== 0xff) return null
    const marker = view.getUint8(at + 1)
    if (marker === 0xff) {
      at += 1
      continue
    }
    if (marker >= 0xc0 && marker <= 0xcf && ![0xc4, 0xc8, 0xcc].includes(marker)) return [view.getUint16(at + 7), view.getUint16(at + 5)]
    if (marker === 0xda || marker === 0xd9) return null
    const length = view.getUint16(at + 2)
    if (length < 2) return null
    at += 2 + length
  }
}
