"""What is left out of a folder that is stored: patterns of the caller, and files `.kacheryignore` in the folder.

Both have the grammar of `.gitignore` (https://git-scm.com/docs/gitignore), and so has their order: the caller's
patterns come first, then those of the file that is nearest. What lies in a folder that is left out cannot be taken in
again. Other than with git, the file `.kacheryignore` is stored like any other.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

from kachery_p2p.errors import InvalidName
from kachery_p2p.oserrors import explained
from kachery_p2p.ownfiles import read_own_file
from kachery_p2p.repo.limits import IGNORE_BYTES

if TYPE_CHECKING:
    from pathspec.pattern import Pattern

IGNORE_NAME = ".kacheryignore"


class _Rule(NamedTuple):
    """A pattern: how many names at the end of a path it looks at (0: all), and how many the path must have (0: any).

    The library takes what lies in a folder for matched where the folder is. Here each folder is asked about by itself,
    so that has to be told apart.
    """

    pattern: Pattern
    last: int
    names: int
    #: Of a pattern that ends in `/**`, which is about what lies in a folder and not about the folder.
    inside: re.Pattern[str] | None = None
    only_folders: bool = False

    def matches(self, path: str) -> bool:
        """Whether it is about that path, with a slash at its end if it is a folder's."""
        if self.inside is not None:
            return (path.endswith("/") or not self.only_folders) and self.inside.search(path) is not None
        names = path.rstrip("/").split("/")
        if self.names and self.names != len(names):
            return False
        if 0 < self.last < len(names):
            path = path[sum(len(name) + 1 for name in names[: -self.last]) :]
        elif self.last > len(names):
            return False
        return self.pattern.match_file(path) is not None


class Ignoring:
    """What is left out in and below one folder. Without any patterns it costs nothing.

    Args:
        exclude: patterns of the caller.

    Raises:
        InvalidName: one of them is no pattern.
    """

    def __init__(self, exclude: Sequence[str] = ()) -> None:
        #: Each with the length of the path, relative to the top and with a slash at its end, that it is relative to.
        #: The first that matches decides.
        self._rules: list[tuple[int, _Rule]] = [(0, rule) for rule in _read_rules(exclude)]
        self._first = len(self._rules)

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
        inner._first = first = self._first
        nearest = [(len(relative), rule) for rule in _read_rules(lines, path)]
        inner._rules = self._rules[:first] + nearest + self._rules[first:]
        return inner

    def leaves_out(self, relative: str, *, is_folder: bool) -> bool:
        """Whether something is left out.

        Args:
            relative: its path, relative to the top.
            is_folder: whether it is a folder, and no link to one.
        """
        path = f"{relative}/" if is_folder else relative
        for start, rule in self._rules:
            if rule.matches(path[start:]):
                return bool(rule.pattern.include)
        return False


def _read_rules(lines: Sequence[str], file: Path | None = None) -> list[_Rule]:
    """The patterns of some lines, the last ones first; `file` is what they stand in, for errors."""
    if not lines:
        return []
    # Here, because most folders have no patterns.
    from pathspec import GitIgnoreSpec

    rules: list[_Rule] = []
    for number, line in enumerate(lines, 1):
        try:
            patterns = GitIgnoreSpec.from_lines([line]).patterns
        except ValueError:
            at = f"The pattern {line!a}" if file is None else f"Line {number} of {file}, {line!a},"
            raise InvalidName(
                f"{at} is no pattern. They are written as in .gitignore: *.tmp, /build/, !keep.tmp"
            ) from None
        body = line.strip().removeprefix("!").rstrip("/")
        anywhere = body.removeprefix("/")
        while anywhere.startswith("**/"):
            anywhere = anywhere[3:]
        count = 0 if "**" in anywhere else anywhere.count("/") + 1
        # Without a slash, or behind `**/`, it may begin in any folder.
        last, names = (count, 0) if "/" not in body or anywhere != body.removeprefix("/") else (0, count)
        inside = body.endswith("/**") and bool(body.strip("*/"))
        rules += [
            _Rule(
                pattern,
                last,
                names,
                re.compile(f"(?:{pattern.regex.pattern}).") if inside and pattern.regex is not None else None,
                line.rstrip().endswith("/"),
            )
            for pattern in patterns
            if pattern.include is not None
        ]
    return rules[::-1]
