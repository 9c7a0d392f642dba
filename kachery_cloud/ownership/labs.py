"""What this machine knows of the lab's nodes that it is registered with, or is about to be: `labs.json`, mode 0600.

{"version": 1, "labs": {URL: {"state": "waiting" | "registered", ...}}}
"""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from kachery_cloud.errors import ConfigError, NotAFile
from kachery_p2p.json_reader import InvalidJSON, read_json
from kachery_p2p.ownfiles import read_own_file

LABS_NAME = "labs.json"
_MOST_BYTES = 1 << 20


@dataclass(frozen=True)
class Lab:
    """A lab's node, from the view of a client.

    Attributes:
        state: "waiting" for somebody to follow the link, or "registered".
        name: what the lab is called.
        peer_id: of the node.
        label: what this machine is called there.
        id, secret, link, code: of a registration that waits.
        claims: what the nonce of the sign-in there commits to, base64url; empty where there is no such nonce.
        owner_name, owner_email: whose client this is.
        service: the name of the pinning service in the settings.
        gateway: the URL of its gateway; empty where it names none.
        peers: the addresses that were added to the setting `peers`.
    """

    state: str
    name: str
    peer_id: str
    label: str
    id: str = ""
    secret: str = ""
    link: str = ""
    code: str = ""
    claims: str = ""
    owner_name: str = ""
    owner_email: str = ""
    service: str = ""
    gateway: str = ""
    peers: tuple[str, ...] = ()


def known_labs(directory: Path) -> dict[str, Lab]:
    """All of them, by URL.

    Raises:
        ConfigError: the file cannot be read.
    """
    path = directory / LABS_NAME
    try:
        stored = read_json(read_own_file(path, _MOST_BYTES))
        return {url: _read(entry) for url, entry in stored["labs"].items()}
    except FileNotFoundError:
        return {}
    except (OSError, NotAFile, InvalidJSON, TypeError, KeyError, AttributeError, ValueError) as error:
        raise ConfigError(
            f"{path}, which has the lab's nodes that this machine is registered with, cannot be read ({error}). Move "
            "it away and register again: kachery-cloud-init --node URL"
        ) from None


def keep_lab(directory: Path, url: str, lab: Lab | None) -> None:
    """Keep what is known of one, or with None forget it.

    Raises:
        ConfigError: the file cannot be read.
        NoPermission, DiskFull: it cannot be written.
    """
    from kachery_p2p.oserrors import explained
    from kachery_p2p.repo.wholefile import write_whole

    labs = known_labs(directory)
    labs.pop(url, None)
    if lab is not None:
        labs[url] = lab
    path = directory / LABS_NAME
    text = json.dumps({"version": 1, "labs": {each: asdict(labs[each]) for each in labs}}, indent=2) + "\n"
    with explained("writing", path):
        write_whole(path, text.encode(), secret=True)


def _read(entry: Any) -> Lab:
    texts = {name: value for name, value in entry.items() if name != "peers"}
    if not all(isinstance(value, str) for value in texts.values()) or texts["state"] not in ("waiting", "registered"):
        raise ValueError("an entry makes no sense")
    return Lab(**texts, peers=tuple(str(each) for each in entry.get("peers", ())))
