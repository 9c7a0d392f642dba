// What the interpreter of Vega's expressions imports by the name "vega-util": Vega itself, which is loaded by then, has it.
export const { ascending, isString, DisallowedObjectProperties } = globalThis.vega
