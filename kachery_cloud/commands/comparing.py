"""The command that compares: `diff`."""

from __future__ import annotations

import json
from dataclasses import asdict
from typing import Any

import click

from kachery_cloud.commands.support import command, json_option
from kachery_p2p.text import printable

#: As of diff(1).
_DIFFERENT = 1


@command("diff", "Interrupted. Nothing was changed.")
@click.argument("first", metavar="URI")
@click.argument("second", metavar="URI|DIR")
@click.option("--follow", is_flag=True, help="Take what symbolic links in DIR point to.")
@click.option(
    "--exclude", multiple=True, metavar="PATTERN", help="Leave that out of DIR, as in .gitignore. May be repeated."
)
@click.option("--timeout", type=float, metavar="SECONDS", help="Give up when nothing arrives for so long.")
@click.option("--local-only", is_flag=True, help="Use what is on this machine; do not use the network.")
@click.option("--peer", "peers", multiple=True, metavar="MULTIADDR", help="Ask this peer. May be given several times.")
@json_option
def diff(first: str, second: str, peers: tuple[str, ...], as_json: bool, **options: Any) -> None:
    """Say what differs between two directories, or a directory and a folder on the disk.

    Prints a line for each file, link or folder that only the second has (+), that only the first has (-), or that is
    another one (!). No file is loaded: CIDs are compared. The exit code is 0 where nothing differs, 1 where something
    does, and another where that cannot be told.

    \b
    Examples:
        kachery-cloud diff ipfs://bafy... ipfs://bafy...
        kachery-cloud diff ipfs://bafy.../notes experiment/notes
    """  # noqa: D301
    from kachery_cloud.comparing import diff as compare

    found = compare(first, second, providers=peers, **options)
    if as_json:
        click.echo(json.dumps(asdict(found)))
    else:
        lines = [("+", path) for path in found.added] + [("-", path) for path in found.removed]
        for sign, path in sorted([*lines, *(("!", path) for path in found.changed)], key=lambda line: line[1]):
            click.echo(f"{sign} {printable(path)}")
    if found:
        raise click.exceptions.Exit(_DIFFERENT)
