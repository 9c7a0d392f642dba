"""The commands for data carried by hand: `export` and `import`."""

from __future__ import annotations

import os
import sys
from typing import Any, BinaryIO

import click

from kachery_cloud.commands.encryption import encrypt_choice, encrypting_options
from kachery_cloud.commands.support import Stopped, command, json_option, print_result, to_option
from kachery_cloud.terminal import BinaryOutput, tell
from kachery_p2p.json_shapes import to_json
from kachery_p2p.text import printable

#: What became of the work after Ctrl-C.
_EXPORT_INTERRUPTED = (
    "Interrupted. The CAR file is not whole, so it does not have its name yet. What was written of it is kept beside "
    "it: the same command goes on from there."
)
_IMPORT_INTERRUPTED = "Interrupted. What has come is kept: the same command goes on from there."


@command("export", _EXPORT_INTERRUPTED)
@click.argument("uris", nargs=-1, required=True, metavar="URI...")
@click.argument("file", type=click.Path(), metavar="FILE.car")
@click.option("--force", is_flag=True, help="Replace the file if it is there.")
@click.option(
    "--plain", is_flag=True, help="Write what is not for everybody as it is: whoever has the file can read it."
)
@encrypting_options
@click.option("--local-only", "--local", is_flag=True, help="Use what is on this machine; do not use the network.")
@click.option(
    "--peer",
    "peers",
    multiple=True,
    metavar="MULTIADDR",
    help="Ask this peer for what is not here, e.g. /ip4/192.168.1.20/tcp/4001/p2p/12D3KooW... May be repeated.",
)
@click.option(
    "--timeout", type=float, metavar="SECONDS", help="Give up when nothing arrives for so long. [default: 60]"
)
@json_option
def export(
    uris: tuple[str, ...],
    file: str,
    force: bool,
    plain: bool,
    encrypted: bool,
    encrypt_to: tuple[str, ...],
    with_passphrase: bool,
    deterministic: bool,
    local_only: bool,
    peers: tuple[str, ...],
    timeout: float | None,
    as_json: bool,
) -> None:
    """Write files and folders into one CAR file, to be carried by hand, and print its path.

    What is not on this machine is loaded first. One that was interrupted goes on where it was. With - instead of a file
    it goes to standard output. Kubo reads it with "ipfs dag import".

    What is not for everybody goes encrypted, with --encrypt: those whom it is for can decrypt it. The encrypted copies
    are stored here, too; with --json their URIs are printed.

    \b
    Examples:
        kachery-cloud export ipfs://bafy... session.car
        kachery-cloud export ipfs://bafy... - | ssh colleague "kachery-cloud import -"
    """  # noqa: D301
    from kachery_cloud.cars import export_car

    encrypt = encrypt_choice(encrypted, encrypt_to, with_passphrase, deterministic)
    if plain and encrypt is not None:
        raise click.UsageError("--plain and --encrypt are opposites. Say one of them.")
    options: dict[str, Any] = {"encrypt": encrypt, "plain": plain}
    options.update(local_only=local_only, providers=peers, timeout=timeout)
    if file == "-":
        out = BinaryOutput()
        try:
            made = export_car(uris, out, **options)  # type: ignore[arg-type]
            out.flush()
        except KeyboardInterrupt:
            raise Stopped("Interrupted. What was written is no whole CAR file.") from None
        tell(f"{made.size:,} bytes, {made.blocks:,} blocks.")
        return
    before = _identity(file)
    try:
        made = export_car(uris, file, overwrite=force, **options)
    except KeyboardInterrupt:
        if _identity(file) == before:
            raise
        raise Stopped(f"Interrupted. {printable(file)} is there, and whole.") from None
    print_result(as_json, str(made.path), **to_json(made))
    if encrypt is not None and not as_json:
        for uri in made.uris:  # a CAR file has CIDs alone
            click.echo(f"Whoever gets it loads it as {uri}", err=True)


def _identity(path: str) -> tuple[int, int, int] | None:
    """Tells whether another file has a name now."""
    try:
        found = os.stat(path)
    except (OSError, ValueError):
        return None
    return found.st_dev, found.st_ino, found.st_mtime_ns


def _standard_input() -> BinaryIO:
    """Standard input without a buffer.

    Where Ctrl-C leaves a thread behind that waits for input, the end of the process would wait for the buffer's lock.
    """
    try:
        return open(sys.stdin.fileno(), "rb", buffering=0, closefd=False)  # type: ignore[return-value]
    except (OSError, ValueError):  # it is no file, as in tests
        return sys.stdin.buffer


@command("import", _IMPORT_INTERRUPTED)
@click.argument("file", type=click.Path(), metavar="FILE.car")
@to_option
@json_option
def import_(file: str, to: tuple[str, ...], as_json: bool) -> None:
    """Bring what is in a CAR file into the data directory, and print its URIs, one a line. Needs no network.

    Each block is compared with its hash. An import that was interrupted goes on where it was. With - it reads standard
    input. Files made by "ipfs dag export" are read, too.

    \b
    Examples:
        kachery-cloud import session.car
        ssh colleague "kachery-cloud export ipfs://bafy... -" | kachery-cloud import -
    """  # noqa: D301
    from kachery_cloud.audiences import audience_for, news
    from kachery_cloud.cars import import_car
    from kachery_cloud.node.connection import tell_running_node
    from kachery_cloud.settings.config import load_config
    from kachery_cloud.uri import parse_uri

    made = import_car(_standard_input() if file == "-" else file, to=to or None, local=True)
    for uri in made.uris:
        # This process ends at once, so it does not become the node; the one that runs is told, as after a store.
        if not tell_running_node(load_config(), parse_uri(uri).root):
            break
    print_result(as_json, "\n".join(made.uris), **to_json(made))
    if not as_json:
        config = load_config()
        for uri in made.uris:
            if told := news(config, parse_uri(uri).root, audience_for(config, to or None)):
                click.echo(told, err=True)
