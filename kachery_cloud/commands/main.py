"""The commands: `kachery-cloud` with its subcommands, and the short names `kachery-cloud-store`, `-load` and so on.

Results go to stdout, one line, or one JSON object with `--json`; everything else to stderr. Errors are one sentence and
an exit code (`KacheryError.exit_code`): 2 bad input, 3 not found, 4 damaged data, 5 no room or permission, 6 network,
130 interrupted, 141 when the reader of the output went away.
"""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from kachery_cloud.commands.network import announce, keygen_swarm, status, whereis
from kachery_cloud.commands.pins import pins
from kachery_cloud.commands.support import CONTEXT, Function, Group, command, json_option, print_path, print_result
from kachery_cloud.errors import FileExists, FileMissing, InvalidName, IsADirectory
from kachery_p2p.json_shapes import to_json
from kachery_p2p.text import printable

if TYPE_CHECKING:
    from kachery_cloud.node.log import Level
    from kachery_cloud.node.messages import RunningNode

# --- options -------------------------------------------------------------------------------------------------------

_label_option = click.option("--label", metavar="TEXT", help="A note for people, added to the URI as ?label=TEXT.")
_profile_option = click.option(
    "--profile",
    metavar="NAME",
    help="Rules that decide the CID: unixfs-v1-2025 (the default) or unixfs-v0-2015 (CIDs that begin with Qm).",
)
_verbose_option = click.option("-v", "--verbose", is_flag=True, help="Say on stderr what is done.")


def _loading(function: Function) -> Function:
    for option in (
        click.option(
            "--timeout", type=float, metavar="SECONDS", help="Give up when nothing arrives for so long. [default: 60]"
        ),
        click.option("--local-only", is_flag=True, help="Use what is on this machine; do not use the network."),
        click.option(
            "--peer",
            "peers",
            multiple=True,
            metavar="MULTIADDR",
            help="Ask this peer, e.g. /ip4/192.168.1.20/tcp/4001/p2p/12D3KooW... May be given several times.",
        ),
    ):
        function = option(function)
    return function


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


# What became of the work after Ctrl-C.
_STORING = "Interrupted. Run the command again to store it: what is stored already is not stored twice."
_LOADING = "Interrupted. What has arrived is kept, and is not fetched again."
_VERIFYING = "Interrupted before all was read: the rest may be damaged, too."


def _command(name: str, interrupted: str = "Interrupted.") -> Callable[[Function], click.Command]:
    """A command of the group."""

    def make(function: Function) -> click.Command:
        made = command(name, interrupted)(function)
        cli.add_command(made)
        return made

    return make


@click.group(cls=Group, context_settings=CONTEXT)
@click.version_option(package_name="kachery-cloud", message="%(prog)s %(version)s")
def cli() -> None:
    """Share scientific data straight from one workstation to another.

    \b
    On one machine:
        kachery-cloud store session.nwb          prints ipfs://...
        kachery-cloud node                       serves it
    On the other:
        kachery-cloud load ipfs://...            finds it and prints the path of a copy

    Data lies in ~/.kachery-cloud, or where KACHERY_CLOUD_DIR says.

    \b
    Exit codes:
        0  done              4  local data is damaged or was changed
        1  another error     5  no room, no permission, or in use
        2  wrong input       6  the network, a peer or a service failed
        3  not found       130  interrupted;  141  the reader of the output left
    """


# --- storing -------------------------------------------------------------------------------------------------------


@_command("store", _STORING)
@click.argument("path", type=click.Path())
@click.option("-r", "--recursive", is_flag=True, help="Store a directory with all that is in it.")
@_label_option
@_profile_option
@_pinning
@_verbose_option
@json_option
def store(path: str, **options: Any) -> None:
    """Store a copy of a file (or directory, with -r) and print its URI.

    The same bytes have the same URI everywhere. To share a large file without a copy, see the link command.

    \b
    Examples:
        kachery-cloud-store session.nwb
        kachery-cloud-store -r experiment/ --label "mouse 12"
        kachery-cloud-store session.nwb --service filebase
    """
    _store(path, linked=False, **options)


