"""Figures: a specification of Vega-Lite, Vega or Plotly and the arrays and tables it draws, in one folder of IPFS.

- `making`: from what a call gives (charts, dicts, arrays, tables) to a `Figure`. It reads files that are named.
- `values`: what in that becomes JSON, and what a file of its own.
- `document`: `figure.json`, the format `kachery-figure`: written, and read from strangers.
- `storing`: `store_figure`. `links`: `figure_link`, and figures that bring their viewer with them.
- `viewer`: the files of the viewer, which a gateway serves at `/figure/`.

The format is described in `docs/figures.md`. The viewer itself is in `kachery_cloud/web/figure`.
"""
