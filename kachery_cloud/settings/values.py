"""The values of settings, and the file they are read from.

There is one reader for each kind of value: from the raw value and where it came from, to the value or a `ConfigError`.
`READERS` says which setting is of which kind.
"""

from __future__ import annotations

import math
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

from kachery_cloud.errors import ConfigError, InvalidAddress, NotAFile
from kachery_cloud.uri import check_peer_address
from kachery_p2p.json_reader import InvalidJSON, read_json
from kachery_p2p.ownfiles import read_own_file
from kachery_p2p.text import shown
from kachery_p2p.urls import BadURL, base_url

DEFAULT_TIMEOUT = 60.0
# A day: beyond it a load that hangs would look like one that works.
MAX_TIMEOUT = 86_400.0
CONFIG_NAME = "config.json"
#: Bytes of the settings file: hundreds of peers are a tenth of this.
MAX_CONFIG = 1 << 20

_UNITS = {"": 1, "K": 10**3, "M": 10**6, "G": 10**9, "T": 10**12, "KI": 2**10, "MI": 2**20, "GI": 2**30, "TI": 2**40}
_ON = ("on", "true", "yes", "1")
_OFF = ("off", "false", "no", "0")


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
        return base_url(text, user=True)
    except BadURL:
        raise ConfigError(
            f"{text!r} ({origin}) is not a URL. A router's looks like https://router.example.org."
        ) from None


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


#: The settings by their names in `config.json`, besides `pin_services`.
READERS: dict[str, Callable[[Any, str], Any]] = {
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


# --- the file --------------------------------------------------------------------------------------------------------


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
    known = ", ".join((*READERS, "pin_services"))
    if not isinstance(stored, dict):
        raise ConfigError(f"The settings file {path} must hold a JSON object with the keys {known}.")
    for key in stored:
        if key not in (*READERS, "pin_services"):
            raise ConfigError(f"The settings file {path} has the unknown key {key!r}; known are {known}.")
    return stored
