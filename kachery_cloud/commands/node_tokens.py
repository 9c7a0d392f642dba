"""`kachery-cloud-node tokens`: who may pin here."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

import click

from kachery_cloud.commands.support import CONTEXT, Group, command, json_option, print_result
from kachery_cloud.errors import ConfigError, InvalidArgument

if TYPE_CHECKING:
    from kachery_p2p.pinning.server.rows import Token
    from kachery_p2p.pinning.server.store import PinStore


@click.group("tokens", cls=Group, context_settings=CONTEXT)
def tokens() -> None:
    """Say who may pin here: make, list and remove the tokens of the pinning service.

    A node that runs goes by them at once.

    \b
    Examples:
        kachery-cloud-node tokens add carol --quota 200GB
        kachery-cloud-node tokens list
    """  # noqa: D301


@command("add")
@click.argument("name")
@click.option("--quota", metavar="SIZE", help="The most that their pins may take, such as 200GB. [default: no limit]")
@click.option("--follow", is_flag=True, help="It is for a node that follows this one: it may list all pins, no more.")
@click.option(
    "--tokens",
    "hand_tokens",
    is_flag=True,
    help="With --follow: that node gets hashes of our tokens, and takes them, too.",
)
@json_option
def tokens_add(name: str, quota: str | None, follow: bool, hand_tokens: bool, as_json: bool) -> None:
    """Make a token for somebody, or for one of their machines. It is shown once; only a hash of it is kept.

    Whoever has it can pin here, and see and delete the pins of that name. If there was a token of that name before, and
    it was removed, the new one has its pins.

    \b
    Examples:
        kachery-cloud-node tokens add alice
        kachery-cloud-node tokens add bob-laptop --quota 200GB
        kachery-cloud-node tokens add second-node --follow --tokens
    """  # noqa: D301
    from kachery_cloud.lab.accounts_store import CLIENT
    from kachery_cloud.lab.files import MEMBER
    from kachery_cloud.settings.values import byte_count
    from kachery_p2p.pinning.server.limits import MAX_TOKEN_NAME

    if not name.strip() or len(name) > MAX_TOKEN_NAME or not name.isprintable():
        raise InvalidArgument(f"The name of a token has 1 to {MAX_TOKEN_NAME} characters that can be shown.")
    if name.startswith((CLIENT, MEMBER)):
        raise InvalidArgument(
            f"Names that begin with {CLIENT} and {MEMBER} belong to the lab: they are of the computers that members "
            "register, and of what they store on its page. Take another name."
        )
    most = None if quota is None else byte_count(quota, "--quota")
    if most is not None and most >= 1 << 62:
        raise ConfigError(f"--quota is {quota}, which is more than there can be. Without it there is no limit.")
    if hand_tokens and not follow:
        raise click.UsageError("--tokens says what a node that follows may have: it needs --follow.")
    if follow and quota is not None:
        raise click.UsageError("--quota is for those who pin here; a token with --follow only lists.")
    store = _store()
    made = store.add_token(name, most)
    if made is None:
        raise InvalidArgument(
            f"There is a token {name!r} already. Take another name, or remove it first: its pins stay, and the new one "
            f"has them (kachery-cloud-node tokens remove {name})."
        )
    token, known = made
    if follow:
        number = next(each.id for each in store.tokens() if each.name == name)
        store.following.allow(number, tokens=hand_tokens)
    print_result(as_json, token, name=name, token=token, quota=most)
    if not as_json:
        text = f"This is the token of {name}, which is not shown again. Give it to nobody else."
        click.echo(f"{text} The pins of that name are theirs." if known else text, err=True)


@command("list")
@json_option
def tokens_list(as_json: bool) -> None:
    """List who may pin here, how much they have pinned, and their quotas.

    \b
    Example:
        kachery-cloud-node tokens list
    """  # noqa: D301
    store = _store()
    found = store.tokens() if store.path.exists() else []
    followers = store.following.followers() if found else {}
    if as_json:
        click.echo(json.dumps({"tokens": [{**_plain(token), "follow": token.id in followers} for token in found]}))
    elif not found:
        click.echo("Nobody can pin here. Make a token with: kachery-cloud-node tokens add NAME", err=True)
    for token in () if as_json else found:
        click.echo(f"{token.name}  (a node that follows this one)" if token.id in followers else _line(token))


@command("remove")
@click.argument("name")
@click.option("--pins", is_flag=True, help="Delete the pins of that name, too.")
@json_option
def tokens_remove(name: str, pins: bool, as_json: bool) -> None:
    """Take a token away: it is refused from now on. What was pinned with it stays, unless --pins says otherwise.

    \b
    Examples:
        kachery-cloud-node tokens remove bob-laptop
        kachery-cloud-node tokens remove alice --pins
    """  # noqa: D301
    store = _store()
    left = store.remove_token(name, pins=pins) if store.path.exists() else None
    if left is None:
        raise InvalidArgument(f"There is no token {name!r}. kachery-cloud-node tokens list shows those that there are.")
    text = f"Removed the token of {name}."
    if left:
        text += f" {left:,} pins of that name stay; delete them with: kachery-cloud-node tokens remove {name} --pins"
    print_result(as_json, text, name=name, pins=left)


for each in (tokens_add, tokens_list, tokens_remove):
    tokens.add_command(each)


def _store() -> PinStore:
    from kachery_cloud.settings.config import load_config
    from kachery_p2p.pinning.server.store import STORE_NAME, PinStore
    from kachery_p2p.private import make_directory

    directory = load_config().directory
    make_directory(directory)
    return PinStore(directory / STORE_NAME)


def _plain(token: Token) -> dict[str, Any]:
    return {
        "name": token.name,
        "valid": token.valid,
        "quota": token.quota,
        "pins": token.pins,
        "used": token.used,
        "added": token.added,
        "seen": token.seen,
    }


def _line(token: Token) -> str:
    from kachery_cloud.inventory_tables import size_text

    quota = "no quota" if token.quota is None else f"of {size_text(token.quota)}"
    state = "" if token.valid else "  (no token any more)"
    return f"{token.name}  {token.pins:,} pins  {size_text(token.used)} {quota}{state}"