@_command("link", _STORING)
@click.argument("path", type=click.Path())
@click.option("-r", "--recursive", is_flag=True, help="Link a directory with all that is in it.")
@_label_option
@_profile_option
@_pinning
@_verbose_option
@json_option
def link(path: str, **options: Any) -> None:
    """Share a file from where it lies, without a copy, and print its URI.

    The file must stay as it is: when it changes it is no longer served.

    \b
    Example:
        kachery-cloud-link /data/raw_200GB.bin
    """
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
    uri = format_uri(str(stored.cid), label=label)
    found = {"uri": uri, "cid": str(stored.cid), "size": stored.size, "path": str(stored.path), "served": served}
    if pinned_at:
        from kachery_cloud.commands.pins import finish_store

        finish_store(config, stored.cid, found, pinned_at, wait, as_json)
        return
    print_result(as_json, uri, **found)
    if not served and sys.stderr.isatty():
        click.echo("No node is running here. To serve this to others, run: kachery-cloud-node", err=True)


# --- loading -------------------------------------------------------------------------------------------------------


@_command("load", _LOADING)
@click.argument("uri")
@click.option("--dest", type=click.Path(), metavar="PATH", help="Put a copy there (a directory: make it there).")
@click.option("--force", is_flag=True, help="Let --dest replace a file, where it is the whole name of the copy.")
@_loading
@_verbose_option
@json_option
def load(
    uri: str,
    dest: str | None,
    force: bool,
    peers: tuple[str, ...],
    local_only: bool,
    timeout: float | None,
    verbose: bool,
    as_json: bool,
) -> None:
    """Load a file and print the path of the local copy. A directory needs --dest.

    A file that is there is not replaced, unless it is the same, or --force is given. Where --dest is a folder, the name
    comes from whoever made the URI: then nothing is replaced, and hidden files and the like are refused.

    \b
    Examples:
        kachery-cloud-load ipfs://bafy...
        kachery-cloud-load ipfs://bafy... --peer /ip4/192.168.1.20/tcp/4001/p2p/12D3KooW...
        kachery-cloud-load ipfs://bafy.../notes/readme.txt --dest readme.txt
    """
    from kachery_cloud.load import load_dir, load_file, load_file_info, takes_directory
    from kachery_cloud.uri import parse_uri

    begun = _clock()
    more: dict[str, Any] = {"local_only": local_only, "providers": peers, "timeout": timeout}
    try:
        path = load_file(uri, dest=dest, overwrite=force, verbose=verbose, **more)
    except (IsADirectory, FileExists, FileMissing, InvalidName) as exc:
        # The destination may not suit a file because a directory is meant, which has other rules.
        file_meant = not isinstance(exc, IsADirectory)
        if file_meant and not (takes_directory(dest) and load_file_info(uri, **more)["kind"] == "directory"):
            raise
        if dest is None:
            one = f"{parse_uri(uri).locator}/NAME"
            raise IsADirectory(
                f"{uri} is a directory. Say with --dest where to make it, or load one file: {one}."
            ) from exc
        path = load_dir(uri, dest, verbose=verbose, **more)
    size = os.path.getsize(path) if os.path.isfile(path) else None
    if as_json:
        print_result(True, "", path=path, uri=uri, size=size, seconds=round(_clock() - begun, 3))
    else:
        print_path(path)


@_command("cat", _LOADING)
@click.argument("uri")
@click.option("--start", type=int, metavar="N", help="The first byte, counted from 0.")
@click.option("--end", type=int, metavar="N", help="One past the last byte.")
@_loading
def cat(
    uri: str, start: int | None, end: int | None, peers: tuple[str, ...], local_only: bool, timeout: float | None
) -> None:
    """Write a file, of any size, to standard output.

    \b
    Examples:
        kachery-cloud-cat ipfs://bafy... | head
        kachery-cloud-cat ipfs://bafy... --start 0 --end 128 | xxd
    """
    from kachery_cloud.load import cat_file

    cat_file(uri, start=start, end=end, local_only=local_only, providers=peers, timeout=timeout)


