"""The commands that look after a data directory: `verify` and `repair`."""

from __future__ import annotations

import json
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import click

from kachery_cloud.commands.support import Stopped, command, json_option
from kachery_p2p.text import printable

if TYPE_CHECKING:
    from kachery_p2p.repo.repo import Problem


@command("verify")
@click.argument("uris", nargs=-1, metavar="[URI]...")
@json_option
def verify(uris: tuple[str, ...], as_json: bool) -> None:
    """Read all stored and linked files (or those of the URIs) and compare them with their hashes.

    Ends with exit code 4 when something is damaged, changed or missing, and says what.

    \b
    Example:
        kachery-cloud verify
    """  # noqa: D301
    from kachery_cloud.upkeep import iter_problems

    problems: list[Problem] = []
    try:
        for problem in iter_problems(uris or None):
            problems.append(problem)
    except KeyboardInterrupt:
        raise _stopped(problems, as_json) from None
    if as_json:
        click.echo(json.dumps({"ok": not problems, "problems": _listed(problems)}))
    else:
        print_problems(problems, "All files are as they were stored.")
    if problems:
        raise click.exceptions.Exit(4)


@command("repair", "Interrupted. Run the command again: what was brought back is kept.")
@click.argument("uris", nargs=-1, metavar="[URI]...")
@click.option(
    "--peer",
    "peers",
    multiple=True,
    metavar="MULTIADDR",
    help="Load what URIs name from this peer, e.g. /ip4/192.168.1.20/tcp/4001/p2p/12D3KooW... May be given several "
    "times.",
)
@click.option(
    "--timeout", type=float, metavar="SECONDS", help="Give up when nothing arrives for so long. [default: 60]"
)
@json_option
def repair(uris: tuple[str, ...], peers: tuple[str, ...], timeout: float | None, as_json: bool) -> None:
    """Bring back what verify names; without a URI, everything, after a database was lost or damaged.

    With URIs, what is damaged or missing of them is loaded again from others, or copied from a file that is linked;
    only what is wrong is fetched.

    Without, it reads all stored and linked files, compares them with their hashes, and makes the catalog anew; so it
    takes as long as verify. The list of what is to be pinned is made anew from what can be read of it. Damaged files
    are kept in the folder damaged. Stop all programs that use the directory first. Ends with exit code 4 when something
    could not be brought back, and says what.

    \b
    Examples:
        kachery-cloud repair
        kachery-cloud repair ipfs://bafy... --peer /ip4/192.168.1.20/tcp/4001/p2p/12D3KooW...
    """  # noqa: D301
    from kachery_cloud.upkeep import repair as run

    if not uris and (peers or timeout is not None):
        raise click.UsageError("--peer and --timeout are for what is loaded again: name the URIs of that, too.")
    found = run(uris or None, providers=peers, timeout=timeout)
    problems = found.pop("problems")
    if uris:
        if as_json:
            click.echo(json.dumps({"ok": not problems, "problems": _listed(problems)}))
        else:
            print_problems(problems, "All of it is as it was stored.")
        if problems:
            raise click.exceptions.Exit(4)
        return
    if as_json:
        click.echo(json.dumps({"ok": not problems, **found, "problems": _listed(problems)}))
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
        print_problems(problems, "Everything that was stored, loaded or linked is here.")
    if problems:
        raise click.exceptions.Exit(4)


def _stopped(problems: Sequence[Problem], as_json: bool) -> Stopped:
    """Ctrl-C before everything was read. What was found by then is said."""
    if problems and not as_json:
        print_problems(problems, "")
    found = "What was found until then is named" if problems else "Nothing wrong was found until then"
    return Stopped(f"Interrupted before all was read. {found}; the rest was not looked at.", problems=_listed(problems))


def _listed(problems: Sequence[Problem]) -> list[dict[str, Any]]:
    return [{"cid": str(p.cid), "path": str(p.path), "what": p.what, "detail": p.detail} for p in problems]


def print_problems(problems: Sequence[Problem], none: str) -> None:
    """What is wrong, a problem in two lines; or that nothing is."""
    for problem in problems:
        click.echo(f"{problem.what}: {problem.cid} ({printable(str(problem.path))})")
        click.echo(f"  {printable(problem.detail)}")
    if not problems:
        click.echo(none)
