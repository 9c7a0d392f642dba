"""The commands about the network: what the node does, who has something, and the key of a private network."""

from __future__ import annotations

import json
import sys
from collections.abc import Callable
from contextlib import closing
from pathlib import Path
from typing import TYPE_CHECKING

import click

from kachery_cloud.commands.support import Stopped, command, json_option, print_result
from kachery_cloud.errors import ContentNotFound, NodeError
from kachery_p2p.json_shapes import to_json

if TYPE_CHECKING:
    from kachery_p2p.node.messages import Whereabouts


@command("status")
@click.option("-v", "--verbose", is_flag=True, help="Show every peer and every figure.")
@json_option
def status(verbose: bool, as_json: bool) -> None:
    """Say what the node of this machine is doing.

    Shows its addresses and why they are these, whether others can reach it, whom it is connected to, what it announces,
    and what went wrong lately. Starts no node. Where none runs, it says what is configured.

    \b
    Examples:
        kachery-cloud-status
        kachery-cloud-status --json | jq .addresses
    """  # noqa: D301
    from kachery_cloud.upkeep import find_status

    found = find_status()
    if as_json:
        click.echo(json.dumps(to_json(found)))
        return
    from kachery_cloud.commands.status_text import status_lines

    for line in status_lines(found, verbose=verbose):
        click.echo(line)


@command("whereis")
@click.argument("uri")
@click.option(
    "--peer",
    "peers",
    multiple=True,
    metavar="MULTIADDR",
    help="Ask this peer, too, e.g. /ip4/192.168.1.20/tcp/4001/p2p/12D3KooW... May be given several times.",
)
@click.option("--timeout", type=float, metavar="SECONDS", help="Search for so long at most. [default: 15]")
@click.option("--json", "as_json", is_flag=True, help="Print one JSON object a line for each who was asked.")
def whereis(uri: str, peers: tuple[str, ...], timeout: float | None, as_json: bool) -> None:
    """List who has a file or directory: how they were found, where they are and how far. Loads nothing.

    Says first whether it is on this machine. Then each peer is printed as soon as it answers, once, with all that had
    named it by then; on a terminal, what names it later is told at the end. Those that are said to have it and did not
    answer come last. Ctrl-C ends the search. Ends with exit code 3 when nobody is found to have it.

    With --json each is an object on a line of its own, those that do not have it, too.

    \b
    Examples:
        kachery-cloud-whereis ipfs://bafy...
        kachery-cloud-whereis ipfs://bafy... --json | jq -r 'select(.has) | .peer'
    """  # noqa: D301
    from kachery_cloud.commands.whereis_text import may_have_it, so_far
    from kachery_cloud.upkeep import key_of, search_whereis
    from kachery_cloud.uri import without_key

    if not as_json and (told := _only_asked(uri)):
        click.echo(told, err=True)
    known: dict[str, Whereabouts] = {}
    show = _json_row if as_json else _row_printer()
    try:
        with closing(search_whereis(uri, providers=peers, timeout=timeout)) as search:
            for row in search:
                show(row, known.get(key_of(row)))
                known[key_of(row)] = row
    except KeyboardInterrupt:
        raise Stopped(f"Interrupted. {so_far(known.values())}") from None
    rows = list(known.values())
    others = [row for row in rows if row.source != "here"]
    found = {row.peer for row in others if may_have_it(row)}
    without = len({row.peer for row in others if row.has is False})
    silent = len({row.peer for row in others if row.has is None} - found)
    asked = f" {without} of the peers asked do not have it, {silent} did not answer." if without or silent else ""
    if not found and len(others) == len(rows):
        raise ContentNotFound(
            f"Nobody is found to have {without_key(uri)}.{asked} Whoever has it must be running a node that this "
            "machine can reach; kachery-cloud-status says how this one looks for others."
        )
    if not found and not as_json:
        click.echo(f"Nobody else is found to have it.{asked}", err=True)


def _only_asked(uri: str) -> str:
    """A sentence where not everybody is asked, because it is not for everybody."""
    from kachery_cloud.audiences import audience_of_uri, whom
    from kachery_cloud.settings.config import load_config
    from kachery_cloud.uri import parse_uri
    from kachery_p2p.access.audience import group_audience

    config, parsed = load_config(), parse_uri(uri)
    audience = group_audience(parsed.groups) if parsed.groups else audience_of_uri(config, parsed)
    return "" if audience.everyone else f"It is for {whom(config, audience)}: nobody else is asked."


def _json_row(row: Whereabouts, before: Whereabouts | None) -> None:
    if before is None:
        click.echo(json.dumps(to_json(row)))
        sys.stdout.flush()  # the rest takes a while


