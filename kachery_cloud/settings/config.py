"""All settings: each is one entry, a field of `Config`.

A field says how its value is read, what it is when nothing is set, and in one sentence what it means. Its name is the
key in `config.json`, and with `KACHERY_CLOUD_` before it the environment variable. Everything else comes from these
entries: reading, the file of defaults, the table in the documentation (`python -m scripts.settings_table --write`),
`kachery-cloud settings`, and the settings in `status`.

What is set in the environment goes before `config.json` in the data directory, and that before the default.
"""

from __future__ import annotations

import json
import os
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, fields, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, Generic, Literal, NamedTuple

from kachery_cloud.errors import ConfigError
from kachery_cloud.settings.config_file import CONFIG_NAME, make_private, read_config_file, write_private
from kachery_cloud.settings.names import about_unknown
from kachery_cloud.settings.values import (
    ADDRESSES,
    BOOTSTRAP,
    BYTES,
    DAYS,
    DIRECTORIES,
    FILE,
    FOLLOWED,
    FOR_WHOM,
    GATEWAY_TOKENS,
    GATEWAYS,
    HOST_NAMES,
    ISSUER,
    LISTENER,
    ORIGIN,
    ORIGINS,
    OWN_PEERS,
    PEOPLE,
    SWITCH,
    TEXT,
    TIMEOUT,
    URLS,
    Parser,
    T,
    one_of,
)
from kachery_p2p.protocols import DEFAULT_LISTEN

if TYPE_CHECKING:
    from kachery_cloud.settings.pin_services import PinSetting

#: The most that one pin of others may take; see `kachery_p2p.pinning.server.limits`.
DEFAULT_PIN = 5 << 30
#: The issuer of Google's ID tokens (https://accounts.google.com/.well-known/openid-configuration).
GOOGLE = "https://accounts.google.com"

# ruff: noqa: RUF009 - `_setting` makes a field, which ruff cannot know.

DHTMode = Literal["auto", "client", "server", "off"]
Provided = Literal["roots", "all", "off"]
Reachable = Literal["auto", "public", "private"]
Relaying = Literal["auto", "on", "off"]
LogLevel = Literal["auto", "error", "warning", "info", "debug"]
LogFormat = Literal["text", "json"]
Showing = Literal["members", "everyone", "off"]


# --- what an entry says ----------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Setting(Generic[T]):
    """What is known of one setting.

    Attributes:
        parser: how its value is read, and what it may be.
        default: its value when nothing is set; None for the data directory, which depends on the user.
        meaning: one sentence for the tables (Markdown).
        unset: what the default comes to, where the value does not say it.
        secret: whether what stands in `config.json` holds a secret, so that the file is made private; None where it
            never does.
        name: of the field of `Config`.
    """

    parser: Parser[T]
    default: T | None
    meaning: str
    unset: str = ""
    secret: Callable[[Any], bool] | None = None
    name: str = ""

    @property
    def variable(self) -> str:
        """The environment variable."""
        return "KACHERY_CLOUD_" + ("DIR" if self.name == "directory" else self.name.upper())

    @property
    def key(self) -> str:
        """The key in `config.json`; empty for the data directory, in which that file lies."""
        return "" if self.name == "directory" else self.name

    @property
    def default_text(self) -> str:
        """The default in words (Markdown)."""
        if isinstance(self.default, bool):
            return "`on`" if self.default else "`off`"
        if isinstance(self.default, str) and self.default:
            return f"`{self.default}`: {self.unset}" if self.unset else f"`{self.default}`"
        if isinstance(self.default, float):
            return f"`{self.default:g}`"
        return self.unset or "none"


_ENTRY = "setting"


def _setting(
    parser: Parser[T], default: T, meaning: str, *, unset: str = "", secret: Callable[[Any], bool] | None = None
) -> T:
    """A field of `Config`; see `Setting`. To type checkers it is the default, so that they check it and the parser."""
    entry = Setting(parser, default, meaning, unset, secret)
    made: Any = field(default_factory=lambda: default, repr=secret is None, metadata={_ENTRY: entry})
    return made


