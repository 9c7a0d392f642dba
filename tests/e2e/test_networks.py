"""Several machines on several networks: a URI alone is enough.

Each machine is a network namespace of its own with its own data directory and processes; nothing is shared but the
switches between them. What a machine knows about the others it must have found out over these.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path

import pytest

from scripts.data import write_random
from scripts.lab import Host, Lab, unavailable
from scripts.workstation import Workstation
from tests.helpers.patience import wait_until

SIZE = 3_000_000
# In a network without name servers and other routers, what these would do is wait.
QUIET = {"KACHERY_CLOUD_PORT_MAP": "off", "KACHERY_CLOUD_DELEGATED": "none"}


@pytest.fixture
def lab() -> Iterator[Lab]:
    if reason := unavailable():
        pytest.skip(f"these tests need several machines: {reason}")
    with Lab() as made:
        yield made


@pytest.fixture
def data(tmp_path: Path) -> Path:
    (tmp_path / "input").mkdir()
    return write_random(tmp_path / "input" / "recording.dat", SIZE, seed=11)


def station(host: Host, folder: Path, **env: str) -> Workstation:
    """A workstation on that machine; settings by their names without the prefix."""
    settings = {f"KACHERY_CLOUD_{name.upper()}": value for name, value in env.items()}
    return host.workstation(folder / host.name, env={**QUIET, **settings})


def stored(at: Workstation, path: Path) -> str:
    return at.run("kachery-cloud-store", path).stdout.strip()


def assert_loads(at: Workstation, uri: str, data: Path) -> None:
    """The URI alone brings the same bytes."""
    path = Path(at.run("kachery-cloud-load", uri, timeout=120).stdout.strip())
    assert path.read_bytes() == data.read_bytes()


def test_two_workstations_on_one_lan(lab: Lab, tmp_path: Path, data: Path) -> None:
    """With no configuration at all, a machine on the same network is found by multicast DNS."""
    lan = lab.network("10.1.0.0/24")
    alice = station(lab.host("alice", lan), tmp_path, lan_dht="off").start()
    bob = station(lab.host("bob", lan), tmp_path, lan_dht="off")
    uri = stored(alice, data)
    assert_loads(bob, uri, data)


def test_one_lan_without_multicast(lab: Lab, tmp_path: Path, data: Path) -> None:
    """Where multicast does not work, the DHT of the local network finds who has it.

    All that the two machines have in common is a third one, which has no data.
    """
    lan = lab.network("10.1.0.0/24")
    hub = station(lab.host("hub", lan), tmp_path, mdns="off").start()
    alice = station(lab.host("alice", lan), tmp_path, mdns="off", peers=hub.addr).start()
    uri = stored(alice, data)
    alice.run("kachery-cloud", "announce", uri)
    bob = station(lab.host("bob", lan), tmp_path, mdns="off", peers=hub.addr)
    assert_loads(bob, uri, data)
    carol = station(lab.host("carol", lan), tmp_path, mdns="off", lan_dht="off", peers=hub.addr)
    assert carol.run("kachery-cloud-load", uri, check=False).returncode == 3


@pytest.mark.slow
@pytest.mark.parametrize("nat", ["port-preserving", "symmetric"])
def test_two_labs_behind_nats(lab: Lab, tmp_path: Path, data: Path, nat: str) -> None:
    """Two labs that nobody can dial share through a third machine that only relays and routes.

    A direct connection is tried; behind NATs that keep the port it comes about, and what is done is told either way.
    """
    internet = lab.network("11.0.0.0/24")
    middle = station(
        lab.host("middle", internet), tmp_path, public="on", bootstrap="none", mdns="off", relay_service="on",
        reachability="public", dht="server",
    ).start()  # fmt: skip
    labs: list[Workstation] = []
    for number in (1, 2):
        lan = lab.network(f"192.168.{number}.0/24")
        lab.router(f"nat-{number}", inside=lan, outside=internet, nat=nat)
        host = lab.host(f"lab-{number}", lan)
        labs.append(station(host, tmp_path, public="on", bootstrap=middle.addr, mdns="off").start())
    storing, loading = labs
    wait_until(lambda: any("p2p-circuit" in a for a in storing.status()["addresses"]), "a reservation at the relay")
    uri = stored(storing, data)
    storing.run("kachery-cloud", "announce", uri)
    assert_loads(loading, uri, data)
    wait_until(lambda: sum(punches(storing)) + sum(punches(loading)), "the result of the hole punch")
    succeeded = punches(storing)[0] + punches(loading)[0]
    assert bool(succeeded) == (nat == "port-preserving")


@pytest.mark.slow
@pytest.mark.parametrize("nat", ["port-preserving", "symmetric"])
def test_one_string_from_behind_a_nat_to_behind_another(lab: Lab, tmp_path: Path, data: Path, nat: str) -> None:
    """What `share` prints is all that the other one has: no peer, no DHT, no relay is set up there. The relay's address
    is in the string, and the sharing side says that it goes through one."""
    internet = lab.network("11.0.0.0/24")
    middle = station(
        lab.host("middle", internet), tmp_path, public="on", bootstrap="none", mdns="off", relay_service="on",
        reachability="public", dht="server",
    ).start()  # fmt: skip
    lans = [lab.network(f"192.168.{number}.0/24") for number in (1, 2)]
    for number, lan in enumerate(lans, 1):
        lab.router(f"nat-{number}", inside=lan, outside=internet, nat=nat)
    sharing = station(lab.host("sharing", lans[0]), tmp_path, public="off", mdns="off", relays=middle.addr).start()
    getting = station(lab.host("getting", lans[1]), tmp_path, public="off", mdns="off")
    wait_until(lambda: any("p2p-circuit" in a for a in sharing.status()["addresses"]), "a reservation at the relay")
    done = sharing.run("kachery-cloud-store", data, "--share")
    assert "through a relay. This machine itself cannot be dialled" in done.stderr
    string = done.stdout.strip()
    assert string.count(sharing.peer_id) == 1
    path = getting.run("kachery-cloud-get", string, timeout=120).stdout.strip()
    assert path == str(getting.folder / "recording.dat")
    assert Path(path).read_bytes() == data.read_bytes()


def test_a_string_that_nobody_outside_can_use_is_said(lab: Lab, tmp_path: Path, data: Path) -> None:
    """Behind a NAT without a relay: a warning; a machine of the same network gets it by the string all the same."""
    internet, lan = lab.network("11.0.0.0/24"), lab.network("192.168.1.0/24")
    lab.router("nat", inside=lan, outside=internet, nat="symmetric")
    sharing = station(lab.host("sharing", lan), tmp_path, public="off", mdns="off").start()
    done = sharing.run("kachery-cloud-store", data, "--share")
    assert "Warning: Only machines of this network can load it now" in done.stderr
    near = station(lab.host("near", lan), tmp_path, public="off", mdns="off", lan_dht="off")
    near.run("kachery-cloud-get", done.stdout.strip())
    assert (near.folder / "recording.dat").read_bytes() == data.read_bytes()
    far = station(lab.host("far", internet), tmp_path, public="off", mdns="off", timeout="5")
    assert far.run("kachery-cloud-get", done.stdout.strip(), check=False).returncode == 3


def punches(at: Workstation) -> tuple[int, int]:
    """Hole punches that succeeded, and that failed."""
    report = at.status()["hole_punches"]
    return report["succeeded"], report["failed"]


def test_a_lab_with_outbound_tcp_only(lab: Lab, tmp_path: Path, data: Path) -> None:
    """Behind a firewall that lets out TCP and nothing in, a machine fetches, and serves through a relay."""
    internet = lab.network("11.0.0.0/24")
    middle = station(
        lab.host("middle", internet), tmp_path, public="on", bootstrap="none", mdns="off", relay_service="on",
        reachability="public", dht="server",
    ).start()  # fmt: skip
    outside = station(lab.host("outside", internet), tmp_path, public="on", bootstrap=middle.addr, mdns="off").start()
    campus = lab.network("172.20.0.0/24")
    lab.router("firewall", inside=campus, outside=internet, nat="symmetric", outbound="tcp")
    inside = station(lab.host("inside", campus), tmp_path, public="on", bootstrap=middle.addr, mdns="off").start()
    theirs = stored(outside, data)
    outside.run("kachery-cloud", "announce", theirs)
    assert_loads(inside, theirs, data)
    mine = write_random(tmp_path / "input" / "mine.dat", SIZE, seed=12)
    wait_until(lambda: any("p2p-circuit" in a for a in inside.status()["addresses"]), "a reservation at the relay")
    uri = stored(inside, mine)
    inside.run("kachery-cloud", "announce", uri)
    assert_loads(outside, uri, mine)


def test_only_remembered_peers_are_left(lab: Lab, tmp_path: Path, data: Path) -> None:
    """Two machines that met once find each other again, with every public service and all multicast gone."""
    lan = lab.network("10.1.0.0/24")
    hub_host, alice_host, bob_host = (lab.host(name, lan) for name in ("hub", "alice", "bob"))
    hub = station(hub_host, tmp_path, mdns="off").start()
    first = write_random(tmp_path / "input" / "first.dat", 100_000, seed=13)
    alice = station(alice_host, tmp_path, mdns="off", peers=hub.addr).start()
    bob = station(bob_host, tmp_path, mdns="off", peers=hub.addr).start()
    uri = stored(alice, first)
    alice.run("kachery-cloud", "announce", uri)
    assert_loads(bob, uri, first)
    for each in (bob, alice, hub):
        assert each.stop() == 0
    alice = station(alice_host, tmp_path, mdns="off", lan_dht="off").start()
    uri = stored(alice, data)
    bob = station(bob_host, tmp_path, mdns="off", lan_dht="off")
    assert_loads(bob, uri, data)


def test_whereis_tells_who_has_it(lab: Lab, tmp_path: Path, data: Path) -> None:
    """`kachery-cloud-whereis` names the machine, how it was found and how far it is; nobody is exit code 3."""
    lan = lab.network("10.1.0.0/24")
    alice = station(lab.host("alice", lan), tmp_path).start()
    bob = station(lab.host("bob", lan), tmp_path).start()
    uri = stored(alice, data)
    lines = [json.loads(line) for line in bob.run("kachery-cloud-whereis", uri, "--json").stdout.splitlines()]
    (found,) = [line for line in lines if line.get("peer") == alice.peer_id]
    assert found["has"]
    assert found["connected"]
    assert {"mdns", "lan-dht"} & found["found_by"].keys()  # with what had named it when it answered
    rows = bob.call("say([dict(row) for row in kcl.whereis(args[0])])", uri)  # with all that names it
    (found,) = [row for row in rows if row["peer"] == alice.peer_id]
    assert "mdns" in found["found_by"]
    (tmp_path / "input" / "unheard").write_text("of")
    nowhere = station(lab.host("carol", lab.network("10.2.0.0/24")), tmp_path)
    unheard = nowhere.run("kachery-cloud-store", tmp_path / "input" / "unheard").stdout.strip()
    assert bob.run("kachery-cloud-whereis", unheard, check=False).returncode == 3
