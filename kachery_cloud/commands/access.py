"""The commands about who may load what from here: `visibility`, `access` and `audit`."""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING

import click

from kachery_cloud.commands.support import command, json_option, print_result
from kachery_cloud.inventory_tables import Column, size_text, text_table, time_text
from kachery_p2p.text import printable

if TYPE_CHECKING:
    from kachery_cloud.auditing import Access, Audit, Given, LoadedBy

_OWN_MACHINES = "Your own machines (KACHERY_CLOUD_OWN_PEERS), each of which must name this one, too:"
#: Lines of one kind that are shown; `--json` has all.
_MOST_MEMBERS = 20
_MOST_LOADS = 50


@command("visibility", "Interrupted. Whether it was changed says: kachery-cloud visibility URI")
@click.argument("uri")
@click.option(
    "--to",
    "to",
    multiple=True,
    metavar="NAME",
    help="Only members of this group may load it from now on; or private: only your own machines; or public: "
    "everybody. May be given several times.",
)
@json_option
def visibility(uri: str, to: tuple[str, ...], as_json: bool) -> None:
    """Say who may load a file or folder from here; with --to, change that.

    It prints the URI to give away, which names the groups that it is for. A change holds from now on, also for a node
    that runs. What others have loaded before stays theirs.

    \b
    Examples:
        kachery-cloud visibility ipfs://bafy...
        kachery-cloud visibility $(kachery-cloud-store session.nwb) --to private
    """  # noqa: D301
    from kachery_cloud.audiences import sentence, words_here
    from kachery_cloud.settings.config import load_config
    from kachery_cloud.uri import parse_listed
    from kachery_cloud.visibility import change, shown_now

    config = load_config()
    parsed = parse_listed(uri)
    if not to:
        now = shown_now(config, parsed)
        print_result(as_json, now.uri, uri=now.uri, visibility=list(words_here(config, now.audience)))
        if not as_json:
            click.echo(sentence(config, now.audience), err=True)
            if now.wider:
                click.echo(now.wider, err=True)
        return
    done = change(config, parsed, to)
    before, after = (list(words_here(config, each)) for each in (done.before, done.after))
    print_result(as_json, done.uri, uri=done.uri, visibility=after, before=before, served=done.told)
    if not as_json:
        click.echo(sentence(config, done.after), err=True)
        for warning in done.warnings:
            click.echo(warning, err=True)


@command("access")
@click.argument("uri")
@json_option
def access(uri: str, as_json: bool) -> None:
    """Say who may load a file or folder from here, and why; and who did.

    Groups come with their members. Where parts of it are in something that is for more people, that is named: what is
    in two of them is for all for whom either is. Who loaded what is written down of what is not for everybody.

    \b
    Example:
        kachery-cloud access ipfs://bafy...
    """  # noqa: D301
    from kachery_cloud.auditing import access as find
    from kachery_p2p.json_shapes import to_json

    found = find(uri)
    if as_json:
        click.echo(json.dumps(to_json(found)))
        return
    for line in _access_lines(found):
        click.echo(printable(line))


@command("audit")
@click.option(
    "--since", type=float, default=30.0, show_default=True, metavar="DAYS", help="Who loaded something in these days."
)
@json_option
def audit(since: float, as_json: bool) -> None:
    """List what this machine gives to whom: what is public, what is for which group, and who loaded of it.

    \b
    Examples:
        kachery-cloud audit
        kachery-cloud audit --since 7 --json
    """  # noqa: D301
    from kachery_cloud.auditing import audit as find
    from kachery_p2p.json_shapes import to_json

    found = find(since=since)
    if as_json:
        click.echo(json.dumps(to_json(found)))
        return
    for line in _audit_lines(found):
        click.echo(printable(line))


# --- words -----------------------------------------------------------------------------------------------------------


def _access_lines(found: Access) -> Iterator[str]:
    """What `access` found, in words."""
    yield found.sentence
    for reason in found.reasons:
        if reason.to == "public":
            continue
        if reason.to == "private" and reason.group is None:
            yield _OWN_MACHINES if reason.members else "Your own machines: this one."
        elif reason.members:
            yield f"Members of {reason.to} ({reason.group}):"
        else:
            yield f"Members of the group {reason.group}, which this machine is not in any more: it gives them nothing."
        for member in reason.members[:_MOST_MEMBERS]:
            name = f" ({member.name})" if member.name else ""
            yield f"  {member.peer}{name}{'' if member.role == 'own' else f', {member.role}'}"
        if len(reason.members) > _MOST_MEMBERS:
            yield f"  ... and {len(reason.members) - _MOST_MEMBERS:,} more (--json)"
    for each in found.wider:
        yield f"For {', '.join(each.visibility)} as well is what it has in common with {each.label or each.uri}."
    if found.visibility != ("public",):
        yield "Loaded by:" if found.loads else "Nobody has loaded any of it from here yet."
    yield from _load_lines(found.loads, named=False)


def _audit_lines(found: Audit) -> Iterator[str]:
    """What `audit` found, as two tables."""
    yield from text_table(found.given, _GIVEN)
    if any(row.role is None and row.group is not None for row in found.given):
        yield "Where no role is, this machine is not in the group any more, and gives its members nothing."
    if not any(row.to != "public" for row in found.given):
        yield "All that is here is for everybody. Who loads of that is not written down."
        return
    yield ""
    days = f"the last {found.days:g} days" if found.days != 1 else "the last day"
    yield f"Loaded in {days} of what is not public:" if found.loads else f"Nobody loaded any of it in {days}."
    yield from _load_lines(found.loads, named=True)


def _load_lines(loads: Sequence[LoadedBy], *, named: bool) -> Iterator[str]:
    for each in loads[:_MOST_LOADS]:
        who = f"{each.name} ({each.peer})" if each.name else each.peer
        what = f" of {each.label or each.uri or 'something that is not here any more, or several things'}"
        yield f"  {time_text(each.last)}  {size_text(each.bytes)}{what if named else ''} by {who}"
    if len(loads) > _MOST_LOADS:
        yield f"  ... and {len(loads) - _MOST_LOADS:,} more (--json)"


_GIVEN: tuple[Column[Given], ...] = (
    Column("to", lambda row: row.to),
    Column("group", lambda row: row.group or ""),
    Column("role", lambda row: row.role or ""),
    Column("members", lambda row: "" if row.members is None else f"{row.members:,}", right=True),
    Column("files and folders", lambda row: f"{row.roots:,}", right=True),
    Column("size", lambda row: size_text(row.bytes), right=True),
)