def _read_directory(text: Any, origin: str) -> Path:
    try:
        path = Path(text.strip() or "~/.kachery-cloud").expanduser()
    except RuntimeError:
        raise ConfigError(f"The home directory in {origin}={text!r} is not known; give a full path.") from None
    path = Path(os.path.abspath(path))
    if path.exists() and not path.is_dir():
        raise ConfigError(f"The data directory {path} ({origin}) is a file; it must be a directory.")
    return path


# The rest of what is known of pinning services is only imported where there are any.


def _read_pin_services(value: Any, origin: str) -> tuple[PinSetting, ...]:
    from kachery_cloud.settings.pin_services import read_services

    return read_services(value, origin)


def _add_pin_services(services: tuple[PinSetting, ...], text: str, origin: str) -> tuple[PinSetting, ...]:
    from kachery_cloud.settings.pin_services import add_services

    return add_services(services, text, origin)


def _show_pin_services(services: tuple[PinSetting, ...]) -> list[str]:
    return [f"{service.name} (default)" if service.default else service.name for service in services]


def _has_tokens(stored: Any) -> bool:
    return any(service.get("token") for service in stored.values()) if isinstance(stored, dict) else False


_DIRECTORY = Parser(_read_directory, "a path", show=str)
_PIN_SERVICES = Parser(
    _read_pin_services,
    "names, `NAME=URL`, or `none`; in the file an object of services by name",
    show=_show_pin_services,
    add=_add_pin_services,
)


