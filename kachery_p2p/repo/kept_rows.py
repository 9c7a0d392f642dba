"""The rows of what is kept: writing and deleting them, in transactions of the caller's. See inventory.py."""

from __future__ import annotations

import os
import sqlite3
import time
from collections.abc import Iterable
from dataclasses import dataclass, replace
from pathlib import Path

from kachery_p2p.dag.cid import CID
from kachery_p2p.repo.limits import LABELS_OF_ROOT

#: Values of `kept.how`; a sum of them.
STORED = 1
LINKED = 2
LOADED = 4
#: Kept for others, by the pinning service that this node is.
PINNED = 8


@dataclass(frozen=True)
class Label:
    """What a root is called, and whether the user said so; else it is the name of the file, or came with a URI."""

    text: str
    given: bool = False


@dataclass(frozen=True)
class KeptRoot:
    """A root that was stored, linked or loaded by itself, or is being loaded.

    Attributes:
        cid: of it.
        directory: whether it is one.
        how: a sum of STORED, LINKED, LOADED and PINNED; 0 for a file or a folder of which only a part is here.
        size: in bytes; None where that is not known yet. Of a folder of which a part is here, what its node says.
        here: bytes of it that are here, those of a linked file among them.
        added: when it was first stored, linked or loaded by itself; seconds since 1970.
        used: when it was last used, to the hour.
        labels: the newest first.
        path: of our own copy, else of the linked file; None for a folder, and for a small file without a path.
        copied: whether bytes of it are in the data directory.
        linked: whether it is served from a file of the user's.
        whole: whether all of it is here.
        problem: why not, in one word: "changed", "missing", "incomplete"; empty where all is well.
    """

    cid: CID
    directory: bool
    how: int
    size: int | None
    here: int
    added: float
    used: float
    labels: tuple[Label, ...] = ()
    path: Path | None = None
    copied: bool = False
    linked: bool = False
    whole: bool = True
    problem: str = ""

    @property
    def given(self) -> bool:
        """Whether the user gave it a label."""
        return any(label.given for label in self.labels)

    @property
    def key(self) -> bytes:
        """As the catalog has it."""
        return bytes(self.cid.to_v1())


def label_for(label: str | None, path: Path | str | None = None) -> Label | None:
    """What something is called that is stored: as the user says, else by the name of the file or folder."""
    if label:
        return Label(label, given=True)
    return None if path is None else Label(os.path.basename(os.path.abspath(path)))


def keep_row(db: sqlite3.Connection, key: bytes, how: int, now: float, *, whole: int | None = 1) -> None:
    """Note that a root is kept, in a transaction of the caller's."""
    db.execute(
        "INSERT INTO kept (key, how, added, used, whole) VALUES (?1, ?2, ?3, ?3, ?4) ON CONFLICT (key) DO UPDATE SET "
        "how = how | excluded.how, used = max(used, excluded.used), whole = excluded.whole",
        (key, how, now, whole),
    )
    forget_parts(db, key)


def keep_rows(db: sqlite3.Connection, roots: Iterable[tuple[CID, int]]) -> None:
    """The same for roots that are stored in that transaction; what was to be removed of them stays."""
    now = time.time()
    for cid, how in roots:
        key = bytes(cid.to_v1())
        keep_row(db, key, how, now)
        db.execute("DELETE FROM going WHERE key = ?", (key,))


def forget_kept(db: sqlite3.Connection, key: bytes) -> bool:
    """Take a root off the list, in a transaction of the caller's; whether it was on it."""
    forget_parts(db, key)
    labels = db.execute("DELETE FROM labels WHERE key = ?", (key,)).rowcount
    return db.execute("DELETE FROM kept WHERE key = ?", (key,)).rowcount + labels > 0


def forget_parts(db: sqlite3.Connection, root: bytes) -> None:
    """Forget which parts of a folder are here, in a transaction of the caller's: it is whole now, or it goes."""
    db.execute("DELETE FROM parts WHERE root = ?", (root,))


def label_row(db: sqlite3.Connection, key: bytes, label: Label, now: float) -> None:
    """Note what a root is called, in a transaction of the caller's. Of very many labels the newest stay."""
    db.execute(
        "INSERT INTO labels (key, label, given, added) VALUES (?, ?, ?, ?) ON CONFLICT (key, label) DO UPDATE SET "
        "given = max(given, excluded.given), added = excluded.added",
        (key, label.text, int(label.given), now),
    )
    db.execute(
        "DELETE FROM labels WHERE key = ?1 AND rowid NOT IN "
        "(SELECT rowid FROM labels WHERE key = ?1 ORDER BY given DESC, added DESC LIMIT ?2)",
        (key, LABELS_OF_ROOT),
    )


def clean_label(label: Label | None) -> Label | None:
    """A label that a database takes: names of files may have bytes that are no text."""
    if label is None or not label.text:
        return None
    return replace(label, text=label.text.encode("utf-8", "surrogatepass").decode("utf-8", "replace"))
