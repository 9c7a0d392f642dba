"""The commands that give a URI for a file or directory: `store` and `link`."""

from __future__ import annotations

import os
import sys
from typing import Any

import click

from kachery_cloud.commands.support import Function, command, json_option, print_result, verbose_option
from kachery_cloud.errors import IsADirectory

#: What became of the work after Ctrl-C.
_INTERRUPTED = "Interrupted. Run the command again to store it: what is stored already is not stored twice."

_label_option = click.option("--label", metavar="TEXT", help="A note for people, added to the URI as ?label=TEXT.")
_profile_option = click.option(
    "--profile",
    metavar="NAME",
    help="Rules that decide the CID: unixfs-v1-2025 (the default), unixfs-v0-2015 (CIDs that begin with Qm), or "
    "random-16k, for data of which small parts are read here and there over the network.",
)


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
        kachery-cloud-store session.nwb --service filebase
    """  # noqa: D301
    _store(path, linked=False, **options)


@command("link", _INTERRUPTED)
@click.argument("path", type=click.Path())
@click.option("-r", "--recursive", is_flag=True, help="Link a directory with all that is in it.")
@_label_option
@_profile_option
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
    from kachery_cloud.uri import format_uri

    if services and pin is False:
        raise click.UsageError("--service says where to pin it, and --no-pin not to.")
    config = load_config()
    plan = make_plan(config, services or pin)
    if recursive and os.path.isdir(path):
        stored = put_directory(config, path, link=linked, profile=profile, verbose=verbose, plan=plan, label=label)
    elif os.path.isdir(path):
        raise IsADirectory(f"{path} is a directory. Add --recursive (-r) to take it with all that is in it.")
    else:
        stored = put_file(config, path, linked=linked, profile=profile, verbose=verbose, plan=plan, label=label)
    pinned_at = record_stored(config, plan, stored, label or os.path.basename(os.path.abspath(path)))
    # This process ends at once, so it does not become the node; one that runs is told.
    served = tell_running_node(config, stored.cid)
    if pinned_at:
        wake_node(config)
    uri = format_uri(str(stored.cid), label=label)
    found = {"uri": uri, "cid": str(stored.cid), "size": stored.size, "path": str(stored.path), "served": served}
    if pinned_at:
        from kachery_cloud.commands.pins import finish_store

        finish_store(config, stored.cid, found, pinned_at, wait, as_json)
        return
    print_result(as_json, uri, **found)
    if not served and sys.stderr.isatty():
        click.echo("No node is running here. To serve this to others, run: kachery-cloud-node", err=True)
