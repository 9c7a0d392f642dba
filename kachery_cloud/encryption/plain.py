"""Plain copies: what was decrypted for `load_file`, in the data directory under `plain/<CID of the cipher text>/`.

The folder is this user's alone (0700), the copy in it too, and nobody's to write to (0400): it is shared by all that
load it. Its further names are hard links beside it. A copy appears when it is whole and every byte of it was
authenticated; killed processes leave nothing in `plain/`. It costs nothing to lose: it is made again from the cipher
text. So `rm` takes it away with that, and `gc` takes it first.
"""

from __future__ import annotations

import os
import shutil
import stat
from collections.abc import Callable, Iterable, Iterator
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, BinaryIO

from kachery_p2p import private
from kachery_p2p.oserrors import explained

if TYPE_CHECKING:
    from kachery_p2p.dag.cid import CID
    from kachery_p2p.repo.repo import Repo

FOLDER = "plain"
#: The copy in its folder. No name that a URI gives may be the same.
_CONTENT = ".content"


@dataclass(frozen=True)
class PlainCopy:
    """One copy: the CID of its cipher text as text, its folder, bytes, and when it was made (seconds since 1970)."""

    cid: str
    folder: Path
    size: int
    made: float


class PlainCopies:
    """The plain copies of one data directory, as far as they are this user's."""

    def __init__(self, repo: Repo) -> None:
        from kachery_p2p.repo.small import folder_of_user

        shared = not repo.read_only and not private.is_ours(repo.directory)
        self._top = Path(folder_of_user()) if repo.read_only else repo.directory
        self._folder = self._top / (f"{FOLDER}-{os.getuid()}" if shared and os.name == "posix" else FOLDER)

    def find(self, cid: CID) -> Path | None:
        """The copy of a file; None where there is none."""
        path = self._folder / str(cid.to_v1()) / _CONTENT
        return path if path.is_file() else None

    def make(self, cid: CID, write: Callable[[BinaryIO], None]) -> Path:
        """A copy of what `write` writes; it appears when that has returned.

        Raises:
            NoPermission, DiskFull: it cannot be made; and what `write` raises. Then nothing is left.
        """
        from kachery_cloud.parts import part_beside

        target = self._folder / str(cid.to_v1()) / _CONTENT
        with explained("writing the plain copy", target):
            for folder in (self._folder, target.parent):
                with suppress(FileExistsError):
                    os.mkdir(folder, 0o700)
        # Beside the folders of the copies: so what a killed process leaves is found, whatever is loaded next.
        with part_beside(self._folder / "copy") as part, explained("writing the plain copy", target):
            fd = os.open(part, os.O_CREAT | os.O_EXCL | os.O_WRONLY | getattr(os, "O_CLOEXEC", 0), 0o600)
            with os.fdopen(fd, "wb") as file:
                write(file)
            os.chmod(part, stat.S_IRUSR)
            with suppress(FileExistsError):
                os.mkdir(target.parent, 0o700)  # a `gc` may have been faster
            os.replace(part, target)
        return target

    def name(self, path: Path, name: str) -> Path:
        """A path of a copy that ends in a name; the path itself where none can be given."""
        target = path.with_name(name)
        if name == _CONTENT or target == path:
            return path
        try:
            if target.exists() and os.path.samestat(os.stat(target), os.stat(path)):
                return target
            target.unlink(missing_ok=True)
            os.link(path, target)
        except FileExistsError:  # another process was faster
            return target
        except OSError:
            return path
        return target

    def all(self) -> Iterator[PlainCopy]:
        """All of them."""
        with suppress(FileNotFoundError, NotADirectoryError), os.scandir(self._folder) as entries:
            for entry in entries:
                with suppress(OSError):
                    status = os.stat(os.path.join(entry.path, _CONTENT))
                    yield PlainCopy(entry.name, Path(entry.path), status.st_size, status.st_mtime)

    def remove(self, cids: Iterable[CID]) -> int:
        """Take copies away, and their names; the bytes that are free then."""
        wanted = {str(cid.to_v1()) for cid in cids}
        return sum(self.drop(each) for each in self.all() if each.cid in wanted)

    def drop(self, copy: PlainCopy) -> int:
        """Take one away; its bytes."""
        shutil.rmtree(copy.folder, ignore_errors=True)
        return 0 if copy.folder.exists() else copy.size
