"""What public functions return is part of the interface: the keys of dictionaries, and the kinds of their values."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

import kachery_cloud as kcl
from kachery_cloud.local import close_outboxes, close_repositories
from kachery_cloud.node.connection import close_all

NOBODY = "/ip4/127.0.0.1/tcp/9/p2p/12D3KooWD3eckifWpRn9wQpMG9R9hX3sD158z7EqHWmweQAJU5SA"
GATEWAY = "gateway:127.0.0.1:9"

#: There from time to time; None otherwise.
VARIES = ("last_seconds", "last_turn", "next_turn", "next_seconds", "last_error")
OFF = {"on": "bool", "why": "str"}
ASKED = dict.fromkeys(("asked", "waiting", "answered", "failed", "providers", "peers"), "int")
PROGRESS = dict.fromkeys(("keys", "announced", "waiting", "overdue"), "int")

RUNNING: dict[str, Any] = {
    "running": "bool",
    "peer_id": "str",
    "addresses": ["str"],
    "connected": [],
    "unreachable_peers": {NOBODY: "str"},
    "gateways": {
        GATEWAY: {
            "blocks": "int",
            "bytes": "int",
            "refused": "int",
            "resting": "float",
            "dropped": "str",
            "last_error": "varies",
        }
    },
    "private_network": "bool",
    "swarm_key_fingerprint": "NoneType",
    "reachability": {"state": "str", "why": "str", "port_mapping": "str"},
    "announced": [{"addr": "str", "why": "str"}],
    "not_announced": [],
    "relay": {"enabled": "bool", "relays": [], "failures": {}, "serving": "NoneType"},
    "hole_punches": {"succeeded": "int", "failed": "int", "last": []},
    "sources": {
        "mdns": OFF,
        "lan-dht": {
            "on": "bool",
            **ASKED,
            "running": "bool",
            "last_seconds": "varies",
            "last_error": "varies",
            "protocol": "str",
            "mode": "str",
            "addresses": ["str"],
            "lookups": "int",
            "providers_found": "int",
            "records_delivered": "int",
            "records_held": "int",
            "questions": {"sent": "int", "failed": "int", "received": "int", "refused": "int"},
            "served": {},
            "streams": {"kept": "int", "inbound": "int"},
            "dials": {"tried": "int", "failed": "int"},
            "bootstraps": "int",
            "errors": [],
        },
        "dht": OFF,
        "delegated": OFF,
        "known": {
            "on": "bool",
            **ASKED,
            "running": "int",
            "last_seconds": "varies",
            "last_error": "varies",
            "shelves": {"useful": "int", "local": "int", "served": "int", "met": "int", "heard": "int"},
            "best": [],
        },
    },
    "providing": {
        "strategy": "str",
        **PROGRESS,
        "next_seconds": "varies",
        "last_error": "varies",
        "targets": {
            "lan-dht": {
                "ready": "bool",
                **PROGRESS,
                "regions": "int",
                "network_size": "int",
                "last_turn": "varies",
                "next_turn": "varies",
                "lookups": "int",
                "deliveries": "int",
                "records": "int",
                "failures": "int",
                "last_error": "varies",
            }
        },
    },
    "finds": [],
    "errors": [],
    "blocks_received": "int",
    "bytes_received": "int",
    "duplicate_blocks": "int",
    "duplicate_bytes": "int",
    "blocks_sent": "int",
    "bytes_sent": "int",
    "malformed": "int",
    "directory": "str",
    "pid": "int",
    "warnings": [],
}
STOPPED: dict[str, Any] = {
    "running": "bool",
    "directory": "str",
    "peer_id": "NoneType",
    "private_network": "bool",
    "warnings": [],
    "settings": {
        "shared_dirs": [],
        "to": [],
        "project": "str",
        "own_peers": [],
        "members_only": "bool",
        "access_log": "bool",
        "listen": ["str"],
        "peers": ["str"],
        "timeout": "float",
        "max_store_bytes": "NoneType",
        "public": "bool",
        "private": "bool",
        "dht": "str",
        "bootstrap": "NoneType",
        "delegated": "NoneType",
        "lan_dht": "bool",
        "mdns": "bool",
        "known_peers": "bool",
        "provide": "str",
        "announce": [],
        "reachability": "str",
        "port_map": "bool",
        "relays": [],
        "relay_service": "str",
        "gateways": ["str"],
        "pinning_service": "NoneType",
        "max_pin_bytes": "int",
        "tls_cert": "NoneType",
        "tls_key": "NoneType",
        "gateway": "NoneType",
        "gateway_fetch": "bool",
        "storage_limit": "NoneType",
        "scrub_days": "float",
        "log_level": "str",
        "log_file": "NoneType",
        "log_format": "str",
        "gateway_origins": [],
        "gateway_names": [],
        "openid_issuer": "str",
        "openid_client_id": "str",
        "openid_client_secret_file": "NoneType",
        "show_owner": "str",
        "lab": "NoneType",
        "lab_url": "NoneType",
        "lab_gateway": "NoneType",
        "lab_name": "str",
        "lab_members": [],
        "sources": dict.fromkeys(("mdns", "lan-dht", "known", "dht", "delegated", "gateways"), "bool"),
    },
    "pinning": {"counts": {}},
}
SOMEBODY = {
    "peer": "str",
    "addrs": ["str"],
    "source": "str",
    "seconds": "float",
    "connected": "bool",
    "round_trip_ms": "NoneType",
    "has": "NoneType",
    "error": "str",
    "found_by": {"hint": "float"},
}
PIN = {
    "uri": "str",
    "id": "int",
    "cid": "str",
    "service": "str",
    "name": "str",
    "meta": {},
    "size": "int",
    "state": "str",
    "request_id": "str",
    "delegates": [],
    "tries": "int",
    "waited": "float",
    "next_try": "float",
    "problem": "str",
    "last_error": "varies",
    "added": "float",
    "changed": "float",
    "verified": "NoneType",
    "claimed": "bool",
}
INFO = {
    "uri": "str",
    "cid": "str",
    "kind": "str",
    "size": "int",
    "dag_size": "NoneType",
    "destination": "NoneType",
    "label": "NoneType",
    "sources": {},
    "local": "bool",
    "path": "str",
    "shared": "NoneType",
    "kept": "str",
    "labels": [],
    "here": "int",
    "complete": "bool",
    "problem": "str",
    "added": "float",
    "used": "float",
    "pinned": [{"service": "str", "state": "str"}],
    "visibility": ["str"],
    "also": [],
}


def shape(value: Any) -> Any:
    """The keys of a value, and the kinds of what is in it; of a list the first."""
    if isinstance(value, dict):
        return {key: "varies" if key in VARIES else shape(each) for key, each in value.items()}
    if isinstance(value, (list, tuple)):
        return [shape(value[0])] if value else []
    return type(value).__name__


@pytest.fixture
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    directory = tmp_path / "data"
    directory.mkdir(mode=0o700)
    service = {"url": "http://127.0.0.1:9/", "token": "token-of-the-test"}
    (directory / "config.json").write_text(json.dumps({"pin_services": {"lab": service}}))
    (directory / "config.json").chmod(0o600)
    for name, value in {"DIR": str(directory), "GATEWAYS": "http://127.0.0.1:9", "PEERS": NOBODY}.items():
        monkeypatch.setenv(f"KACHERY_CLOUD_{name}", value)
    monkeypatch.setenv("KACHERY_CLOUD_LISTEN", "/ip4/127.0.0.1/tcp/0")
    yield directory
    close_all()
    close_repositories()
    close_outboxes()


def test_where_no_node_runs(here: Path) -> None:
    """Status, pins, and what is known of a file."""
    assert shape(kcl.status()) == STOPPED
    assert shape(kcl.get_node_info()) == STOPPED
    uri = kcl.store_text("something", local=True, pin="lab")
    assert shape(kcl.pins()) == [PIN]
    assert shape(kcl.pins(uri)) == [PIN]
    assert shape(kcl.load_file_info(uri)) == INFO
    assert shape(kcl.unpin(uri)) == [PIN]


def test_a_node_in_this_process(here: Path) -> None:
    """Status, who has something, and announcing."""
    uri = kcl.store_text("something", local=True, pin="lab")
    kcl.status(start=True)
    (missing,) = kcl.whereis(
        "bafkreiaossxdnwtp6a4zfjl73w67i4ulmcoq277g5maz7kprxg23kqgygu", timeout=1, providers=[NOBODY]
    )
    assert shape(missing) == SOMEBODY
    mine = kcl.whereis(uri, timeout=0.1)[0]
    assert shape(mine) == {
        **{key: kind for key, kind in SOMEBODY.items() if key != "error"},
        "addrs": [],
        "has": "bool",
        "found_by": {"here": "float"},
        "path": "str",
    }
    assert shape(kcl.announce(uri, timeout=0.1)) == {"copies": "int", "seconds": "float"}
    found = shape(kcl.status())
    assert set(found.pop("pinning")) == {"services", "counts", "error"}
    assert {**found, "unreachable_peers": {NOBODY: "str"}} == RUNNING
