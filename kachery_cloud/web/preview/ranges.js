// Reading parts of a stored file by HTTP ranges (RFC 9110, section 14), never more than was asked for.

import { refusal } from '../api.js'

/** Something of a file that cannot be shown, as a sentence for whoever looks. */
export class NoPreview extends Error {}

/** What is at the address is a folder. */
export class IsFolder extends Error {}

/** A stored file whose bytes are asked for as they are needed. */
export class RangeFile {
  /** `size` is what the node says it has; bytes beyond it are never asked for. */
  constructor (url, size) {
    this.url = url
    this.size = size
  }

  /**
   * Begin to read a file: [file, its first bytes].
   *
   * How long it is, the first answer says: what a pin takes on the disk is something else.
   */
  static async open (url, most) {
    const response = await ask(url, 0, most)
    if (response.status === 416 && /\*\/0$/.test(response.headers.get('Content-Range') ?? '')) return [new RangeFile(url, 0), new Uint8Array(0)]
    if (response.status === 409) throw new IsFolder()
    await check(response, 0)
    const size = Number(response.status === 206 ? /\/(\d+)$/.exec(response.headers.get('Content-Range') ?? '')?.[1] : response.headers.get('Content-Length'))
    if (!Number.isSafeInteger(size)) throw new NoPreview('The node does not say how long this file is.')
    return [new RangeFile(url, size), await bounded(response, Math.min(most, size))]
  }

  /** Bytes from `start` up to `end`, which is not included. At the end of the file there are fewer. */
  async read (start, end) {
    const last = Math.min(end, this.size)
    if (last <= start) return new Uint8Array(0)
    const response = await ask(this.url, start, last)
    await check(response, start)
    return await bounded(response, last - start)
  }
}

async function ask (url, start, end) {
  try {
    return await fetch(url, { credentials: 'same-origin', redirect: 'error', headers: { Range: `bytes=${start}-${end - 1}` } })
  } catch {
    throw new NoPreview('The node does not answer. Look whether it runs, and whether this computer is still on its network.')
  }
}

async function check (response, start) {
  if (response.status === 206 || (response.status === 200 && start === 0)) return
  const error = refusal(response.status, response.ok ? '' : await response.text())
  throw new NoPreview(response.ok ? 'The node does not give parts of this file.' : error.message)
}

/** The first `most` bytes of an answer; what comes after them is not waited for. */
async function bounded (response, most) {
  const out = new Uint8Array(most)
  const reader = response.body.getReader()
  let filled = 0
  while (filled < most) {
    const { done, value } = await reader.read().catch(() => ({ done: true }))
    if (done) break
    const part = value.subarray(0, most - filled)
    out.set(part, filled)
    filled += part.length
  }
  reader.cancel().catch(() => {})
  if (filled < most) throw new NoPreview(`The file ends early: ${filled} of ${most} bytes came. Reload the page to try again.`)
  return out
}
