"""Pinning services: which there are, and what each takes.

`config.json` names them:

    "pin_services": {
        "filebase": {"default": true},
        "lab": {"url": "https://pins.lab.example.org", "kind": "pinning", "max_bytes": "2TB"},
        "kubo": {"url": "http://192.168.1.7:5001", "kind": "rpc"}
    }

`kind` is `pinning` (the IPFS Pinning Service API: the service fetches the data from this machine) or `rpc` (a Kubo RPC
endpoint: this machine uploads it). What is stored goes to the services with `default`, and to those that a call names.
`max_bytes` is the most that one store may send there: 5 GiB at the free shared services below, no limit elsewhere.
`filebase` and `filebase-rpc` need no URL.

`KACHERY_CLOUD_PIN_SERVICES` names the default ones instead: names, or NAME=URL (NAME=rpc+URL for an RPC endpoint), or
`none`. Their tokens are the business of `pin_tokens`; which of them a call means, and which the node may ask, that of
`pin_choice`.
"""

from __future__ import annotations

import re
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Literal, Protocol
from urllib.parse import urlsplit

from kachery_cloud.errors import ConfigError
from kachery_cloud.settings.config_file import CONFIG_NAME, read_config_file, write_private
from kachery_cloud.settings.values import byte_count
from kachery_p2p.urls import BadURL, URLFault, base_url

CONFIG_KEY = "pin_services"
#: What the free plan of the shared service holds in all; one store is not to take more.
SHARED_MAX_BYTES = 5 << 30
#: Services of one data directory; each is asked by a task of its own.
MAX_SERVICES = 32
#: No token that we know of is a tenth as long; more is a file given by mistake.
MAX_TOKEN_LENGTH = 16_384

_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,62}")
_KEYS = ("url", "kind", "max_bytes", "default", "token", "token_env", "keyring", "gateway")


@dataclass(frozen=True)
class PinSetting:
    """One pinning service, as it is set.

    Attributes:
        name: what the user calls it.
        url: the endpoint, without a slash at its end.
        kind: `pinning` (it fetches from us) or `rpc` (we upload to it).
        max_bytes: the most that one store may send there; None for no limit.
        default: what is stored is pinned there without being told.
        needs_token: it is known to refuse without one.
        token: as it stands in `config.json`; use `pin_tokens.find_token`.
        token_env: the environment variable that has the token.
        keyring: the token is in the system's keyring.
        gateway: URL of a trustless gateway of the same service, for fetching a block back from it.
    """

    name: str
    url: str
    kind: Literal["pinning", "rpc"] = "pinning"
    max_bytes: int | None = None
    default: bool = False
    needs_token: bool = False
    token: str = field(default="", repr=False)
    token_env: str = ""
    keyring: bool = False
    gateway: str = ""

    @property
    def is_local(self) -> bool:
        """Whether it is on this machine or in the local network, as far as its name tells."""
        from kachery_p2p.addresses import is_public

        return not is_public(urlsplit(self.url).hostname or "")

    def why_not(self, config: PinConfig, private_network: bool) -> str | None:
        """Why this service must not be asked at all; None when it may."""
        if self.is_local:
            return None
        if not config.public:
            return "public services are switched off (the setting `public`)"
        if private_network:
            return "this machine is in a private network (swarm.key), and the service is outside of it"
        return None


class PinConfig(Protocol):
    """What of the `Config` of a data directory bears on pinning services."""

    @property
    def directory(self) -> Path: ...

    @property
    def public(self) -> bool: ...

    @property
    def pin_services(self) -> tuple[PinSetting, ...]: ...


#: Shared services that are known by name. Theirs is the only limit that is set without being asked for.
PRESETS = {
    "filebase": PinSetting(
        "filebase", "https://api.filebase.io/v1/ipfs", "pinning", SHARED_MAX_BYTES, needs_token=True
    ),
    "filebase-rpc": PinSetting("filebase-rpc", "https://rpc.filebase.io", "rpc", SHARED_MAX_BYTES, needs_token=True),
}
_SHARED_HOSTS = {urlsplit(preset.url).hostname for preset in PRESETS.values()}


# --- which there are -------------------------------------------------------------------------------------------------


def read_services(value: Any, origin: str) -> tuple[PinSetting, ...]:
    """The services of `config.json`.

    Raises:
        ConfigError: it makes no sense.
    """
    if value == []:
        return ()
    if not isinstance(value, dict) or not all(isinstance(entry, dict) for entry in value.values()):
        raise ConfigError(f'{origin} must be an object such as {{"lab": {{"url": "https://pins.example.org"}}}}.')
    if len(value) > MAX_SERVICES:
        raise ConfigError(f"{origin} names {len(value)} pinning services; {MAX_SERVICES} are the most.")
    return tuple(_read_entry(name, entry, origin) for name, entry in value.items())


