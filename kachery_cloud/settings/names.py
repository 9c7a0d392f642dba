"""Names of settings that are not known: what was meant, and what older names are now."""

from __future__ import annotations

import difflib
import re
from collections.abc import Collection

#: Names that older files have, or those of other programs for the same thing, and what is written now.
OLDER = {
    "bootstraps": "bootstrap",
    "bootstrap_peers": "bootstrap",
    "cache_size": "storage_limit",
    "dht_mode": "dht",
    "gateway_address": "gateway",
    "http_port": "gateway",
    "listen_port": "listen",
    "log": "log_file",
    "loglevel": "log_level",
    "max_storage": "storage_limit",
    "mdns_enabled": "mdns",
    "peering": "peers",
    "pin_service": "pin_services",
    "pinningservice": "pinning_service",
    "port": "listen",
    "relay": "relays",
    "routers": "delegated",
    "scrub": "scrub_days",
    "scrub_interval": "scrub_days",
    "static_peers": "peers",
    "storage_max": "storage_limit",
    "storagemax": "storage_limit",
    "swarm_addresses": "listen",
    "tcp_port": "listen",
    "tls_certificate": "tls_cert",
}
#: Those that are no setting now, and what is there instead.
GONE = {
    "client_id": "A machine is known by its peer ID, which kachery-cloud-init prints.",
    "directory": "The data directory is where KACHERY_CLOUD_DIR says.",
    "kachery_storage_dir": "The data directory is where KACHERY_CLOUD_DIR says.",
    "kachery_zone": "Those who share something are a group now: kachery-cloud-group create.",
    "project_id": "Give it to each store, or set KACHERY_CLOUD_PROJECT.",
    "storage_dir": "The data directory is where KACHERY_CLOUD_DIR says.",
    "swarm_key": "The key of a private network is the file swarm.key: kachery-cloud keygen-swarm.",
    "zone": "Those who share something are a group now: kachery-cloud-group create.",
}


def about_unknown(key: str, known: Collection[str]) -> str:
    """A sentence on a name that is not known, if there is something to say: what it is now, or what may be meant."""
    plain = _snake(key)
    now = OLDER.get(plain)
    if now in known:
        return f"It is {now} now."
    if plain in GONE:
        return GONE[plain]
    if plain in known:
        return f"It is written {plain}."
    if plain.removeprefix("kachery_cloud_") in known:
        return f"In a file it is written {plain.removeprefix('kachery_cloud_')}."
    near = difflib.get_close_matches(plain, known, 1, 0.7)
    return f"Is {near[0]} meant?" if near else ""


def _snake(key: str) -> str:
    """A name as ours are written: `storageLimit` and `storage-limit` are `storage_limit`."""
    return re.sub(r"(?<=[a-z])(?=[A-Z])|[-.]", "_", key[:100]).lower()
