"""What a shell offers when somebody presses TAB: subcommands, options, values, files, and what is on this machine.

A script of `kachery-cloud completion` runs the command that is being typed, with `ASKED` in its environment and the
words so far as its arguments; the last one is not finished. The answer is a line for each offer: its kind (`plain`, or
`file` and `dir`, of which the shell itself knows what there is), the word, and a few words about it, with tabs between.

No node is started, and nothing is written. Where something cannot be read there are no offers, and no complaint.
"""

from __future__ import annotations

import os
import re
import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import suppress
from itertools import islice
from typing import TYPE_CHECKING, Any

import click

from kachery_cloud.errors import KacheryError
from kachery_p2p.text import printable

if TYPE_CHECKING:
    from click.shell_completion import CompletionItem

#: The variable by which the scripts ask; its value is the name of the shell.
ASKED = "_KACHERY_CLOUD_WORDS"
#: Where bash ends a word; the script passes its COMP_WORDBREAKS on.
_BREAKS = "_KACHERY_CLOUD_BREAKS"
#: Offers at most: more than fit on a screen are no help.
MOST_OFFERS = 100
#: A word that is offered, and a few words about it.
Offer = tuple[str, str]
#: What needs no quotes in any of the shells. Nothing else is offered: labels are from strangers.
_SAFE = re.compile(r"[\w%+,./:=@-]+", re.ASCII)


class Offered(click.types.StringParamType):
    """Text, as which something is offered."""

    def __init__(self, offers: Callable[[str], Iterator[Offer]], *, folders: bool = False) -> None:
        self._offers = offers
        self._folders = folders

    def shell_complete(self, ctx: click.Context, param: click.Parameter, incomplete: str) -> list[CompletionItem[Any]]:
        """What is offered for a word that is not finished."""
        from click.shell_completion import CompletionItem

        found: list[CompletionItem[Any]] = [CompletionItem(incomplete, type="dir")] if self._folders else []
        # Where it cannot be read, the command itself will say what is wrong.
        with suppress(KacheryError, OSError):
            for value, text in islice(self._offers(incomplete), MOST_OFFERS):
                found.append(CompletionItem(value, help=text))
        return found


# --- what is offered --------------------------------------------------------------------------------------------------


def _contents(incomplete: str) -> Iterator[Offer]:
    """What is on this machine: by its URI, its CID, or the beginning of its label."""
    from kachery_cloud.settings.config import load_config
    from kachery_cloud.uri import ContentURI
    from kachery_p2p.repo.offering import kept_names

    as_uri = "ipfs://".startswith(incomplete[:7])
    typed = incomplete.casefold()
    for cid, label, audience in kept_names(load_config().directory):
        uri = ContentURI(str(cid), label=label, groups=tuple(sorted(audience.groups)))
        if as_uri:
            forms = (uri.pasteable, uri.locator)
        elif label and label.casefold().startswith(typed):
            yield uri.pasteable, label
            continue
        else:
            forms = (uri.cid,)
        for form in forms:
            if form.startswith(incomplete):
                yield form, label or ""
                break


def _profiles(incomplete: str) -> Iterator[Offer]:
    from kachery_p2p.dag.profiles import NAMES

    return ((name, "") for name in NAMES if name.startswith(incomplete))


def _services(incomplete: str) -> Iterator[Offer]:
    """The pinning services that the settings name."""
    from kachery_cloud.settings.config import load_config

    return ((each.name, each.url) for each in load_config().pin_services if each.name.startswith(incomplete))


def _whom(incomplete: str) -> Iterator[Offer]:
    """The groups that this machine is in, and the two words."""
    from kachery_cloud.audiences import groups_here, words_of
    from kachery_cloud.settings.config import load_config
    from kachery_p2p.access.audience import group_audience

    here = groups_here(load_config())
    for group in here:
        (word,) = words_of(group_audience([group.id]), here)
        if word.startswith(incomplete):
            yield word, f"{group.role}, {len(group.members):,} members"
    for word, text in (("private", "your own machines"), ("public", "everybody")):
        if word.startswith(incomplete):
            yield word, text


