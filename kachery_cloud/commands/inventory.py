"""The commands that say what is here: `list` and `du`."""

from __future__ import annotations

import json

import click

from kachery_cloud.commands.support import command, json_option
from kachery_cloud.inventory_tables import SORTS


@command("list")
@click.option("--find", metavar="TEXT", help="Only what has this text in its label, URI or path.")
@click.option(
    "--sort", type=click.Choice(SORTS), default="added", show_default=True, help="The newest or largest comes first."
)
@click.option("--reverse", is_flag=True, help="The other way round.")
@click.option("--own", is_flag=True, help="Only what is in your own data directory, not in shared ones.")
@click.option(
    "--to", "to", multiple=True, metavar="NAME", help="Only what is for this group. May be given several times."
)
@click.option("--private", is_flag=True, help="Only what is for your own machines.")
@click.option("--public", is_flag=True, help="Only what is for everybody.")
@json_option
def list(
    find: str | None,
    sort: str,
    reverse: bool,
    own: bool,
    to: tuple[str, ...],
    private: bool,
    public: bool,
    as_json: bool,
) -> None:
    """List what was stored, linked and loaded on this machine, and what is being loaded.

    Files inside folders are not listed by themselves; kachery-cloud ls URI shows them. Where something is not for
    everybody, a column says for whom each is. Uses no network.

    \b
    Examples:
        kachery-cloud list
        kachery-cloud list --find session --sort size
        kachery-cloud list --json | jq -r '.items[].uri'
    """  # noqa: D301
    from kachery_cloud.inventory import list as find_items

    whom = (*to, *(["private"] if private else []), *(["public"] if public else []))
    items = find_items(find=find, sort=sort, reverse=reverse, own=own, to=whom or None)
    if as_json:
        click.echo(json.dumps({"items": [item.as_json() for item in items]}))
        return
    for line in items.lines():
        click.echo(line)
    if not items:
        nothing = "Nothing here is for those." if whom else "Nothing was stored, linked or loaded here yet."
        click.echo("Nothing here has that in its name." if find else nothing)
    missing = [item for item in items if item.problem == "missing" and item.kind != "linked" and not item.shared]
    if missing:
        click.echo(
            f"{len(missing)} of these are not there any more: somebody deleted files in the data directory by hand. "
            "Load them again, or take them off the list: kachery-cloud repair URI, kachery-cloud rm URI.",
            err=True,
        )


@command("du")
@json_option
def du(as_json: bool) -> None:
    """Say what takes the room of the disk, by why it is there.

    \b
    Example:
        kachery-cloud du
    """  # noqa: D301
    from kachery_cloud.inventory import du as usage
    from kachery_cloud.inventory_tables import size_text
    from kachery_p2p.json_shapes import to_json

    rows = usage()
    if as_json:
        click.echo(json.dumps({"total": rows.total, "rows": [to_json(row) for row in rows]}))
        return
    for line in type(rows)(row for row in rows if row.files or row.bytes).lines():
        click.echo(line)
    linked = any(row.files for row in rows if not row.here)
    more = " Linked files lie elsewhere and take no room in it." if linked else ""
    click.echo(f"{size_text(rows.total)} in the data directory.{more}")
