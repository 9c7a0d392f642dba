"""The commands that give a URI for a file or directory: `store` and `link`."""

from __future__ import annotations

import os
import sys
from typing import TYPE_CHECKING, Any

import click

from kachery_cloud.commands.support import (
    Function,
    command,
    json_option,
    print_result,
    privacy_said_once,
    verbose_option,
)
from kachery_cloud.errors import IsADirectory

if TYPE_CHECKING:
    from kachery_cloud.privacy import Audience
    from kachery_cloud.settings.config import Config

#: What became of the work after Ctrl-C.
_INTERRUPTED = "Interrupted. Run the command again to store it: what is stored already is not stored twice."

_label_option = click.option("--label", metavar="TEXT", help="A note for people, and a name for copies, in the URI.")
_share_option = click.option(
    "--share", "shared", is_flag=True, help="Print what the share command prints of it: one string to give away."
)
_profile_option = click.option(
    "--profile",
    metavar="NAME",
    help="Rules that decide the CID: unixfs-v1-2025 (the default), unixfs-v0-2015 (CIDs that begin with Qm), or "
    "random-16k, for data of which small parts are read here and there over the network.",
)


_ANNOUNCED: dict[Audience, str] = {
    "world": "It is announced to the whole world.",
    "lab": "It is announced to the holders of the swarm key.",
    "lan": "It is announced to the local network, and to nobody else.",
    "nobody": "It is announced to nobody: give the URI away with kachery-cloud share.",
}


def _pinning(function: Function) -> Function:
    for option in (
        click.option(
            "--wait/--no-wait",
            default=True,
            help="Wait until it is pinned (the default; Ctrl-C loses nothing), or only write down that it is to be.",
        ),
        click.option(
            "--service", "services", multiple=True, metavar="NAME", help="Pin it there. May be given several times."
        ),
        click.option("--pin/--no-pin", default=None, help="Pin it at the default pinning services, or at none."),
    ):
        function = option(function)
    return function


@command("store", _INTERRUPTED)
@click.argument("path", type=click.Path())
@click.option("-r", "--recursive", is_flag=True, help="Store a directory with all that is in it.")
@_label_option
@_profile_option
@_share_option
@_pinning
@verbose_option
@json_option
def store(path: str, **options: Any) -> None:
    """Store a copy of a file (or directory, with -r) and print its URI.

    The same bytes have the same URI everywhere. To share a large file without a copy, see the link command.

    \b
    Examples:
        kachery-cloud-store session.nwb
        kachery-cloud-store -r experiment/ --label "mouse 12"
        kachery-cloud-store session.nwb --share
        kachery-cloud-store session.nwb --service filebase
    """  # noqa: D301
    _store(path, linked=False, **options)


@command("link", _INTERRUPTED)
@click.argument("path", type=click.Path())
@click.option("-r", "--recursive", is_flag=True, help="Link a directory with all that is in it.")
@_label_option
@_profile_option
@_share_option
@_pinning
@verbose_option
@json_option
def link(path: str, **options: Any) -> None:
    """Share a file from where it lies, without a copy, and print its URI.

    The file must stay as it is: when it changes it is no longer served.

    \b
    Example:
        kachery-cloud-link /data/raw_200GB.bin
    """  # noqa: D301
    _store(path, linked=True, **options)


def _store(
    path: str,
    *,
    recursive: bool,
    label: str | None,
    profile: str | None,
    shared: bool,
    pin: bool | None,
    services: tuple[str, ...],
    wait: bool,
    verbose: bool,
    as_json: bool,
    linked: bool,
) -> None:
    from kachery_cloud.node.connection import tell_running_node
    from kachery_cloud.pinning import make_plan, record_stored, wake_node
    from kachery_cloud.settings.config import load_config
    from kachery_cloud.store import put_directory, put_file
    from kachery_cloud.uri import ContentURI, check_label

    check_label(label)
    if services and pin is False:
        raise click.UsageError("--service says where to pin it, and --no-pin not to.")
    config = load_config()
    plan = make_plan(config, services or pin)
    with privacy_said_once(as_json):
        if recursive and os.path.isdir(path):
            stored = put_directory(config, path, link=linked, profile=profile, verbose=verbose, plan=plan)
        elif os.path.isdir(path):
            raise IsADirectory(f"{path} is a directory. Add --recursive (-r) to take it with all that is in it.")
        else:
            stored = put_file(config, path, linked=linked, profile=profile, verbose=verbose, plan=plan)
    pinned_at = record_stored(config, plan, stored, label or os.path.basename(os.path.abspath(path)))
    # This process ends at once, so it does not become the node; one that runs is told.
    served = tell_running_node(config, stored.cid)
    if pinned_at:
        wake_node(config)
    uri = ContentURI(str(stored.cid), label=label)
    found: dict[str, Any] = {
        "uri": str(uri),
        "cid": str(stored.cid),
        "size": stored.size,
        "path": str(stored.path),
        "served": served,
    }
    given = None
    if shared:
        from kachery_cloud.commands.sharing import share_values
        from kachery_cloud.sharing import make_share, running_node

        name = label or os.path.basename(os.path.abspath(path))
        given = make_share(config, str(uri), label=name, running=lambda: running_node(config))
        found["share"] = share_values(given)
    text = uri.pasteable if given is None else given.string
    if pinned_at:
        from kachery_cloud.commands.pins import finish_store

        finish_store(config, stored.cid, text, found, pinned_at, wait, as_json)
    else:
        print_result(as_json, text, **found)
    if given is not None and not as_json:
        from kachery_cloud.commands.sharing import say_how_to_get

        say_how_to_get(given)
    elif not pinned_at and sys.stderr.isatty():
        _say_who_can_load(config, served)


def _say_who_can_load(config: Config, served: bool) -> None:
    """Whether anybody can load what was stored now, and to whom it is announced."""
    from kachery_cloud.privacy import running_audience
    from kachery_cloud.sharing import reachable_now, running_node

    node = running_node(config) if served else None
    click.echo(reachable_now(node).sentence, err=True)
    if node is not None:
        click.echo(_ANNOUNCED[running_audience(node.node.discovery)], err=True)
