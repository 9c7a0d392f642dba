"""What is in a folder: which entries are folders, what is in these, and how large it all is."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from kachery_cloud.errors import NotAFile
from kachery_cloud.load import list_dir, load_file_info
from kachery_p2p.dag.limits import MAX_TREE_DEPTH


@dataclass(frozen=True)
class Entry:
    """An entry of a folder.

    Attributes:
        name: of it.
        uri: of it.
        cid: of it.
        kind: "file", "directory" or "link".
        size: bytes of all blocks in and below it, as its folder says: a little more than those of its files. None
            where that says nothing.
        depth: how many folders it is in, below the one that was asked for.
    """

    name: str
    uri: str
    cid: str
    kind: str
    size: int | None
    depth: int = 0


def entries(uri: str, *, tree: bool = False, **more: Any) -> Iterator[Entry]:
    """What is in a folder, by name; with `tree`, each folder is followed by what is in it.

    To tell folders from large files, the first block of each is fetched where it is not here.

    Args:
        uri: of the folder.
        tree: also what is in the folders in it.
        more: as for `list_dir`.
    """
    yield from _entries(uri, tree, 0, more)


def _entries(uri: str, tree: bool, depth: int, more: dict[str, Any]) -> Iterator[Entry]:
    for each in list_dir(uri, **more):
        kind = each["kind"] or _kind(each["uri"], more)
        yield Entry(each["name"], each["uri"], each["cid"], kind, each["size"], depth)
        if tree and kind == "directory" and depth < MAX_TREE_DEPTH:
            yield from _entries(each["uri"], tree, depth + 1, more)


def _kind(uri: str, more: dict[str, Any]) -> str:
    """What an entry is whose first block is not here."""
    try:
        return load_file_info(uri, **more)["kind"]
    except NotAFile:
        return "link"
