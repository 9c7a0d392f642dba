// Elements. Text always goes in as text: nothing here, and nothing that uses it, makes HTML of a string.

/**
 * An element.
 *
 * Functions of `attributes` named on... are listeners; true is an attribute without a value; null, undefined and false
 * are left out. Children are elements, strings, numbers, lists of these; null and false are left out.
 */
export function h (tag, attributes = {}, ...children) {
  const element = document.createElement(tag)
  for (const [name, value] of Object.entries(attributes)) {
    if (value === null || value === undefined || value === false) continue
    if (typeof value === 'function') element.addEventListener(name.slice(2), value)
    else element.setAttribute(name, value === true ? '' : String(value))
  }
  append(element, children)
  return element
}

/** Put more children into an element, as `h` takes them. */
export function add (element, ...children) {
  append(element, children)
  return element
}

function append (element, children) {
  for (const child of children.flat(Infinity)) {
    if (child === null || child === undefined || child === false) continue
    element.append(child instanceof Node ? child : String(child))
  }
}

/** Put other children into an element. */
export function fill (element, ...children) {
  element.replaceChildren()
  append(element, children)
  return element
}

let spoken = null

/** Say something to those who hear the page: 'Copied.' */
export function say (text) {
  if (spoken === null) {
    spoken = h('div', { class: 'visually-hidden', role: 'status' })
    document.body.append(spoken)
  }
  spoken.textContent = text
}

/** A notice; kind is 'good', 'warn' or 'bad'. A bad one is read out at once. */
export function notice (kind, ...children) {
  return h('div', { class: `notice ${kind}`, role: kind === 'bad' ? 'alert' : 'status' },
    children.some(child => child instanceof Node) ? children : h('p', {}, children))
}

/** What stands where there is nothing yet, and what to do about it. */
export function empty (...children) {
  return h('div', { class: 'empty' }, children)
}

/** A button that does something that takes a while: it cannot be pressed again meanwhile. */
export function action (text, work, { kind = '', label = null, onerror = null } = {}) {
  const button = h('button', { type: 'button', class: kind || null, 'aria-label': label }, text)
  button.addEventListener('click', async () => {
    if (button.getAttribute('aria-disabled') === 'true') return
    button.setAttribute('aria-disabled', 'true')
    try {
      await work(button)
    } catch (error) {
      if (onerror) onerror(error)
      else button.after(notice('bad', error.message))
    } finally {
      button.removeAttribute('aria-disabled')
    }
  })
  return button
}

/** A button that copies a text. */
export function copyButton (text, what = 'Copy') {
  const button = h('button', { type: 'button', class: 'quiet small' }, 'Copy')
  button.setAttribute('aria-label', what)
  button.addEventListener('click', async () => {
    try {
      await navigator.clipboard.writeText(text)
      button.textContent = 'Copied'
      say('Copied.')
    } catch {
      // Only pages over HTTPS, or of this machine, may write there. Then the text is selected, to be copied by hand.
      const shown = button.parentElement?.querySelector('code')
      if (shown) getSelection()?.selectAllChildren(shown)
      say('The browser does not let this page copy. The text is selected: copy it with the keyboard.')
      button.textContent = 'Selected'
    }
    setTimeout(() => { button.textContent = 'Copy' }, 3000)
  })
  return button
}

/** A command to type, with a button that copies it. */
export function command (text) {
  return h('div', { class: 'command' }, h('code', {}, text), copyButton(text, `Copy the command ${text}`))
}

/**
 * A table. On a narrow screen each row becomes a card; roles keep it a table for those who hear it.
 *
 * columns: [{ head, cell (row) -> content, number, header }]; `header` marks the cell that names its row.
 */
export function table ({ caption, columns, rows, hideCaption = false }) {
  const cells = row => columns.map(column => h(column.header ? 'th' : 'td', {
    role: column.header ? 'rowheader' : 'cell',
    scope: column.header ? 'row' : null,
    class: column.number ? 'number' : null,
    'data-label': column.header || !column.head ? null : column.head
  }, column.cell(row)))
  const heads = columns.map(column => h(column.head ? 'th' : 'td', {
    role: column.head ? 'columnheader' : 'cell',
    scope: column.head ? 'col' : null,
    class: column.number ? 'number' : null
  }, column.head))
  const shown = h('table', { class: columns.length > 2 ? 'stacks' : null, role: 'table' },
    h('caption', { class: hideCaption ? 'visually-hidden' : null }, caption),
    h('thead', { role: 'rowgroup' }, h('tr', { role: 'row' }, heads)),
    h('tbody', { role: 'rowgroup' }, rows.map(row => h('tr', { role: 'row' }, cells(row)))))
  return h('div', { class: 'scroll', tabindex: '0', role: 'region', 'aria-label': caption }, shown)
}

/** Names and what they are: [['Peer', 'Qm...'], ...]. */
export function facts (pairs) {
  return h('dl', { class: 'facts' }, pairs.filter(pair => pair[1] !== null && pair[1] !== undefined)
    .map(([name, value]) => [h('dt', {}, name), h('dd', {}, value)]))
}

/** A field of a form: the label, what is typed or chosen, and a hint. */
export function field (label, control, hint = null) {
  control.id ||= `field-${crypto.getRandomValues(new Uint32Array(1))[0]}`
  const hinted = hint === null ? null : h('div', { class: 'hint', id: `${control.id}-hint` }, hint)
  if (hinted) control.setAttribute('aria-describedby', hinted.id)
  return h('div', { class: 'field' }, h('label', { for: control.id }, label), control, hinted)
}

/** A list to choose from: [[value, text], ...]. */
export function select (options, chosen, attributes = {}) {
  return h('select', attributes,
    options.map(([value, text]) => h('option', { value, selected: String(value) === String(chosen ?? '') }, text)))
}

/**
 * Ask before something that cannot be undone.
 *
 * The promise is true when it is to be done. Escape and the other button say no.
 */
export function confirmed (question, yes, details = null) {
  return new Promise(resolve => {
    const title = h('h2', { id: 'question' }, question)
    const dialog = h('dialog', { 'aria-labelledby': 'question' }, title, details ? h('p', {}, details) : null,
      h('div', { class: 'row' },
        h('button', { type: 'button', class: 'danger', onclick: () => dialog.close('yes') }, yes),
        h('button', { type: 'button', class: 'quiet', autofocus: true, onclick: () => dialog.close('no') }, 'Cancel')))
    const before = document.activeElement
    dialog.addEventListener('close', () => {
      dialog.remove()
      before?.focus?.()
      resolve(dialog.returnValue === 'yes')
    })
    document.body.append(dialog)
    dialog.showModal()
  })
}
