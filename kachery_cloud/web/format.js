// How numbers and times are written for people. Pure functions.

const UNITS = ['bytes', 'KB', 'MB', 'GB', 'TB', 'PB']

/** A size as people write it: 1 200 000 bytes are '1.2 MB'. Units are decimal, as disks have them. */
export function bytes (count) {
  if (count === null || count === undefined || !Number.isFinite(Number(count))) return 'unknown'
  let value = Number(count)
  let unit = 0
  while (value >= 999.5 && unit < UNITS.length - 1) {
    value /= 1000
    unit += 1
  }
  if (unit === 0) return value === 1 ? '1 byte' : `${value} bytes`
  return `${value < 9.95 ? value.toFixed(1) : Math.round(value)} ${UNITS[unit]}`
}

/** A number with thin groups of three: 12 345. */
export function whole (count) {
  if (count === null || count === undefined) return 'unknown'
  return Math.round(Number(count)).toLocaleString('en-US').replaceAll(',', '\u202f')
}

/** A name with its number: plural(1, 'file') is '1 file', plural(2, 'copy', 'copies') is '2 copies'. */
export function plural (count, one, many = `${one}s`) {
  return `${whole(count)} ${Number(count) === 1 ? one : many}`
}

/** Day and time of an ISO 8601 time, where the reader is: '2026-11-30 14:05'. */
export function when (iso) {
  const time = new Date(iso)
  if (!iso || Number.isNaN(time.getTime())) return 'unknown'
  const two = number => String(number).padStart(2, '0')
  return `${time.getFullYear()}-${two(time.getMonth() + 1)}-${two(time.getDate())} ` +
    `${two(time.getHours())}:${two(time.getMinutes())}`
}

/** A span of seconds: '3 days', '5 hours', '12 minutes', '7 seconds'. */
export function span (seconds) {
  if (seconds === null || seconds === undefined || !Number.isFinite(Number(seconds))) return 'unknown'
  const value = Math.max(0, Math.round(Number(seconds)))
  for (const [length, name] of [[86400, 'day'], [3600, 'hour'], [60, 'minute']]) {
    if (value >= 2 * length || value === length) return plural(Math.floor(value / length), name)
  }
  return plural(value, 'second')
}

/** A round trip, in milliseconds: '12 ms'. */
export function latency (ms) {
  if (ms === null || ms === undefined) return 'unknown'
  return `${ms < 10 ? Number(ms).toFixed(1) : whole(ms)} ms`
}

/** The end of a long identifier, with what is left out marked. */
export function shortened (text, head = 8, tail = 6) {
  const value = String(text ?? '')
  return value.length <= head + tail + 3 ? value : `${value.slice(0, head)}…${value.slice(-tail)}`
}
