// Uploading: files that are dropped, or chosen with a button; one after the other, each with its progress.

import { address, changeHeaders, refusal } from './api.js'
import { fill, h, say } from './dom.js'
import { bytes } from './format.js'

/**
 * Where files are dropped. `project` is an ID or what gives one; `done` is called after each file.
 *
 * They go one after the other: the line to the node is the same, and the one that fails is then known.
 */
export function uploader ({ project = null, done = () => {}, options = null }) {
  const chooser = h('input', { type: 'file', multiple: true, class: 'visually-hidden', tabindex: '-1', 'aria-hidden': 'true' })
  const shown = h('ul', { class: 'uploads', 'aria-label': 'Uploads' })
  const button = h('button', { type: 'button', onclick: () => chooser.click() }, 'Choose files')
  const area = h('div', { class: 'drop' },
    h('div', { class: 'row' }, options, button),
    h('p', { class: 'hint' }, 'Or drop files here. For folders, and for what is very large, use kachery-cloud-store on a computer.'),
    chooser, shown)
  const waiting = []
  let running = false

  async function work () {
    if (running) return
    running = true
    try {
      while (waiting.length) await waiting.shift()()
    } finally {
      running = false
    }
  }

  function add (files) {
    for (const file of files) {
      const into = typeof project === 'function' ? project() : project
      waiting.push(row(shown, file, into, done))
    }
    work()
  }

  chooser.addEventListener('change', () => {
    add([...chooser.files])
    chooser.value = ''
  })
  area.addEventListener('dragover', event => {
    event.preventDefault()
    area.classList.add('over')
  })
  area.addEventListener('dragleave', () => area.classList.remove('over'))
  area.addEventListener('drop', event => {
    event.preventDefault()
    area.classList.remove('over')
    add(dropped(event.dataTransfer, shown))
  })
  addEventListener('beforeunload', event => { if (running) event.preventDefault() })
  return area
}

/** The files that were dropped; a folder cannot be uploaded here, and a sentence says so. */
function dropped (data, shown) {
  const files = []
  for (const item of data.items ?? []) {
    if (item.kind !== 'file') continue
    if (item.webkitGetAsEntry?.()?.isDirectory) {
      shown.append(h('li', {}, `“${item.webkitGetAsEntry().name}” is a folder: store it with kachery-cloud-store on a computer.`))
    } else {
      files.push(item.getAsFile())
    }
  }
  return files
}

/** A line for a file; gives what sends it. */
function row (shown, file, project, done) {
  const progress = h('progress', { max: 1, value: 0, 'aria-label': `Upload of ${file.name}` })
  const text = h('span', { class: 'hint' }, `waiting, ${bytes(file.size)}`)
  const request = new XMLHttpRequest()
  const cancel = h('button', { type: 'button', class: 'quiet small', 'aria-label': `Cancel the upload of ${file.name}` }, 'Cancel')
  const line = h('li', {}, h('span', {}, file.name), cancel, progress, text)
  let cancelled = false
  cancel.addEventListener('click', () => {
    cancelled = true
    request.abort()
    finish('cancelled')
  })
  shown.append(line)

  function finish (words, link = null) {
    progress.remove()
    cancel.remove()
    fill(text, words, link)
    say(`${file.name}: ${words}`)
  }

  return () => new Promise(resolve => {
    if (cancelled) return resolve()
    // fetch tells nothing of how far an upload is.
    request.open('POST', address('/files', { name: file.name, project }))
    for (const [name, value] of Object.entries(changeHeaders())) request.setRequestHeader(name, value)
    request.setRequestHeader('Content-Type', 'application/octet-stream')
    request.upload.addEventListener('progress', event => {
      progress.max = event.total || 1
      progress.value = event.loaded
      text.textContent = event.loaded < event.total
        ? `${bytes(event.loaded)} of ${bytes(event.total)}`
        : 'sent; the node is storing it'
    })
    request.addEventListener('load', async () => {
      if (request.status < 300) {
        const stored = JSON.parse(request.responseText)
        finish('stored. ', h('a', { href: `/files/${encodeURIComponent(stored.id)}` }, 'Look at it'))
        await Promise.resolve(done(stored)).catch(() => {})
      } else {
        finish(`not stored. ${refusal(request.status, request.responseText).message}`)
      }
      resolve()
    })
    request.addEventListener('error', () => {
      finish('not stored: the connection to the node broke. It takes no half files; send it again.')
      resolve()
    })
    request.addEventListener('abort', () => resolve())
    request.send(file)
  })
}
