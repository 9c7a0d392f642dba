"""`kachery-cloud-pins`: what pinning services are to keep, and how far that is."""

from __future__ import annotations

import json
import sys
import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any, Literal, NamedTuple

import click

from kachery_cloud.commands.pin_services import service
from kachery_cloud.commands.support import CONTEXT, INTERRUPTED, Function, Group, command, guarded, json_option
from kachery_cloud.errors import KacheryError, PinningError
from kachery_cloud.terminal import unfiltered

if TYPE_CHECKING:
    from kachery_cloud.settings.config import Config
    from kachery_p2p.dag.cid import CID
    from kachery_p2p.pinning import PinEntry

#: Seconds that a command which waits gives a service to hand a block back, once it says that it has all.
VERIFY_SECONDS = 30.0
#: Seconds between looks at what to show to somebody who waits at a screen.
_SHOW_SECONDS = 0.5

service_option = click.option(
    "--service", "services", multiple=True, metavar="NAME", help="Of this service. May be given several times."
)
timeout_option = click.option(
    "--timeout", type=float, metavar="SECONDS", help="Wait for so long at most. [default: until it is done]"
)


@click.group("pins", cls=Group, invoke_without_command=True, context_settings=CONTEXT)
@click.option("--removed", is_flag=True, help="Show also what was removed in the last days.")
@json_option
@click.pass_context
@guarded
def pins(context: click.Context, removed: bool, as_json: bool) -> None:
    """List what pinning services are to keep, and how far that is; or change it.

    A service has something when it is `claimed` (it says so) or `verified` (a block was fetched back from it). The rest
    is done while a node runs here, and goes on where it was after a restart.

    \b
    Examples:
        kachery-cloud-pins
        kachery-cloud-pins service add filebase
        kachery-cloud-pins add ipfs://bafy... --service filebase
        kachery-cloud-pins wait ipfs://bafy...
    """  # noqa: D301
    if context.invoked_subcommand is not None:
        return
    from kachery_cloud import pinning as api
    from kachery_cloud.commands.pins_text import pin_lines, summary_phrase
    from kachery_cloud.settings.config import load_config

    found = api.all_rows(load_config(), removed=removed)
    if as_json:
        click.echo(json.dumps({"pins": api.as_dicts(found)}))
        return
    for line in pin_lines(found):
        click.echo(line)
    counts: dict[str, int] = {}
    for row in found:
        counts[row.state] = counts.get(row.state, 0) + 1
    click.echo(summary_phrase(counts) or "Nothing is pinned. Pin something with: kachery-cloud-pins add URI", err=True)
    say_if_nobody_works(found)


def _subcommand(name: str) -> Any:
    def make(function: Function) -> click.Command:
        made = command(name)(function)
        pins.add_command(made)
        return made

    return make


@_subcommand("add")
@click.argument("uri")
@service_option
@click.option("--wait/--no-wait", default=True, help="Wait until it is there (the default), or only write it down.")
@timeout_option
@json_option
def add(uri: str, services: tuple[str, ...], wait: bool, timeout: float | None, as_json: bool) -> None:
    """Have pinning services keep a file or directory that is on this machine.

    \b
    Example:
        kachery-cloud-pins add ipfs://bafy... --service filebase
    """  # noqa: D301
    from kachery_cloud import pinning as api
    from kachery_cloud.settings.config import load_config

    config = load_config()
    plan, cid = api.record_pin(config, uri, services or True, timeout)
    api.wake_node(config)
    _wait_and_print(config, cid, plan.names, wait, plan.timeout, as_json)


@_subcommand("remove")
@click.argument("uri")
@service_option
@json_option
def remove(uri: str, services: tuple[str, ...], as_json: bool) -> None:
    """Have pinning services no longer keep a file or directory. What is on this machine stays.

    \b
    Example:
        kachery-cloud-pins remove ipfs://bafy...
    """  # noqa: D301
    from kachery_cloud import pinning as api
    from kachery_cloud.settings.config import load_config

    config = load_config()
    found = api.record_unpin(config, uri, services or None)
    api.wake_node(config)
    _print_rows(found, as_json)
    if not as_json:
        say_if_nobody_works(found)


