"""What `list_dir` and `load_file_info` return."""

from __future__ import annotations

from typing import Any

from kachery_cloud.inventory_tables import Column, Table, size_text
from kachery_cloud.records import Record


class DirEntry(Record):
    """An entry of a directory. A dict of the same, too.

    Attributes:
        name: of it.
        cid: of it.
        uri: by which it is loaded.
        size: of the contents in bytes: of a file, or of all files in and below a folder; 0 for a link. None where that
            cannot be told by what is here, where a folder has very much in it, and for what is encrypted.
        dag_size: bytes of all its blocks, as the directory states them: a little more than its contents. None where it
            states nothing.
        kind: "file", "directory" or "link"; None where that cannot be told by what is here.
        destination: what a link points to, else None.
    """

    name: str
    cid: str
    uri: str
    size: int | None
    dag_size: int | None
    kind: str | None
    destination: str | None


class DirTable(Table[DirEntry]):
    """What is in a directory; of what `list_dir` returns."""

    row_type = DirEntry
    columns = (
        Column[DirEntry]("name", lambda row: row.name + ("/" if row.kind == "directory" else "")),
        Column[DirEntry]("size", lambda row: size_text(row.size), right=True),
        Column[DirEntry]("kind", lambda row: row.kind or ""),
        Column[DirEntry]("uri", lambda row: row.uri),
    )


class FileInfo(Record):
    """What is known of a file or directory. A dict of the same, too.

    Those with a default are missing in the dict where nothing is known of them: of what `list` does not show, and of
    what was not named by its CID but by its path.

    Attributes:
        uri: of it, as it was asked for.
        cid: of what its path leads to; None for a file that was named by its path.
        kind: "file" or "directory".
        size: of its contents in bytes; of a directory, of all files in it, None where not all that tells it is here.
        dag_size: what the first block of a directory states of all blocks in and below it, a little more than its size;
            None for a file.
        destination: what the last name of the path points to, where that is a symbolic link, which is followed.
        label: as its URI says.
        sources: where that was learnt now, as bytes by peer ID or ``gateway:<host>``; empty if it was known here.
        local: whether all of it is here.
        path: where; None if it is not.
        shared: the data directory of others that it is in; None where it is in your own, or not here.
        kept: "stored", "linked", "loaded", "pinned" or "partial", as in `list`; so are those that follow.
        labels: all of them.
        here: bytes of it that are here.
        complete: whether that is all.
        problem: why it is not.
        added: when it was first stored, linked or loaded; seconds since 1970.
        used: when it was last read, to the hour.
        pinned: where it is to be kept, each with "service" and "state".
        visibility: who may load it from here.
        also: who else may, since something else that is here has it, or a part of it.
        encryption: "age" where it is encrypted.
        stored: bytes of the cipher text then.
    """

    times = ("added", "used")
    sizes = ("size", "dag_size", "here", "stored")

    uri: str
    cid: str | None
    kind: str
    size: int | None
    dag_size: int | None = None
    destination: str | None = None
    label: str | None
    sources: dict[str, int]
    local: bool
    path: str | None
    shared: str | None
    kept: str | None = None
    labels: list[str] | None = None
    here: int | None = None
    complete: bool | None = None
    problem: str | None = None
    added: float | None = None
    used: float | None = None
    pinned: list[dict[str, Any]] | None = None
    visibility: list[str] | None = None
    also: list[str] | None = None
    encryption: str | None = None
    stored: int | None = None
