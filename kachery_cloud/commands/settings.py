"""`kachery-cloud settings`: all settings, what they are on this machine, and where that comes from."""

from __future__ import annotations

import json
from typing import Any

import click

from kachery_cloud.commands.support import command, json_option
from kachery_p2p.text import shown


@command("settings")
@click.argument("names", nargs=-1, metavar="[NAME]...")
@json_option
def settings(names: tuple[str, ...], as_json: bool) -> None:
    """List all settings, or those named, with their values on this machine, and where these come from.

    A setting is an environment variable, or a key of config.json in the data directory; the variable goes before the
    file. Tokens are not shown. A node that runs goes by the settings with which it was started, until some of them are
    taken up by `kachery-cloud-node reload`, which says which.

    \b
    Examples:
        KACHERY_CLOUD_TIMEOUT=300 kachery-cloud settings
        kachery-cloud settings KACHERY_CLOUD_TIMEOUT
    """  # noqa: D301
    from kachery_cloud.settings.config import SETTINGS, read_settings

    config, origins = read_settings()
    rows: list[dict[str, Any]] = [
        {
            "name": name,
            "variable": setting.variable,
            "key": setting.key or None,
            "value": setting.parser.show(getattr(config, name)),
            "origin": origins.get(name, "default"),
            "default": _plain(setting.default_text),
            "takes": _plain(setting.parser.takes),
            "meaning": _plain(setting.meaning),
        }
        for name, setting in SETTINGS.items()
        if not names or {setting.variable, setting.key} & set(names)
    ]
    known = {name for row in rows for name in (row["variable"], row["key"])}
    for name in names:
        if name not in known:
            raise click.UsageError(f"There is no setting {shown(name)}. All of them: kachery-cloud settings")
    if as_json:
        click.echo(json.dumps({"settings": rows}))
        return
    for row in rows:
        is_set = row["origin"] != "default"
        click.echo(f"{row['variable']}: {_words(row['value']) if is_set else row['default']}")
        click.echo(f"    {row['meaning']} Takes {row['takes']}.")
        if is_set:
            click.echo(f"    Set by {row['origin']}. The default: {row['default']}.")
    if names:
        return
    click.echo("What is marked * is a public service, and is not used when KACHERY_CLOUD_PUBLIC is off.")


def _words(value: Any) -> str:
    """A value in words, as it is written in a variable."""
    if isinstance(value, bool):
        return "on" if value else "off"
    if value is None:
        return "default"
    if isinstance(value, (list, tuple)):
        return ", ".join(map(str, value)) or "none"
    return f"{value:g}" if isinstance(value, float) else str(value) or "none"


def _plain(text: str) -> str:
    """Markdown as plain text."""
    return text.replace("`", "")
