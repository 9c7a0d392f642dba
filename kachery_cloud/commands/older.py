"""Commands of the older kachery-cloud, for scripts that call them: `store-local` and `load-info`."""

from __future__ import annotations

import json

import click

from kachery_cloud.commands.loading import LOAD_INTERRUPTED, loading_options
from kachery_cloud.commands.storing import STORE_INTERRUPTED
from kachery_cloud.commands.support import command, json_option, print_result, privacy_said_once


@command("store-local", STORE_INTERRUPTED, hidden=True)
@click.argument("filename", type=click.Path())
@click.option("--reference", is_flag=True, help="Take the file from where it lies, without a copy.")
@click.option("--label", metavar="TEXT", help="A note for people, and a name for copies, in the URI.")
@json_option
def store_local(filename: str, reference: bool, label: str | None, as_json: bool) -> None:
    """Store a file in the data directory alone, and print its URI. Of the older kachery-cloud; see the store command.

    Nothing is sent anywhere, and nobody is told. A node that is started here later serves it like everything that is
    in the data directory.

    \b
    Example:
        kachery-cloud store-local session.nwb
    """  # noqa: D301
    from kachery_cloud.store import link_file, store_file
    from kachery_cloud.uri import parse_uri

    with privacy_said_once(as_json):
        uri = (link_file if reference else store_file)(filename, label=label or None, local=True)
    print_result(as_json, parse_uri(uri).pasteable, uri=uri)


@command("load-info", LOAD_INTERRUPTED, hidden=True)
@click.argument("uri")
@loading_options
def load_info(uri: str, peers: tuple[str, ...], local_only: bool, timeout: float | None) -> None:
    """Print what is known of a file as a JSON object. Of the older kachery-cloud; see "info --json".

    \b
    Example:
        kachery-cloud load-info ipfs://bafy...
    """  # noqa: D301
    from kachery_cloud.load import load_file_info

    click.echo(json.dumps(load_file_info(uri, local_only=local_only, providers=peers, timeout=timeout), indent=4))
