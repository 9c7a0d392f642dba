"""The commands for names that move: `publish` and `resolve`."""

from __future__ import annotations

import json

import click

from kachery_cloud.commands.support import command, json_option, print_result
from kachery_cloud.terminal import tell
from kachery_p2p.json_shapes import to_json

#: What became of the work after Ctrl-C.
_INTERRUPTED = "Interrupted. The name may point there already; kachery-cloud publish --list says where it does."


@command("publish", _INTERRUPTED)
@click.argument("uri", required=False)
@click.option(
    "--key", default="self", metavar="NAME", help="The key whose name it is; made on first use. [default: self]"
)
@click.option("--ttl", type=float, metavar="SECONDS", help="How long others may remember it. [default: 300]")
@click.option("--timeout", type=float, metavar="SECONDS", help="Look and send for so long at most. [default: 60]")
@click.option("--list", "listing", is_flag=True, help="List the names of this machine, and where they point.")
@json_option
def publish(uri: str | None, key: str, ttl: float | None, timeout: float | None, listing: bool, as_json: bool) -> None:
    """Let a name point to a file or folder, and print the name: ipns://...

    The name stays the same when it is published again with another URI: those who load it get the newest. It is the
    name of a key of this machine, which alone can do that. Others keep it for two days; a node that runs here
    (kachery-cloud-node) keeps it alive.

    \b
    Examples:
        kachery-cloud publish ipfs://bafy...
        kachery-cloud publish --key recordings ipfs://bafy...
        kachery-cloud publish --list
    """  # noqa: D301
    from kachery_cloud import publishing

    if listing == (uri is not None):
        raise click.UsageError("Give a URI to publish, or --list.")
    if uri is None:
        found = publishing.published()
        if as_json:
            click.echo(json.dumps(to_json(found)))
            return
        for each in found:
            click.echo(f"{each.key}  {each.uri}  {each.target}")
        return
    ttl = publishing.DEFAULT_TTL if ttl is None else ttl
    done = publishing.publish(key, uri, ttl=ttl, timeout=timeout)
    if not done.copies:
        tell(
            "Nobody has taken it yet: no node of the DHT and no HTTP router could be reached. It is kept, and a node "
            "that runs here (kachery-cloud-node) sends it as soon as it meets one."
        )
    print_result(as_json, done.uri, **to_json(done))


@command("resolve")
@click.argument("uri")
@click.option("--timeout", type=float, metavar="SECONDS", help="Look for so long at most. [default: 30]")
@json_option
def resolve(uri: str, timeout: float | None, as_json: bool) -> None:
    """Say where a name (ipns://...) points now: print the ipfs:// URI, which will always mean the same bytes.

    \b
    Example:
        kachery-cloud resolve ipns://k51...
    """  # noqa: D301
    from kachery_cloud.publishing import resolve as find

    found = find(uri, timeout=timeout)
    print_result(as_json, found, name=uri, uri=found)
