"""What is remembered of encryption, in the data directory under `encrypted/`.

Which roots are cipher text, so that lists print URIs that decrypt; and which sealed copy of a root that not everyone
may see was made for whom.

One small file for each: `encrypted/<CID>`; `encrypted/<CID>.<for whom>`, which has the CID of the sealed copy; and
`encrypted/<CID>.link` (0600), which has that of the copy for a link, and its key. They are written whole, and losing
them loses no data.
"""

from __future__ import annotations

import hashlib
import os
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING

from kachery_p2p import private
from kachery_p2p.oserrors import explained
from kachery_p2p.ownfiles import read_own_file

if TYPE_CHECKING:
    from kachery_p2p.dag.cid import CID
    from kachery_p2p.repo.repo import Repo

FOLDER = "encrypted"
_MAX = 4096


def encrypted_in(directory: Path) -> frozenset[str]:
    """The roots of a data directory that are cipher text, as CIDv1 text."""
    try:
        return frozenset(name for name in os.listdir(directory / FOLDER) if "." not in name)
    except (FileNotFoundError, NotADirectoryError, PermissionError):
        return frozenset()


class EncryptedRoots:
    """The records of one data directory."""

    def __init__(self, repo: Repo) -> None:
        self._folder = repo.directory / FOLDER
        self._read_only = repo.read_only

    def note(self, cid: CID) -> None:
        """A root is cipher text."""
        path = self._path(cid)
        if not self._read_only and not path.exists():
            self._write(path, b"age\n")

    def has(self, cid: CID) -> bool:
        """Whether a root is known to be cipher text."""
        return self._path(cid).exists()

    def all(self) -> frozenset[str]:
        """The roots that are, as CIDv1 text."""
        return encrypted_in(self._folder.parent)

    def sealed(self, cid: CID, keys: Sequence[str]) -> CID | None:
        """The sealed copy of a root that was made for these recipients."""
        from kachery_p2p.dag.cid import CID
        from kachery_p2p.errors import InvalidCID, UnsupportedCID

        try:
            text = read_own_file(self._sealed_path(cid, keys), _MAX).decode("ascii").strip()
            return CID.parse(text)
        except (OSError, UnicodeDecodeError, InvalidCID, UnsupportedCID):
            return None

    def sealed_copies(self, cid: CID) -> list[CID]:
        """All sealed copies of a root, for whomever they were made."""
        from kachery_p2p.dag.cid import CID
        from kachery_p2p.errors import InvalidCID, UnsupportedCID

        found = []
        for path in sorted(self._folder.glob(f"{cid.to_v1()}.*")):
            with suppress(OSError, ValueError, InvalidCID, UnsupportedCID):
                found.append(CID.parse(read_own_file(path, _MAX).decode("ascii").strip()))
        return found

    def note_sealed(self, cid: CID, keys: Sequence[str], copy: CID) -> None:
        """A sealed copy was made."""
        self._write(self._sealed_path(cid, keys), f"{copy}\n".encode("ascii"))

    def link(self, cid: CID) -> tuple[CID, str] | None:
        """The copy of a root that was made for a link, and its key."""
        from kachery_p2p.dag.cid import CID
        from kachery_p2p.errors import InvalidCID, UnsupportedCID

        try:
            text, key = read_own_file(self._link_path(cid), _MAX).decode("ascii").split()
            return CID.parse(text), key
        except (OSError, ValueError, InvalidCID, UnsupportedCID):
            return None

    def note_link(self, cid: CID, copy: CID, key: str) -> None:
        """A copy of a root was made for a link."""
        self._write(self._link_path(cid), f"{copy}\n{key}\n".encode("ascii"), secret=True)

    def forget(self, cid: CID) -> None:
        """A root is gone. Its sealed copies have URIs of their own."""
        with suppress(OSError):
            self._path(cid).unlink(missing_ok=True)
            for path in self._folder.glob(f"{cid.to_v1()}.*"):
                path.unlink(missing_ok=True)

    def _path(self, cid: CID) -> Path:
        return self._folder / str(cid.to_v1())

    def _sealed_path(self, cid: CID, keys: Sequence[str]) -> Path:
        whom = hashlib.sha256("\n".join(sorted(keys)).encode()).hexdigest()[:32]
        return self._folder / f"{cid.to_v1()}.{whom}"

    def _link_path(self, cid: CID) -> Path:
        return self._folder / f"{cid.to_v1()}.link"

    def _write(self, path: Path, data: bytes, *, secret: bool = False) -> None:
        temporary = path.with_name(f"{path.name}.{os.urandom(4).hex()}~")
        with explained("noting what is encrypted in", self._folder):
            with suppress(FileExistsError):
                private.make_folder(self._folder)
            try:
                with os.fdopen(private.make_file(temporary), "wb") as file:
                    if secret:
                        private.make_private(temporary)
                    file.write(data)
                os.replace(temporary, path)
            finally:
                temporary.unlink(missing_ok=True)