@_subcommand("wait")
@click.argument("uri")
@service_option
@click.option("--verified", is_flag=True, help="Wait until a block was fetched back, however long that takes.")
@timeout_option
@json_option
def wait(uri: str, services: tuple[str, ...], verified: bool, timeout: float | None, as_json: bool) -> None:
    """Wait until a file or directory is where it is to be pinned. Runs the node meanwhile, where none runs.

    \b
    Example:
        kachery-cloud-pins wait ipfs://bafy... --timeout 600
    """  # noqa: D301
    from kachery_cloud import pinning as api
    from kachery_cloud.settings.config import load_config

    config = load_config()
    cid, names = api.awaited(config, uri, services or None)
    if verified:
        api.doubt(config, cid, names)
    _wait_and_print(config, cid, names, True, api.seconds(timeout), as_json, "verified" if verified else "pinned")


pins.add_command(service)


# --- waiting ---------------------------------------------------------------------------------------------------------


class Waited(NamedTuple):
    """How waiting ended."""

    rows: list[PinEntry]
    interrupted: bool = False
    error: KacheryError | None = None

    @property
    def exit_code(self) -> int:
        return INTERRUPTED if self.interrupted else self.error.exit_code if self.error is not None else 0


def wait_with_bar(
    config: Config,
    cid: CID,
    names: Sequence[str],
    timeout: float | None,
    until: Literal["pinned", "verified"] = "pinned",
) -> Waited:
    """Wait, and show somebody who watches how far it is. Neither Ctrl-C nor a refusal loses what is written down.

    A service that says it has all of it is given a moment more to prove it.
    """
    from kachery_cloud import pinning as api

    try:
        with _watched(config, cid, names):
            found = api.wait_for(config, cid, names, until, timeout)
            # What was verified once is not waited for when its service cannot be asked now.
            if until == "pinned" and any(row.state != "verified" and row.verified is None for row in found):
                try:
                    found = api.wait_for(config, cid, names, "verified", VERIFY_SECONDS)
                except PinningError:  # it is claimed, and shown as that
                    found = api.rows(config, cid, names)
    except KeyboardInterrupt:
        return Waited(api.rows(config, cid, names), interrupted=True)
    except KacheryError as error:
        return Waited(api.rows(config, cid, names), error=error)
    return Waited(found)


def finish_store(
    config: Config, cid: CID, text: str, stored: dict[str, Any], names: Sequence[str], wait: bool, as_json: bool
) -> int:
    """The end of `kachery-cloud-store`: print what was stored, and say how far the pinning services are.

    With `wait` it waits for them first. `text` is the result. With `as_json` nothing is printed, but put into `stored`.

    Returns:
        The exit code.
    """
    from kachery_cloud import pinning as api
    from kachery_cloud.encryption.leaving import pinned_root

    cid = pinned_root(config, cid)
    if not as_json:
        click.echo(text)
        sys.stdout.flush()  # whoever stops the waiting has the URI
    waited = wait_with_bar(config, cid, names, None) if wait else Waited(api.rows(config, cid, names))
    if as_json:
        stored.update(_as_json(waited))
    else:
        if not waited.interrupted:
            for line in api.on_their_way([row for row in waited.rows if row.claimed or waited.error is None]):
                click.echo(line, err=True)
        tell_waited(waited)
        if not wait:
            say_if_nobody_works(waited.rows)
    return waited.exit_code


def tell_waited(waited: Waited) -> None:
    """Say on stderr what came of waiting, where there is something to say."""
    from kachery_cloud.pinning import on_their_way

    if waited.interrupted:
        left = [row for row in waited.rows if not row.claimed]
        click.echo("Interrupted. Nothing is lost: what is still on its way is written down.", err=True)
        for line in on_their_way(left):
            click.echo(f"  {line}", err=True)
        click.echo(
            "It goes on while a node runs here (kachery-cloud-node); kachery-cloud-pins shows how far it is.", err=True
        )
    elif waited.error is not None:
        click.echo(f"Error: {waited.error}", err=True)


