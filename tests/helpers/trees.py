"""Folders made from what is to be in them."""

from __future__ import annotations

from pathlib import Path
from typing import Any

Tree = dict[str, Any]


def make_tree(top: Path, tree: Tree) -> Path:
    """Bytes are files, text is a link to it, and a dict is a folder."""
    top.mkdir(parents=True, exist_ok=True)
    for name, what in tree.items():
        if isinstance(what, dict):
            make_tree(top / name, what)
        elif isinstance(what, str):
            (top / name).symlink_to(what)
        else:
            (top / name).write_bytes(what)
    return top
