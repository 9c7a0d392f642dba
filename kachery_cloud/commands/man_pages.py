"""The manual pages, in roff with the macros of man(7); setup.py writes them when the package is built.

As a program it writes them into a folder: `python -m kachery_cloud.commands.man_pages FOLDER`.
"""

from __future__ import annotations

import os
import sys
import textwrap
import time
from collections.abc import Iterable, Iterator
from pathlib import Path

from kachery_cloud.commands.exit_codes import EXIT_CODES
from kachery_cloud.commands.reference import Page, pages
from kachery_p2p import __version__

#: What roff would take for something else, and what stands for it.
_ESCAPES = {"\\": "\\e", "-": "\\-", "'": "\\(aq", "`": "\\(ga", "^": "\\(ha", "~": "\\(ti", '"': "\\(dq"}
#: Characters of a line of text.
_WIDTH = 80
_SETTINGS = (
    "KACHERY_CLOUD_DIR names the data directory; it is ~/.kachery-cloud by default. `kachery-cloud settings` lists "
    "this and all other variables, with their values."
)


def write_pages(folder: Path) -> list[Path]:
    """Write all pages into a folder, which is made.

    Returns:
        Their paths.
    """
    folder.mkdir(parents=True, exist_ok=True)
    # Whoever builds packages that are to be the same each time says what the time is (reproducible-builds.org).
    built = time.gmtime(int(os.environ.get("SOURCE_DATE_EPOCH") or time.time()))
    written: list[Path] = []
    for page in pages():
        path = folder / f"{page.name}.1"
        path.write_text(man_page(page, time.strftime("%Y-%m-%d", built)), encoding="ascii")
        written.append(path)
    return written


def man_page(page: Page, date: str) -> str:
    """A page as roff; all of it is ASCII."""
    return "\n".join(_lines(page, date)) + "\n"


def _lines(page: Page, date: str) -> Iterator[str]:
    yield f'.TH {_roff(page.name.upper())} 1 "{date}" "kachery\\-cloud {_roff(__version__)}" "kachery\\-cloud"'
    yield ".SH NAME"
    yield f"{_roff(page.name)} \\- {_roff(page.summary[:1].lower() + page.summary[1:])}"
    yield ".SH SYNOPSIS"
    yield f".B {_roff(page.path)}"
    yield _roff(page.usage)
    if page.program:
        yield ".br"
        yield f".B {_roff(page.program)}"
        yield _roff(page.usage)
    yield ".SH DESCRIPTION"
    for number, paragraph in enumerate(page.text):
        if number:
            yield ".PP"
        yield from _paragraph(paragraph)
    yield ".SH OPTIONS"
    yield from _list(page.options)
    if page.commands:
        yield ".SH COMMANDS"
        yield from _list(page.commands)
    yield ".SH EXIT STATUS"
    yield from _list((str(code), f"{meaning[:1].upper()}{meaning[1:]}.") for code, meaning in EXIT_CODES.items())
    yield ".SH ENVIRONMENT"
    yield from _paragraph(_SETTINGS)
    if page.examples:
        yield ".SH EXAMPLES"
        yield ".EX"
        yield from (_begun(_roff(line)) for line in page.examples)
        yield ".EE"
    yield ".SH SEE ALSO"
    *others, last = _related(page)
    yield from (f".BR {_roff(name)} (1)," for name in others)
    yield f".BR {_roff(last)} (1)"


def _related(page: Page) -> list[str]:
    above = page.path.rpartition(" ")[0].replace(" ", "-")
    return ([above] if above else []) + [f"{page.name}-{name}" for name, _ in page.commands]


def _list(entries: Iterable[tuple[str, str]]) -> Iterator[str]:
    for name, text in entries:
        yield ".TP"
        yield f".B {_roff(name)}"
        yield from _paragraph(text)


def _paragraph(text: str) -> Iterator[str]:
    """Text in lines of a length that people can read, too."""
    for line in textwrap.wrap(_roff(text), _WIDTH, break_long_words=False, break_on_hyphens=False):
        yield _begun(line)


def _begun(line: str) -> str:
    """A line that is text, also where it begins with what roff would take for a request, or for a new paragraph."""
    return f"\\&{line}" if line[:1] in (".", "'", " ") else line


def _roff(text: str) -> str:
    return "".join(_ESCAPES.get(each) or (each if each.isascii() else f"\\[u{ord(each):04X}]") for each in text)


if __name__ == "__main__":
    for each in write_pages(Path(sys.argv[1])):
        print(each)
