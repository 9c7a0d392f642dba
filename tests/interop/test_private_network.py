"""A private lab: a key made by our command, our nodes and Kubo that have it, and strangers that do not."""

from __future__ import annotations

import shutil
import socket
import threading
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path

import pytest

from kachery_p2p.dag.cid import CID, RAW
from kachery_p2p.dag.hashes import sha256_multihash
from kachery_p2p.repo.swarm_key import fingerprint, format_swarm_key, generate_swarm_key, read_swarm_key
from scripts.data import write_random
from scripts.peers import Kubo, PeerError
from scripts.workstation import Workstation
from tests.helpers.patience import PATIENCE
from tests.interop.common import V1, cid_of

MULTISTREAM = b"/multistream/1.0.0\n"
#: As a peer of the public network opens a connection: the line of multistream-select behind its length.
HELLO = bytes([len(MULTISTREAM)]) + MULTISTREAM
#: Seconds that a stranger tries: long enough for a node of the same network to answer a hundred times.
IN_VAIN = 5.0

_LOAD = "say(kcl.load_file(args[0], providers=args[1], timeout=args[2]))"
_STORE = "say(kcl.store_file(args[0], profile=args[1]))"


@pytest.fixture(scope="module")
def member(module_workstation: Callable[..., Workstation]) -> Workstation:
    """A workstation of the lab: the key is made here, then its node is started."""
    station = module_workstation()
    made = station.run("kachery-cloud-keygen-swarm")
    assert made.stdout.strip() == str(key_of(station))
    return station.start()


@pytest.fixture(scope="module")
def kubo_member(member: Workstation, _peers_present: None) -> Iterator[Kubo]:
    """A Kubo with the key of the lab."""
    with ExitStack() as stack:
        yield stack.enter_context(Kubo(swarm_key=key_of(member), no_fsync=True))


@pytest.fixture(scope="module")
def secret(member: Workstation, tmp_path_factory: pytest.TempPathFactory) -> tuple[str, bytes]:
    """Something that the lab has: its URI, and the bytes that nobody else may get."""
    source = write_random(tmp_path_factory.mktemp("secret") / "secret.dat", 300_000, seed=33)
    return member.call(_STORE, source, V1), source.read_bytes()


def key_of(station: Workstation) -> Path:
    return station.directory / "swarm.key"


def join(station: Workstation, member: Workstation) -> Workstation:
    """Gives the lab's key to another workstation, as its user would."""
    station.directory.mkdir(parents=True, exist_ok=True)
    shutil.copy(key_of(member), key_of(station))
    return station


def test_members_share(member: Workstation, workstation: Callable[..., Workstation], secret: tuple[str, bytes]) -> None:
    """Two workstations with the key load from each other, and say that their network is private."""
    other = join(workstation(), member).start()
    uri, content = secret
    assert Path(other.call(_LOAD, uri, [member.addr], 120)).read_bytes() == content
    for station in (member, other):
        assert station.status()["private_network"] is True
    key = read_swarm_key(other.directory)
    assert key is not None
    assert fingerprint(key) in other.run("kachery-cloud-status").stdout


def test_kubo_joins_and_shares_both_ways(
    member: Workstation, kubo_member: Kubo, secret: tuple[str, bytes], tmp_path: Path
) -> None:
    """Kubo reads our key file, connects, loads what we store; and we load what Kubo adds, over either's connection."""
    uri, content = secret
    kubo_member.connect(member.addr)
    kubo_member.get(cid_of(uri), tmp_path / "copy", timeout=PATIENCE)
    assert (tmp_path / "copy").read_bytes() == content
    source = write_random(tmp_path / "source", 2_500_000, seed=34)
    path = member.call(_LOAD, f"ipfs://{kubo_member.add(source)}", kubo_member.addrs, 120)
    assert Path(path).read_bytes() == source.read_bytes()


def test_we_join_kubos_network(
    member: Workstation, kubo_member: Kubo, workstation: Callable[..., Workstation], tmp_path: Path
) -> None:
    """A workstation that knows nobody but Kubo dials it and loads from it."""
    other = join(workstation(), member)
    source = write_random(tmp_path / "source", 100_000, seed=35)
    path = other.call(_LOAD, f"ipfs://{kubo_member.add(source)}", kubo_member.addrs, 120)
    assert Path(path).read_bytes() == source.read_bytes()


@pytest.mark.parametrize("key", ["none", "another"])
def test_a_workstation_without_the_key_gets_nothing(
    key: str, member: Workstation, workstation: Callable[..., Workstation], secret: tuple[str, bytes]
) -> None:
    """Neither by any address of the node, nor when the node dials: not a block, not a connection."""
    stranger = workstation()
    if key == "another":
        stranger.directory.mkdir(parents=True)
        key_of(stranger).write_text(format_swarm_key(generate_swarm_key()))
        key_of(stranger).chmod(0o600)
    stranger.start()
    before = member.status()["bytes_sent"]
    for providers in (member.addrs, *([addr] for addr in addresses_of(member))):
        failed = stranger.run(
            "kachery-cloud-load", secret[0], "--timeout", str(IN_VAIN), *flags(providers), check=False
        )
        assert failed.returncode in (3, 6), failed.stdout + failed.stderr
    nobody = stranger.run(
        "kachery-cloud-whereis", secret[0], "--timeout", str(IN_VAIN), *flags(member.addrs), check=False
    )
    assert member.peer_id not in [each["peer"] for each in stranger.status()["connected"]]
    assert nobody.returncode == 3 or "has it" not in nobody.stdout
    member.run("kachery-cloud-load", missing_uri(), "--timeout", "3", *flags(stranger.addrs), check=False)
    assert stranger.peer_id not in [each["peer"] for each in member.status()["connected"]]
    assert member.status()["bytes_sent"] == before


