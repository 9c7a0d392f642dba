"""The command `init`: the data directory, the key, and whose machine this is."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, cast

import click

from kachery_cloud.commands.support import Stopped, command, json_option, print_result

if TYPE_CHECKING:
    from kachery_cloud.ownership.fronts import Console
    from kachery_cloud.privacy import AnnouncedTo

_GAIN = "so that others can check who stands behind this machine"


@command("init")
@click.option(
    "--private/--no-private",
    default=None,
    help="Have this machine announce nothing to anybody; or take that back. Written into config.json.",
)
@click.option("--node", metavar="URL", help="Register this machine with a lab's node: it prints a link, and waits.")
@click.option("--label", metavar="NAME", help="What it is to be called there.  [default: the name of this machine]")
@click.option("--forget", metavar="URL", help="Leave a lab's node that this machine is registered with.")
@click.option(
    "--sign-in/--no-sign-in",
    default=None,
    help="Sign in at Google, or another provider of the settings; or do not ask whether to.",
)
@click.option("--open", "open_browser", is_flag=True, help="Open the link in a browser, too.")
@json_option
def init(
    private: bool | None,
    node: str | None,
    label: str | None,
    forget: str | None,
    sign_in: bool | None,
    open_browser: bool,
    as_json: bool,
) -> None:
    """Make the data directory and the identity of this machine, and print both. Needs no account and no network.

    Says to whom this machine announces what it has. Doing so is not required: everything is also made when it is first
    needed. A node that runs goes on as it was started.

    With --node it registers this machine with a lab's node: whoever follows the link signs in there, in any browser,
    and owns it from then on. What is stored is pinned at the node. With --sign-in somebody signs in at Google itself,
    and the proof stays on this machine.

    \b
    Examples:
        KACHERY_CLOUD_DIR=/big/disk/kachery kachery-cloud-init
        kachery-cloud-init --private
    """  # noqa: D301
    from kachery_cloud.initialising import make
    from kachery_cloud.ownership.fronts import Console, somebody_here
    from kachery_cloud.privacy import sentence

    if node is not None and forget is not None:
        raise click.UsageError("--node registers with a node, --forget leaves one; give one of them.")
    if label is not None and node is None:
        raise click.UsageError("--label is what the machine is called at a node; it goes with --node.")
    made = make(private)
    if not as_json:
        peer_id = made["peer_id"] or "a new one each time, for the directory belongs to another user"
        said = sentence(cast("AnnouncedTo", made["announces_to"]))
        click.echo(f"Data directory: {made['directory']}\nPeer ID:        {peer_id}\n{said}")
    front = Console(open_browser=open_browser, typed=not as_json or somebody_here())
    done: dict[str, Any] = {}
    if forget is not None:
        done["forgotten"] = _forget(forget, as_json)
    if node is not None:
        _register(node, label or "", front, as_json)
    offered = node is None and forget is None
    if sign_in or (offered and sign_in is None and _wants_to_sign_in(made, as_json)):
        _sign_in(front, as_json)
    made = make(None)
    if as_json:
        print_result(True, "", **made, **done)
        return
    if offered:
        _print_whose(made)
    click.echo("To share a file: kachery-cloud node, and in another window: kachery-cloud store FILE --share", err=True)


def _print_whose(made: dict[str, Any]) -> None:
    """Whose machine it is, as far as that is known."""
    owner = made["owner"]
    if owner is not None:
        click.echo(f"Owner:          {_person(owner)}, who signed in with {_provider(owner['issuer'])}")
    for each in made["nodes"]:
        click.echo(
            f"Registered:     with {each['name']} ({each['url']}) as {each['label']}, of {_person(each['owner'])}"
        )
    if owner is None and not made["nodes"]:
        _say_what_signing_in_gains()


def _wants_to_sign_in(made: dict[str, Any], as_json: bool) -> bool:
    """Whether somebody is there who has not signed in, could, and says that he wants to."""
    from kachery_cloud.ownership.fronts import somebody_here
    from kachery_cloud.ownership.sign_in import name_of
    from kachery_cloud.settings.config import load_config

    config = load_config()
    if as_json or not config.openid_client_id or made["owner"] or made["nodes"] or not somebody_here():
        return False
    provider = name_of(config.openid_issuer)
    return click.confirm(f"Sign in with {provider} now, {_GAIN}?", default=False, err=True)


def _say_what_signing_in_gains() -> None:
    from kachery_cloud.settings.config import load_config

    how = "kachery-cloud-init --sign-in" if load_config().openid_client_id else "kachery-cloud-init --node URL"
    click.echo(f"Signing in is not needed; it lets others check whose machine this is: {how}", err=True)


def _sign_in(front: Console, as_json: bool) -> None:
    from kachery_cloud.errors import SignInError
    from kachery_cloud.initialising import sign_in_here

    try:
        sign_in_here(front)
    except KeyboardInterrupt:
        raise Stopped("Interrupted. Nobody has signed in; to try again: kachery-cloud-init --sign-in") from None
    except SignInError as error:
        if as_json:
            raise
        click.echo("The data directory and the key are made, and all works without signing in.", err=True)
        raise error from None


def _register(node: str, label: str, front: Console, as_json: bool) -> None:
    from kachery_cloud.commands.pin_services import say_to_reload
    from kachery_cloud.initialising import register_here

    try:
        found = register_here(node, label, front)
    except KeyboardInterrupt:
        raise Stopped(
            "Interrupted. What was asked of the lab's node stands: the same command goes on waiting."
        ) from None
    lab = found.lab
    if as_json:
        return
    person = _person({"name": lab.owner_name, "email": lab.owner_email})
    if not found.new:
        click.echo(
            f"This machine is registered with {lab.name} as {lab.label}. It belongs to {person}. Nothing changed."
        )
        return
    click.echo(f"This machine is registered with {lab.name} as {lab.label}. It belongs to {person}.")
    click.echo(f"What is stored here is pinned there from now on (pinning service {lab.service}).", err=True)
    say_to_reload()


def _forget(node: str, as_json: bool) -> dict[str, Any]:
    from kachery_cloud.commands.pin_services import say_to_reload
    from kachery_cloud.initialising import identity_here
    from kachery_cloud.ownership.registering import forget
    from kachery_cloud.settings.config import load_config

    config = load_config()
    found = forget(config, identity_here(config), node)
    if not as_json:
        click.echo(f"This machine has left {found.name}. What is pinned there stays until its owner removes it.")
        if not found.told:
            click.echo(
                f"{found.url} could not be told, so it still lists this machine; its owner can remove it on its page.",
                err=True,
            )
        say_to_reload()
    return {"url": found.url, "name": found.name, "told": found.told}


def _person(owner: dict[str, Any]) -> str:
    name, email = owner["name"], owner["email"]
    return f"{name} <{email}>" if name and email else name or email or "somebody whose name is not known"


def _provider(issuer: str) -> str:
    from kachery_cloud.ownership.sign_in import name_of

    return name_of(issuer)
