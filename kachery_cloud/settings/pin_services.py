"""Pinning services: which there are, what each takes, and where its token is.

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
`none`. A token is looked for in

1. `KACHERY_CLOUD_PIN_TOKEN_<NAME>`; `KACHERY_CLOUD_PIN_TOKEN`, where there is one service alone; the variable that
   `token_env` names;
2. `token` in `config.json`; `tokens.json` beside it, where `kachery-cloud-pins service add` puts it;
3. the keyring of the system, with `"keyring": true`.

A file with a token in it is made readable by its owner alone. Tokens are never printed, and never sent in the clear to
a machine outside of the local network.
"""

from __future__ import annotations

import json
import os
import re
import secrets
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, Protocol
from urllib.parse import urlsplit

from kachery_cloud.errors import ConfigError, InvalidPinService, NotAFile
from kachery_cloud.settings.values import CONFIG_NAME, byte_count, read_config_file
from kachery_p2p import private
from kachery_p2p.json_reader import InvalidJSON, read_json
from kachery_p2p.oserrors import explained
from kachery_p2p.ownfiles import read_own_file
from kachery_p2p.repo.fileio import sync_folder
from kachery_p2p.urls import BadURL, URLFault, base_url

if TYPE_CHECKING:
    from kachery_p2p.pinning import PinService

CONFIG_KEY = "pin_services"
SERVICES_VARIABLE = "KACHERY_CLOUD_PIN_SERVICES"
TOKEN_VARIABLE = "KACHERY_CLOUD_PIN_TOKEN"
TOKENS_NAME = "tokens.json"
#: Under this name the system's keyring keeps our tokens.
KEYRING_NAME = "kachery-cloud"
#: What the free plan of the shared service holds in all; one store is not to take more.
SHARED_MAX_BYTES = 5 << 30
#: Services of one data directory; each is asked by a task of its own.
MAX_SERVICES = 32
#: No token that we know of is a tenth as long; more is a file given by mistake.
MAX_TOKEN_LENGTH = 16_384
#: Bytes of the file of tokens: as many of the longest as there may be services.
MAX_TOKENS = 2 * MAX_SERVICES * MAX_TOKEN_LENGTH

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
        needs_token: it is known to answer nobody without one.
        token: as it stands in `config.json`; use `find_token`.
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
    """The services of `config.json`. Raises `ConfigError`."""
    if value is None or value == []:
        return ()
    if not isinstance(value, dict) or not all(isinstance(entry, dict) for entry in value.values()):
        raise ConfigError(f'{origin} must be an object such as {{"lab": {{"url": "https://pins.example.org"}}}}.')
    if len(value) > MAX_SERVICES:
        raise ConfigError(f"{origin} names {len(value)} pinning services; {MAX_SERVICES} are the most.")
    return tuple(_read_entry(name, entry, origin) for name, entry in value.items())


def with_environment(services: tuple[PinSetting, ...], env: Mapping[str, str]) -> tuple[PinSetting, ...]:
    """The services of the file, and those of `KACHERY_CLOUD_PIN_SERVICES`, which are then the default ones."""
    text = env.get(SERVICES_VARIABLE, "").strip()
    if not text:
        return services
    found = {service.name: replace(service, default=False) for service in services}
    if text.lower() not in ("none", "off", "no", "0"):
        for part in re.split(r"[,\s]+", text.strip(", ")):
            name, _, url = part.partition("=")
            kind = "rpc" if url.startswith("rpc+") else "pinning"
            if url:
                setting = make_setting(name, url.removeprefix("rpc+"), kind, origin=SERVICES_VARIABLE)
            elif name in found or name in PRESETS:
                setting = found.get(name) or PRESETS[name]
            else:
                raise ConfigError(
                    f"{SERVICES_VARIABLE} names the pinning service {name!r}, which is not known. Give its URL "
                    f"({SERVICES_VARIABLE}={name or 'lab'}=https://...), or add it: kachery-cloud-pins service add"
                )
            found[name] = replace(setting, default=True)
    if len(found) > MAX_SERVICES:
        raise ConfigError(f"{SERVICES_VARIABLE} brings the pinning services to {len(found)}; {MAX_SERVICES} at most.")
    return tuple(found.values())


def make_setting(name: str, url: str, kind: str, *, origin: str) -> PinSetting:
    """A service by name and URL, with the limit that goes with it. Raises `ConfigError`."""
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


