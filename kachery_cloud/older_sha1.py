"""`sha1://` URIs of the older kachery-cloud, for files that it kept in this data directory.

    uri  = "sha1://" 40 hexadecimal digits [ "/" name ] [ "?" [ "label=" text ] [ "&" "location=" path ] ]

It kept a stored file at `sha1/<ab>/<cd>/<ef>/<hash>`, and of a linked one a line of JSON with its path at
`linked_files/sha1/<ab>/<cd>/<ef>/<hash>`, before that at `mutables/@linked_files/@sha1/<hash>`. All stay where they
are, and are read, after their bytes were compared with the hash. No peer can be asked for such a file, for the network
knows data by CID.
"""

from __future__ import annotations

import functools
import hashlib
import os
import re
import stat
from pathlib import Path
from typing import NamedTuple
from urllib.parse import quote, unquote

from kachery_cloud.errors import ContentNotFound, DamagedFile, InvalidURI
from kachery_p2p.errors import NotAFile
from kachery_p2p.json_reader import json_or_none
from kachery_p2p.oserrors import explained
from kachery_p2p.ownfiles import read_own_file
from kachery_p2p.text import shown
from kachery_p2p.units import KIB, MIB

_URI = re.compile(r"sha1://([0-9a-fA-F]{40})(?:/([^/?#]+)|/)?(?:\?([^?#]*))?", re.IGNORECASE)
#: Bytes of the record of a link: a path, a size and a time.
_MAX_RECORD = 64 * KIB
#: Files whose bytes were compared with their hash by this process, and have not changed since.
_REMEMBERED = 1_024


class Sha1File(NamedTuple):
    """A file of the older kachery-cloud, whose bytes were compared with its hash.

    Attributes:
        digest: the hash.
        label: what its URI calls it; None where it says nothing.
        path: where it is.
    """

    digest: str
    label: str | None
    path: Path

    @property
    def locator(self) -> str:
        """Its URI without a label."""
        return f"sha1://{self.digest}"

    @property
    def uri(self) -> str:
        """Its URI."""
        return self.locator + (f"?label={quote(self.label, safe='')}" if self.label else "")


def find_sha1(directory: Path, uri: str) -> Sha1File:
    """The file that a `sha1://` URI names.

    Args:
        directory: the data directory.
        uri: of it.

    Raises:
        InvalidURI: it is none.
        ContentNotFound: it is not here.
        DamagedFile: what is here has other bytes.
    """
    digest, label, location = _parsed(uri)
    here = f"sha1://{digest}"
    kept = Path(digest[0:2], digest[2:4], digest[4:6], digest)
    stored = directory / "sha1" / kept
    changed: Path | None = None
    records = (directory / "linked_files" / "sha1" / kept, directory / "mutables" / "@linked_files" / "@sha1" / digest)
    for path in (stored, location, *map(_linked, records)):
        if path is None:
            continue
        if _has(path, digest):
            return Sha1File(digest, label or None, path)
        if changed is None and os.path.isfile(path):
            changed = path
    if changed is not None:
        raise DamagedFile(
            f"{changed} is no longer {here}: it was changed, or is damaged. Put the file back, or ask whoever has it "
            "to store it again and give you the ipfs:// URI."
        )
    raise ContentNotFound(
        f"{here} is not on this machine (in {directory / 'sha1'}), and no peer can be asked for it: sha1:// URIs are "
        "of an older kachery, and the network knows data by CID. Ask whoever has the file to store it again and give "
        "you the ipfs:// URI."
    )


def _parsed(uri: str) -> tuple[str, str, Path | None]:
    """The hash in small letters, the label, and where else the file may be."""
    quoted = shown(uri, 300)
    match = _URI.fullmatch(uri)
    if match is None:
        raise InvalidURI(
            f"{quoted} is no URI of the older kachery. Expected sha1:// and 40 hexadecimal digits, perhaps with /NAME "
            "or ?label=NAME behind them."
        )
    label = unquote(match[2] or "")
    location = ""
    for pair in (match[3] or "").split("&"):
        key, _, value = pair.partition("=")
        if key == "label":
            label = unquote(value) or label
        elif key == "location":
            location = unquote(value)
        elif not pair:
            continue
        else:
            raise InvalidURI(f"{quoted} has the parameter {key!r}, which is not known here: it may be label=NAME.")
    # As it was: only what does not depend on the working directory.
    return match[1].lower(), label, Path(location) if os.path.isabs(location) else None


def _linked(record: Path) -> Path | None:
    """Where a linked file is, as its record says."""
    try:
        said = json_or_none(read_own_file(record, _MAX_RECORD))
    except (FileNotFoundError, NotADirectoryError, NotAFile):
        return None
    except OSError as error:
        with explained("reading", record):
            raise error
    path = said.get("path") if isinstance(said, dict) else None
    return Path(path) if isinstance(path, str) and os.path.isabs(path) and "\0" not in path else None


def _has(path: Path, digest: str) -> bool:
    """Whether this is a file with that hash."""
    with explained("reading", path):
        try:
            status = os.stat(path)
        except (FileNotFoundError, NotADirectoryError, ValueError):
            return False
        if not stat.S_ISREG(status.st_mode):
            return False
        return _sha1(str(path), status.st_dev, status.st_ino, status.st_size, status.st_mtime_ns) == digest


@functools.lru_cache(_REMEMBERED)
def _sha1(path: str, *_stamp: int) -> str:
    """The hash of a file, which is read again when its stamp is another."""
    digest = hashlib.sha1(usedforsecurity=False)
    with open(path, "rb", buffering=0) as file:
        while piece := file.read(MIB):
            digest.update(piece)
    return digest.hexdigest()
