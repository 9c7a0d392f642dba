// What has to hold in the worker before libhdf5 starts in it; so this is imported first.

/** The most memory that libhdf5 gets, in bytes. A chunk that unpacks to more than it says would take 2 GB otherwise. */
const MOST_MEMORY = 512 * 1024 * 1024
const PAGE = 65536

// A refusal is what libhdf5 gets from any system whose memory is full: the read fails, in good order.
const grow = WebAssembly.Memory.prototype.grow
WebAssembly.Memory.prototype.grow = function (pages) {
  if (this.buffer.byteLength + pages * PAGE > MOST_MEMORY) throw new RangeError('a preview gets no more memory')
  return grow.call(this, pages)
}

// libhdf5 writes all that it finds wrong with a file to the console, hundreds of lines for a damaged one. Whoever looks at
// the file is told in a sentence.
console.error = console.warn = console.log = () => {}