def services_for(config: PinConfig, pin: object) -> list[PinSetting]:
    """The services that a call means.

    Args:
        pin: None for the default ones; True for these, or the only one that there is; False for none; a name, or
            several.

    Raises:
        ConfigError: no such service; none is set up; it has no token.
    """
    known = {service.name: service for service in config.pin_services}
    if pin is None:
        return [service for service in known.values() if service.default]
    if pin is False:
        return []
    if pin is True:
        chosen = [service for service in known.values() if service.default] or list(known.values())
        if not chosen:
            raise ConfigError(
                "No pinning service is set up. Set one up with: kachery-cloud-pins service add filebase (or NAME URL)"
            )
        if len(chosen) > 1 and not chosen[0].default:
            raise ConfigError(f"Which pinning service is meant? Name one or more of: {', '.join(sorted(known))}.")
    else:
        names = [pin] if isinstance(pin, str) else pin
        if not isinstance(names, (list, tuple)) or not all(isinstance(name, str) for name in names):
            raise ConfigError("pin must be True, False, the name of a pinning service, or a list of names.")
        chosen = [_by_name(known, name) for name in dict.fromkeys(names)]
    for service in chosen:
        if service.needs_token and not find_token(config, service):
            raise ConfigError(
                f"There is no token for the pinning service {service.name!r}. Set it with: kachery-cloud-pins service "
                f"add {service.name} (it asks for the token), or in {token_variable(service.name)}."
            )
    return chosen


def _by_name(known: Mapping[str, PinSetting], name: str) -> PinSetting:
    service = known.get(name) or PRESETS.get(name)
    if service is None:
        there_are = ", ".join(sorted({*known, *PRESETS}))
        raise ConfigError(
            f"There is no pinning service {name!r}; known are {there_are}. Add it with: kachery-cloud-pins service add"
        )
    return service


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


# --- tokens ----------------------------------------------------------------------------------------------------------


def token_variable(name: str) -> str:
    """The environment variable for the token of one service."""
    return f"{TOKEN_VARIABLE}_{re.sub(r'[^A-Za-z0-9]', '_', name).upper()}"


def find_token(config: PinConfig, service: PinSetting, environ: Mapping[str, str] | None = None) -> str:
    """The token of a service; empty where there is none.

    Raises:
        ConfigError: `tokens.json` cannot be read; the keyring does not give it; or the token would travel in the clear.
    """
    token = _look_for_token(config, service, os.environ if environ is None else environ)[0]
    if token and service.url.startswith("http:") and not service.is_local:
        raise ConfigError(
            f"The pinning service {service.name!r} has an http:// URL outside of the local network, and its token must "
            "not go there in the clear. Use https://."
        )
    return token


def token_origin(config: PinConfig, service: PinSetting, environ: Mapping[str, str] | None = None) -> str | None:
    """Where the token of a service is, for people; None where there is none."""
    return _look_for_token(config, service, os.environ if environ is None else environ)[1]


def _look_for_token(config: PinConfig, service: PinSetting, env: Mapping[str, str]) -> tuple[str, str | None]:
    variables = [token_variable(service.name)]
    if [each.name for each in config.pin_services] == [service.name]:
        variables.append(TOKEN_VARIABLE)  # with several, it would go to those that it is not for
    if service.token_env:
        variables.append(service.token_env)
    for variable in variables:
        if env.get(variable, "").strip():
            return check_token(env[variable].strip(), variable), variable
    if service.token:
        return service.token, "config.json"
    kept = _read_tokens(config.directory).get(service.name)
    if kept:
        return kept, TOKENS_NAME
    if service.keyring:
        return _from_keyring(service.name), "keyring"
    return "", None


def check_token(token: str, origin: str) -> str:
    """The token, if it can stand in a header. Raises `ConfigError`, which does not repeat it."""
    if not token.isascii() or not token.isprintable() or " " in token or len(token) > MAX_TOKEN_LENGTH:
        raise ConfigError(
            f"The token ({origin}) has blanks, line breaks or other characters in it that no token has, or is longer "
            "than one. Give the token alone."
        )
    return token


def _read_tokens(directory: Path) -> dict[str, str]:
    path = directory / TOKENS_NAME
    try:
        tokens = read_json(read_own_file(path, MAX_TOKENS))
    except FileNotFoundError:
        return {}
    except OSError as exc:
        raise ConfigError(f"The file of tokens {path} cannot be read: {exc.strerror or exc}.") from None
    except NotAFile as exc:
        raise ConfigError(f"The tokens of pinning services cannot be read: {exc}") from None
    except InvalidJSON:  # its text is not repeated: there are secrets in it
        tokens = None
    if not isinstance(tokens, dict) or not all(isinstance(token, str) for token in tokens.values()):
        raise ConfigError(
            f"The file of tokens {path} must hold a JSON object of names and tokens. Repair or remove it."
        )
    make_private(path)
    return tokens


def keep_token(directory: Path, name: str, token: str | None) -> None:
    """Put a token into `tokens.json`, or with None take it out. Raises `ConfigError`, `NoPermission`, `DiskFull`."""
    tokens = _read_tokens(directory)
    if token is None and name not in tokens:
        return
    tokens.pop(name, None)
    if token is not None:
        tokens[name] = check_token(token, "as given")
    _write_private(directory / TOKENS_NAME, tokens)


