"""What is in a folder: which entries are folders, what is in these, and how large it all is."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import Any

from kachery_cloud.errors import NotADirectory, NotAFile
from kachery_cloud.files_here import request_of
from kachery_cloud.load import listed
from kachery_cloud.local import listed_label, repository
from kachery_cloud.request import Request
from kachery_cloud.sizes import Sizes
from kachery_p2p.dag.limits import MAX_TREE_DEPTH


@dataclass(frozen=True)
class Entry:
    """An entry of a folder.

    Attributes:
        name: of it.
        uri: of it.
        cid: of it.
        kind: "file", "directory" or "link"; None where what is here does not tell, and nothing else is to be asked.
        size: bytes of the file, or of all files in and below a folder; 0 for a link. None where that is not known here.
        depth: how many folders it is in, below the one that was asked for.
        dag_size: bytes of all blocks in and below it, as its folder states them: a little more than those of its files.
            None where that states nothing.
        destination: what a link points to; None where it is none.
    """

    name: str
    uri: str
    cid: str
    kind: str | None
    size: int | None
    depth: int = 0
    dag_size: int | None = None
    destination: str | None = None


def entries(uri: str, *, tree: bool = False, **more: Any) -> Iterator[Entry]:
    """What is in a folder, by name; with `tree`, each folder is followed by what is in it. A file is one entry.

    To tell folders from large files, the first block of each is fetched where it is not here, unless that is not to be.

    Args:
        uri: of the folder, or of a file.
        tree: also what is in the folders in it.
        more: as for `list_dir`.
    """
    request = request_of(uri, **more)
    sizes = Sizes(repository(request.config))
    try:
        found = listed(request, sizes)
    except NotADirectory:
        yield _file(request)
    else:
        yield from _entries(found, sizes, tree, 0, more)


def _entries(
    found: list[dict[str, Any]], sizes: Sizes, tree: bool, depth: int, more: dict[str, Any]
) -> Iterator[Entry]:
    for each in found:
        entry = Entry(**each, depth=depth)
        if entry.kind is None and not more.get("local_only"):
            entry = _looked_at(entry, request_of(entry.uri, **more))
        yield entry
        if tree and entry.kind == "directory" and depth < MAX_TREE_DEPTH:
            yield from _entries(listed(request_of(entry.uri, **more), sizes), sizes, tree, depth + 1, more)


def _looked_at(entry: Entry, request: Request) -> Entry:
    """The same entry, whose first block is not here."""
    try:
        found = request.look()
    except NotAFile:  # so says a node of an older version
        return replace(entry, kind="link", size=0)
    if found.destination is not None:
        return replace(entry, kind="link", size=0, destination=found.destination)
    if found.size is None:
        return replace(entry, kind="directory")
    return replace(entry, kind="file", size=None if request.uri.encryption else found.size)


def _file(request: Request) -> Entry:
    """A file that was asked for by itself, by the name that it has."""
    found = request.info()
    uri = request.uri
    name = uri.name or listed_label(repository(request.config), uri.root) or uri.cid
    return Entry(name, uri.source, found["cid"], found["kind"], found["size"])
