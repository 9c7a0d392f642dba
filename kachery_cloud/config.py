"""Settings: from the environment, then `config.json` in the data directory, then the defaults below.

| environment                  | config.json       | meaning                                                          |
|------------------------------|-------------------|------------------------------------------------------------------|
| KACHERY_CLOUD_DIR            |                   | the data directory, `~/.kachery-cloud` where unset               |
| KACHERY_CLOUD_PEERS          | `peers`           | multiaddrs of peers to ask                                       |
| KACHERY_CLOUD_LISTEN         | `listen`          | multiaddrs to listen on                                          |
| KACHERY_CLOUD_TIMEOUT        | `timeout`         | seconds without any progress after which a load gives up         |
| KACHERY_CLOUD_MAX_STORE_BYTES| `max_store_bytes` | the most that one store may take; no limit where unset           |

Lists are separated by commas or blanks in the environment, and are JSON arrays in the file.
"""

from __future__ import annotations

import json
import math
import os
import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from .errors import ConfigError, InvalidAddress
from .uri import check_peer_address

DEFAULT_LISTEN = ("/ip4/0.0.0.0/tcp/0", "/ip6/::/tcp/0")
DEFAULT_TIMEOUT = 60.0
# A day: beyond it a load that hangs would look like one that works.
MAX_TIMEOUT = 86_400.0
CONFIG_NAME = "config.json"

_UNITS = {"": 1, "K": 10**3, "M": 10**6, "G": 10**9, "T": 10**12, "KI": 2**10, "MI": 2**20, "GI": 2**30, "TI": 2**40}


@dataclass(frozen=True)
class Config:
    """What one data directory and its node are set to.

    `timeout` is patience: seconds in which nothing at all arrives before a load gives up.
    """

    directory: Path
    listen: tuple[str, ...] = DEFAULT_LISTEN
    peers: tuple[str, ...] = ()
    timeout: float = DEFAULT_TIMEOUT
    max_store_bytes: int | None = None


def load_config(environ: Mapping[str, str] | None = None) -> Config:
    """Read the settings. Touches nothing but `config.json`; raises `ConfigError` naming the setting that is wrong."""
    env = os.environ if environ is None else environ
    directory = _directory(env.get("KACHERY_CLOUD_DIR", ""))
    stored = _read_file(directory / CONFIG_NAME)

    def pick(variable: str, key: str) -> tuple[Any, str]:
        """The raw value and where it came from; None where it is set nowhere."""
        if env.get(variable, "").strip():
            return env[variable], variable
        return stored.get(key), f"{key!r} in {directory / CONFIG_NAME}"

    return Config(
        directory=directory,
        listen=_addresses(*pick("KACHERY_CLOUD_LISTEN", "listen"), DEFAULT_LISTEN),
        peers=_addresses(*pick("KACHERY_CLOUD_PEERS", "peers"), ()),
        timeout=parse_timeout(*pick("KACHERY_CLOUD_TIMEOUT", "timeout")),
        max_store_bytes=_byte_count(*pick("KACHERY_CLOUD_MAX_STORE_BYTES", "max_store_bytes")),
    )


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


def write_default_config(directory: Path) -> Path:
    """Write `config.json` with the defaults, if there is none. Its path."""
    path = directory / CONFIG_NAME
    text = json.dumps(
        {"listen": list(DEFAULT_LISTEN), "peers": [], "timeout": DEFAULT_TIMEOUT, "max_store_bytes": None}, indent=2
    )
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
    known = ("listen", "peers", "timeout", "max_store_bytes")
    if not isinstance(stored, dict):
        raise ConfigError(f"The settings file {path} must hold a JSON object with the keys {', '.join(known)}.")
    for key in stored:
        if key not in known:
            raise ConfigError(f"The settings file {path} has the unknown key {key!r}; known are {', '.join(known)}.")
    return stored


def _addresses(value: Any, origin: str, default: tuple[str, ...]) -> tuple[str, ...]:
    if value is None:
        return default
    if isinstance(value, str):
        value = [part for part in re.split(r"[,\s]+", value) if part]
    if not isinstance(value, list) or not all(isinstance(part, str) for part in value):
        raise ConfigError(f"{origin} is {value!r}; it must be a list of multiaddrs.")
    try:
        return tuple(dict.fromkeys(check_peer_address(part, origin) for part in value))
    except InvalidAddress as exc:
        raise ConfigError(str(exc)) from None


def _byte_count(value: Any, origin: str) -> int | None:
    if value is None:
        return None
    match = re.fullmatch(r"\s*(\d+(?:\.\d+)?)\s*([KMGT]I?)?B?\s*", str(value), re.IGNORECASE)
    if isinstance(value, bool) or not match:
        raise ConfigError(f"{origin} is {value!r}; it must be a number of bytes such as 1000000, 50GB or 64GiB.")
    return int(float(match[1]) * _UNITS[(match[2] or "").upper()]) if match[2] else int(float(match[1]))