# --- the settings ----------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Config:
    """What one data directory and its node are set to.

    `bootstrap`, `delegated` and `gateways` are None where the public defaults are meant. Before using one of the
    settings that `public` (or a swarm key) overrules, ask `dht_mode`, `bootstrap_peers`, `delegated_routers` and
    `gateway_urls`.
    """

    directory: Path = field(
        metadata={_ENTRY: Setting(_DIRECTORY, None, "The data directory.", unset="`~/.kachery-cloud`")}
    )
    listen: tuple[str, ...] = _setting(
        ADDRESSES,
        DEFAULT_LISTEN,
        "Where the node listens.",
        unset="a free port on all interfaces, kept from then on",
    )
    peers: tuple[str, ...] = _setting(ADDRESSES, (), "Peers to stay connected to and to ask.")
    timeout: float = _setting(TIMEOUT, 60.0, "How long a load goes on while nothing at all arrives.")
    max_store_bytes: int | None = _setting(BYTES, None, "The most that one store may take.", unset="no limit")
    shared_dirs: tuple[Path, ...] = _setting(
        DIRECTORIES, (), "Data directories of others, which are read beneath your own; nothing is written to them."
    )
    to: tuple[str, ...] = _setting(
        FOR_WHOM,
        (),
        "Who may load what is stored here, where the call does not say it: the members of these groups.",
        unset="everybody",
    )
    project: str = _setting(
        TEXT,
        "",
        "The project of the lab into which what is stored here goes, where the call does not say it.",
        unset="none",
    )
    own_peers: tuple[str, ...] = _setting(
        OWN_PEERS, (), "Your other machines, which may load what is private; each is to name the others."
    )
    members_only: bool = _setting(
        SWITCH,
        False,
        "Load from members of your groups and from your own machines alone; nobody else hears what you look for.",
    )
    access_log: bool = _setting(
        SWITCH, True, "Write down who loads what of what is not for everybody, for `access` and `audit`."
    )
    public: bool = _setting(
        SWITCH,
        True,
        "Use public services (those marked *); gateways and relays that you name are used even when this is off.",
    )
    private: bool = _setting(
        SWITCH,
        False,
        "Announce nothing to anybody, and dial only whom a URI, a call or a setting names; goes before all that says "
        "otherwise below and in `public`.",
    )
    dht: DHTMode = _setting(
        one_of(DHTMode),
        "auto",
        "* How to take part in the public DHT.",
        unset="a server while others can dial this machine",
    )
    bootstrap: tuple[str, ...] | None = _setting(
        BOOTSTRAP, None, "* Peers to enter the public DHT by.", unset="public ones"
    )
    delegated: tuple[str, ...] | None = _setting(
        URLS, None, "* HTTP routers to ask who has something.", unset="public ones"
    )
    lan_dht: bool = _setting(SWITCH, True, "Use the DHT among the machines of the local network.")
    mdns: bool = _setting(SWITCH, True, "Find machines of the local network by mDNS.")
    known_peers: bool = _setting(SWITCH, True, "Use the address book of peers met before.")
    provide: Provided = _setting(
        one_of(Provided),
        "roots",
        "Announce the roots of what is here, all its blocks, or nothing.",
        unset="each file and directory that was stored or loaded",
    )
    announce: tuple[str, ...] = _setting(
        ADDRESSES, (), "Addresses to tell others, besides those that the node finds out."
    )
    reachability: Reachable = _setting(
        one_of(Reachable), "auto", "Whether others can dial this machine.", unset="found out"
    )
    port_map: bool = _setting(SWITCH, True, "Ask the router for a port (UPnP, NAT-PMP).")
    relays: tuple[str, ...] = _setting(ADDRESSES, (), "Relays to be reached through.", unset="those that are met")
    relay_service: Relaying = _setting(
        one_of(Relaying),
        "auto",
        "Relay for others.",
        unset="`kachery-cloud-node` does while others can dial it; a script or notebook does not",
    )
    gateways: tuple[str, ...] | None = _setting(
        GATEWAYS, None, "* HTTP gateways to load from where peers do not deliver.", unset="public ones"
    )
    gateway_tokens: Mapping[str, str] = _setting(
        GATEWAY_TOKENS, {}, "Tokens that some of the gateways ask for.", secret=bool
    )
    gateway_names: tuple[str, ...] = _setting(
        HOST_NAMES,
        (),
        "Host names by which this machine's gateway may be called.",
        unset="addresses and `localhost` alone",
    )
    gateway_origins: tuple[str, ...] = _setting(
        ORIGINS,
        (),
        "Web pages of others that may use the token of this machine's gateway, and so read what is not public.",
        unset="no page but the gateway's own",
    )
    pin_services: tuple[PinSetting, ...] = _setting(
        _PIN_SERVICES,
        (),
        "Pinning services; those that the variable names take everything that is stored.",
        unset="those of `kachery-cloud-pins service add`",
        secret=_has_tokens,
    )
    pinning_service: str | None = _setting(
        LISTENER, None, "Where `kachery-cloud-node` offers others to pin here.", unset="`off`"
    )
    max_pin_bytes: int | None = _setting(BYTES, DEFAULT_PIN, "The most that one of their pins may take.", unset="5 GiB")
    tls_cert: Path | None = _setting(
        FILE, None, "The certificate (PEM) with which the pinning service, or the lab, speaks HTTPS."
    )
    tls_key: Path | None = _setting(FILE, None, "Its key (PEM).", unset="in the file of the certificate")
    follow: Mapping[str, str] = _setting(
        FOLLOWED,
        {},
        "Other nodes whose pins become pins here, by the URLs of their pinning services and the tokens that they gave.",
        secret=bool,
    )
    gateway: str | None = _setting(
        LISTENER,
        None,
        "Where `kachery-cloud-node` serves an HTTP gateway for browsers and other programs.",
        unset="`off`",
    )
    gateway_fetch: bool = _setting(SWITCH, False, "Let that gateway fetch from the network what is not here.")
    storage_limit: int | None = _setting(
        BYTES,
        None,
        "The most that the data directory of `kachery-cloud-node` may take: beyond it, what was only loaded goes, the "
        "least recently used first.",
        unset="no limit, and nothing goes by itself",
    )
    scrub_days: float | None = _setting(
        DAYS,
        30.0,
        "In how many days `kachery-cloud-node` reads all that is here once, and compares it with its hashes.",
    )
    log_level: LogLevel = _setting(
        one_of(LogLevel), "auto", "How much `kachery-cloud-node` logs.", unset="`info` into a file, else `warning`"
    )
    log_file: Path | None = _setting(FILE, None, "A file to which it logs.", unset="standard error")
    log_format: LogFormat = _setting(
        one_of(LogFormat), "text", "How it logs: lines for people, or a JSON object a line."
    )
    openid_issuer: str = _setting(
        ISSUER, GOOGLE, "The OpenID provider at which people sign in, by its issuer URL.", unset="Google"
    )
    openid_client_id: str = _setting(
        TEXT, "", "The client ID that this provider has given out for kachery-cloud.", unset="none: nobody signs in"
    )
    openid_client_secret: str = _setting(TEXT, "", "The client secret that goes with it.", unset="none", secret=bool)
    show_owner: Showing = _setting(
        one_of(Showing),
        "members",
        "Who may ask this machine which user stands behind it, where its user has signed in.",
        unset="the members of its groups, and your own machines",
    )
    lab: str | None = _setting(
        LISTENER,
        None,
        "Where `kachery-cloud-node` is the lab's own node: page, members, pinning service.",
        unset="`off`",
    )
    lab_url: str | None = _setting(
        ORIGIN, None, "The URL at which others reach the lab.", unset="the address by which it is asked"
    )
    lab_gateway: str | None = _setting(
        ORIGIN,
        None,
        "The URL at which others reach the gateway of the lab's node, where figures are shown.",
        unset="the address by which the lab is asked, where the gateway answers there",
    )
    lab_name: str = _setting(TEXT, "Lab", "What the lab is called.")
    lab_members: tuple[str, ...] = _setting(
        PEOPLE, (), "Who may sign in at the lab without an invitation: addresses, and whole domains."
    )
    openid_client_secret_file: Path | None = _setting(
        FILE, None, "A file that has the secret of the provider, instead."
    )

    def dht_mode(self, private_network: bool) -> DHTMode:
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
        """URLs of the `/routing/v1` servers to ask.

        There are none when `public` is off, nor in a private network, which they are not part of.
        """
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

    def shown(self) -> dict[str, Any]:
        """The settings that hold no secret, by name; as they may be shown, and sent as JSON."""
        return {
            name: setting.parser.show(getattr(self, name))
            for name, setting in SETTINGS.items()
            if setting.key and setting.secret is None
        }

    def _repr_html_(self) -> str:
        from kachery_cloud.records import html_of_facts

        return html_of_facts(self.shown())


