// The node's API: requests, and what went wrong as a sentence.

const ROOT = '/api/v1'

let csrf = ''

/** The value that shows that a change was asked for by these pages; GET /me tells it. */
export function useCsrf (value) {
  csrf = value
}

/** A request that the node refused or could not answer. `message` is a sentence for people. */
export class ApiError extends Error {
  constructor (status, reason, details) {
    super(details)
    this.status = status
    this.reason = reason
  }
}

/** The address of something in the API; parameters that are empty are left out. */
export function address (path, parameters = {}) {
  const query = new URLSearchParams()
  for (const [name, value] of Object.entries(parameters)) {
    if (value !== null && value !== undefined && value !== '') query.set(name, value)
  }
  const text = query.toString()
  return `${ROOT}${path}${text ? `?${text}` : ''}`
}

/** Ask for something: the value of its JSON. */
export async function get (path, parameters = {}, signal = undefined) {
  return await answered(await sent(address(path, parameters), { signal, headers: { Accept: 'application/json' } }))
}

/** Change something: the value of the answer's JSON; null where it has none. */
export async function change (method, path, value = undefined) {
  const headers = { Accept: 'application/json', 'X-CSRF-Token': csrf }
  if (value !== undefined) headers['Content-Type'] = 'application/json'
  const body = value === undefined ? undefined : JSON.stringify(value)
  return await answered(await sent(address(path), { method, headers, body }))
}

/** All items of a list, page by page; `most` bounds how many. The second value tells whether there are more. */
export async function list (path, parameters = {}, most = 1000) {
  const items = []
  let after = null
  do {
    const page = await get(path, { ...parameters, after })
    items.push(...page.items)
    after = page.next
  } while (after && items.length < most)
  return [items, Boolean(after)]
}

/** The headers that an upload needs, which is not sent by fetch. */
export function changeHeaders () {
  return { 'X-CSRF-Token': csrf }
}

async function sent (url, options) {
  try {
    return await fetch(url, { credentials: 'same-origin', cache: 'no-store', redirect: 'error', ...options })
  } catch (error) {
    if (error.name === 'AbortError') throw error
    throw new ApiError(0, 'UNREACHABLE',
      'The node does not answer. Look whether it runs, and whether this computer is still on its network.')
  }
}

async function answered (response) {
  const text = await response.text()
  if (response.ok) return text ? JSON.parse(text) : null
  throw refusal(response.status, text)
}

/** What an answer that is no success says. */
export function refusal (status, text) {
  let error = {}
  try {
    error = JSON.parse(text).error ?? {}
  } catch { /* A proxy in between answers in its own words; those below are better. */ }
  const reason = typeof error.reason === 'string' ? error.reason : 'FAILED'
  const details = typeof error.details === 'string' && error.details ? error.details : plain(status)
  return new ApiError(status, reason, details)
}

function plain (status) {
  if (status === 401) return 'You are signed out. Sign in again.'
  if (status === 403) return 'You may not do this. An administrator of the lab can.'
  if (status === 404) return 'There is nothing here, or it is not yours to see.'
  if (status === 413) return 'This is larger than the node takes.'
  if (status === 429) return 'Too many requests. Wait a minute, and try again.'
  if (status === 507) return 'The disk of the node is full, or your quota is used up.'
  if (status >= 500) return `The node could not do this (status ${status}). Its log says why.`
  return `The node refused this (status ${status}).`
}
