"""`kachery-cloud-usage`: who uses what at a lab's node."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING

import click

from kachery_cloud.commands.projects import node_option
from kachery_cloud.commands.support import command, json_option
from kachery_cloud.terminal import tell
from kachery_p2p.json_shapes import to_json

if TYPE_CHECKING:
    from collections.abc import Sequence

    from kachery_cloud.lab_usage import By, LabUsage

#: Characters of a bar, and of a name.
_BAR, _NAME = 30, 32


@command("usage")
@click.option(
    "--by",
    type=click.Choice(("project", "member", "client", "day")),
    multiple=True,
    default=("project",),
    help="What is told apart. May be given several times. [default: project]",
)
@click.option("--from", "start", metavar="DAY", help="From that day on, such as 2026-11-01. [default: 30 days back]")
@click.option("--to", "end", metavar="DAY", help="Until that day. [default: today]")
@click.option("--project", metavar="NAME", help="Only what is of it.")
@node_option
@json_option
def usage(
    by: tuple[By, ...], start: str | None, end: str | None, project: str | None, node: str | None, as_json: bool
) -> None:
    """Show who has stored and loaded how much at the lab's node: yours, and that of your projects.

    Stored is what is kept at the end of the time; served is what was loaded from there in it, and by whom; also the
    block that a computer fetches back to see that a pin is there. Days are those of UTC. Administrators see all.

    \b
    Examples:
        kachery-cloud-usage
        kachery-cloud-usage --by member --project atlas
        kachery-cloud-usage --by day --from 2026-11-01 --to 2026-11-30
    """  # noqa: D301
    from kachery_cloud.lab_usage import check_day
    from kachery_cloud.lab_usage import usage as find

    for name, day in (("--from", start), ("--to", end)):
        if day is not None:
            check_day(day, name)
    found = find(by, start=start, end=end, project=project, node=node)
    if as_json:
        click.echo(json.dumps({"usage": to_json(found)}))
        return
    for line in usage_lines(found, by):
        click.echo(line)
    if not found:
        tell("Nothing was stored or served in that time, as far as you may see.")


def usage_lines(found: Sequence[LabUsage], by: Sequence[By]) -> list[str]:
    """A line for each row, with a bar for what was served; and one of headings."""
    from kachery_cloud.inventory_tables import size_text

    if not found:
        return []
    names = [_called(row, by) for row in found]
    width = min(_NAME, max(map(len, [*names, "who"])))
    most = max(row.bytes_served for row in found)
    lines = [f"{'':{width}}  {'stored':>10}  {'pins':>7}  {'served':>10}"]
    for name, row in zip(names, found, strict=True):
        bar = "#" * (-(-_BAR * row.bytes_served // most) if most else 0)
        line = (
            f"{name[:width]:{width}}  {size_text(row.bytes_stored):>10}  {row.pins:>7,}  "
            f"{size_text(row.bytes_served):>10}  {bar}"
        )
        lines.append(line.rstrip())
    return lines


def _called(row: LabUsage, by: Sequence[By]) -> str:
    parts = [row.day or ""] if "day" in by else []
    if row.name:
        parts.append(row.name)
    elif set(by) - {"day"}:
        nobody = {"project": "(no project)", "member": "(strangers)", "client": "(uploads)"}
        parts += [getattr(row, what) or nobody[what] for what in by if what != "day"]
    return " ".join(part for part in parts if part)
