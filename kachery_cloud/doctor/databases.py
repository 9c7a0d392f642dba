"""The databases of the data directory, and the files that are linked. All are looked at without writing."""

from __future__ import annotations

import os
import shutil
import sqlite3
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

from kachery_cloud.doctor.findings import NOTHING, Finding, Report, found
from kachery_p2p.pinning.outbox import MARK_NAME, OUTBOX_NAME
from kachery_p2p.repo.catalog import CATALOG_NAME, SCHEMA_VERSION
from kachery_p2p.repo.layout import Layout
from kachery_p2p.sqlite_reading import leave_log, stamps

if TYPE_CHECKING:
    from kachery_cloud.doctor.facts import Facts

#: Seconds for looking through one database. What is larger is looked at in part.
LOOK_SECONDS = 8.0
#: Steps of SQLite's machine between two looks at the clock.
_STEPS = 20_000
#: Linked files that are looked at, and those of which the names are told.
_MOST_LINKED, _NAMED = 100_000, 3
#: How often a database is read again that somebody wrote to meanwhile.
_TRIES = 3

_REPAIR = "Stop all programs that use the directory, and bring everything back: kachery-cloud repair"
#: What each database is, and what to do about one that is damaged. Those that are not named here are looked at, too.
_KNOWN = {
    CATALOG_NAME: ("The catalog", "What is stored cannot be found, served or removed.", _REPAIR),
    OUTBOX_NAME: ("The list of what is to be pinned", "Nothing more is pinned at your services.", _REPAIR),
    "routing.sqlite": (
        "What the node had learned about other peers",
        "It finds others more slowly, and announces everything again.",
        _REPAIR,
    ),
    "access.sqlite": (
        "The list of who was given what",
        "What is not for everybody may not be given to anybody.",
        "Stop the node and move the file away; a new one is begun.",
    ),
    "pinning-service.sqlite": (
        "The list of what others have pinned here",
        "Nobody can pin here, and what is pinned is not looked after.",
        "Stop the node, put the file back from a backup, or move it away: then make new tokens "
        "(kachery-cloud-node tokens add NAME), and have those who pin here pin again.",
    ),
}


class Damaged(Exception):
    """A database is not sound; says how."""


def check_databases(facts: Facts, seconds: float = LOOK_SECONDS) -> Report:
    """Whether the databases are sound, and of a format that this version knows."""
    directory = facts.directory
    findings: list[Finding] = []
    looked = 0
    for path in sorted(directory.glob("*.sqlite")):
        looked += 1
        what, why, todo = _KNOWN.get(
            path.name, (f"The database {path.name}", "Parts of the node do not work.", "Put it back from a backup.")
        )
        try:
            version = _look(path, seconds)
        except Damaged as error:
            findings.append(Finding(f"{what}, {path}, is damaged: {error}.", why, todo))
            continue
        if path.name == CATALOG_NAME and version > SCHEMA_VERSION:
            findings.append(
                Finding(
                    f"The data directory {directory} was used by a newer version of kachery-cloud: its catalog has the "
                    f"format {version}, and this version knows up to {SCHEMA_VERSION}.",
                    "This version cannot read it.",
                    "Install the newer version here (pip install --upgrade kachery-cloud), or use another directory "
                    "(KACHERY_CLOUD_DIR).",
                )
            )
    if not (directory / CATALOG_NAME).exists() and directory.is_dir() and Layout(directory).holds_data():
        findings.append(
            Finding(
                f"The catalog {directory / CATALOG_NAME} is missing, but there are files that it listed.",
                "What is stored cannot be found, served or removed.",
                _REPAIR,
            )
        )
    if not (directory / OUTBOX_NAME).exists() and (directory / MARK_NAME).exists():
        findings.append(
            Finding(
                f"The list of what is to be pinned, {directory / OUTBOX_NAME}, is missing.",
                "What waited to be pinned at your services is not known any more.",
                "Begin a new one with kachery-cloud repair, and pin again what matters: kachery-cloud-pins add URI",
            )
        )
    if not looked and not findings:
        return NOTHING
    return found(findings, f"{looked} databases are sound" if looked != 1 else "the database is sound")


