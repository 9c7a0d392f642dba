"""The values of settings: for each kind of value a `Parser`, which reads it and says what may be given."""

from __future__ import annotations

import math
import os
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Generic, TypeVar, get_args
from urllib.parse import urlsplit

from kachery_cloud.errors import ConfigError, InvalidAddress
from kachery_cloud.uri import check_peer_address
from kachery_p2p.json_reader import InvalidJSON, read_json
from kachery_p2p.text import shown
from kachery_p2p.urls import BadURL, base_url

T = TypeVar("T")

#: Where the lab listens when nothing else is said.
DEFAULT_LAB = "127.0.0.1:8095"
#: Seconds. A day: beyond it a load that hangs would look like one that works.
MAX_TIMEOUT = 86_400.0
#: Days. Ten years: what is looked at less often than that is not looked at.
MAX_DAYS = 3_650.0

_UNITS = {"": 1, "K": 10**3, "M": 10**6, "G": 10**9, "T": 10**12, "KI": 2**10, "MI": 2**20, "GI": 2**30, "TI": 2**40}
#: Characters of a client ID or secret; those of known providers have less than a hundred.
_MOST_TEXT = 4_096
_ON = ("on", "true", "yes", "1")
_OFF = ("off", "false", "no", "0")


@dataclass(frozen=True)
class Parser(Generic[T]):
    """How one kind of value is read.

    Attributes:
        read: from the raw value (the text of a variable, or JSON from the file) and where it came from, to the value.
            Where it cannot be read, a `ConfigError` names that place.
        takes: what may be given, in the words of the tables (Markdown).
        show: the value as it may be shown to people and in JSON, without secrets.
        none: the word that stands for None in the file; empty for JSON's null.
        add: where the variable adds to the file instead of replacing what stands there: from the value of the file,
            the text of the variable and its name, to the value.
    """

    read: Callable[[Any, str], T]
    takes: str
    show: Callable[[T], Any] = lambda value: value
    none: str = ""
    add: Callable[[T, str, str], T] | None = None


# --- numbers, addresses, words ---------------------------------------------------------------------------------------


def parse_timeout(value: Any, origin: str) -> float:
    """Seconds as a float.

    Raises:
        ConfigError: it is no number, or not above 0 and at most `MAX_TIMEOUT`.
    """
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
    """Multiaddrs from a list, or from text that separates them by commas or blanks; each once.

    Raises:
        ConfigError: it is no list of texts, or one of them is not the address of a peer.
    """
    if isinstance(value, str):
        value = [part for part in re.split(r"[,\s]+", value) if part]
    if not isinstance(value, (list, tuple)) or not all(isinstance(part, str) for part in value):
        raise ConfigError(f"{origin} is {value!r}; it must be a list of multiaddrs.")
    try:
        return tuple(dict.fromkeys(check_peer_address(part, origin) for part in value))
    except InvalidAddress as error:
        raise ConfigError(str(error)) from None


def parse_bootstrap(value: Any, origin: str) -> tuple[str, ...] | None:
    """Multiaddrs to enter the DHT by; None for the word `default`, no address for the word `none`.

    Raises:
        ConfigError: see `parse_addresses`.
    """
    word = _list_word(value)
    return parse_addresses(value, origin) if word == "" else None if word == "default" else ()


def byte_count(value: Any, origin: str) -> int:
    """A number of bytes, also with a unit: `KB` is 1,000 bytes, `KiB` is 1,024.

    Raises:
        ConfigError: it is no such number.
    """
    if type(value) is int and 0 <= value < 1 << 80:
        return value
    match = re.fullmatch(
        r"\s*(\d{1,30}(?:\.\d{1,30})?)\s*([KMGT]I?)?B?\s*", value if isinstance(value, str) else "", re.I
    )
    if not match:
        raise ConfigError(f"{origin} is {shown(value)}; it must be a number of bytes such as 1000000, 50GB or 64GiB.")
    return int(float(match[1]) * _UNITS[(match[2] or "").upper()]) if match[2] else int(float(match[1]))


def _limit(value: Any, origin: str) -> int | None:
    """A number of bytes, or None for the words `off` and `none`, since TOML has no null."""
    return None if isinstance(value, str) and _word(value) in ("off", "none") else byte_count(value, origin)


