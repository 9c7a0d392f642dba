"""`kachery-cloud-node doctor` where the network, peers or services are broken: real processes, real breakage."""

from __future__ import annotations

import socket
import subprocess
from collections.abc import Callable, Iterator
from contextlib import closing
from pathlib import Path

import pytest

from scripts.lab import Lab, unavailable
from tests.conftest import StartWorkstation
from tests.helpers.certificates import self_signed
from tests.helpers.doctor import examine, only, prepared
from tests.helpers.pin_clients import add_token, pinning_lab

#: An address of a peer that is nowhere.
NOBODY = "/ip4/127.0.0.1/tcp/{port}/p2p/12D3KooWGRuQ8BGCvVEV9pHV2nR8NbxuSFXJDVT9U4nFXoCBiFzy"


# --- the network ------------------------------------------------------------------------------------------------------


@pytest.fixture
def lab() -> Iterator[Lab]:
    if reason := unavailable():
        pytest.skip(f"these tests need several machines: {reason}")
    with Lab() as made:
        yield made


def test_no_way_out(lab: Lab, tmp_path: Path) -> None:
    """A machine whose network leads nowhere."""
    host = lab.host("alice", lab.network("10.1.0.0/24"))
    with host.entered():
        for family in ("-4", "-6"):
            subprocess.run(["ip", family, "route", "flush", "default"], check=False, capture_output=True)
    env = {"KACHERY_CLOUD_PUBLIC": "on", "KACHERY_CLOUD_GATEWAYS": "none", "KACHERY_CLOUD_DELEGATED": "none"}
    only(examine(host.workstation(tmp_path / "alice", env=env)), "route", "no default route", "ip route")


def test_multicast_is_blocked(lab: Lab, tmp_path: Path) -> None:
    """A firewall on the machine itself lets no multicast DNS in, or none out."""
    host = lab.host("alice", lab.network("10.1.0.0/24"))
    station = host.workstation(tmp_path / "alice", env={"KACHERY_CLOUD_MDNS": "on"})
    assert "multicast works on" in examine(station)["multicast"]["well"]
    for hook in ("input", "output"):
        rules = f"table inet shut {{ chain c {{ type filter hook {hook} priority 0; udp dport 5353 drop; }}; }}"
        with host.entered():
            subprocess.run(["nft", "-f", "-"], input=rules, text=True, check=True)
        (finding,) = examine(station)["multicast"]["findings"]
        assert "5353" in finding["todo"]
        with host.entered():
            subprocess.run(["nft", "delete", "table", "inet", "shut"], check=True)


def test_an_unreachable_relay(workstation: StartWorkstation, free_port: Callable[[], int]) -> None:
    """Nothing listens there; and a node that does is none with the name that was expected."""
    station = prepared(workstation)
    port = free_port()
    station.env["KACHERY_CLOUD_RELAYS"] = NOBODY.format(port=port)
    only(examine(station), "relays", "connection is refused", "`relays`")
    relay = workstation().start()
    station.env["KACHERY_CLOUD_RELAYS"] = relay.addr
    assert examine(station)["ok"]
    address, _, _ = relay.addr.partition("/p2p/")
    station.env["KACHERY_CLOUD_RELAYS"] = address + "/p2p/" + NOBODY.rpartition("/")[2]
    only(examine(station), "relays", "another one answers there", relay.peer_id)


def test_a_peer_with_another_swarm_key(workstation: StartWorkstation) -> None:
    """Ours and its key differ; we have one and it none; it has one and we none."""
    station, peer = workstation(), workstation()
    for each in (station, peer):
        each.run("kachery-cloud", "keygen-swarm")
    peer.start()
    station.env["KACHERY_CLOUD_PEERS"] = peer.addr
    only(examine(station), "peers", "another swarm key")
    key = station.directory / "swarm.key"
    content = key.read_bytes()
    key.unlink()
    only(examine(station), "peers", "swarm.key")
    peer.stop()
    (peer.directory / "swarm.key").unlink()
    peer.start()
    key.write_bytes(content)
    station.env["KACHERY_CLOUD_PEERS"] = peer.addr
    only(examine(station), "peers", "in no private network")


# --- services ---------------------------------------------------------------------------------------------------------


def test_a_wrong_token(workstation: StartWorkstation, free_port: Callable[[], int]) -> None:
    """For a pinning service, for a gateway, and for a node that is followed."""
    station, theirs = prepared(workstation), workstation()
    token = add_token(theirs, "alice")
    url = pinning_lab(theirs)
    station.env["KACHERY_CLOUD_PIN_SERVICES"] = f"lab={url}"
    station.env["KACHERY_CLOUD_PIN_TOKEN_LAB"] = "wrong"
    only(examine(station), "services", "refuses the token", "401", "kachery-cloud-pins service add lab")
    station.env["KACHERY_CLOUD_PIN_TOKEN_LAB"] = token
    assert examine(station)["ok"]
    station.env["KACHERY_CLOUD_FOLLOW"] = f"{url}=wrong"
    only(examine(station), "services", "followed node", "--follow")
    del station.env["KACHERY_CLOUD_FOLLOW"]
    theirs.stop()
    only(examine(station), "services", "cannot be reached")


def test_certificates(workstation: StartWorkstation, tmp_path: Path) -> None:
    """Expired, of another name, and not of the key."""
    station = prepared(workstation)
    good = self_signed(tmp_path)
    options = ("--pinning-service", "127.0.0.1:0", "--tls-cert")
    assert examine(station, *options, str(good))["certificate"]["well"]
    (tmp_path / "old").mkdir()
    old = self_signed(tmp_path / "old", days=(-30, -1))
    only(examine(station, *options, str(old)), "certificate", "expired on", "Renew")
    only(examine(station, "--pinning-service", "127.0.0.2:0", "--tls-cert", str(good)), "certificate", "127.0.0.2")
    lines = old.read_text().split("-----BEGIN CERTIFICATE")[0]
    (tmp_path / "key.pem").write_text(lines)
    only(examine(station, *options, str(good), "--tls-key", str(tmp_path / "key.pem")), "certificate", "belong")


def test_public_services_are_left_alone(workstation: StartWorkstation, tmp_path: Path) -> None:
    """With `public` off, no connection but to this machine is tried: a proxy that is named for all sees nothing."""
    station = prepared(workstation)
    with closing(socket.create_server(("127.0.0.1", 0))) as proxy:
        proxy.settimeout(0.0)
        url = f"http://127.0.0.1:{proxy.getsockname()[1]}"
        station.env.update(HTTPS_PROXY=url, HTTP_PROXY=url, ALL_PROXY=url, KACHERY_CLOUD_PUBLIC="off")
        assert examine(station)["ok"]
        with pytest.raises(BlockingIOError):
            proxy.accept()
