"""The public keys of issuers, kept with the times at which they were published.

An issuer changes its keys every few weeks and forgets the old ones. Whoever is to check a proof years later needs the
key of that day, from a source that he trusts: himself, who fetched it then, or somebody whose copy he is given. What
comes with a proof is not such a source; whoever makes a proof up makes up keys as well.

`issuers.json` in the data directory has what this machine has seen:

    {"version": 1, "issuers": {URL: {"audiences": [...], "keys": [{"key": {...}, "first": ..., "last": ...}]}}}

`audiences` are the client IDs at which its own user signed in. Times are ISO 8601, UTC.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime, timezone
from pathlib import Path
from typing import TYPE_CHECKING, Any

from kachery_cloud.ownership.claims import Malformed
from kachery_cloud.ownership.verifying import Issuer
from kachery_cloud.utc import time_text

if TYPE_CHECKING:
    from kachery_cloud.settings.config import Config

ISSUERS_NAME = "issuers.json"
#: Bytes of that file.
_MOST_BYTES = 4 << 20
#: Keys of one issuer that are kept: Google's of ten years. The ones seen longest ago go first.
MAX_KEYS = 1_024
#: Keys of one set: providers publish two to ten.
MAX_SET = 64
#: What of a key is public and of use (RFC 7517, RFC 7518).
_PUBLIC = ("kty", "kid", "use", "alg", "n", "e", "crv", "x", "y")
#: Characters of one of these values: an RSA key of 16,384 bits.
_MOST_VALUE = 2_800


@dataclass(frozen=True)
class KeySet:
    """What an issuer published at some time.

    Attributes:
        issuer: its URL.
        fetched: when, in seconds since the epoch.
        keys: its public keys, each a JWK.
        audiences: client IDs that the one who kept it signed in at.
    """

    issuer: str
    fetched: float
    keys: tuple[Mapping[str, Any], ...]
    audiences: tuple[str, ...] = ()

    def to_json(self) -> dict[str, Any]:
        """As it lies beside a proof; `read_key_set` reads it."""
        return {
            "issuer": self.issuer,
            "fetched": time_text(self.fetched),
            "audiences": list(self.audiences),
            "keys": [dict(key) for key in self.keys],
        }


def read_key_set(value: Any) -> KeySet:
    """A key set from JSON.

    Raises:
        Malformed: it is none.
    """
    if not isinstance(value, dict) or not isinstance(value.get("issuer"), str):
        raise Malformed("its key set names no issuer")
    audiences = value.get("audiences", [])
    if not isinstance(audiences, list) or not all(isinstance(each, str) for each in audiences):
        raise Malformed("its key set has audiences that are no texts")
    return KeySet(value["issuer"], read_time(value.get("fetched")), public_keys(value.get("keys")), tuple(audiences))


def public_keys(value: Any) -> tuple[dict[str, str], ...]:
    """The public parts of the keys of a JWK set. What is no key, or a shared secret, is left out.

    Raises:
        Malformed: it is no list, or too long a one.
    """
    if not isinstance(value, list) or len(value) > MAX_SET:
        raise Malformed(f"its key set is no list of at most {MAX_SET} keys")
    found: list[dict[str, str]] = []
    for each in value:
        if isinstance(each, dict) and each.get("kty") in ("RSA", "EC", "OKP"):
            parts = {name: each[name] for name in _PUBLIC if isinstance(each.get(name), str)}
            if all(len(part) <= _MOST_VALUE for part in parts.values()):
                found.append(parts)
    return tuple(found)


# --- the file --------------------------------------------------------------------------------------------------------


def remember(directory: Path, seen: KeySet) -> None:
    """Keep the keys that an issuer publishes, besides those that are kept.

    Raises:
        NoPermission, DiskFull: it cannot be written.
        ConfigError: what is there cannot be read.
    """
    import json

    from kachery_cloud.settings.config_file import write_private_text

    stored = _read(directory)
    entry = stored.setdefault(seen.issuer, {"audiences": [], "keys": []})
    entry["audiences"] = sorted({*entry["audiences"], *seen.audiences})
    now = time_text(seen.fetched)
    kept = {_same(each["key"]): each for each in entry["keys"]}
    for key in seen.keys:
        before = kept.get(_same(key))
        first = now if before is None else min(before["first"], now)
        last = now if before is None else max(before["last"], now)
        kept[_same(key)] = {"key": dict(key), "first": first, "last": last}
    entry["keys"] = sorted(kept.values(), key=lambda each: each["last"])[-MAX_KEYS:]
    text = json.dumps({"version": 1, "issuers": stored}, indent=2) + "\n"
    write_private_text(directory / ISSUERS_NAME, text)


def believed(config: Config, *given: KeySet) -> dict[str, Issuer]:
    """The issuers that this machine believes.

    They are the one of its settings, those at which its user signed in, and others that the user gives.

    Args:
        config: the settings.
        given: key sets from elsewhere, of a file that the user trusts.

    Raises:
        ConfigError: the file cannot be read.
    """
    found: dict[str, tuple[list[Mapping[str, Any]], set[str]]] = {}
    for issuer, entry in _read(config.directory).items():
        found[issuer] = [each["key"] for each in entry["keys"]], set(entry["audiences"])
    for each in given:
        keys, audiences = found.setdefault(each.issuer, ([], set()))
        keys.extend(each.keys)
        audiences.update(each.audiences)
    if config.openid_client_id:
        found.setdefault(config.openid_issuer, ([], set()))[1].add(config.openid_client_id)
    return {issuer: Issuer(tuple(keys), frozenset(audiences)) for issuer, (keys, audiences) in found.items()}


def _read(directory: Path) -> dict[str, Any]:
    from kachery_cloud.errors import ConfigError, NotAFile
    from kachery_p2p.json_reader import InvalidJSON, read_json
    from kachery_p2p.ownfiles import read_own_file

    path = directory / ISSUERS_NAME
    try:
        stored = read_json(read_own_file(path, _MOST_BYTES))
        return {issuer: _entry(entry) for issuer, entry in stored["issuers"].items()}
    except FileNotFoundError:
        return {}
    except (OSError, NotAFile, InvalidJSON, Malformed, TypeError, KeyError, AttributeError, ValueError) as error:
        raise ConfigError(
            f"{path}, which has the keys of issuers, cannot be read ({error}). Move it away: they are fetched anew, "
            "but for those that were published long ago."
        ) from None


def _entry(value: Any) -> dict[str, Any]:
    audiences = [each for each in value["audiences"] if isinstance(each, str)]
    keys = [
        {"key": key, "first": time_text(read_time(each["first"])), "last": time_text(read_time(each["last"]))}
        for each in value["keys"]
        for key in public_keys([each["key"]])
    ]
    return {"audiences": audiences, "keys": keys}


def _same(key: Mapping[str, Any]) -> tuple[Any, ...]:
    return tuple(key.get(name) for name in _PUBLIC)


def read_time(text: Any) -> float:
    """What `time_text` wrote, in seconds since the epoch.

    Raises:
        Malformed: it is none.
    """
    try:
        return datetime.strptime(text, "%Y-%m-%dT%H:%M:%SZ").replace(tzinfo=timezone.utc).timestamp()
    except (TypeError, ValueError):
        raise Malformed("it has a time that is none") from None