def _days(value: Any, origin: str) -> float | None:
    """Days as a float; None for `off`."""
    if value is not True and _word(value) in (*_OFF[:3], "none"):
        return None
    try:
        days = math.nan if isinstance(value, bool) else float(value)
    except (TypeError, ValueError, OverflowError):
        days = math.nan
    if not 0 < days <= MAX_DAYS:
        raise ConfigError(f"{origin} is {shown(value)}; it must be a number of days up to {MAX_DAYS:.0f}, or off.")
    return days


def _switch(value: Any, origin: str) -> bool:
    word = _word(value)
    if word not in _ON + _OFF:
        raise ConfigError(f"{origin} is {value!r}; it must be on or off.")
    return word in _ON


def one_of(literal: Any) -> Parser[Any]:
    """One word of a `Literal` type.

    Where `off` is one of them, so is everything else that means off; `on` is then the first of them.
    """
    words: tuple[str, ...] = get_args(literal)

    def read(value: Any, origin: str) -> str:
        word = _word(value)
        if "off" in words and word in _ON + _OFF:
            word = "off" if word in _OFF else "on" if "on" in words else words[0]
        if word not in words:
            raise ConfigError(f"{origin} is {value!r}; it must be {', '.join(words[:-1])} or {words[-1]}.")
        return word

    *most, last = (f"`{word}`" for word in words)
    return Parser(read, f"{', '.join(most)} or {last}")


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
    except GatewayError as error:
        raise ConfigError(f"{origin}: {error}") from None


def _tokens_by_url(value: Any, shape: str) -> Mapping[str, str]:
    """An object of tokens by URL, or text that says the same. No error repeats it, since there are secrets in it.

    Raises:
        ConfigError: with `shape`, the sentence that says how it should look.
    """
    if isinstance(value, str) and value.lstrip().startswith("{"):
        try:
            value = read_json(value)
        except InvalidJSON:
            raise ConfigError(shape) from None
    if isinstance(value, str):
        pairs = [part.partition("=") for part in re.split(r"[,\s]+", value) if part]
        value = {url: token for url, _, token in pairs}
    if not isinstance(value, dict) or not all(isinstance(token, str) for token in value.values()):
        raise ConfigError(shape)
    if not all(token and all(33 <= ord(letter) < 127 for letter in token) for token in value.values()):
        raise ConfigError(f"{shape} One of the tokens is missing, or no token.")
    return value


def _gateway_tokens(value: Any, origin: str) -> Mapping[str, str]:
    shape = f"{origin} must be tokens by URL, such as https://gateway.example.org=TOKEN."
    tokens = _tokens_by_url(value, shape)
    try:
        return {_gateway_url(url, origin): token for url, token in tokens.items()}
    except ConfigError:
        raise ConfigError(shape) from None


def _followed(value: Any, origin: str) -> Mapping[str, str]:
    from kachery_p2p.addresses import is_public

    shape = f"{origin} must be tokens by URL, such as https://other-node.example.org=TOKEN."
    found: dict[str, str] = {}
    for url, token in _tokens_by_url(value, shape).items():
        try:
            base = base_url(url, ("/pins",))
        except BadURL:
            raise ConfigError(shape) from None
        if base.startswith("http:") and is_public(urlsplit(base).hostname or ""):
            raise ConfigError(f"{origin} has an http:// URL outside of the local network: its token must not go there.")
        found[base] = token
    return found


def _list_word(value: Any) -> str:
    """`default` or `none` where a list is that word; else empty."""
    word = _word(value) if isinstance(value, (str, bool)) else ""
    return "none" if word == "none" or word in _OFF else "default" if word == "default" or word in _ON else ""


def _urls_of(tokens: Mapping[str, str]) -> list[str]:
    return sorted(tokens)


def _directories(value: Any, origin: str) -> tuple[Path, ...]:
    """Folders by their full paths, each once. They need not be there."""
    if isinstance(value, str):
        value = [part for part in value.split(os.pathsep) if part.strip()]
    if not isinstance(value, (list, tuple)) or not all(isinstance(part, str) and part.strip() for part in value):
        raise ConfigError(f"{origin} is {shown(value)}; it must be a list of folders.")
    found: dict[Path, None] = {}
    for part in value:
        try:
            path = Path(part.strip()).expanduser()
        except RuntimeError:
            raise ConfigError(f"The home directory in {part!r} ({origin}) is not known; give a full path.") from None
        if not path.is_absolute() or "\0" in part:
            raise ConfigError(f"{part!r} ({origin}) is not the full path of a folder.")
        found[Path(os.path.normpath(path))] = None
    return tuple(found)


