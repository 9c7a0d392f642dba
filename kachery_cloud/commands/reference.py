"""The commands as pages of a reference, from the same texts as `--help`: for `man` and for the documentation."""

from __future__ import annotations

import inspect
import re
from collections.abc import Iterator
from dataclasses import dataclass

import click

from kachery_cloud.commands.main import PROGRAMS, cli

#: Of these paragraphs of a help text all pages have something of their own.
_ELSEWHERE = "Exit codes:"


@dataclass(frozen=True)
class Page:
    """One command.

    Attributes:
        path: as it is typed, `kachery-cloud pins add`.
        program: the name of a program that is the same, `kachery-cloud-store`; empty where there is none.
        summary: what it does, in a sentence without its full stop.
        usage: what follows its name.
        text: its paragraphs.
        examples: lines, with those above each part that say what it is about.
        options: each with its text; the arguments are in the usage.
        commands: those of a group, by name, with their summaries.
    """

    path: str
    program: str
    summary: str
    usage: str
    text: tuple[str, ...]
    examples: tuple[str, ...]
    options: tuple[tuple[str, str], ...]
    commands: tuple[tuple[str, str], ...]

    @property
    def name(self) -> str:
        """Of its manual page: `kachery-cloud-pins-add`."""
        return self.path.replace(" ", "-")


def pages() -> Iterator[Page]:
    """All commands, each group before what is in it."""
    return _pages(cli, _context(cli, "kachery-cloud"))


def _context(command: click.Command, name: str, parent: click.Context | None = None) -> click.Context:
    return click.Context(command, info_name=name, parent=parent, **command.context_settings)


def _pages(command: click.Command, context: click.Context) -> Iterator[Page]:
    inner: list[tuple[click.Command, click.Context]] = []
    if isinstance(command, click.Group):
        for name in command.list_commands(context):
            found = command.get_command(context, name)
            # Not shown by the help of the whole, but a program by itself.
            if found is not None and (not found.hidden or f"{context.command_path}-{name}" in PROGRAMS):
                inner.append((found, _context(found, name, context)))
    yield _page(command, context, inner)
    for found, below in inner:
        yield from _pages(found, below)


def _page(command: click.Command, context: click.Context, inner: list[tuple[click.Command, click.Context]]) -> Page:
    path = context.command_path
    name = path.replace(" ", "-")
    text, examples = _parts(command)
    options = [param for param in command.get_params(context) if isinstance(param, click.Option)]
    records = [option.get_help_record(context) for option in options]
    return Page(
        path=path,
        program=name if name in PROGRAMS and name != path else "",
        summary=_summary(command),
        usage=" ".join(command.collect_usage_pieces(context)),
        text=tuple(text),
        examples=tuple(examples),
        options=tuple(record for record in records if record is not None),
        commands=tuple((str(below.info_name), _summary(found)) for found, below in inner),
    )


def _parts(command: click.Command) -> tuple[list[str], list[str]]:
    """The paragraphs of a help text, and the lines of its examples, which click leaves as they are."""
    text: list[str] = []
    examples: list[str] = []
    for paragraph in re.split(r"\n\s*\n", inspect.cleandoc(command.help or "")):
        if not paragraph.startswith("\b\n"):
            text.append(" ".join(paragraph.split()))
            continue
        lines = paragraph.splitlines()[1:]
        if lines[0] != _ELSEWHERE:
            examples += lines[1:] if lines[0] in ("Example:", "Examples:") else lines
    return text, [line.rstrip() for line in examples]


def _summary(command: click.Command) -> str:
    """The first sentence of a help text. A full stop within a word ends none."""
    first = " ".join(inspect.cleandoc(command.help or "").partition("\n\n")[0].split())
    return re.split(r"(?<=[^\s.])\. |:(?= )", f"{first} ")[0].strip().removesuffix(".")
