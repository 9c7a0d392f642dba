"""`kachery-cloud-pins service`: which pinning services there are."""

from __future__ import annotations

import json
import sys
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import click

from kachery_cloud.commands.support import CONTEXT, Group, command, json_option, print_result
from kachery_cloud.errors import ConfigError, KacheryError

if TYPE_CHECKING:
    from kachery_cloud.settings.config import Config


@click.group("service", cls=Group, context_settings=CONTEXT)
def service() -> None:
    """Set up pinning services: `filebase`, or any other by URL and token.

    \b
    Example:
        kachery-cloud-pins service list
    """  # noqa: D301


@command("add")
@click.argument("name")
@click.argument("url", required=False)
@click.option("--kind", type=click.Choice(["pinning", "rpc"]), help="rpc: a Kubo RPC endpoint, to which data is sent.")
@click.option("--default/--no-default", "as_default", default=None, help="Pin there whatever is stored, or do not.")
@click.option("--max-bytes", metavar="SIZE", help="The most that one store may send there, such as 50GB, or `none`.")
@click.option("--gateway", metavar="URL", help="A trustless gateway of the same service, to check what it has.")
@click.option("--token-stdin", is_flag=True, help="Read the token from standard input.")
@click.option("--token-env", metavar="VARIABLE", help="The token is in that environment variable; keep none.")
@click.option("--keyring", is_flag=True, help="Keep the token in the keyring of the system, not in a file.")
@json_option
def service_add(
    name: str,
    url: str | None,
    kind: str | None,
    as_default: bool | None,
    max_bytes: str | None,
    gateway: str | None,
    token_stdin: bool,
    token_env: str | None,
    keyring: bool,
    as_json: bool,
) -> None:
    """Set up a pinning service, or change one. Asks for the token; it is kept in a file that only you can read.

    Without a URL, what is not given stays as it is.

    `filebase` and `filebase-rpc` need no URL. A token is never given on the command line, where others could see it.

    \b
    Examples:
        kachery-cloud-pins service add filebase
        kachery-cloud-pins service add lab https://pins.lab.example.org --default --token-stdin < token.txt
        kachery-cloud-pins service add kubo http://192.168.1.7:5001 --kind rpc
    """  # noqa: D301
    from kachery_cloud.settings.config import load_config
    from kachery_cloud.settings.pin_services import PRESETS, keep_service, stored_entry
    from kachery_cloud.settings.pin_tokens import keep_token, keep_token_in_keyring

    config = load_config()
    before = stored_entry(config.directory, name)
    if url is None and before is None and name not in PRESETS:
        raise click.UsageError(f"The URL of the service is missing; only {' and '.join(PRESETS)} are known by name.")
    entry: dict[str, Any] = {
        "url": url,
        "kind": kind,
        "max_bytes": max_bytes,
        "default": as_default,
        "gateway": gateway,
        "token_env": token_env,
        "keyring": keyring or None,
    }
    given = {key: value for key, value in entry.items() if value is not None}
    token = "" if token_env else _token(name, token_stdin)
    if token and keyring:
        keep_token_in_keyring(name, token)
        keep_token(config.directory, name, None)
    keep_service(config.directory, name, {**(before or {}), **given} if url is None else given)
    if url is not None and before is not None and before.get("url") != url:
        keep_token(config.directory, name, None)  # it is not for another service of the same name
    if token and not keyring:
        keep_token(config.directory, name, token)
    made = next(each for each in _services(load_config()) if each["name"] == name)
    if as_json:
        click.echo(json.dumps(made))
        return
    _print_services([made])
    say_to_reload()


@command("list")
@json_option
def service_list(as_json: bool) -> None:
    """List the pinning services, without their tokens.

    \b
    Example:
        kachery-cloud-pins service list
    """  # noqa: D301
    from kachery_cloud.settings.config import load_config

    found = _services(load_config())
    if as_json:
        click.echo(json.dumps({"services": found}))
    elif found:
        _print_services(found)
    else:
        click.echo("No pinning service is set up. Set one up with: kachery-cloud-pins service add filebase", err=True)


@command("remove")
@click.argument("name")
@json_option
def service_remove(name: str, as_json: bool) -> None:
    """Forget a pinning service and its token. What it keeps stays there; see `kachery-cloud-pins remove`.

    \b
    Example:
        kachery-cloud-pins service remove lab
    """  # noqa: D301
    from kachery_cloud.local import outbox
    from kachery_cloud.settings.config import load_config
    from kachery_cloud.settings.pin_services import keep_service
    from kachery_cloud.settings.pin_tokens import keep_token, keep_token_in_keyring

    config = load_config()
    found = {each.name: each for each in config.pin_services}
    if name not in found:
        raise ConfigError(
            f"There is no pinning service {name!r} in the settings; there are: {', '.join(found) or 'none'}."
        )
    if found[name].keyring:
        keep_token_in_keyring(name, None)
    keep_token(config.directory, name, None)
    keep_service(config.directory, name, None)
    left = len(outbox(config).list(service=name))
    print_result(as_json, f"Removed {name}.", name=name, entries=left)
    if left and not as_json:
        click.echo(
            f"{left} entries of kachery-cloud-pins are for this service; nothing more happens to them.", err=True
        )
    if not as_json:
        say_to_reload()


for _each in (service_add, service_list, service_remove):
    service.add_command(_each)


def _token(name: str, from_stdin: bool) -> str:
    """The token, from standard input or a person who types it unseen; empty for none."""
    from kachery_cloud.settings.pin_services import check_token

    if from_stdin:
        token = sys.stdin.readline().strip()
        if not token:
            raise ConfigError("There is no token on standard input.")
    elif sys.stdin.isatty():
        token = click.prompt(
            f"Token of {name} (it is not shown; Enter for none, or to keep it)",
            hide_input=True,
            default="",
            show_default=False,
            err=True,
        ).strip()
    else:
        return ""
    return check_token(token, "as given") if token else ""


def _services(config: Config) -> list[dict[str, Any]]:
    """The services, as they may be shown: where the token is, but not the token."""
    from kachery_cloud.settings.pin_choice import why_idle
    from kachery_cloud.settings.pin_tokens import token_origin
    from kachery_p2p.repo.swarm_key import SWARM_KEY_NAME

    private = (config.directory / SWARM_KEY_NAME).exists()
    return [
        {
            "name": each.name,
            "url": each.url,
            "kind": each.kind,
            "default": each.default,
            "max_bytes": each.max_bytes,
            "gateway": each.gateway or None,
            "token": token_origin(config, each),
            "idle": why_idle(config, each, private),
        }
        for each in config.pin_services
    ]


def _print_services(found: Sequence[dict[str, Any]]) -> None:
    from kachery_cloud.commands.pins_text import service_lines

    for line in service_lines(found):
        click.echo(line)


def say_to_reload() -> None:
    """Say how a node which runs takes up the settings that have changed, where one does."""
    from kachery_cloud.node.connection import ask_running_node
    from kachery_cloud.node.reloading import HOW_TO_RELOAD
    from kachery_cloud.node.status_messages import STATUS
    from kachery_cloud.settings.config import load_config

    try:
        ask_running_node(load_config(), STATUS)
    except KacheryError:
        return
    click.echo(f"A node is running here. {HOW_TO_RELOAD}", err=True)
