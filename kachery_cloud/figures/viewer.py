"""The viewer of figures: its files, which a gateway serves at `/figure/` and which a figure can bring with it."""

from __future__ import annotations

from pathlib import Path

#: Where the gateway of a node serves the viewer.
PATH = "/figure/"
#: Where static files of this package lie.
WEB = Path(__file__).resolve().parents[1] / "web"


def viewer_files() -> dict[str, Path]:
    """The files of the viewer, by their paths below its own: `index.html`, and all else in `viewer/`."""
    folder = WEB / "figure"
    found = {
        path.relative_to(folder).as_posix(): path
        for path in sorted(folder.rglob("*"))
        if path.is_file() and path.name[0] != "."
    }
    # The look of all pages of a node, and its sign.
    return {**found, "viewer/style.css": WEB / "style.css", "viewer/logo.svg": WEB / "logo.svg"}