@pytest.mark.parametrize("key", ["none", "another"])
def test_a_kubo_without_the_key_gets_nothing(
    key: str, member: Workstation, start_kubo: Callable[..., Kubo], secret: tuple[str, bytes], tmp_path: Path
) -> None:
    """Nor does a Kubo of the public network, or of another private one."""
    options: dict[str, object] = {}
    if key == "another":
        file = tmp_path / "another.key"
        file.write_text(format_swarm_key(generate_swarm_key()))
        options["swarm_key"] = file
    stranger = start_kubo(**options)
    for addr in addresses_of(member):
        with pytest.raises(PeerError):
            stranger.connect(addr, timeout=IN_VAIN)
    with pytest.raises(PeerError):
        stranger.get(cid_of(secret[0]), tmp_path / "copy", timeout=IN_VAIN)
    assert stranger.peer_id not in [each["peer"] for each in member.status()["connected"]]


def test_a_probe_reads_nothing_of_libp2p(member: Workstation, workstation: Callable[..., Workstation]) -> None:
    """Who connects by plain TCP and speaks libp2p gets noise or silence; a public node would have answered in words."""
    public = workstation().start()
    assert MULTISTREAM in probe(public.addr)
    for addr in addresses_of(member):
        answer = probe(addr)
        for word in (b"multistream", b"/noise", b"/tls", b"/yamux", b"/ipfs", b"12D3", b"\nna\n", *fragments()):
            assert word not in answer


def test_a_listener_reads_nothing_of_libp2p(member: Workstation, workstation: Callable[..., Workstation]) -> None:
    """What a member sends to somebody whom it dials, before that one has proved the key, is noise, too."""
    public = workstation().start()
    assert MULTISTREAM in sent_when_dialling(public)
    sent = sent_when_dialling(member)
    for word in (b"multistream", b"/noise", *fragments()):
        assert word not in sent


def test_it_uses_no_public_service(workstation: Callable[..., Workstation], member: Workstation) -> None:
    """Even with public services switched on, a node with a key has the DHT and the routers off."""
    station = join(workstation(env={"KACHERY_CLOUD_PUBLIC": "on"}), member).start()
    sources = station.status()["sources"]
    for name in ("dht", "delegated"):
        assert not sources.get(name, {}).get("on", False)


def test_a_damaged_key_stops_the_node(workstation: Callable[..., Workstation]) -> None:
    """It ends with a sentence about the line, rather than joining the public network; and so does a load."""
    station = workstation()
    station.directory.mkdir(parents=True)
    key_of(station).write_text("/key/swarm/psk/1.0.0/\n/base16/\nabcd\n")
    for command in (["kachery-cloud-node"], ["kachery-cloud-load", missing_uri(), "--timeout", "3"]):
        ended = station.run(*command, check=False, timeout=PATIENCE)
        assert ended.returncode == 5, ended.stdout + ended.stderr
        assert "Line 3" in ended.stderr
        assert "Traceback" not in ended.stderr


# --- parts -----------------------------------------------------------------------------------------------------------


def addresses_of(station: Workstation) -> list[str]:
    """Every address that the node tells others."""
    return list(dict.fromkeys([*station.addrs, *station.status()["addresses"]]))


def flags(addrs: list[str]) -> list[str]:
    return [part for addr in addrs for part in ("--peer", addr)]


def missing_uri() -> str:
    """The URI of 36 random bytes, which nobody has."""
    return f"ipfs://{CID(1, RAW, sha256_multihash(generate_swarm_key()))}"


def fragments() -> list[bytes]:
    """Parts of the first line of libp2p: noise has three given bytes in a row by chance, but hardly seven."""
    return [HELLO[start : start + 7] for start in range(0, len(HELLO) - 7)]


def endpoint(addr: str) -> tuple[str, int]:
    parts = addr.split("/")
    return parts[2], int(parts[4])


def read_all(sock: socket.socket) -> bytes:
    """What comes until the other side ends, says that it is libp2p, or is quiet after it has said something."""
    got = b""
    while MULTISTREAM not in got:
        sock.settimeout(2.0 if got else PATIENCE)
        try:
            piece = sock.recv(65536)
        except (TimeoutError, ConnectionResetError):
            break
        if not piece:
            break
        got += piece
    return got


def probe(addr: str) -> bytes:
    """What a node answers to one that connects by TCP and begins as peers of the public network do."""
    with socket.create_connection(endpoint(addr), timeout=PATIENCE) as sock:
        try:
            sock.sendall(HELLO + bytes([7]) + b"/noise\n")
        except ConnectionError:
            pass
        return read_all(sock)


def sent_when_dialling(station: Workstation) -> bytes:
    """What a node sends to a listener that it was told to ask."""
    got: list[bytes] = []
    with socket.create_server(("127.0.0.1", 0)) as server:
        server.settimeout(PATIENCE)

        def accept() -> None:
            sock, _ = server.accept()
            with sock:
                got.append(read_all(sock))

        thread = threading.Thread(target=accept, daemon=True)
        thread.start()
        addr = f"/ip4/127.0.0.1/tcp/{server.getsockname()[1]}"
        station.run("kachery-cloud-load", missing_uri(), "--timeout", "3", "--peer", addr, check=False)
        thread.join(PATIENCE)
    assert got, "the node did not dial"
    return got[0]