@_command("ls", _LOADING)
@click.argument("uri")
@_loading
@json_option
def ls(uri: str, peers: tuple[str, ...], local_only: bool, timeout: float | None, as_json: bool) -> None:
    """List a directory: size and name of each entry.

    \b
    Example:
        kachery-cloud ls ipfs://bafy.../notes
    """
    from kachery_cloud.load import list_dir

    entries = list_dir(uri, local_only=local_only, providers=peers, timeout=timeout)
    if as_json:
        click.echo(json.dumps({"uri": uri, "entries": entries}))
        return
    width = max((len(_size_text(entry["size"])) for entry in entries), default=0)
    for entry in entries:
        click.echo(f"{_size_text(entry['size']):>{width}}  {printable(entry['name'])}")


@_command("info", _LOADING)
@click.argument("uri")
@_loading
@json_option
def info(uri: str, peers: tuple[str, ...], local_only: bool, timeout: float | None, as_json: bool) -> None:
    """Say what a URI is: file or directory, how large, and whether it is here.

    \b
    Example:
        kachery-cloud info ipfs://bafy...
    """
    from kachery_cloud.load import load_file_info

    found = load_file_info(uri, local_only=local_only, providers=peers, timeout=timeout)
    if as_json:
        click.echo(json.dumps(found))
        return
    for key in ("uri", "cid", "kind", "size", "label", "local", "path"):
        if found[key] is not None:
            value = f"{found[key]:,} bytes" if key == "size" else found[key]
            click.echo(
                f"{key + ':':<7} {'yes' if value is True else 'no' if value is False else printable(str(value))}"
            )


# --- the data directory and its node ---------------------------------------------------------------------------------


@_command("verify", _VERIFYING)
@click.argument("uris", nargs=-1, metavar="[URI]...")
@json_option
def verify(uris: tuple[str, ...], as_json: bool) -> None:
    """Read all stored and linked files (or those of the URIs) and compare them with their hashes.

    Ends with exit code 4 when something is damaged, changed or missing, and says what.

    \b
    Example:
        kachery-cloud verify
    """
    from kachery_cloud.upkeep import verify as check

    problems = check(uris or None)
    if as_json:
        listed = [{"cid": str(p.cid), "path": str(p.path), "what": p.what, "detail": p.detail} for p in problems]
        click.echo(json.dumps({"ok": not problems, "problems": listed}))
    else:
        for problem in problems:
            click.echo(f"{problem.what}: {problem.cid} ({printable(str(problem.path))})")
            click.echo(f"  {printable(problem.detail)}")
        if not problems:
            click.echo("All files are as they were stored.")
    if problems:
        raise click.exceptions.Exit(4)


@_command("repair")
@json_option
def repair(as_json: bool) -> None:
    """Bring everything back after a database of the data directory was lost or damaged.

    Reads all stored and linked files, compares them with their hashes, and makes the catalog anew; so it takes as long
    as verify. The list of what is to be pinned is made anew from what can be read of it. Damaged files are kept in the
    folder damaged. Stop all programs that use the directory first. Ends with exit code 4 when something could not be
    brought back, and says what.

    \b
    Example:
        kachery-cloud repair
    """
    from kachery_cloud.upkeep import repair as run

    found = run()
    problems = found.pop("problems")
    if as_json:
        listed = [{"cid": str(p.cid), "path": str(p.path), "what": p.what, "detail": p.detail} for p in problems]
        click.echo(json.dumps({"ok": not problems, **found, "problems": listed}))
    else:
        click.echo(
            f"The catalog lists {found['files']:,} files, {found['linked_files']:,} linked files and "
            f"{found['directories']:,} directories."
        )
        pins = found["pins"]
        if pins is not None:
            click.echo(
                f"The list of what is to be pinned was damaged: {pins['kept']:,} entries are as they were, and "
                f"{pins['begun_anew']:,} are asked for again. The old list is {printable(pins['aside'])}."
            )
        if found["routing"]:
            click.echo("What the node had learned about other peers was damaged; it is learned anew.")
        for problem in problems:
            click.echo(f"{problem.what}: {problem.cid} ({printable(str(problem.path))})")
            click.echo(f"  {printable(problem.detail)}")
        if not problems:
            click.echo("Everything that was stored, loaded or linked is here.")
    if problems:
        raise click.exceptions.Exit(4)