#: What `private` makes of other settings. Relays, gateways and peers that the user names are not among them.
_PRIVATE: dict[str, Any] = {
    "public": False,
    "dht": "off",
    "lan_dht": False,
    "mdns": False,
    "known_peers": False,
    "provide": "off",
    "port_map": False,
    "relay_service": "off",
}

#: All settings by name, in the order of the tables.
SETTINGS: dict[str, Setting[Any]] = {
    each.name: replace(each.metadata[_ENTRY], name=each.name) for each in fields(Config)
}


# --- reading and writing ---------------------------------------------------------------------------------------------


def load_config(environ: Mapping[str, str] | None = None) -> Config:
    """Read the settings.

    Each call of the API does: what it read last is taken again while variables and file are what they were.

    Args:
        environ: the environment; `os.environ` where it is None.

    Raises:
        ConfigError: a setting makes no sense, or `config.json` cannot be read; the message names it.
        NoPermission: there is a token in `config.json`, and others' right to read it cannot be taken away.
    """
    global _last
    if environ is not None:
        return read_settings(environ)[0]
    variables = tuple(map(os.environ.get, _VARIABLES))
    last = _last
    if last is not None and last.variables == variables and _stamp(last.config.directory) == last.stamp:
        return last.config
    config = read_settings()[0]
    stamp = _stamp(config.directory)
    # A file that changed just now may change once more and have the same stamp.
    settled = stamp is not None and (not stamp or time.time_ns() - max(stamp[:2]) > _SETTLED_NS)
    # Where the directory is named from the working directory, that may change. And the file, while it was read.
    named = (os.environ.get(SETTINGS["directory"].variable) or "~").strip()
    if settled and (named.startswith("~") or os.path.isabs(named)) and read_settings()[0] == config:
        _last = _Last(variables, stamp, config)
    return config


class _Last(NamedTuple):
    """Settings as they were read last: from which variables, and the stamp of the file."""

    variables: tuple[str | None, ...]
    stamp: tuple[int, ...] | None
    config: Config


_last: _Last | None = None
#: What settings depend on beside their file: their variables, and the home directory.
_VARIABLES = (*(setting.variable for setting in SETTINGS.values()), "HOME", "USERPROFILE")
#: Nanoseconds: twice the coarsest clock of a file system (FAT's), and more.
_SETTLED_NS = 5_000_000_000