def _wait_and_print(
    config: Config,
    cid: CID,
    names: Sequence[str],
    wait: bool,
    timeout: float | None,
    as_json: bool,
    until: Literal["pinned", "verified"] = "pinned",
) -> None:
    from kachery_cloud import pinning as api

    waited = wait_with_bar(config, cid, names, timeout, until) if wait else Waited(api.rows(config, cid, names))
    _print_rows(waited.rows, as_json, waited)
    if not as_json:
        tell_waited(waited)
        if not wait:
            say_if_nobody_works(waited.rows)
    if waited.exit_code:
        raise click.exceptions.Exit(waited.exit_code)


def _print_rows(found: list[PinEntry], as_json: bool, waited: Waited | None = None) -> None:
    from kachery_cloud.commands.pins_text import pin_lines

    if as_json:
        click.echo(json.dumps(_as_json(waited or Waited(found))))
        return
    for line in pin_lines(found):
        click.echo(line)


def _as_json(waited: Waited) -> dict[str, Any]:
    from kachery_cloud.pinning import as_dicts

    error: dict[str, Any] = {}
    if waited.interrupted:
        error = {"type": "Interrupted", "message": "Interrupted. It goes on while a node runs here."}
    elif waited.error is not None:
        error = {"type": type(waited.error).__name__, "message": str(waited.error)}
    return {"pins": as_dicts(waited.rows), **({"error": error} if error else {})}


def say_if_nobody_works(found: Sequence[PinEntry]) -> None:
    """Say on stderr that no node is there to do what is left, or none that can."""
    from kachery_cloud import pinning as api
    from kachery_cloud.node.connection import ask_running_node
    from kachery_cloud.node.endpoint import NodeGone
    from kachery_cloud.node.status_messages import STATUS
    from kachery_cloud.settings.config import load_config

    left = [row for row in found if row.state not in ("pinned", "verified", "removed", "refused")]
    if not left:
        return
    try:
        status = ask_running_node(load_config(), STATUS)
    except NodeGone:
        click.echo("No node is running here. It goes on when one runs: kachery-cloud-node", err=True)
        return
    unknown = api.unknown_to_node(status, [row.service for row in left if row.problem != "idle"])
    if unknown is not None:
        click.echo(unknown, err=True)


@contextmanager
def _watched(config: Config, cid: CID, names: Sequence[str]) -> Iterator[None]:
    """While this lasts, say once why it is not done yet; and on a terminal show how far the services are."""
    from kachery_cloud import pinning as api
    from kachery_cloud.commands.pins_text import status_phrase

    done = threading.Event()
    told: set[tuple[str, str]] = set()

    def news(found: Sequence[PinEntry]) -> list[str]:
        """What is to be said of these rows and was not yet. A refusal ends the waiting, and is said then."""
        new = [row for row in found if row.last_error and row.state != "refused"]
        new = [row for row in new if (row.service, row.problem) not in told]
        told.update((row.service, row.problem) for row in new)
        return api.on_their_way(new)

    def say() -> None:
        while not done.wait(_SHOW_SECONDS):
            for line in news(api.rows(config, cid, names)):
                click.echo(line, err=True)

    def show() -> None:
        from tqdm import tqdm

        form, screen = "{desc} [{elapsed}]", unfiltered(sys.stderr)
        with tqdm(total=len(names), bar_format=form, leave=False, file=screen) as bar:
            while not done.wait(_SHOW_SECONDS):
                sending = api.sending(config).get(str(cid))
                found = api.rows(config, cid, names)
                for line in news(found):
                    bar.write(line, file=screen)
                bar.bar_format = form
                bar.set_description_str(status_phrase(found))
                if sending is not None:
                    bar.bar_format = "{desc} {percentage:3.0f}%|{bar}| [{elapsed}]"
                    bar.total, bar.n = sending.size, sending.sent
                bar.refresh()

    thread = threading.Thread(target=show if sys.stderr.isatty() else say, name="kachery-pins", daemon=True)
    thread.start()
    try:
        yield
    finally:
        done.set()
        thread.join()