@_command("init")
@json_option
def init(as_json: bool) -> None:
    """Make the data directory and the identity of this machine, and print both. Needs no account and no network.

    Doing so is not required: everything is also made when it is first needed.

    \b
    Example:
        KACHERY_CLOUD_DIR=/big/disk/kachery kachery-cloud-init
    """
    from kachery_cloud.upkeep import init as make

    made = make()
    peer_id = made["peer_id"] or "a new one each time, for the directory belongs to another user"
    print_result(as_json, f"Data directory: {made['directory']}\nPeer ID:        {peer_id}", **made)


for _each in (status, whereis, announce, keygen_swarm, pins):
    cli.add_command(_each)


@_command("node")
@click.option("--listen", multiple=True, metavar="MULTIADDR", help="Listen there, e.g. /ip4/0.0.0.0/tcp/4001.")
@click.option("--peer", "peers", multiple=True, metavar="MULTIADDR", help="Stay connected to this peer.")
@click.option("--announce", multiple=True, metavar="MULTIADDR", help="Tell others this address, not those found out.")
@click.option("--relay", "relays", multiple=True, metavar="MULTIADDR", help="Be reached through this relay.")
@click.option(
    "--bootstrap",
    multiple=True,
    metavar="MULTIADDR",
    help="Enter the DHT by this peer instead of the public ones; `none`: by no peer.",
)
@click.option("--public/--no-public", default=None, help="Use public services (DHT, routers), or none at all.")
@click.option("--mdns/--no-mdns", default=None, help="Find machines of the local network by mDNS, or do not.")
@click.option(
    "--gateway",
    is_flag=False,
    flag_value="",
    metavar="[HOST:PORT]",
    help="Serve an HTTP gateway for browsers and other programs. [default: 127.0.0.1:8090; port 0 is a free one]",
)
@click.option("--gateway-fetch", is_flag=True, help="Let the gateway fetch from the network what is not here.")
@click.option("-v", "--verbose", count=True, help="Say on standard error what the node does; -vv: say all.")
@click.option(
    "--log-level",
    type=click.Choice(("error", "warning", "info", "debug")),
    help="How much to log. [default: warning; info with -v or --log-file; debug with -vv]",
)
@click.option(
    "--log-file",
    type=click.Path(dir_okay=False, path_type=Path),
    metavar="FILE",
    help="Log to this file, and warnings to standard error, too. Beyond 10 MB it begins anew; three old ones are kept.",
)
@json_option
def node(
    listen: tuple[str, ...],
    peers: tuple[str, ...],
    announce: tuple[str, ...],
    relays: tuple[str, ...],
    bootstrap: tuple[str, ...],
    public: bool | None,
    mdns: bool | None,
    gateway: str | None,
    gateway_fetch: bool,
    verbose: int,
    log_level: Level | None,
    log_file: Path | None,
    as_json: bool,
) -> None:
    """Serve what this machine has until stopped (Ctrl-C). Prints the peer ID and the addresses to give to others.

    Options go before the settings (config.json, KACHERY_CLOUD_...); --peer and --relay add to them. Those that take a
    MULTIADDR may be repeated.

    \b
    Examples:
        kachery-cloud-node
        kachery-cloud-node --listen /ip4/0.0.0.0/tcp/4001
        kachery-cloud-node --no-public --relay /ip4/192.0.2.7/tcp/4001/p2p/12D3KooW...
        kachery-cloud-node --gateway
        kachery-cloud-node --log-file /var/log/kachery.log
    """
    from kachery_cloud.node.log import start_log
    from kachery_cloud.node.serve import GatewayChoice, serve_forever
    from kachery_cloud.settings.config import load_config
    from kachery_cloud.settings.values import parse_bootstrap
    from kachery_cloud.uri import check_peer_address

    if gateway_fetch and gateway is None:
        raise click.UsageError("--gateway-fetch says what the gateway does: it needs --gateway.")

    def checked(addresses: tuple[str, ...], option: str) -> tuple[str, ...]:
        return tuple(check_peer_address(address, option) for address in addresses)

    config = load_config()
    changes: dict[str, Any] = {"relays": (*config.relays, *checked(relays, "--relay"))}
    if announce:
        changes["announce"] = checked(announce, "--announce")
    if bootstrap:
        changes["bootstrap"] = parse_bootstrap(",".join(bootstrap), "--bootstrap")
    if public is not None:
        changes["public"] = public
    if mdns is not None:
        changes["mdns"] = mdns
    config = replace(config, **changes)
    listen, peers = checked(listen, "--listen"), checked(peers, "--peer")
    start_log(log_level or ("debug" if verbose > 1 else "info" if verbose or log_file else "warning"), log_file)

    def ready(found: RunningNode) -> None:
        if as_json:
            click.echo(json.dumps(to_json(found)))
        else:
            click.echo(f"Serving {config.directory}")
            click.echo(f"Peer ID: {found.node.peer_id}")
            for address in found.node.addresses:
                click.echo(f"Address: {address}")
            if found.gateway is not None:
                click.echo(f"Gateway: {found.gateway.url}")
            click.echo("Others load from here with: kachery-cloud-load URI     (stop with Ctrl-C)")
            click.echo("Where they do not find this node by themselves: kachery-cloud-load URI --peer ADDRESS")
        sys.stdout.flush()

    serve_forever(
        config,
        listen=listen or config.listen,
        peers=(*config.peers, *peers),
        gateway=None if gateway is None else GatewayChoice(gateway, gateway_fetch),
        on_ready=ready,
    )


