// JSON as a tree that opens where it is opened. What is too large, or no JSON, is text.

import { bytes } from '../format.js'
import { valueTree } from './tree.js'
import { show as showText } from './text.js'

/** More is not made into values: that takes several times as much memory. */
const MOST = 8 * 1024 * 1024

/** Show it; false where it is no JSON. */
export async function show (into, file) {
  if (file.size > MOST) {
    await showText(into, file, `This JSON has ${bytes(file.size)}, too much for a tree (${bytes(MOST)}); here is its text.`)
    return true
  }
  const text = new TextDecoder('utf-8').decode(await file.read(0, file.size))
  let value
  try {
    value = JSON.parse(text)
  } catch {
    return false
  }
  into.append(valueTree(value, 'The JSON'))
  return true
}
