"""Settings: from the environment, then `config.json` in the data directory, then the defaults below.

| environment                   | config.json       | meaning                                                          |
|-------------------------------|-------------------|------------------------------------------------------------------|
| KACHERY_CLOUD_DIR             |                   | the data directory, `~/.kachery-cloud` where unset               |
| KACHERY_CLOUD_PEERS           | `peers`           | multiaddrs of peers to stay connected to and to ask              |
| KACHERY_CLOUD_LISTEN          | `listen`          | multiaddrs to listen on                                          |
| KACHERY_CLOUD_TIMEOUT         | `timeout`         | seconds without any progress after which a load gives up         |
| KACHERY_CLOUD_MAX_STORE_BYTES | `max_store_bytes` | the most that one store may take; no limit where unset           |
| KACHERY_CLOUD_PUBLIC          | `public`          | `off`: use no public service (those marked * below)              |
| KACHERY_CLOUD_DHT             | `dht`             | * the public DHT: `auto` (a server while reachable), `client`,   |
|                               |                   | `server` or `off`                                                |
| KACHERY_CLOUD_BOOTSTRAP       | `bootstrap`       | * multiaddrs of peers to enter the DHT by; `default`, or `none`  |
| KACHERY_CLOUD_DELEGATED       | `delegated`       | * URLs of delegated HTTP routers; `default`, or `none`           |
| KACHERY_CLOUD_LAN_DHT         | `lan_dht`         | the DHT among the machines of the local network: `on` or `off`   |
| KACHERY_CLOUD_MDNS            | `mdns`            | finding machines of the local network by mDNS: `on` or `off`     |
| KACHERY_CLOUD_KNOWN_PEERS     | `known_peers`     | the address book of peers met before: `on` or `off`              |
| KACHERY_CLOUD_PROVIDE         | `provide`         | announced are the `roots` of what is here, `all` blocks, or `off`|
| KACHERY_CLOUD_ANNOUNCE        | `announce`        | multiaddrs to tell others, besides those that are found out      |
| KACHERY_CLOUD_REACHABILITY    | `reachability`    | whether others can dial this machine: `auto`, `public`, `private`|
| KACHERY_CLOUD_PORT_MAP        | `port_map`        | asking the router for a port (UPnP, NAT-PMP): `on` or `off`      |
| KACHERY_CLOUD_RELAYS          | `relays`          | multiaddrs of relays to be reached through                       |
| KACHERY_CLOUD_RELAY_SERVICE   | `relay_service`   | relaying for others: `auto` (`kachery-cloud-node` does, while    |
|                               |                   | reachable; a script or notebook does not), `on` or `off`         |
| KACHERY_CLOUD_GATEWAYS        | `gateways`        | * URLs of HTTP gateways to load from where peers do not deliver; |
|                               |                   | `default`, or `none`. Those named are used without `public`, too |
| KACHERY_CLOUD_GATEWAY_TOKENS  | `gateway_tokens`  | what some of them want to be shown: `URL=token`; in the file an  |
|                               |                   | object of tokens by URL                                          |
| KACHERY_CLOUD_PIN_SERVICES    | `pin_services`    | pinning services; see `settings.pin_services`                    |

Lists are separated by commas or blanks in the environment, and are JSON arrays in the file. Switches are on, true, yes,
1 or off, false, no, 0.
"""

from __future__ import annotations

import json
import os
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from kachery_cloud.errors import ConfigError
from kachery_cloud.settings.values import CONFIG_NAME, DEFAULT_TIMEOUT, READERS, read_config_file

if TYPE_CHECKING:
    from kachery_cloud.settings.pin_services import PinSetting

DEFAULT_LISTEN = ("/ip4/0.0.0.0/tcp/0", "/ip6/::/tcp/0")


