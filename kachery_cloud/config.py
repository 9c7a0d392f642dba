"""Settings: from the environment, then `config.json` in the data directory, then the defaults below.

| environment                   | config.json       | meaning                                                          |
|-------------------------------|-------------------|------------------------------------------------------------------|
| KACHERY_CLOUD_DIR             |                   | the data directory, `~/.kachery-cloud` where unset               |
| KACHERY_CLOUD_PEERS           | `peers`           | multiaddrs of peers to stay connected to and to ask              |
| KACHERY_CLOUD_LISTEN          | `listen`          | multiaddrs to listen on                                          |
| KACHERY_CLOUD_TIMEOUT         | `timeout`         | seconds without any progress after which a load gives up         |
| KACHERY_CLOUD_MAX_STORE_BYTES | `max_store_bytes` | the most that one store may take; no limit where unset           |
| KACHERY_CLOUD_PUBLIC          | `public`          | `off`: use no public service at all (the three marked * below)   |
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

Lists are separated by commas or blanks in the environment, and are JSON arrays in the file. Switches are on, true, yes,
1 or off, false, no, 0.
"""

from __future__ import annotations

import json
import math
import os
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal
from urllib.parse import urlsplit

from .errors import ConfigError, InvalidAddress
from .uri import check_peer_address

DEFAULT_LISTEN = ("/ip4/0.0.0.0/tcp/0", "/ip6/::/tcp/0")
DEFAULT_TIMEOUT = 60.0
# A day: beyond it a load that hangs would look like one that works.
MAX_TIMEOUT = 86_400.0
CONFIG_NAME = "config.json"

_UNITS = {"": 1, "K": 10**3, "M": 10**6, "G": 10**9, "T": 10**12, "KI": 2**10, "MI": 2**20, "GI": 2**30, "TI": 2**40}
_ON = ("on", "true", "yes", "1")
_OFF = ("off", "false", "no", "0")


@dataclass(frozen=True)
class Config:
    """What one data directory and its node are set to; the module's table says what each setting means.

    `timeout` is patience: seconds in which nothing at all arrives before a load gives up. `bootstrap` and `delegated`
    are None where the public defaults are meant. Before using one of the settings that `public` (or a swarm key)
    overrules, ask `dht_mode`, `bootstrap_peers` and `delegated_routers`.
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


def load_config(environ: Mapping[str, str] | None = None) -> Config:
    """Read the settings. Touches nothing but `config.json`; raises `ConfigError` naming the setting that is wrong."""
    env = os.environ if environ is None else environ
    directory = _directory(env.get("KACHERY_CLOUD_DIR", ""))
    stored = _read_file(directory / CONFIG_NAME)
    chosen: dict[str, Any] = {}
    for key, read in _READERS.items():
        variable = f"KACHERY_CLOUD_{key.upper()}"
        if env.get(variable, "").strip():
            chosen[key] = read(env[variable], variable)
        elif stored.get(key) is not None:
            chosen[key] = read(stored[key], f"{key!r} in {directory / CONFIG_NAME}")
    return Config(directory=directory, **chosen)


def parse_timeout(value: Any, origin: str) -> float:
    """Seconds as a float; the default where `value` is None."""
    if value is None:
        return DEFAULT_TIMEOUT
    try:
        seconds = math.nan if isinstance(value, bool) else float(value)
    except (TypeError, ValueError):
        seconds = math.nan
    if not 0 < seconds <= MAX_TIMEOUT:
        raise ConfigError(f"{origin} is {value!r}; it must be a number of seconds between 0 and {MAX_TIMEOUT:.0f}.")
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
    path = directory / CONFIG_NAME
    defaults = Config(directory)
    stored = {key: getattr(defaults, key) for key in _READERS}
    text = json.dumps({**stored, "bootstrap": "default", "delegated": "default"}, indent=2)
    try:
        with path.open("x", encoding="utf-8") as file:
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


def _read_file(path: Path) -> dict[str, Any]:
    try:
        text = path.read_text(encoding="utf-8")
    except FileNotFoundError:
        return {}
    except (OSError, UnicodeDecodeError) as exc:
        raise ConfigError(f"The settings file {path} cannot be read: {exc}.") from exc
    try:
        stored = json.loads(text)
    except ValueError as exc:
        raise ConfigError(f"The settings file {path} is not JSON: {exc}.") from None
    known = ", ".join(_READERS)
    if not isinstance(stored, dict):
        raise ConfigError(f"The settings file {path} must hold a JSON object with the keys {known}.")
    for key in stored:
        if key not in _READERS:
            raise ConfigError(f"The settings file {path} has the unknown key {key!r}; known are {known}.")
    return stored


# --- one reader for each kind of value: the raw value and where it came from, to the value or a ConfigError ----------


def _byte_count(value: Any, origin: str) -> int:
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


def _urls(value: Any, origin: str) -> tuple[str, ...] | None:
    word = _list_word(value)
    if word:
        return None if word == "default" else ()
    if isinstance(value, str):
        value = [part for part in re.split(r"[,\s]+", value) if part]
    if not isinstance(value, list) or not all(isinstance(part, str) for part in value):
        raise ConfigError(f"{origin} is {value!r}; it must be a list of URLs, or default, or none.")
    return tuple(dict.fromkeys(_url(part, origin) for part in value))


def _url(text: str, origin: str) -> str:
    try:
        parts = urlsplit(text)
        whole = parts.scheme in ("http", "https") and bool(parts.hostname) and parts.port != 0
    except ValueError:  # a port that is no number, brackets that do not close
        whole = False
    if not whole:
        raise ConfigError(f"{text!r} ({origin}) is not a URL. A router's looks like https://router.example.org.")
    return text.rstrip("/")


def _list_word(value: Any) -> str:
    """`default` or `none` where a list is that word; else empty."""
    word = _word(value) if isinstance(value, (str, bool)) else ""
    return "none" if word == "none" or word in _OFF else "default" if word == "default" or word in _ON else ""


_READERS: dict[str, Callable[[Any, str], Any]] = {
    "listen": parse_addresses,
    "peers": parse_addresses,
    "timeout": parse_timeout,
    "max_store_bytes": _byte_count,
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
}