def _listener(value: Any, origin: str) -> str | None:
    """`HOST:PORT` as it was written; None where nothing is to listen."""
    if _word(value) in (*_OFF, "none"):
        return None
    from kachery_p2p.http_address import parse_address

    if not isinstance(value, str):
        raise ConfigError(f"{origin} is {shown(value)}; it must be an address to listen on, such as 127.0.0.1:8095.")
    try:
        parse_address(value)
    except InvalidAddress as error:
        raise ConfigError(f"{origin}: {error}") from None
    return value.strip()


def _file(value: Any, origin: str) -> Path | None:
    """The full path of a file, which need not be there; None for `off`."""
    if isinstance(value, str) and _word(value) in ("off", "none"):
        return None
    found = _directories([value], origin)
    return next(iter(found))


def _origins(value: Any, origin: str) -> tuple[str, ...]:
    """Origins of web pages (RFC 6454), as browsers write them, each once."""
    if isinstance(value, str):
        value = [part for part in re.split(r"[,\s]+", value) if part]
    if not isinstance(value, (list, tuple)) or not all(isinstance(part, str) for part in value):
        raise ConfigError(f"{origin} is {shown(value)}; it must be a list of origins.")
    found: dict[str, None] = {}
    for part in value:
        try:
            url = base_url(part)
        except BadURL:
            url = ""
        scheme, _, host = url.partition("://")
        if not host or "/" in host:
            raise ConfigError(
                f"{shown(part)} ({origin}) is not the origin of a web page, such as https://lab.example.org: a scheme "
                "and a host, and no path."
            )
        found[f"{scheme}://{host.removesuffix({'http': ':80', 'https': ':443'}[scheme])}"] = None
    return tuple(found)


def _host_names(value: Any, origin: str) -> tuple[str, ...]:
    """Names of hosts in small letters, without ports, each once."""
    if isinstance(value, str):
        value = [part for part in re.split(r"[,\s]+", value) if part]
    if not isinstance(value, (list, tuple)) or not all(isinstance(part, str) for part in value):
        raise ConfigError(f"{origin} is {shown(value)}; it must be a list of host names.")
    found = dict.fromkeys(part.strip().lower().rstrip(".") for part in value)
    for part in found:
        if not re.fullmatch(r"(?!-)[a-z0-9-]{1,63}(\.(?!-)[a-z0-9-]{1,63})*", part) or len(part) > 253:
            raise ConfigError(f"{shown(part)} ({origin}) is not the name of a host, such as lab.example.org.")
    return tuple(found)


def _own_peers(value: Any, origin: str) -> tuple[str, ...]:
    """Peer IDs, each once."""
    if isinstance(value, str):
        value = [part for part in re.split(r"[,\s]+", value) if part]
    if not isinstance(value, (list, tuple)) or not all(isinstance(part, str) for part in value):
        raise ConfigError(f"{origin} is {shown(value)}; it must be a list of peer IDs.")
    if not value:
        return ()
    from kachery_p2p.peer_ids import any_peer_id

    found: dict[str, None] = {}
    for part in value:
        peer = any_peer_id(part.strip().removeprefix("/p2p/"))
        if peer is None:
            raise ConfigError(
                f"{shown(part)} ({origin}) is not a peer ID. On the machine that is meant, kachery-cloud-status shows "
                "it; it looks like 12D3KooW..."
            )
        found[peer] = None
    return tuple(found)


def _text(value: Any, origin: str) -> str:
    """One line of text. It is not shown where it cannot be used: it may be a secret."""
    if not isinstance(value, str) or not value.strip().isprintable() or len(value) > _MOST_TEXT:
        raise ConfigError(f"{origin} must be one line of text, of at most {_MOST_TEXT} characters.")
    return value.strip()


def _issuer(value: Any, origin: str) -> str:
    """The issuer of an OpenID provider (OpenID Connect Core 1.0, section 2): https, but for one on this machine."""
    try:
        url = base_url(value) if isinstance(value, str) else ""
    except BadURL:
        url = ""
    parts = urlsplit(url)
    if parts.scheme != "https" and parts.hostname not in ("127.0.0.1", "::1", "localhost"):
        raise ConfigError(
            f"{origin} is {shown(value)}; it must be the https URL of an OpenID provider, such as "
            "https://accounts.google.com."
        )
    # An issuer is compared letter by letter, so a slash that it ends with belongs to it.
    return url + "/" if isinstance(value, str) and value.strip().endswith("/") else url