def _row_printer() -> Callable[[Whereabouts, Whereabouts | None], None]:
    """A function that prints rows for people: in columns on a terminal, as sentences elsewhere.

    On a terminal a peer that more is known of gets one more line. Elsewhere each is printed once, so that lines can be
    counted.
    """
    from kachery_cloud.commands.whereis_text import heading, later_line, may_have_it, row_lines

    columns = sys.stdout.isatty()
    headed = False

    def show(row: Whereabouts, before: Whereabouts | None) -> None:
        nonlocal headed
        if before is not None and may_have_it(before):
            if not columns:
                return
            lines = [later_line(before, row)] if row.has == before.has else row_lines(row, columns=columns)
        else:
            lines = row_lines(row, columns=columns)
        if columns and lines and not headed and row.source != "here":
            headed = True
            lines = [heading(), *lines]
        for line in lines:
            click.echo(line)
        sys.stdout.flush()  # the rest takes a while

    return show


@command("announce")
@click.argument("uri")
@click.option("--timeout", type=float, metavar="SECONDS", help="Wait for so long at most. [default: 60]")
@json_option
def announce(uri: str, timeout: float | None, as_json: bool) -> None:
    """Tell the network that a file or directory is here, wait until that is done, and print how many peers know.

    What is stored is announced by itself; this is to make sure that it has happened. Ends with exit code 6 when there
    was nobody to tell.

    \b
    Example:
        kachery-cloud announce ipfs://bafy...
    """  # noqa: D301
    from kachery_cloud.upkeep import announce as tell

    done = tell(uri, timeout=timeout)
    if not done["copies"]:
        raise NodeError(
            "Nobody could be told: no peer of a DHT can be reached from this machine, or announcing is switched off. "
            "kachery-cloud-status says more."
        )
    print_result(as_json, f"Known to {done['copies']} peers.", **done)


@command("keygen-swarm")
@click.option("--stdout", "to_stdout", is_flag=True, help="Print the key; write no file.")
@click.option("--out", type=click.Path(dir_okay=False, path_type=Path), metavar="FILE", help="Write it there.")
@json_option
def keygen_swarm(to_stdout: bool, out: Path | None, as_json: bool) -> None:
    """Make the key of a private network: swarm.key, in the format of Kubo.

    Writes it to the data directory and prints where. A node with this file in its data directory speaks only to nodes
    that have the same key, and uses no public service. A key that is there is never overwritten.

    \b
    Examples:
        kachery-cloud-keygen-swarm
        kachery-cloud-keygen-swarm --out swarm.key
        kachery-cloud-keygen-swarm --stdout | ssh lab2 'umask 077; cat > .kachery-cloud/swarm.key'
    """  # noqa: D301
    from kachery_cloud.settings.config import load_config
    from kachery_p2p.repo.swarm_key import (
        SWARM_KEY_NAME,
        fingerprint,
        format_swarm_key,
        generate_swarm_key,
        write_swarm_key,
    )

    if to_stdout and out is not None:
        raise click.UsageError("--stdout and --out exclude each other.")
    key = generate_swarm_key()
    name = fingerprint(key)
    if to_stdout:
        print_result(as_json, format_swarm_key(key).rstrip("\n"), key=format_swarm_key(key), fingerprint=name)
        return
    directory = load_config().directory
    path = out.absolute() if out is not None else directory / SWARM_KEY_NAME
    write_swarm_key(path, key)
    print_result(as_json, str(path), path=str(path), fingerprint=name)
    if not as_json:
        click.echo(_next_steps(path, directory, name), err=True)


@command("gateway-token")
@json_option
def gateway_token(as_json: bool) -> None:
    """Print the token with which the gateway of this machine gives out what is not for everyone.

    Without it, a gateway (kachery-cloud-node --gateway) gives out what is public. Whoever shows the token, in the
    header "Authorization: Bearer TOKEN", gets whatever you may see here, so keep it to yourself. It is made when it is
    first asked for. To have a new one, remove the file gateway-token from the data directory.

    \b
    Examples:
        kachery-cloud gateway-token
        kachery-cloud gateway-token --json
    """  # noqa: D301
    from kachery_cloud.settings.config import load_config
    from kachery_p2p.gateway.server.token import TOKEN_NAME
    from kachery_p2p.gateway.server.token import gateway_token as token_of

    directory = load_config().directory
    token = token_of(directory)
    print_result(as_json, token, token=token, path=str(directory / TOKEN_NAME))


def _next_steps(path: Path, directory: Path, name: str) -> str:
    lines = [f"This is the key {name} (its fingerprint, not a secret). Whoever has the file is in your network. Now:"]
    steps = []
    if path.parent != directory:
        steps.append(f"Put it on this machine, too: cp -p {path} {directory}/")
    steps += [
        "Copy it to the data directory of each other machine, by a safe way (scp, a USB stick), with mode 600.",
        "For Kubo, copy it to ~/.ipfs/swarm.key, and start Kubo with LIBP2P_FORCE_PNET=1.",
        "Restart the nodes and notebooks on each machine; kachery-cloud-status then shows the fingerprint.",
    ]
    return "\n".join([*lines, *(f"  {number}. {step}" for number, step in enumerate(steps, 1))])
