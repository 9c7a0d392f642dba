"""The page of the site with all commands, from the same texts as their `--help` and their manual pages."""

from __future__ import annotations

import html
import re
from collections.abc import Iterable, Iterator

from kachery_cloud.commands.reference import Page, pages

_TOP = """# Commands

What `--help` says of each. [On the command line](shell.md) tells what they have in common: completion, manual pages,
[exit codes](exit-codes.md).
"""


def commands_page() -> str:
    """The page, in Markdown."""
    return "\n".join([_TOP, *(line for page in pages() for line in _section(page))])


def _section(page: Page) -> Iterator[str]:
    yield f"## {page.path}"
    yield ""
    yield from _block([f"{name} {page.usage}" for name in (page.path, page.program) if name])
    for paragraph in page.text:
        yield from (_text(paragraph), "")
    if page.commands:
        yield from _table("command", page.commands)
    yield from _table("option", page.options)
    if page.examples:
        yield from _block(page.examples)


def _block(lines: Iterable[str]) -> Iterator[str]:
    yield from ("```text", *lines, "```", "")


def _table(name: str, rows: Iterable[tuple[str, str]]) -> Iterator[str]:
    yield f"| {name} | |"
    yield "|---|---|"
    for left, right in rows:
        yield f"| `{_cell(left)}` | {_cell(_text(right))} |"
    yield ""


def _cell(text: str) -> str:
    return text.replace("|", "\\|")


def _text(text: str) -> str:
    """Plain text as Markdown; what is in backquotes stays as it is."""
    parts = re.split(r"(`[^`]+`)", text)
    return "".join(part if part.startswith("`") else _plain(part) for part in parts)


def _plain(text: str) -> str:
    return re.sub(r"([\\*_\[\]#])", r"\\\1", html.escape(text, quote=False))