def _for_whom(value: Any, origin: str) -> tuple[str, ...]:
    """Names of groups, `private` or `public`, as they are written. Which groups there are shows where one is meant."""
    if isinstance(value, str):
        value = value.split(",")
    if not isinstance(value, (list, tuple)) or not all(isinstance(part, str) for part in value):
        raise ConfigError(f"{origin} is {shown(value)}; it must be names of groups, or private, or public.")
    words = tuple(dict.fromkeys(part.strip() for part in value if part.strip()))
    if "public" in words and len(words) > 1:
        raise ConfigError(
            f"{origin} is {shown(', '.join(words))}: what is public is for everybody, so nothing can stand beside it."
        )
    return words


def _origin(value: Any, origin: str) -> str | None:
    """`https://HOST` or with a port: where something of ours is reached from outside."""
    if _word(value) in (*_OFF, "none"):
        return None
    try:
        url = base_url(value if isinstance(value, str) else "")
    except BadURL:
        url = ""
    scheme, _, rest = url.partition("://")
    if not rest or "/" in rest:
        raise ConfigError(f"{origin} is {shown(value)}; it must be a URL without a path, like https://lab.example.org.")
    return f"{scheme}://{rest.lower().removesuffix({'http': ':80', 'https': ':443'}[scheme])}"


def _people(value: Any, origin: str) -> tuple[str, ...]:
    """E-mail addresses, and domains with or without an @ before them; in small letters, domains with it."""
    if isinstance(value, str):
        value = [part for part in re.split(r"[,\s]+", value) if part]
    if not isinstance(value, (list, tuple)) or not all(isinstance(part, str) for part in value):
        raise ConfigError(f"{origin} is {shown(value)}; it must be a list of e-mail addresses and domains.")
    found: dict[str, None] = {}
    for part in value:
        text = part.strip().casefold()
        local, at, domain = text.rpartition("@")
        if not re.fullmatch(r"(?:[a-z0-9-]+\.)+[a-z0-9-]+", domain) or "@" in local or (at and local != local.strip()):
            raise ConfigError(
                f"{shown(part)} ({origin}) is neither an e-mail address nor a domain, such as alice@example.org or "
                "example.org."
            )
        found[text if at else f"@{text}"] = None
    return tuple(found)


TIMEOUT = Parser(parse_timeout, "seconds")
DIRECTORIES = Parser(
    _directories,
    "paths with `:` between them (`;` on Windows); in the file a list",
    show=lambda paths: [str(path) for path in paths],
)
ADDRESSES = Parser(parse_addresses, "multiaddrs")
OWN_PEERS = Parser(_own_peers, "peer IDs")
HOST_NAMES = Parser(_host_names, "host names")
ORIGINS = Parser(_origins, "origins such as `https://lab.example.org`")
FOR_WHOM = Parser(_for_whom, "names of groups, `private` or `public`")
BOOTSTRAP = Parser(parse_bootstrap, "multiaddrs, `default` or `none`", none="default")
LISTENER = Parser(_listener, "`HOST:PORT` or `off`", none="off")
FILE = Parser(_file, "a path, or `off`", show=lambda path: None if path is None else str(path))
BYTES = Parser[int | None](_limit, "bytes, such as `50GB`, or `off`")
DAYS = Parser[float | None](_days, "days, or `off`", none="off")
ORIGIN = Parser(_origin, "a URL without a path", none="off")
PEOPLE = Parser(_people, "e-mail addresses and domains")
ISSUER = Parser(_issuer, "a URL")
TEXT = Parser(_text, "text")
SWITCH = Parser(_switch, "`on` or `off`")
URLS = Parser(_urls, "URLs, `default` or `none`", none="default")
GATEWAYS = Parser(_gateway_urls, "URLs, `default` or `none`", none="default")
FOLLOWED = Parser(_followed, "`URL=token`; in the file an object of tokens by URL", show=_urls_of)
GATEWAY_TOKENS = Parser(_gateway_tokens, "`URL=token`; in the file an object of tokens by URL", show=_urls_of)