def check_linked(facts: Facts) -> Report:
    """Whether files that were linked are where they were, and as they were."""
    path = facts.directory / CATALOG_NAME
    if not path.exists():
        return NOTHING
    try:
        with reading(path) as db:
            rows = db.execute("SELECT path, size, mtime_ns FROM files WHERE linked LIMIT ?", (_MOST_LINKED,)).fetchall()
    except (sqlite3.Error, Damaged):
        return NOTHING  # `check_databases` says it
    missing: list[str] = []
    changed: list[str] = []
    for name, size, mtime_ns in rows:
        try:
            status = os.stat(name)
        except OSError:
            missing.append(os.fsdecode(name))
            continue
        if (status.st_size, status.st_mtime_ns) != (size, mtime_ns):
            changed.append(os.fsdecode(name))
    findings: list[Finding] = []
    if missing:
        findings.append(
            Finding(
                f"{_count(len(missing))} missing: {_some(missing)}.",
                "What is linked is served from where it lies, so nobody can load it from here.",
                "Mount the disk that it is on, or put it back. If it is gone for good: kachery-cloud rm URI for "
                "each (the URIs: kachery-cloud list).",
            )
        )
    if changed:
        findings.append(
            Finding(
                f"{_count(len(changed))} not as when linked: {_some(changed)}.",
                "Bytes that have changed are not served under the old URI.",
                "kachery-cloud verify says whether the content is another. If it is, link it again for a new URI: "
                "kachery-cloud link FILE",
                grave=False,
            )
        )
    return found(findings, f"{len(rows)} linked files are in their places" if rows else "")


def _count(number: int) -> str:
    return "One linked file is" if number == 1 else f"{number:,} linked files are"


def _some(names: list[str]) -> str:
    more = f" and {len(names) - _NAMED:,} more" if len(names) > _NAMED else ""
    return ", ".join(names[:_NAMED]) + more


# --- reading without writing -----------------------------------------------------------------------------------------


def _look(path: Path, seconds: float) -> int:
    """The version that a database says it has, after it was looked through for some seconds.

    Raises:
        Damaged: it is not sound.
    """
    for attempt in range(_TRIES):
        before = stamps(path)
        try:
            with reading(path) as db:
                end = time.monotonic() + seconds
                db.set_progress_handler(lambda end=end: time.monotonic() > end, _STEPS)
                (version,) = db.execute("PRAGMA user_version").fetchone()
                (said,) = db.execute("PRAGMA quick_check(1)").fetchone()
                if said != "ok":
                    raise Damaged(said.splitlines()[-1])
                return version
        except sqlite3.Error as error:
            if "interrupted" in str(error):
                return version_of(path)  # as far as was looked, it is sound
            if "locked" in str(error) or "busy" in str(error):
                return 0  # somebody writes to it, who would say so
            damage: Exception = error
        except Damaged as error:
            damage = error
        if stamps(path) == before or attempt == _TRIES - 1:
            raise Damaged(str(damage)) from damage
    raise AssertionError("the last try ends")


def version_of(path: Path) -> int:
    """The version in the head of a database file (bytes 60 to 63; https://www.sqlite.org/fileformat2.html)."""
    with open(path, "rb") as file:
        return int.from_bytes(file.read(64)[60:64], "big")


@contextmanager
def reading(path: Path) -> Iterator[sqlite3.Connection]:
    """A database, open for reading. Nothing is made or changed beside it.

    With a write-ahead log and its index there, it is read as all others read it. Without a log there is nobody to
    agree with. A log without its index, as no program leaves it behind, is read in a copy.

    Raises:
        sqlite3.Error: it cannot be read.
        Damaged: it cannot even be opened, for what stands there is no file.
    """
    if not path.is_file():
        raise Damaged("it is not a file")
    log, index = path.with_name(path.name + "-wal"), path.with_name(path.name + "-shm")
    with tempfile.TemporaryDirectory(prefix="kachery-doctor-") as folder:
        if log.exists() and log.stat().st_size and not index.exists():
            copy = Path(folder) / path.name
            shutil.copyfile(path, copy)
            shutil.copyfile(log, copy.with_name(copy.name + "-wal"))
            path, how = copy, "mode=ro"
        else:
            how = "mode=ro" if log.exists() and log.stat().st_size else "mode=ro&immutable=1"
        db = sqlite3.connect(f"{path.absolute().as_uri()}?{how}", uri=True, isolation_level=None)
        try:
            leave_log(db)
            yield db
        finally:
            db.close()