def keep_token_in_keyring(name: str, token: str | None) -> None:
    """Put a token into the system's keyring, or with None take it out. Raises `ConfigError`."""
    keyring = _keyring(name)
    try:
        if token is not None:
            keyring.set_password(KEYRING_NAME, name, check_token(token, "as given"))
        elif keyring.get_password(KEYRING_NAME, name) is not None:
            keyring.delete_password(KEYRING_NAME, name)
    except keyring.errors.KeyringError as exc:
        raise ConfigError(f"The system's keyring does not take the token of {name!r}: {type(exc).__name__}.") from None


def _from_keyring(name: str) -> str:
    keyring = _keyring(name)
    try:
        token = keyring.get_password(KEYRING_NAME, name)
    except keyring.errors.KeyringError as exc:
        raise ConfigError(f"The system's keyring does not give the token of {name!r}: {type(exc).__name__}.") from None
    return check_token(token, "keyring") if token else ""


def _keyring(name: str) -> Any:
    from importlib import import_module

    try:
        import_module("keyring.errors")
        return import_module("keyring")
    except ImportError:
        raise ConfigError(
            f"The token of the pinning service {name!r} is said to be in the system's keyring, which needs a package: "
            "pip install keyring"
        ) from None


# --- for the node ----------------------------------------------------------------------------------------------------


def to_service(config: PinConfig, setting: PinSetting, token: str | None = None) -> PinService:
    """A service as the node knows it, with its token. Raises `ConfigError`, `InvalidPinService`."""
    from kachery_p2p.pinning import PinService

    return PinService(
        name=setting.name,
        url=setting.url,
        token=find_token(config, setting) if token is None else token,
        kind=setting.kind,
        max_bytes=setting.max_bytes,
        gateway=setting.gateway,
    )


def usable_services(config: PinConfig, private_network: bool) -> list[PinService]:
    """The services that the node may ask: not those that `public` or a swarm key shuts out, nor those without a token.

    What is to be pinned at the others waits. A shared service that was used without being set up is among them.
    """
    found = []
    for setting in services_by_name(config).values():
        if why_idle(config, setting, private_network) is None:
            found.append(to_service(config, setting))
    return found


def why_idle(config: PinConfig, setting: PinSetting, private_network: bool) -> str | None:
    """Why nothing is sent to a service at present; None when something may be."""
    why = setting.why_not(config, private_network)
    if why is not None:
        return f"Nothing is sent to {setting.name}: {why}."
    try:
        if to_service(config, setting).token or not setting.needs_token:
            return None
    except (ConfigError, InvalidPinService) as exc:
        return str(exc)
    return f"There is no token for {setting.name}. Set it with: kachery-cloud-pins service add {setting.name}"


def services_by_name(config: PinConfig) -> dict[str, PinSetting]:
    """The services by name, with the shared ones that something was given to, or could be."""
    return {**PRESETS, **{service.name: service for service in config.pin_services}}


# --- changing the settings -------------------------------------------------------------------------------------------


def stored_entry(directory: Path, name: str) -> dict[str, Any] | None:
    """How a service stands in `config.json`; None where it does not. Raises `ConfigError`."""
    services = read_config_file(directory / CONFIG_NAME).get(CONFIG_KEY)
    entry = services.get(name) if isinstance(services, dict) else None
    return entry if isinstance(entry, dict) else None


def keep_service(directory: Path, name: str, entry: dict[str, Any] | None) -> None:
    """Write a service into `config.json`, or with None take it out; the rest of the file stays as it is.

    Raises:
        ConfigError: the entry, or the file, makes no sense. NoPermission, DiskFull.
    """
    path = directory / CONFIG_NAME
    stored = read_config_file(path)
    services = dict(stored.get(CONFIG_KEY) or {})
    services.pop(name, None)
    if entry is not None:
        services[name] = entry
    read_services(services, f"{CONFIG_KEY!r} in {path}")
    _write_private(path, {**stored, CONFIG_KEY: services})


def make_private(path: Path) -> None:
    """Take a file with secrets in it out of others' reach."""
    with explained("making private", path):
        private.fit(path)


def _write_private(path: Path, content: dict[str, Any]) -> None:
    """Write JSON, whole or not at all, readable by its owner alone."""
    with explained("writing", path):
        private.make_directory(path.parent)
        temporary = path.with_name(f".{path.name}.{secrets.token_hex(8)}")
        fd = private.make_file(temporary)
        try:
            with os.fdopen(fd, "w", encoding="utf-8") as out:
                out.write(json.dumps(content, indent=2, ensure_ascii=False) + "\n")
                out.flush()
                os.fsync(out.fileno())
            os.replace(temporary, path)
        except BaseException:
            temporary.unlink(missing_ok=True)
            raise
        sync_folder(path.parent)
