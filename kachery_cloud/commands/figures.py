"""The command for figures: `figure`."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import click

from kachery_cloud.commands.pins import say_if_nobody_works
from kachery_cloud.commands.storing import STORE_INTERRUPTED
from kachery_cloud.commands.support import (
    command,
    json_option,
    print_result,
    privacy_said_once,
    project_option,
    to_option,
)
from kachery_cloud.errors import NodeError


@command("figure", STORE_INTERRUPTED)
@click.argument("figure", type=click.Path(), metavar="FILE|URI")
@click.option("--array", "arrays", multiple=True, metavar="NAME=FILE|URI", help="An array: an npy file. Repeatable.")
@click.option(
    "--data",
    "tables",
    multiple=True,
    metavar="NAME=FILE|URI",
    help="A table, for Vega-Lite and Vega: a csv, tsv, json or npy file. May be given several times.",
)
@click.option("--title", metavar="TEXT", help="For people. [default: that of the specification]")
@to_option
@project_option
@click.option(
    "--gateway", metavar="URL", help="The node whose viewer the link leads to. [default: the one that runs here]"
)
@click.option(
    "--self-contained",
    is_flag=True,
    help="Store the viewer with it: the link is an ipfs:// URI, or with --gateway one of any IPFS gateway.",
)
@json_option
def figure(
    figure: str,
    arrays: tuple[str, ...],
    tables: tuple[str, ...],
    title: str | None,
    to: tuple[str, ...],
    project: str | None,
    gateway: str | None,
    self_contained: bool,
    as_json: bool,
) -> None:
    """Store a figure of Vega-Lite, Vega or Plotly (FILE is its JSON), or print the link to see one (URI).

    Storing prints the URI, and on stderr the link, where a node with a gateway runs here or --gateway names one. In
    Python, kcl.store_figure takes charts of Altair and figures of Plotly as they are.

    \b
    Examples:
        kachery-cloud figure chart.json --data trials=trials.csv
        kachery-cloud figure ipfs://bafy... --gateway http://127.0.0.1:8090
        kachery-cloud figure chart.json --data trials=trials.csv --self-contained
    """  # noqa: D301
    from kachery_cloud.audiences import audience_in
    from kachery_cloud.encryption.leaving import pinned_root
    from kachery_cloud.figures.links import figure_link
    from kachery_cloud.figures.storing import store_figure
    from kachery_cloud.pinning import place_of, rows, wake_node
    from kachery_cloud.settings.config import load_config
    from kachery_cloud.uri import begins_with_cid, parse_uri

    link: dict[str, Any] = {"gateway": gateway, "self_contained": self_contained}
    if figure.startswith("ipfs://") or begins_with_cid(figure):
        if arrays or tables or title is not None or to or project is not None:
            raise click.UsageError(
                "--array, --data, --title, --to and --project say how a figure is stored; this one is already."
            )
        found = figure_link(figure, **link)
        print_result(as_json, found, uri=figure, link=found)
        return
    config = load_config()
    place = place_of(config, project)
    with privacy_said_once(as_json, audience_in(config, list(to) or None, place)):
        uri = store_figure(
            Path(figure),
            arrays=_named(arrays, "--array"),
            data=_named(tables, "--data"),
            title=title,
            to=list(to) or None,
            project=project,
            local=True,
        )
    _tell_node(uri)
    if pinned := rows(config, pinned_root(config, parse_uri(uri).root)):
        wake_node(config)
        if not as_json:
            say_if_nobody_works(pinned)
    try:
        shown = figure_link(uri, **link)
    except NodeError:
        shown = None
    print_result(as_json, uri, uri=uri, link=shown)
    if not as_json:
        how = "To see it, start a node: kachery-cloud-node --gateway" if shown is None else f"See it at {shown}"
        click.echo(how, err=True)


def _tell_node(uri: str) -> None:
    """Have the node that runs serve it. This process ends at once, so it does not become one."""
    from kachery_cloud.node.connection import tell_running_node
    from kachery_cloud.settings.config import load_config
    from kachery_cloud.uri import parse_uri

    tell_running_node(load_config(), parse_uri(uri).root)


def _named(given: tuple[str, ...], option: str) -> dict[str, str | Path]:
    """`NAME=FILE` or `NAME=URI`, by name."""
    found: dict[str, str | Path] = {}
    for each in given:
        name, equals, value = each.partition("=")
        if not equals or not name or not value:
            raise click.UsageError(f"{option} is {each!r}; it must be NAME=FILE, or NAME=ipfs://...")
        if name in found:
            raise click.UsageError(f"{option} names {name!r} twice.")
        found[name] = value if value.startswith("ipfs://") else Path(value)
    return found
