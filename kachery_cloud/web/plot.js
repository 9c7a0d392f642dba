// Lines over an axis, by uPlot, in the colours of the page; and what they show in words.

import { h } from './dom.js'
import uPlot from './vendor/uplot/uPlot.esm.js'

const HEIGHT = 280
/** No plot has more lines than there are colours to tell them apart. */
export const COLOURS = 6

/** The value of a custom property of the style. */
export function colour (name) {
  return getComputedStyle(document.documentElement).getPropertyValue(name).trim()
}

/**
 * A plot: x values, and lines [{ label, values, format }] over them.
 *
 * `time` tells that x are seconds since 1970. `label` says in words what is shown; those who hear the page hear that.
 */
export function linePlot ({ label, xs, lines, time = false, format = String, xFormat = null, bars = false }) {
  const frame = h('div', { class: 'plot', role: 'img', 'aria-label': label })
  const axis = more => ({
    stroke: () => colour('--muted'),
    grid: { stroke: () => colour('--line'), width: 1 },
    ticks: { stroke: () => colour('--line'), width: 1 },
    font: '12px system-ui, sans-serif',
    ...more
  })
  const series = lines.map((line, index) => ({
    label: line.label,
    stroke: () => colour(`--plot-${index % COLOURS + 1}`),
    fill: bars && lines.length === 1 ? () => colour('--accent-tint') : undefined,
    width: 2,
    value: (_, value) => value === null || value === undefined ? '–' : format(value),
    points: { show: xs.length < 60, size: 5, fill: () => colour('--surface') }
  }))
  const options = {
    width: 600,
    height: HEIGHT,
    scales: { x: { time } },
    axes: [axis(xFormat ? { values: (_, splits) => splits.map(xFormat) } : {}), axis({ size: 78, values: (_, splits) => splits.map(format) })],
    series: [{ label: time ? 'Day' : 'Index', value: xFormat ? (_, value) => value === null ? '–' : xFormat(value) : undefined }, ...series],
    legend: { live: true },
    cursor: { drag: { x: true, y: false } }
  }
  const plot = new uPlot(options, [xs, ...lines.map(line => line.values)], frame)
  // It draws on a canvas of so many pixels: another width is another drawing.
  new ResizeObserver(() => {
    const room = frame.clientWidth - 24
    if (room > 50 && room !== plot.width) plot.setSize({ width: room, height: HEIGHT })
  }).observe(frame)
  matchMedia('(prefers-color-scheme: dark)').addEventListener('change', () => plot.redraw(false))
  return frame
}

/** Colours from low to high, as a heat map has them: dark blue to yellow, growing lighter all the way. */
const SCALE = [[48, 18, 90], [58, 82, 139], [32, 144, 140], [94, 201, 97], [253, 231, 36]]

function shade (fraction) {
  const at = Math.min(Math.max(fraction, 0), 1) * (SCALE.length - 1)
  const [low, high] = [SCALE[Math.floor(at)], SCALE[Math.ceil(at)]]
  return low.map((value, index) => Math.round(value + (high[index] - value) * (at - Math.floor(at))))
}

/** A heat map of rows and columns of numbers. What is not finite stays empty. */
export function heatMap ({ label, values, rows, columns, least, greatest, format }) {
  // More pixels than a screen has would show nothing more.
  const [down, across] = [Math.ceil(rows / 512), Math.ceil(columns / 1024)]
  const [height, width] = [Math.ceil(rows / down), Math.ceil(columns / across)]
  const canvas = h('canvas', { class: 'heat', width, height, role: 'img', 'aria-label': label })
  const context = canvas.getContext('2d')
  const image = context.createImageData(width, height)
  const range = greatest - least || 1
  for (let y = 0; y < height; y++) {
    for (let x = 0; x < width; x++) {
      const value = values[y * down * columns + x * across]
      if (!Number.isFinite(value)) continue
      const at = 4 * (y * width + x)
      image.data.set([...shade((value - least) / range), 255], at)
    }
  }
  context.putImageData(image, 0, 0)
  const scale = h('canvas', { width: 256, height: 1, 'aria-hidden': 'true' })
  const strip = scale.getContext('2d')
  const colours = strip.createImageData(256, 1)
  for (let x = 0; x < 256; x++) colours.data.set([...shade(x / 255), 255], 4 * x)
  strip.putImageData(colours, 0, 0)
  return [canvas, h('div', { class: 'heat-scale' }, h('span', {}, format(least)), scale, h('span', {}, format(greatest)))]
}
