"""To whom this machine announces what it has, in one sentence: in `init`, at the first store, and in `status`."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Literal, TypeAlias

if TYPE_CHECKING:
    from kachery_cloud.settings.config import Config
    from kachery_p2p.node.status_messages import DiscoveryStatus

AnnouncedTo: TypeAlias = Literal["world", "lab", "lan", "nobody"]

_SENTENCES: dict[AnnouncedTo, str] = {
    "world": "This machine announces what it stores and loads to the whole world: anybody can look up that it has a "
    "URI, and load that. To change it: kachery-cloud-init --private",
    "lab": "This machine announces what it stores and loads to the holders of its swarm key, and to nobody else.",
    "lan": "This machine announces itself and what it stores and loads to its local network, and to nobody else.",
    "nobody": "This machine announces nothing to anybody. Whoever knows a URI and an address of this machine can load "
    "it from here.",
}
#: Data directories that something is in, as far as this process has seen.
_begun: set[Path] = set()


def sentence(audience: AnnouncedTo) -> str:
    """What is to be known about it."""
    return _SENTENCES[audience]


def audience(*, public_dht: bool, lan_dht: bool, mdns: bool, provides: bool, private_network: bool) -> AnnouncedTo:
    """To whom a node with these parts announces."""
    if not (mdns or (provides and (public_dht or lan_dht))):
        return "nobody"
    if private_network:
        return "lab"
    return "world" if provides and public_dht else "lan"


def configured_audience(config: Config) -> AnnouncedTo:
    """To whom a node would announce that starts with these settings."""
    from kachery_p2p.repo.swarm_key import SWARM_KEY_NAME

    private_network = (config.directory / SWARM_KEY_NAME).exists()
    return audience(
        public_dht=config.dht_mode(private_network) != "off",
        lan_dht=config.lan_dht,
        mdns=config.mdns,
        provides=config.provide != "off",
        private_network=private_network,
    )


def running_audience(found: DiscoveryStatus) -> AnnouncedTo:
    """To whom the node announces that says this of itself."""
    on = {name for name, source in found.sources.items() if source.on}
    return audience(
        public_dht="dht" in on,
        lan_dht="lan-dht" in on,
        mdns="mdns" in on,
        provides=found.providing.strategy != "off",
        private_network=found.private_network,
    )


def is_first(config: Config) -> bool:
    """Whether nothing that is public was stored or loaded yet in the data directory. Later, asking costs nothing.

    What is for a group, or private, is announced to nobody else, and another sentence says so.
    """
    if config.directory in _begun:
        return False
    if config.directory.is_dir():
        from kachery_cloud.local import repository

        repo = repository(config)
        apart = {cid.multihash for cid, _ in repo.access.roots()} if repo.access.any_restricted() else frozenset()
        if next((root for root in repo.roots() if root not in apart), None) is not None:
            _begun.add(config.directory)
            return False
    return True
