"""The tokens of pinning services: where they are, and keeping them.

A token is looked for in

1. `KACHERY_CLOUD_PIN_TOKEN_<NAME>`; `KACHERY_CLOUD_PIN_TOKEN`, where there is one service alone; the variable that
   `token_env` names;
2. `token` in `config.json`; `tokens.json` beside it, where `kachery-cloud-pins service add` puts it;
3. the keyring of the system, with `"keyring": true`.

A file with a token in it is made readable by its owner alone. Tokens are never printed, and never sent in the clear to
a machine outside of the local network.
"""

from __future__ import annotations

import os
import re
from pathlib import Path
from typing import Any

from kachery_cloud.errors import ConfigError, NotAFile
from kachery_cloud.settings.config_file import make_private, write_private
from kachery_cloud.settings.pin_services import (
    MAX_SERVICES,
    MAX_TOKEN_LENGTH,
    PinConfig,
    PinSetting,
    check_token,
)
from kachery_p2p.json_reader import InvalidJSON, read_json
from kachery_p2p.ownfiles import read_own_file

TOKEN_VARIABLE = "KACHERY_CLOUD_PIN_TOKEN"
TOKENS_NAME = "tokens.json"
#: Under this name the system's keyring keeps our tokens.
KEYRING_NAME = "kachery-cloud"
#: Bytes of the file of tokens: as many of the longest as there may be services.
MAX_TOKENS = 2 * MAX_SERVICES * MAX_TOKEN_LENGTH


def token_variable(name: str) -> str:
    """The environment variable for the token of one service."""
    return f"{TOKEN_VARIABLE}_{re.sub(r'[^A-Za-z0-9]', '_', name).upper()}"


def find_token(config: PinConfig, service: PinSetting, *, change: bool = True) -> str:
    """The token of a service; empty where there is none. With `change` off, `tokens.json` keeps its mode.

    Raises:
        ConfigError: `tokens.json` cannot be read; the keyring does not give it; or the token would travel in the clear.
    """
    token = _look_for_token(config, service, change=change)[0]
    if token and service.url.startswith("http:") and not service.is_local:
        raise ConfigError(
            f"The pinning service {service.name!r} has an http:// URL outside of the local network, and its token must "
            "not go there in the clear. Use https://."
        )
    return token


def token_origin(config: PinConfig, service: PinSetting) -> str | None:
    """Where the token of a service is, for people; None where there is none."""
    return _look_for_token(config, service)[1]


def _look_for_token(config: PinConfig, service: PinSetting, *, change: bool = True) -> tuple[str, str | None]:
    variables = [token_variable(service.name)]
    if [each.name for each in config.pin_services] == [service.name]:
        variables.append(TOKEN_VARIABLE)  # with several, it would go to those that it is not for
    if service.token_env:
        variables.append(service.token_env)
    for variable in variables:
        if token := os.environ.get(variable, "").strip():
            return check_token(token, variable), variable
    if service.token:
        return service.token, "config.json"
    kept = _read_tokens(config.directory, change=change).get(service.name)
    if kept:
        return kept, TOKENS_NAME
    if service.keyring:
        return _from_keyring(service.name), "keyring"
    return "", None


def _read_tokens(directory: Path, *, change: bool = True) -> dict[str, str]:
    path = directory / TOKENS_NAME
    try:
        tokens = read_json(read_own_file(path, MAX_TOKENS))
    except FileNotFoundError:
        return {}
    except OSError as error:
        raise ConfigError(f"The file of tokens {path} cannot be read: {error.strerror or error}.") from None
    except NotAFile as error:
        raise ConfigError(f"The tokens of pinning services cannot be read: {error}") from None
    except InvalidJSON:  # its text is not repeated: there are secrets in it
        tokens = None
    if not isinstance(tokens, dict) or not all(isinstance(token, str) for token in tokens.values()):
        raise ConfigError(
            f"The file of tokens {path} must hold a JSON object of names and tokens. Repair or remove it."
        )
    if change:
        make_private(path)
    return tokens


def keep_token(directory: Path, name: str, token: str | None) -> None:
    """Put a token into `tokens.json`, or with None take it out.

    Raises:
        ConfigError: it is no token, or the file cannot be read.
        NoPermission, DiskFull: the file cannot be written.
    """
    tokens = _read_tokens(directory)
    if token is None and name not in tokens:
        return
    tokens.pop(name, None)
    if token is not None:
        tokens[name] = check_token(token, "as given")
    write_private(directory / TOKENS_NAME, tokens)


def keep_token_in_keyring(name: str, token: str | None) -> None:
    """Put a token into the system's keyring, or with None take it out.

    Raises:
        ConfigError: there is no keyring, or it refuses.
    """
    keyring = _keyring(name)
    try:
        if token is not None:
            keyring.set_password(KEYRING_NAME, name, check_token(token, "as given"))
        elif keyring.get_password(KEYRING_NAME, name) is not None:
            keyring.delete_password(KEYRING_NAME, name)
    except keyring.errors.KeyringError as error:
        raise ConfigError(
            f"The system's keyring does not take the token of {name!r}: {type(error).__name__}."
        ) from None


def _from_keyring(name: str) -> str:
    keyring = _keyring(name)
    try:
        token = keyring.get_password(KEYRING_NAME, name)
    except keyring.errors.KeyringError as error:
        raise ConfigError(
            f"The system's keyring does not give the token of {name!r}: {type(error).__name__}."
        ) from None
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
