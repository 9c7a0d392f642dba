// Reading parts of a stored file by HTTP ranges (RFC 9110, section 14), never more than was asked for.

import { refusal } from '../api.js'

/** Something of a file that cannot be shown, as a sentence for whoever looks. */
export class NoPreview extends Error {}

/** A stored file whose bytes are asked for as they are needed. */
export class RangeFile {
  /** `size` is what the node says it has; bytes beyond it are never asked for. */
  constructor (url, size) {
    this.url = url
    this.size = size
  }

  /** Bytes from `start` up to `end`, which is not included. At the end of the file there are fewer. */
  async read (start, end) {
    const last = Math.min(end, this.size)
    if (last <= start) return new Uint8Array(0)
    const response = await fetch(this.url, {
      credentials: 'same-origin',
      redirect: 'error',
      headers: { Range: `bytes=${start}-${last - 1}` }
    })
    if (response.status !== 206 && !(response.status === 200 && start === 0)) {
      const error = refusal(response.status, response.ok ? '' : await response.text())
      throw new NoPreview(response.ok ? 'The node does not give parts of this file.' : error.message)
    }
    return await bounded(response, last - start)
  }
}

/** The first `most` bytes of an answer; what comes after them is not waited for. */
async function bounded (response, most) {
  const out = new Uint8Array(most)
  const reader = response.body.getReader()
  let filled = 0
  while (filled < most) {
    const { done, value } = await reader.read()
    if (done) break
    const part = value.subarray(0, most - filled)
    out.set(part, filled)
    filled += part.length
  }
  reader.cancel().catch(() => {})
  if (filled < most) throw new NoPreview(`The file ends early: ${filled} of ${most} bytes came. Reload the page to try again.`)
  return out
}