def _stamp(directory: Path) -> tuple[int, ...] | None:
    """What changes when `config.json` does: empty where there is none, None where that cannot be told."""
    try:
        status = os.stat(directory / CONFIG_NAME)
    except FileNotFoundError:
        return ()
    except OSError:
        return None
    return status.st_mtime_ns, status.st_ctime_ns, status.st_size, status.st_ino, status.st_mode


class Between(NamedTuple):
    """A file whose settings go before `config.json`, and after the environment.

    Attributes:
        name: of it, as the origin of a setting.
        values: what stands in it, unchecked, by the names of the settings.
        place: says of a name where it stands, for messages.
    """

    name: str
    values: Mapping[str, Any]
    place: Callable[[str], str]


def read_settings(
    environ: Mapping[str, str] | None = None, *, between: Callable[[Path], Between | None] = lambda directory: None
) -> tuple[Config, dict[str, str]]:
    """`load_config`, and where each setting that is not the default comes from: a variable, a file, or both.

    Args:
        environ: as for `load_config`.
        between: gives, for the data directory, the file that goes before `config.json`, if there is one.

    Raises:
        ConfigError, NoPermission: as `load_config` does.
    """
    env = os.environ if environ is None else environ
    place = SETTINGS["directory"]
    text = env.get(place.variable, "")
    directory = place.parser.read(text, place.variable)
    origins = {place.name: place.variable} if text.strip() else {}
    path = directory / CONFIG_NAME
    stored = read_config_file(path)
    _check_keys(stored, path)
    file = between(directory) or Between("", {}, str)
    chosen: dict[str, Any] = {}
    for name, setting in SETTINGS.items():
        if not setting.key:
            continue
        text, kept, parser = env.get(setting.variable, ""), stored.get(name), setting.parser
        if name in file.values and (parser.add or not text.strip()):
            chosen[name] = parser.read(file.values[name], file.place(name))
            origins[name] = file.name
        elif kept is not None and (parser.add or not text.strip()):
            chosen[name] = parser.read(kept, f"{name!r} in {path}")
            origins[name] = CONFIG_NAME
        if text.strip() and parser.add:
            chosen[name] = parser.add(chosen.get(name, setting.default), text, setting.variable)
            origins[name] = f"{setting.variable} and {origins[name]}" if name in origins else setting.variable
        elif text.strip():
            chosen[name], origins[name] = parser.read(text, setting.variable), setting.variable
        if setting.secret and kept and setting.secret(kept):
            make_private(path)
    if chosen.get("private"):
        for name, value in _PRIVATE.items():
            chosen[name], origins[name] = value, f"private ({origins['private']})"
    return Config(directory=directory, **chosen), origins


def write_default_config(directory: Path) -> Path:
    """Write `config.json` with the defaults, if there is none.

    Returns:
        Its path.

    Raises:
        OSError: as `open` does.
    """
    from kachery_p2p.repo.wholefile import write_new

    path = directory / CONFIG_NAME
    # Pinning services are not among them: a command adds them.
    defaults = {
        name: setting.parser.none or None if setting.default is None else setting.default
        for name, setting in SETTINGS.items()
        if setting.key and setting.parser.add is None
    }
    write_new(path, (json.dumps(defaults, indent=2) + "\n").encode("utf-8"))
    return path


def write_setting(directory: Path, name: str, value: Any) -> Path:
    """Write one setting to `config.json`, which is made with the defaults where there is none.

    Returns:
        Its path.

    Raises:
        ConfigError: what is there cannot be read.
        NoPermission, DiskFull: it cannot be written.
    """
    path = write_default_config(directory)
    stored = read_config_file(path)
    if stored.get(name) != value:
        write_private(path, {**stored, name: value})
    return path


def _check_keys(stored: Mapping[str, Any], path: Path) -> None:
    known = [setting.key for setting in SETTINGS.values() if setting.key]
    for key in stored:
        if key not in known:
            hint = about_unknown(key, known)
            raise ConfigError(
                f"The settings file {path} has the unknown key {key!r}. {hint}{' ' * bool(hint)}Known are "
                f"{', '.join(known)}."
            )
