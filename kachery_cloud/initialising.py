"""`init`: the data directory and the key of this machine; where somebody wants it, also whose machine it is."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from kachery_cloud.arguments import check_flags
from kachery_cloud.errors import ConfigError, InvalidArgument, KacheryError
from kachery_cloud.local import repository
from kachery_cloud.privacy import configured_audience
from kachery_cloud.settings.config import load_config, write_default_config, write_setting
from kachery_p2p.text import shown

if TYPE_CHECKING:
    from kachery_cloud.ownership.fronts import Console, Notebook
    from kachery_cloud.settings.config import Config
    from kachery_p2p.repo.keys import NodeKey


def init(
    *,
    private: bool | None = None,
    node: str | None = None,
    label: str | None = None,
    sign_in: bool | None = None,
) -> dict[str, Any]:
    """Make the data directory, its settings file and its identity, where they are missing. Needs no network.

    There is no account to make and nothing to sign up for: everything else also makes them when first needed. With
    `node`, this machine is registered with a lab's node: a link is shown, on which somebody signs in and registers it,
    and this waits for that; in a notebook, too. With `sign_in`, somebody signs in at Google, or another OpenID provider
    of the settings, so that others can check who stands behind this machine (`kcl.owner`). Waiting can be interrupted;
    the same call takes a registration up again.

    Args:
        private: True to have this machine announce nothing to anybody, False to undo that; it is written into the
            settings file, and holds for nodes that start from then on.
        node: the URL of a lab's node to register with. Nothing changes where this machine is registered there.
        label: what this machine is to be called there; its host name by default.
        sign_in: True to sign in at the provider itself.

    Returns:
        "directory", "config" (the path of the settings), "peer_id" (how other machines know this one; empty in a
        directory of another user, where a node has a new one each time) and "announces_to" ("world", "lan", "nobody",
        or "lab" where there is a swarm key). "owner" is who has signed in here ("name", "email", "issuer", "subject"
        and "signed_in", ISO 8601), or None. "nodes" are the lab's nodes that this machine is registered with, each with
        "url", "name", "label", "owner" ("name" and "email") and "pin_service".

    Raises:
        SignInError: nobody signed in, or registered this machine, or the node or provider cannot be reached.

    Example:
        >>> kcl.init()["peer_id"]
        '12D3KooW...'
    """
    check_text(node, "node")
    check_text(label, "label")
    if sign_in is not None:
        check_flags(sign_in=sign_in)
    made = make(private)
    if node is None and not sign_in:
        return made
    from kachery_cloud.ownership.fronts import Console, notebook_here, somebody_here

    front = notebook_here() or Console(typed=somebody_here())
    if node is not None:
        register_here(node, label or "", front)
    if sign_in:
        sign_in_here(front)
    return make(None)


def make(private: bool | None) -> dict[str, Any]:
    """The part of `init` that needs nobody."""
    from kachery_p2p.oserrors import explained
    from kachery_p2p.repo.keys import load_or_create_identity, may_keep_identity

    if private is not None:
        check_flags(private=private)
    config = load_config()
    repository(config)
    with explained("writing the settings in", config.directory):
        if private is None:
            path = write_default_config(config.directory)
        else:
            path = write_setting(config.directory, "private", bool(private))
        kept = may_keep_identity(config.directory)
    identity = load_or_create_identity(config.directory) if kept else None
    config = load_config()  # anew: the environment may say otherwise than the file
    return {
        "directory": str(config.directory),
        "config": str(path),
        "peer_id": "" if identity is None else identity.peer_id,
        "announces_to": configured_audience(config),
        "owner": None if identity is None else _owner(config),
        "nodes": [] if identity is None else _nodes(config),
    }


def identity_here(config: Config) -> NodeKey:
    """The key of this machine.

    Raises:
        ConfigError: there is none that would stay the same.
    """
    from kachery_p2p.repo.keys import load_or_create_identity, may_keep_identity

    if not may_keep_identity(config.directory):
        raise ConfigError(
            f"{config.directory} belongs to another user, so this machine has no key of its own there that somebody "
            "could own. Use a directory of yours: KACHERY_CLOUD_DIR"
        )
    return load_or_create_identity(config.directory)


def register_here(node: str, label: str, front: Console | Notebook) -> Any:
    """Register this machine with a lab's node; see `kachery_cloud.ownership.registering.register`."""
    from kachery_cloud.ownership.registering import register

    config = load_config()
    return register(config, identity_here(config), node, front, label=label)


def sign_in_here(front: Console | Notebook) -> Any:
    """Sign in at the provider of the settings; see `kachery_cloud.ownership.sign_in.sign_in`."""
    from kachery_cloud.ownership.sign_in import sign_in

    config = load_config()
    return sign_in(config, identity_here(config), front)


def check_text(value: object, name: str) -> None:
    """A text, or None.

    Raises:
        InvalidArgument: it is something else.
    """
    if value is not None and not isinstance(value, str):
        raise InvalidArgument(f"{name} is {shown(value)}; it must be text.")


def _owner(config: Config) -> dict[str, str] | None:
    """Who has signed in here, as far as the proof that is kept says so."""
    from kachery_p2p.ownership_file import PROOF_NAME

    if not (config.directory / PROOF_NAME).exists():
        return None
    from kachery_cloud.ownership.answering import verify_own
    from kachery_cloud.ownership.kept import own_proof
    from kachery_cloud.ownership.verifying import Policy
    from kachery_cloud.utc import time_text

    try:
        kept = own_proof(config.directory)
        found = None if kept is None else verify_own(config, kept, Policy(), [])
    except KacheryError:  # `kachery-cloud owner` says what is wrong with it; nothing else depends on it
        return None
    if found is None:
        return None
    return {
        "name": found.name,
        "email": found.email,
        "issuer": found.issuer,
        "subject": found.subject,
        "signed_in": time_text(found.signed_in),
    }


def _nodes(config: Config) -> list[dict[str, Any]]:
    from kachery_cloud.ownership.labs import known_labs

    return [
        {
            "url": url,
            "name": lab.name,
            "label": lab.label,
            "owner": {"name": lab.owner_name, "email": lab.owner_email},
            "pin_service": lab.service,
        }
        for url, lab in known_labs(config.directory).items()
        if lab.state == "registered"
    ]
