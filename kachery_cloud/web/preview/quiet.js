// libhdf5 writes all that it finds wrong with a file to the console, hundreds of lines for a damaged one. Whoever looks at
// the file is told in a sentence, so the console of this worker stays empty. It is to be imported before libhdf5, which
// takes hold of the console when it starts.

console.error = console.warn = console.log = () => {}
