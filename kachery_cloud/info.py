"""Looking after a data directory: making it, its node, and whether its files are still what they were."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from .config import load_config, write_default_config
from .local import repository, resolve_local
from .progress import progress_bar
from .uri import parse_uri

if TYPE_CHECKING:
    from kachery_p2p.repo.repo import Problem


def init() -> dict[str, str]:
    """Make the data directory, its settings file and its identity, where they are missing. Needs no network.

    There is no account to make and nothing to sign up for: everything else also makes them when first needed.

    Returns:
        "directory", "config" (the path of the settings) and "peer_id" (how other machines know this one).
    """
    from kachery_p2p.repo.fileio import explained
    from kachery_p2p.repo.keys import load_or_create_identity

    config = load_config()
    repository(config)
    with explained("writing the settings in", config.directory):
        path = write_default_config(config.directory)
    identity = load_or_create_identity(config.directory)
    return {"directory": str(config.directory), "config": str(path), "peer_id": identity.peer_id}


def status() -> dict[str, Any]:
    """What the node of this machine is doing; starts it if none runs.

    Returns:
        "peer_id", "addresses" (multiaddrs to give to others), "connected" (peers), and counters.

    Example:
        >>> kcl.status()["addresses"]
        ['/ip4/192.168.1.20/tcp/40121/p2p/12D3KooW...']
    """
    from .background import get_connection

    return get_connection(load_config()).status()


def get_node_info() -> dict[str, Any]:
    """The same as `status`."""
    return status()


def verify(uris: Sequence[str] | None = None) -> list[Problem]:
    """Read every stored and linked file, or those of `uris`, and compare it with its hash.

    Returns:
        A list of `Problem(cid, path, what)`: files that are damaged, changed or missing. Empty where all is well.
    """
    repo = repository(load_config())
    cids = None if uris is None else [resolve_local(repo, parse_uri(uri)) for uri in uris]
    with progress_bar("Verifying") as update:
        return repo.verify(cids, progress=update)