@dataclass(frozen=True)
class Config:
    """What one data directory and its node are set to; the module's table says what each setting means.

    `timeout` is patience: seconds in which nothing at all arrives before a load gives up. `bootstrap`, `delegated` and
    `gateways` are None where the public defaults are meant. Before using one of the settings that `public` (or a swarm
    key) overrules, ask `dht_mode`, `bootstrap_peers`, `delegated_routers` and `gateway_urls`.
    """

    directory: Path
    listen: tuple[str, ...] = DEFAULT_LISTEN
    peers: tuple[str, ...] = ()
    timeout: float = DEFAULT_TIMEOUT
    max_store_bytes: int | None = None
    public: bool = True
    dht: Literal["auto", "client", "server", "off"] = "auto"
    bootstrap: tuple[str, ...] | None = None
    delegated: tuple[str, ...] | None = None
    lan_dht: bool = True
    mdns: bool = True
    known_peers: bool = True
    provide: Literal["roots", "all", "off"] = "roots"
    announce: tuple[str, ...] = ()
    reachability: Literal["auto", "public", "private"] = "auto"
    port_map: bool = True
    relays: tuple[str, ...] = ()
    relay_service: Literal["auto", "on", "off"] = "auto"
    gateways: tuple[str, ...] | None = None
    gateway_tokens: Mapping[str, str] = field(default_factory=dict, repr=False)
    pin_services: tuple[PinSetting, ...] = ()

    def dht_mode(self, private_network: bool) -> Literal["auto", "client", "server", "off"]:
        """How to take part in `/ipfs/kad/1.0.0`: not at all when `public` is off.

        In a private network every peer of that DHT holds the key, so it is the lab's own; it is used where the lab
        names peers to enter it by.
        """
        if not self.public or (private_network and not self.bootstrap):
            return "off"
        return self.dht

    def bootstrap_peers(self, private_network: bool) -> tuple[str, ...]:
        """Multiaddrs to enter the DHT by: none when `public` is off; no public ones in a private network."""
        if not self.public:
            return ()
        if self.bootstrap is not None:
            return self.bootstrap
        if private_network:
            return ()
        from kachery_p2p.routing.bootstrap import BOOTSTRAP_PEERS

        return tuple(BOOTSTRAP_PEERS)

    def delegated_routers(self, private_network: bool) -> tuple[str, ...]:
        """URLs of `/routing/v1` servers: none when `public` is off, nor in a private network, which they are not part
        of."""
        if not self.public or private_network:
            return ()
        if self.delegated is not None:
            return self.delegated
        from kachery_p2p.routing.bootstrap import DELEGATED_ROUTERS

        return tuple(DELEGATED_ROUTERS)

    def gateway_urls(self, private_network: bool) -> tuple[str, ...]:
        """URLs of HTTP gateways: none in a private network; only those that are named when `public` is off."""
        if private_network or (self.gateways is None and not self.public):
            return ()
        if self.gateways is not None:
            return self.gateways
        from kachery_p2p.gateway.client.defaults import GATEWAYS

        return GATEWAYS


def load_config(environ: Mapping[str, str] | None = None) -> Config:
    """Read the settings. Touches nothing but `config.json`; raises `ConfigError` naming the setting that is wrong."""
    env = os.environ if environ is None else environ
    directory = _directory(env.get("KACHERY_CLOUD_DIR", ""))
    stored = read_config_file(directory / CONFIG_NAME)
    chosen: dict[str, Any] = {}
    for key, read in READERS.items():
        variable = f"KACHERY_CLOUD_{key.upper()}"
        if env.get(variable, "").strip():
            chosen[key] = read(env[variable], variable)
        elif stored.get(key) is not None:
            chosen[key] = read(stored[key], f"{key!r} in {directory / CONFIG_NAME}")
    if stored.get("gateway_tokens"):
        from kachery_cloud.settings.pin_services import make_private

        make_private(directory / CONFIG_NAME)
    pin_services = _pin_services(stored.get("pin_services"), directory / CONFIG_NAME, env)
    return Config(directory=directory, pin_services=pin_services, **chosen)


def write_default_config(directory: Path) -> Path:
    """Write `config.json` with the defaults, if there is none. Its path."""
    from kachery_p2p.private import make_file

    path = directory / CONFIG_NAME
    defaults = Config(directory)
    stored = {key: getattr(defaults, key) for key in READERS}
    text = json.dumps({**stored, **dict.fromkeys(("bootstrap", "delegated", "gateways"), "default")}, indent=2)
    try:
        with os.fdopen(make_file(path), "w", encoding="utf-8") as file:
            file.write(text + "\n")
    except FileExistsError:
        pass
    return path


def _directory(text: str) -> Path:
    try:
        path = Path(text.strip() or "~/.kachery-cloud").expanduser()
    except RuntimeError:
        raise ConfigError(f"The home directory in KACHERY_CLOUD_DIR={text!r} is not known; give a full path.") from None
    path = Path(os.path.abspath(path))
    if path.exists() and not path.is_dir():
        raise ConfigError(f"The data directory {path} (KACHERY_CLOUD_DIR) is a file; it must be a directory.")
    return path


def _pin_services(stored: Any, path: Path, env: Mapping[str, str]) -> tuple[PinSetting, ...]:
    """Those of the file and those of the environment; with a token in it the file is made private."""
    if not stored and not env.get("KACHERY_CLOUD_PIN_SERVICES"):
        return ()
    from kachery_cloud.settings.pin_services import make_private, read_services, with_environment

    services = read_services(stored, f"'pin_services' in {path}")
    if any(service.token for service in services):
        make_private(path)
    return with_environment(services, env)
