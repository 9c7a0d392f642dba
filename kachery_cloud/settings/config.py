"""Settings: from the environment, then `config.json` in the data directory, then the defaults below.

| environment                   | config.json       | meaning                                                          |
|-------------------------------|-------------------|------------------------------------------------------------------|
| KACHERY_CLOUD_DIR             |                   | the data directory, `~/.kachery-cloud` where unset               |
| KACHERY_CLOUD_PEERS           | `peers`           | multiaddrs of peers to stay connected to and to ask              |
| KACHERY_CLOUD_LISTEN          | `listen`          | multiaddrs to listen on                                          |
| KACHERY_CLOUD_TIMEOUT         | `timeout`         | seconds without any progress after which a load gives up         |
| KACHERY_CLOUD_MAX_STORE_BYTES | `max_store_bytes` | the most that one store may take; no limit where unset           |
| KACHERY_CLOUD_PUBLIC          | `public`          | `off`: use no public service at all (those marked * below)       |
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
import math
import os
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal
from urllib.parse import urlsplit

from kachery_cloud.errors import ConfigError, InvalidAddress, NotAFile
from kachery_cloud.uri import check_peer_address
from kachery_p2p.json_reader import InvalidJSON, read_json
from kachery_p2p.ownfiles import read_own_file
from kachery_p2p.text import shown

if TYPE_CHECKING:
    from kachery_cloud.settings.pin_services import PinSetting

DEFAULT_LISTEN = ("/ip4/0.0.0.0/tcp/0", "/ip6/::/tcp/0")
DEFAULT_TIMEOUT = 60.0
# A day: beyond it a load that hangs would look like one that works.
MAX_TIMEOUT = 86_400.0
CONFIG_NAME = "config.json"
#: Bytes of the settings file: hundreds of peers are a tenth of this.
MAX_CONFIG = 1 << 20

_UNITS = {"": 1, "K": 10**3, "M": 10**6, "G": 10**9, "T": 10**12, "KI": 2**10, "MI": 2**20, "GI": 2**30, "TI": 2**40}
_ON = ("on", "true", "yes", "1")
_OFF = ("off", "false", "no", "0")


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
    for key, read in _READERS.items():
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


def parse_timeout(value: Any, origin: str) -> float:
    """Seconds as a float; the default where `value` is None."""
    if value is None:
        return DEFAULT_TIMEOUT
    try:
        seconds = math.nan if isinstance(value, bool) else float(value)
    except (TypeError, ValueError, OverflowError):
        seconds = math.nan
    if not 0 < seconds <= MAX_TIMEOUT:
        raise ConfigError(
            f"{origin} is {shown(value)}; it must be a number of seconds between 0 and {MAX_TIMEOUT:.0f}."
        )
    return seconds


def parse_addresses(value: Any, origin: str) -> tuple[str, ...]:
    """Multiaddrs from a list, or from text that separates them by commas or blanks; each once."""
    if isinstance(value, str):
        value = [part for part in re.split(r"[,\s]+", value) if part]
    if not isinstance(value, (list, tuple)) or not all(isinstance(part, str) for part in value):
        raise ConfigError(f"{origin} is {value!r}; it must be a list of multiaddrs.")
    try:
        return tuple(dict.fromkeys(check_peer_address(part, origin) for part in value))
    except InvalidAddress as exc:
        raise ConfigError(str(exc)) from None


def parse_bootstrap(value: Any, origin: str) -> tuple[str, ...] | None:
    """Multiaddrs to enter the DHT by; None for the word `default`, no address for the word `none`."""
    word = _list_word(value)
    return parse_addresses(value, origin) if word == "" else None if word == "default" else ()


def write_default_config(directory: Path) -> Path:
    """Write `config.json` with the defaults, if there is none. Its path."""
    from kachery_p2p.private import make_file

    path = directory / CONFIG_NAME
    defaults = Config(directory)
    stored = {key: getattr(defaults, key) for key in _READERS}
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


def read_config_file(path: Path) -> dict[str, Any]:
    """What `config.json` holds; empty where there is none. Raises `ConfigError`: not JSON, or a key that is unknown."""
    try:
        stored = read_json(read_own_file(path, MAX_CONFIG))
    except FileNotFoundError:
        return {}
    except PermissionError as exc:
        from kachery_p2p.private import can_write

        if not can_write(path.parent):
            return {}  # another user's directory, to be read from: no node will run here that could need them
        raise ConfigError(
            f"The settings file {path} may not be read by this user. In a directory that a group shares, its owner "
            f"makes it readable with: chmod g+r {path}"
        ) from exc
    except OSError as exc:
        raise ConfigError(f"The settings file {path} cannot be read: {exc.strerror or exc}.") from exc
    except NotAFile as exc:
        raise ConfigError(f"The settings cannot be read: {exc}") from None
    except InvalidJSON as exc:
        raise ConfigError(f"The settings file {path} is not JSON: {exc}.") from None
    known = ", ".join((*_READERS, "pin_services"))
    if not isinstance(stored, dict):
        raise ConfigError(f"The settings file {path} must hold a JSON object with the keys {known}.")
    for key in stored:
        if key not in (*_READERS, "pin_services"):
            raise ConfigError(f"The settings file {path} has the unknown key {key!r}; known are {known}.")
    return stored


def _pin_services(stored: Any, path: Path, env: Mapping[str, str]) -> tuple[PinSetting, ...]:
    """Those of the file and those of the environment; with a token in it the file is made private."""
    if not stored and not env.get("KACHERY_CLOUD_PIN_SERVICES"):
        return ()
    from kachery_cloud.settings.pin_services import make_private, read_services, with_environment

    services = read_services(stored, f"'pin_services' in {path}")
    if any(service.token for service in services):
        make_private(path)
    return with_environment(services, env)


# --- one reader for each kind of value: the raw value and where it came from, to the value or a ConfigError ----------


def byte_count(value: Any, origin: str) -> int:
    match = re.fullmatch(r"\s*(\d+(?:\.\d+)?)\s*([KMGT]I?)?B?\s*", str(value), re.IGNORECASE)
    if isinstance(value, bool) or not match:
        raise ConfigError(f"{origin} is {value!r}; it must be a number of bytes such as 1000000, 50GB or 64GiB.")
    return int(float(match[1]) * _UNITS[(match[2] or "").upper()]) if match[2] else int(float(match[1]))


def _switch(value: Any, origin: str) -> bool:
    word = _word(value)
    if word not in _ON + _OFF:
        raise ConfigError(f"{origin} is {value!r}; it must be on or off.")
    return word in _ON


def _choice(*choices: str) -> Callable[[Any, str], str]:
    """One word of several. Where `off` is one of them, so is everything else that means off; `on` then is the first."""

    def read(value: Any, origin: str) -> str:
        word = _word(value)
        if "off" in choices and word in _ON + _OFF:
            word = "off" if word in _OFF else "on" if "on" in choices else choices[0]
        if word not in choices:
            raise ConfigError(f"{origin} is {value!r}; it must be {', '.join(choices[:-1])} or {choices[-1]}.")
        return word

    return read


def _word(value: Any) -> str:
    """`true` and `1` of JSON are as good as the words."""
    return str(value).strip().lower() if isinstance(value, (str, bool, int)) else ""


def _url_list(value: Any, origin: str, read: Callable[[str, str], str]) -> tuple[str, ...] | None:
    """URLs, each as `read` gives it; None for the default ones. The value is not shown: URLs may hold secrets."""
    word = _list_word(value)
    if word:
        return None if word == "default" else ()
    if isinstance(value, str):
        value = [part for part in re.split(r"[,\s]+", value) if part]
    if not isinstance(value, list) or not all(isinstance(part, str) for part in value):
        raise ConfigError(f"{origin} must be a list of URLs, or default, or none.")
    return tuple(dict.fromkeys(read(part, origin) for part in value))


def _urls(value: Any, origin: str) -> tuple[str, ...] | None:
    return _url_list(value, origin, _url)


def _url(text: str, origin: str) -> str:
    try:
        parts = urlsplit(text)
        whole = parts.scheme in ("http", "https") and bool(parts.hostname) and parts.port != 0
    except ValueError:  # a port that is no number, brackets that do not close
        whole = False
    if not whole:
        raise ConfigError(f"{text!r} ({origin}) is not a URL. A router's looks like https://router.example.org.")
    return text.rstrip("/")


def _gateway_urls(value: Any, origin: str) -> tuple[str, ...] | None:
    return _url_list(value, origin, _gateway_url)


def _gateway_url(text: str, origin: str) -> str:
    from kachery_p2p.errors import GatewayError
    from kachery_p2p.gateway.client.answers import parse_url

    try:
        return parse_url(text)
    except GatewayError as exc:
        raise ConfigError(f"{origin}: {exc}") from None


def _gateway_tokens(value: Any, origin: str) -> dict[str, str]:
    """Tokens by URL. No error repeats what it was given, since it is a secret."""
    shape = f"{origin} must be tokens by URL, such as https://gateway.example.org=TOKEN."
    if isinstance(value, str) and value.lstrip().startswith("{"):
        try:
            value = read_json(value)
        except InvalidJSON:
            raise ConfigError(shape) from None
    if isinstance(value, str):
        pairs = [part.partition("=") for part in re.split(r"[,\s]+", value) if part]
        if not all(equals for _, equals, _ in pairs):
            raise ConfigError(shape)
        value = {url: token for url, _, token in pairs}
    if not isinstance(value, dict) or not all(isinstance(token, str) and token for token in value.values()):
        raise ConfigError(shape)
    try:
        return {_gateway_url(url, origin): token for url, token in value.items()}
    except ConfigError:
        raise ConfigError(shape) from None


def _list_word(value: Any) -> str:
    """`default` or `none` where a list is that word; else empty."""
    word = _word(value) if isinstance(value, (str, bool)) else ""
    return "none" if word == "none" or word in _OFF else "default" if word == "default" or word in _ON else ""


_READERS: dict[str, Callable[[Any, str], Any]] = {
    "listen": parse_addresses,
    "peers": parse_addresses,
    "timeout": parse_timeout,
    "max_store_bytes": byte_count,
    "public": _switch,
    "dht": _choice("auto", "client", "server", "off"),
    "bootstrap": parse_bootstrap,
    "delegated": _urls,
    "lan_dht": _switch,
    "mdns": _switch,
    "known_peers": _switch,
    "provide": _choice("roots", "all", "off"),
    "announce": parse_addresses,
    "reachability": _choice("auto", "public", "private"),
    "port_map": _switch,
    "relays": parse_addresses,
    "relay_service": _choice("auto", "on", "off"),
    "gateways": _gateway_urls,
    "gateway_tokens": _gateway_tokens,
}