def _settings(incomplete: str) -> Iterator[Offer]:
    from kachery_cloud.settings.config import SETTINGS

    for setting in SETTINGS.values():
        for name in (setting.variable, setting.key):
            if name and name.startswith(incomplete):
                yield name, setting.meaning.replace("`", "")
                break


def _groups(incomplete: str) -> Iterator[Offer]:
    """The groups that this machine is in, by name and by ID."""
    from kachery_cloud.grouping import groups

    for each in groups():
        for word in (each.name, each.id):
            if word.startswith(incomplete):
                yield word, f"{each.role}, {each.members:,} members"
                break


def _projects(incomplete: str) -> Iterator[Offer]:
    """The projects that were seen last, of all labs."""
    from kachery_cloud.lab_client import known_projects
    from kachery_cloud.settings.config import load_config

    for each in known_projects(load_config()):
        if each.name.startswith(incomplete):
            yield each.name, "for its members alone" if each.visibility == "members" else "for everybody"


#: Parameters of all commands that are plain text for click, and what is offered for them, by what they are called.
OFFERS = {
    "uri": Offered(_contents),
    "uris": Offered(_contents),
    "string": Offered(_contents),
    "first": Offered(_contents),
    "second": Offered(_contents, folders=True),
    "profile": Offered(_profiles),
    "services": Offered(_services),
    "to": Offered(_whom),
    "names": Offered(_settings),
    "group_name": Offered(_groups),
    "project": Offered(_projects),
    "project_name": Offered(_projects),
}


def offer(made: click.Command) -> None:
    """Let the parameters of a command offer what `OFFERS` says."""
    for param in made.params:
        if param.type is click.STRING and param.name in OFFERS:
            param.type = OFFERS[param.name]


# --- questions of a shell ---------------------------------------------------------------------------------------------


def answer(command: click.Command, shell: str, given: Sequence[str]) -> None:
    """Print what is offered for the last of the words."""
    words, quoted = (list(given), False) if shell != "bash" else split_line("".join(given))
    incomplete = words.pop() if words else ""
    cut = 0
    if shell == "bash" and not quoted:
        # For bash a word begins behind the last of these, at `@` and `$` with them; only that part is replaced.
        cut = max(max(0, incomplete.rfind(mark) + (mark not in "@$")) for mark in os.environ.get(_BREAKS, "") + " ")
    out = sys.stdout.buffer
    for kind, value, text in offers(command, words, incomplete):
        if kind != "plain" or value[:cut] == incomplete[:cut]:
            out.write(f"{kind}\t{value[cut:] if kind == 'plain' else value}\t{text}\n".encode("utf-8", "replace"))
    out.flush()


def offers(command: click.Command, words: list[str], incomplete: str) -> Iterator[tuple[str, str, str]]:
    """What is offered behind some words: of what kind, the word, and what is said about it."""
    from click.shell_completion import ShellComplete

    option, equals, _ = incomplete.partition("=")
    # click answers for the part behind `--option=`.
    before = option + equals if equals and option.startswith("--") else ""
    for item in ShellComplete(command, {}, command.name or "", ASKED).get_completions(words, incomplete):
        kind, value = item.type, f"{before}{item.value}"
        if kind != "plain" or _SAFE.fullmatch(value):
            yield kind, value if kind == "plain" else "", printable(item.help or "").replace("\t", " ")


def split_line(line: str) -> tuple[list[str], bool]:
    """The words behind the command in a line of bash, the last one perhaps empty; and whether that is in quotes."""
    import shlex

    reader = shlex.shlex(line, posix=True, punctuation_chars=False)
    reader.whitespace_split = True
    reader.commenters = ""
    words: list[str] = []
    open_quote = False
    try:
        words += reader
    except ValueError:  # a quote, or a backslash at the end, that is not finished
        open_quote = True
        words.append(reader.token or "")
    if not open_quote and line[-1:].isspace():
        words.append("")
    while words and re.match(r"\w+=", words[0], re.ASCII):
        del words[0]  # VARIABLE=value command
    return words[1:], open_quote