# --- parts ---------------------------------------------------------------------------------------------------------


def _clock() -> float:
    import time

    return time.monotonic()


def _size_text(size: int | None) -> str:
    return "?" if size is None else f"{size:,}"


def main() -> None:
    """`kachery-cloud`"""
    cli(prog_name="kachery-cloud")


def init_main() -> None:
    """`kachery-cloud-init`"""
    init(prog_name="kachery-cloud-init")


def store_main() -> None:
    """`kachery-cloud-store`"""
    store(prog_name="kachery-cloud-store")


def link_main() -> None:
    """`kachery-cloud-link`"""
    link(prog_name="kachery-cloud-link")


def load_main() -> None:
    """`kachery-cloud-load`"""
    load(prog_name="kachery-cloud-load")


def cat_main() -> None:
    """`kachery-cloud-cat`"""
    cat(prog_name="kachery-cloud-cat")


def node_main() -> None:
    """`kachery-cloud-node`"""
    node(prog_name="kachery-cloud-node")


def pins_main() -> None:
    """`kachery-cloud-pins`"""
    pins(prog_name="kachery-cloud-pins")


def status_main() -> None:
    """`kachery-cloud-status`"""
    status(prog_name="kachery-cloud-status")


def whereis_main() -> None:
    """`kachery-cloud-whereis`"""
    whereis(prog_name="kachery-cloud-whereis")


def keygen_swarm_main() -> None:
    """`kachery-cloud-keygen-swarm`"""
    keygen_swarm(prog_name="kachery-cloud-keygen-swarm")


if __name__ == "__main__":
    main()