def add_services(services: tuple[PinSetting, ...], text: str, origin: str) -> tuple[PinSetting, ...]:
    """The services of the file, and those that a variable names, which are then the default ones.

    Args:
        services: those of the file.
        text: names, or NAME=URL, or `none`.
        origin: the variable.

    Raises:
        ConfigError: one of them is not known, or has no proper URL.
    """
    found = {service.name: replace(service, default=False) for service in services}
    if text.strip().lower() not in ("none", "off", "no", "0"):
        for part in re.split(r"[,\s]+", text.strip(", \t\r\n")):
            name, _, url = part.partition("=")
            kind = "rpc" if url.startswith("rpc+") else "pinning"
            if url:
                setting = make_setting(name, url.removeprefix("rpc+"), kind, origin=origin)
            elif name in found or name in PRESETS:
                setting = found.get(name) or PRESETS[name]
            else:
                raise ConfigError(
                    f"{origin} names the pinning service {name!r}, which is not known. Give its URL "
                    f"({origin}={name or 'lab'}=https://...), or add it: kachery-cloud-pins service add"
                )
            found[name] = replace(setting, default=True)
    if len(found) > MAX_SERVICES:
        raise ConfigError(f"{origin} brings the pinning services to {len(found)}; {MAX_SERVICES} at most.")
    return tuple(found.values())


def make_setting(name: str, url: str, kind: str, *, origin: str) -> PinSetting:
    """A service by name and URL, with the limit that goes with it.

    Raises:
        ConfigError: the name, the URL or the kind cannot be.
    """
    if not _NAME.fullmatch(name):
        raise ConfigError(
            f"{name[:80]!r} ({origin}) cannot be the name of a pinning service: up to 63 letters, digits, '.', '_' and "
            "'-', and a letter or digit first."
        )
    if kind not in ("pinning", "rpc"):
        raise ConfigError(
            f"The pinning service {name!r} ({origin}) is of the kind {kind!r}; it must be pinning (the service fetches "
            "from here) or rpc (this machine uploads)."
        )
    url = _endpoint(url, name, origin)
    shared = urlsplit(url).hostname in _SHARED_HOSTS
    return PinSetting(name, url, kind, SHARED_MAX_BYTES if shared else None, needs_token=shared)


def _read_entry(name: str, entry: dict[str, Any], origin: str) -> PinSetting:
    where = f"{name!r} in {origin}"
    unknown = [key for key in entry if key not in _KEYS]
    if unknown:
        raise ConfigError(f"The pinning service {where} has the unknown key {unknown[0]!r}; known are {_KEYS}.")
    texts = {key: entry.get(key) or "" for key in ("url", "kind", "token", "token_env", "gateway")}
    for key, value in texts.items():
        if not isinstance(value, str):
            raise ConfigError(f"The {key} of the pinning service {where} must be text.")
    preset = PRESETS.get(name)
    if not texts["url"] and preset is None:
        raise ConfigError(f"The pinning service {where} has no url.")
    kind = texts["kind"] or (preset.kind if preset and not texts["url"] else "pinning")
    setting = make_setting(name, texts["url"] or (preset.url if preset else ""), kind, origin=where)
    limit = setting.max_bytes
    if "max_bytes" in entry:
        none = entry["max_bytes"] is None or str(entry["max_bytes"]).lower() == "none"
        limit = None if none else byte_count(entry["max_bytes"], f"max_bytes of {where}")
    return replace(
        setting,
        max_bytes=limit,
        default=_flag(entry, "default", where),
        keyring=_flag(entry, "keyring", where),
        token=check_token(texts["token"], where) if texts["token"] else "",
        token_env=texts["token_env"],
        gateway=_endpoint(texts["gateway"], name, f"gateway in {origin}") if texts["gateway"] else "",
    )


def _flag(entry: dict[str, Any], key: str, where: str) -> bool:
    value = entry.get(key, False)
    if not isinstance(value, bool):
        raise ConfigError(f"{key} of the pinning service {where} is {value!r}; it must be true or false.")
    return value


def _endpoint(url: str, name: str, origin: str) -> str:
    try:
        return base_url(url)
    except BadURL as error:
        if error.fault not in (URLFault.USER, URLFault.QUERY):
            raise ConfigError(
                f"The pinning service {name!r} ({origin}) has no proper URL, such as https://pins.example.org."
            ) from None
        # Not repeated: what stands there may be a secret.
        raise ConfigError(
            f"The URL of the pinning service {name!r} ({origin}) has a user name, a password, a query or a fragment in "
            "it. Give the endpoint alone, and the token as a token."
        ) from None


def check_token(token: str, origin: str) -> str:
    """The token, if it can stand in a header.

    Raises:
        ConfigError: it cannot; the message does not repeat it.
    """
    if not token.isascii() or not token.isprintable() or " " in token or len(token) > MAX_TOKEN_LENGTH:
        raise ConfigError(
            f"The token ({origin}) has blanks, line breaks or other characters in it that no token has, or is longer "
            "than one. Give the token alone."
        )
    return token


# --- changing the settings -------------------------------------------------------------------------------------------


def stored_entry(directory: Path, name: str) -> dict[str, Any] | None:
    """How a service stands in `config.json`; None where it does not.

    Raises:
        ConfigError: the file cannot be read.
    """
    services = read_config_file(directory / CONFIG_NAME).get(CONFIG_KEY)
    entry = services.get(name) if isinstance(services, dict) else None
    return entry if isinstance(entry, dict) else None


def keep_service(directory: Path, name: str, entry: dict[str, Any] | None) -> None:
    """Write a service into `config.json`, or with None take it out; the rest of the file stays as it is.

    Raises:
        ConfigError: the entry, or the file, makes no sense.
        NoPermission, DiskFull: the file cannot be written.
    """
    path = directory / CONFIG_NAME
    stored = read_config_file(path)
    services = dict(stored.get(CONFIG_KEY) or {})
    services.pop(name, None)
    if entry is not None:
        services[name] = entry
    read_services(services, f"{CONFIG_KEY!r} in {path}")
    write_private(path, {**stored, CONFIG_KEY: services})
