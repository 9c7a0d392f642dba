"""The commands that free the disk: `rm`, `gc` and `move`."""

from __future__ import annotations

import json
from collections.abc import Sequence

import click

from kachery_cloud.commands.support import Stopped, command, json_option
from kachery_cloud.errors import KacheryError
from kachery_p2p.text import printable

#: What became of the work after Ctrl-C. A removal that has begun is ended by whoever opens the data directory next.
_INTERRUPTED = "Interrupted. What was named before is removed, and perhaps the next one, too. The rest is as it was."


@command("rm", _INTERRUPTED)
@click.argument("uris", nargs=-1, required=True, metavar="URI...")
@click.option("--force", is_flag=True, help="Remove it even if this machine may have the last copy.")
@click.option(
    "--peer", "peers", multiple=True, metavar="MULTIADDR", help="Ask this peer, too. May be given several times."
)
@click.option("--timeout", type=float, metavar="SECONDS", help="Look for another copy for so long. [default: 15]")
@json_option
def rm(uris: tuple[str, ...], force: bool, peers: tuple[str, ...], timeout: float | None, as_json: bool) -> None:
    """Remove what was stored, linked or loaded from this machine.

    Refuses, unless another copy is seen and verified now: a peer that has it, and gives some blocks of it, or a pinning
    service that is verified to have it. Of a linked file only the link goes; your own file is never touched. What other
    folders have too stays.

    \b
    Examples:
        kachery-cloud list --find session
        kachery-cloud rm --force $(kachery-cloud store session.nwb)
    """  # noqa: D301
    from kachery_cloud.inventory_removal import remove
    from kachery_cloud.inventory_tables import size_text
    from kachery_p2p.json_shapes import to_json

    removed: list[object] = []
    failures: list[dict[str, str]] = []
    failed: KacheryError | None = None
    for uri in _each_once(uris):
        try:
            done = remove(uri, force=force, providers=peers, timeout=timeout)
        except KacheryError as error:
            if len(uris) == 1:
                raise
            failed = failed or error
            if not as_json:
                click.echo(f"Error: {error}", err=True)
            failures.append({"uri": uri, "type": type(error).__name__, "message": str(error)})
            continue
        except KeyboardInterrupt:
            raise Stopped(_INTERRUPTED, removed=removed) from None
        removed.append(to_json(done))
        if not as_json:
            name, stays = printable(done.label or done.uri), _stays(done.shared)
            click.echo(f"Removed {name}: {size_text(done.freed)} free{stays} ({done.why}).")
    if as_json:
        error = {} if failed is None else {"error": failures[0], "failed": failures}
        click.echo(json.dumps({**error, "ok": failed is None, "removed": removed}))
    if failed is not None:
        raise click.exceptions.Exit(failed.exit_code)


def _each_once(uris: Sequence[str]) -> list[str]:
    """The URIs without those that name once more what one before them names."""
    from kachery_cloud.uri import parse_uri

    found: dict[object, str] = {}
    for uri in uris:
        try:
            parsed = parse_uri(uri)
        except KacheryError:  # the removal says what is wrong with it
            found.setdefault(uri, uri)
        else:
            found.setdefault((parsed.root.to_v1(), parsed.path), uri)
    return list(found.values())


def _stays(shared: int) -> str:
    """How many files of something that was removed are still here, as the end of a sentence."""
    if not shared:
        return ""
    if shared == 1:
        return ", 1 file of it stays, because something else has it"
    return f", {shared:,} files of it stay, because something else has them"


@command("gc", _INTERRUPTED)
@click.option("--keep", metavar="SIZE", help="Remove until no more than this is left, such as 200GB.")
@click.option("--to", metavar="SIZE", help="The same of what was only loaded, without looking for another copy.")
@click.option("--dry-run", is_flag=True, help="Only say what would go, if another copy of it is found. Asks nobody.")
@click.option("--stored", is_flag=True, help="Also what was stored, pinned or labelled, after what was only loaded.")
@click.option("--force", is_flag=True, help="Also what this machine may have the last copy of.")
@click.option("--timeout", type=float, metavar="SECONDS", help="Look for another copy for so long. [default: 15]")
@json_option
def gc(
    keep: str | None, to: str | None, dry_run: bool, stored: bool, force: bool, timeout: float | None, as_json: bool
) -> None:
    """Free the disk: remove what was loaded, and has not been used for longest, until so much is left.

    Like rm, it leaves everything of which no other copy is seen and verified now. What you stored, pinned or labelled
    stays, unless --stored is given. Without --keep it only gives back what removed things have left. --to does by hand
    what kachery-cloud-node does with its storage_limit. Ends with exit code 1 when more than SIZE is left.

    \b
    Examples:
        kachery-cloud gc --keep 200GB --dry-run
        kachery-cloud gc
    """  # noqa: D301
    from kachery_cloud.inventory_removal import RemovedItems, collect, make_room
    from kachery_cloud.inventory_tables import size_text
    from kachery_p2p.json_shapes import to_json

    if to is not None and (keep is not None or stored or force or timeout is not None):
        raise click.UsageError("--to asks nobody, and takes only what was loaded: give it alone, or with --dry-run.")
    removed, named = RemovedItems(), 0

    def name_rest() -> None:
        nonlocal named
        word = "Would remove" if dry_run else "Removed"
        for item in removed[named:]:
            click.echo(f"{word} {printable(item.label or item.uri)}: {size_text(item.freed)} ({item.why}).")
            named += 1

    try:
        done = (
            collect(removed, keep, dry_run=dry_run, stored=stored, force=force, timeout=timeout)
            if to is None
            else make_room(removed, to, dry_run=dry_run)
        )
        if not as_json:
            name_rest()
    except KeyboardInterrupt:
        if dry_run:
            raise Stopped("Interrupted. Nothing was removed.", removed=[]) from None
        if not as_json:
            name_rest()
        raise Stopped(_INTERRUPTED, removed=to_json(removed)) from None
    if as_json:
        click.echo(json.dumps({**to_json(done), "reached": done.reached}))
    else:
        for left in done.kept_back:
            click.echo(f"Left {printable(left.label or left.uri)}: {printable(left.why)}", err=True)
        would = "would be" if dry_run else "are"
        click.echo(f"{size_text(done.before)} before, {size_text(done.after)} {would} left.")
        if not done.reached:
            more = "" if stored else " With --stored, what was stored, pinned or labelled may go, too."
            click.echo(f"That is more than {keep or to}: nothing else may go.{more if to is None else ''}", err=True)
    if not done.reached:
        raise click.exceptions.Exit(1)


@command("move", "Interrupted. Nothing is lost: run the same command again to finish it.")
@click.argument("target", type=click.Path(), metavar="DIR")
@json_option
def move(target: str, as_json: bool) -> None:
    """Move the data directory to another disk. Its old name becomes a link, and goes on working.

    Everything is copied, read back and compared with its hashes before the old one goes. When it is interrupted, the
    same command goes on. Stop the node, and programs that use the directory, first. Ends with exit code 4 when
    something is damaged, as it was before.

    \b
    Example:
        kachery-cloud move larger-disk
    """  # noqa: D301
    from kachery_cloud.commands.upkeep import print_problems
    from kachery_cloud.inventory_move import move as run

    problems = run(target)
    if as_json:
        click.echo(json.dumps({"ok": not problems, "problems": [problem.detail for problem in problems]}))
    else:
        print_problems(problems, f"Moved to {printable(target)}.")
    if problems:
        raise click.exceptions.Exit(4)
