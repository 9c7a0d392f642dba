"""The viewer of figures: its files, which a gateway serves at `/figure/` and which a figure can bring with it."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from kachery_cloud.figures.document import DOCUMENT

if TYPE_CHECKING:
    from kachery_p2p.gateway.server.sites import Site

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


#: What the pages of the viewer may do at a gateway, where content of strangers lies beside them. The same stands in the
#: pages themselves, with 'self', for gateways that say nothing.
_POLICIES = {
    "index.html": (
        "default-src 'none'; script-src {site}; style-src {site}; img-src {site}; "
        "connect-src 'self'; frame-src {site}; base-uri 'none'; form-action 'none'"
    ),
    "viewer/frame.html": (
        "default-src 'none'; script-src {site}; style-src {site}; style-src-attr 'unsafe-inline'; "
        "img-src data: blob:; base-uri 'none'; form-action 'none'; sandbox allow-scripts"
    ),
}


def viewer_site() -> Site:
    """The viewer as a gateway serves it."""
    from kachery_p2p.gateway.server.sites import Site

    return Site(
        PATH,
        viewer_files(),
        _POLICIES,
        title="Show a figure",
        opens=DOCUMENT,
        open_title="Show the figure",
    )
