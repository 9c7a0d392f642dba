// Bounds of figures, as in kachery_cloud/figures/limits.py; sizes in bytes.
export const MAX_DOCUMENT = 16 * 1024 * 1024
export const MAX_DATA = 256 * 1024 * 1024
export const MAX_ROWS = 1_000_000
export const MAX_ENTRIES = 1_000
export const MAX_DEPTH = 50
export const MAX_DIMENSIONS = 4
export const MAX_TITLE = 500
