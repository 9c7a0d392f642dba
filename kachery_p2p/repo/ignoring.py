"""What is left out of a folder that is stored: patterns of the caller, and files `.kacheryignore` in the folder.

Both have the grammar of `.gitignore` (https://git-scm.com/docs/gitignore), and so has their order: the caller's
patterns come first, then those of the file that is nearest. What lies in a folder that is left out cannot be taken in
again. Other than with git, the file `.kacheryignore` is stored like any other.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from kachery_p2p.errors import InvalidName
from kachery_p2p.oserrors import explained
from kachery_p2p.ownfiles import read_own_file
from kachery_p2p.repo.limits import IGNORE_BYTES

if TYPE_CHECKING:
    from pathspec import GitIgnoreSpec

IGNORE_NAME = ".kacheryignore"


class Ignoring:
    """What is left out in and below one folder. Without any patterns it costs nothing.

    Args:
        exclude: patterns of the caller.

    Raises:
        InvalidName: one of them is no pattern.
    """

    def __init__(self, exclude: Sequence[str] = ()) -> None:
        #: Each with the length of the path, relative to the top and with a slash at its end, that it is relative to.
        #: What comes first decides.
        self._specs: list[tuple[int, GitIgnoreSpec]] = []
        self._first = 0
        if exclude:
            self._specs.append((0, _spec(exclude, "exclude")))
            self._first = 1

    def below(self, folder: Path | str, relative: str) -> Ignoring:
        """The same for a folder that has a `.kacheryignore`.

        Args:
            folder: its path.
            relative: the same, relative to the top and with a slash at its end; empty for the top itself.

        Raises:
            InvalidName: what stands in it is no pattern, or not UTF-8.
            NotAFile: it is too large.
        """
        path = Path(folder, IGNORE_NAME)
        with explained("reading", path):
            content = read_own_file(path, IGNORE_BYTES)
        try:
            lines = content.decode("utf-8-sig").splitlines()
        except UnicodeDecodeError:
            raise InvalidName(f"{path} is not UTF-8, so nothing tells what is to be left out. Write it anew.") from None
        inner = Ignoring()
        inner._specs = list(self._specs)
        inner._first = self._first
        inner._specs.insert(self._first, (len(relative), _spec(lines, str(path))))
        return inner

    def leaves_out(self, relative: str, *, is_folder: bool) -> bool:
        """Whether something is left out.

        Args:
            relative: its path, relative to the top.
            is_folder: whether it is a folder, and no link to one.
        """
        if not self._specs:
            return False
        path = f"{relative}/" if is_folder else relative
        for start, spec in self._specs:
            found = spec.check_file(path[start:]).include
            if found is not None:
                return found
        return False


def _spec(lines: Sequence[str], where: str) -> GitIgnoreSpec:
    # Here, because most folders have no patterns.
    from pathspec import GitIgnoreSpec

    for number, line in enumerate(lines, 1):
        try:
            GitIgnoreSpec.from_lines([line])
        except ValueError:
            at = f"The pattern {line!a}" if where == "exclude" else f"Line {number} of {where}, {line!a},"
            raise InvalidName(
                f"{at} is no pattern. They are written as in .gitignore: *.tmp, /build/, !keep.tmp"
            ) from None
    return GitIgnoreSpec.from_lines(lines)
