"""The commands that give something away, and get it: `share` and `get`."""

from __future__ import annotations

import os
import sys
import time
from typing import TYPE_CHECKING, Any

import click

from kachery_cloud.commands.loading import LOAD_INTERRUPTED, loading_options, say_nameless
from kachery_cloud.commands.support import (
    command,
    json_option,
    print_path,
    print_result,
    privacy_said_once,
    verbose_option,
)

if TYPE_CHECKING:
    from kachery_cloud.sharing import Share


@command("share")
@click.argument("uri")
@click.option(
    "--label",
    metavar="NAME",
    help="Its name for people, and of the copy. [default: that of the URI, else the one in the list]",
)
@click.option(
    "--cite",
    is_flag=True,
    help="Print a line to cite it by, too: title, day of storing, size, and the URI that stays.",
)
@click.option("--qr", is_flag=True, help="Show the string as a QR code, too, on standard error.")
@click.option("--encrypt", is_flag=True, help="Share an encrypted copy; its key is in the string, after #.")
@click.option("--with-key", is_flag=True, help="The same for what was stored encrypted.")
@json_option
def share(uri: str, label: str | None, cite: bool, qr: bool, encrypt: bool, with_key: bool, as_json: bool) -> None:
    """Print one string that gives something away: its URI, and where to ask for it.

    Whoever gets the string types: kachery-cloud get STRING. It needs no quotes in a shell. The addresses in it are
    those that the node of this machine has now; a warning says where nobody could dial any of them.

    With --encrypt, whoever has the string can decrypt what others only see as cipher text: send it as you would send a
    password. The part after # is used by the other one's program, and sent to nobody.

    \b
    Examples:
        kachery-cloud share ipfs://bafy...
        kachery-cloud share ipfs://bafy... --label session.nwb --cite
        kachery-cloud share ipfs://bafy... --qr
    """  # noqa: D301
    from kachery_cloud.settings.config import load_config
    from kachery_cloud.sharing import make_share, running_node, wants_key
    from kachery_cloud.uri import check_label

    check_label(label)
    config = load_config()
    keyed = wants_key(uri, encrypt, with_key)
    found = make_share(config, uri, label=label, running=lambda: running_node(config), keyed=keyed)
    print_result(as_json, found.string, **share_values(found))
    if cite and not as_json:
        click.echo(found.citation)
    if qr:
        from kachery_cloud.qr import print_qr

        sys.stdout.flush()
        print_qr(found.string, sys.stderr)
    if not as_json:
        say_how_to_get(found)


@command("get", LOAD_INTERRUPTED)
@click.argument("string")
@click.option("--dest", type=click.Path(), metavar="PATH", help="The folder to put it into, or the name of the copy.")
@loading_options
@verbose_option
@json_option
def get(
    string: str,
    dest: str | None,
    peers: tuple[str, ...],
    local_only: bool,
    timeout: float | None,
    verbose: bool,
    as_json: bool,
) -> None:
    """Load what somebody shared into the current folder, under its name, and print its path.

    STRING is what `kachery-cloud share` printed, or any other URI. A folder comes as a folder. Nothing that is there is
    ever replaced. Nothing has to be set up before.

    \b
    Examples:
        kachery-cloud get ipfs://bafy...
        kachery-cloud get ipfs://bafy.../notes/readme.txt --dest readme.txt
    """  # noqa: D301
    from kachery_cloud.sharing import get as load
    from kachery_cloud.uri import without_key

    begun = time.monotonic()
    with privacy_said_once(as_json):
        path = load(string, dest, local_only=local_only, verbose=verbose, providers=peers, timeout=timeout)
    if not as_json:
        print_path(path)
        say_nameless(path, dest or os.curdir)
        return
    size = os.path.getsize(path) if os.path.isfile(path) else None
    print_result(True, "", path=path, uri=without_key(string), size=size, seconds=round(time.monotonic() - begun, 3))


def share_values(found: Share) -> dict[str, Any]:
    """A share as JSON."""
    return {
        "string": found.string,
        "uri": found.uri.source,
        "title": found.title,
        "size": found.size,
        "citation": found.citation,
        "addresses": list(found.reachable.addresses),
        "range": found.reachable.range,
        "from_outside": found.reachable.from_outside,
    }


def say_how_to_get(found: Share) -> None:
    """For whom it is, what the other one has to type, and whether that will do now."""
    if found.said:
        click.echo(found.said, err=True)
    if not found.reachable.from_outside:
        click.echo(f"Warning: {found.reachable.sentence}", err=True)
    else:
        click.echo(found.reachable.sentence, err=True)
    click.echo("Whoever is to have it types, with that line for STRING: kachery-cloud get STRING", err=True)
