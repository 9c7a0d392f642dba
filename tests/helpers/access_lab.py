"""A lab of five machines, two groups that overlap, and outsiders, for the tests of who can load what.

    ann     owner of the group `cortex`, member of `retina`; what is tested is stored there. `erin` is hers, too
    bob     member of cortex
    carl    member of both
    dora    owner of retina
    erin    another machine of ann's user, in no group
    stranger, kubo      in no group: our node, and a real Kubo
    watcher             the DHT server, relay and peer of all, which records what it sees

All are on one network, each a network namespace with processes of its own.
"""

from __future__ import annotations

import hashlib
import json
import subprocess
import sys
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from pathlib import Path
from typing import Any

from kachery_p2p.dag.cid import CID
from scripts.data import write_random
from scripts.lab import Host, Lab
from scripts.workstation import Workstation

ROOT = Path(__file__).resolve().parents[2]
CORTEX, RETINA = "cortex", "retina"
OURS = ("ann", "bob", "carl", "dora", "erin", "stranger")
#: What is stored, and for whom: names as `to=` takes them.
AUDIENCES: dict[str, list[str]] = {
    "public": ["public"],
    "cortex": [CORTEX],
    "retina": [RETINA],
    "both": [CORTEX, RETINA],
    "private": ["private"],
}
#: Who may load what is stored for whom; ann herself aside.
MAY: dict[str, frozenset[str]] = {
    "public": frozenset({"bob", "carl", "dora", "erin", "stranger", "kubo"}),
    "cortex": frozenset({"bob", "carl"}),
    "retina": frozenset({"carl", "dora"}),
    "both": frozenset({"bob", "carl", "dora"}),
    "private": frozenset({"erin"}),
}
#: Two leaves and a root in the profile that Kubo makes.
SIZE, PROFILE = 300_000, "unixfs-v0-2015"
#: Seconds without a block after which a load is given up. Those who may load get it at once.
IN_VAIN = 6.0
#: The least that is switched off where nobody answers: routers of the internet.
QUIET = {"KACHERY_CLOUD_PORT_MAP": "off", "KACHERY_CLOUD_DELEGATED": "none", "KACHERY_CLOUD_GATEWAYS": "none"}

_STORE = """
found = {}
for name, (path, to) in args[0].items():
    found[name] = kcl.store_file(path, to=to, profile=args[1], local=args[2])
say(found)
"""
#: Round after round, those of one at the same time: what came, or the name of the error.
LOAD = """
import hashlib
from concurrent.futures import ThreadPoolExecutor
def load(uri):
    try:
        data = kcl.load_bytes(uri, providers=args[1], timeout=args[2])
    except kcl.KacheryError as error:
        return type(error).__name__
    return hashlib.sha256(data).hexdigest()
found = {}
with ThreadPoolExecutor(8) as pool:
    for uris in args[0]:
        found |= dict(zip(uris, pool.map(load, uris.values())))
say(found)
"""


class AccessLab:
    """The machines; a context manager."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self._stack = ExitStack()
        self.stations: dict[str, Workstation] = {}
        self.hosts: dict[str, Host] = {}
        self.groups: dict[str, str] = {}
        #: The hash of what was stored, and some bytes in the middle of it, by the text of its CID.
        self.sums: dict[str, str] = {}
        self.pieces: dict[str, bytes] = {}
        #: All that was stored: for whom, and its URI.
        self.stored: list[tuple[str, str]] = []
        self._files = 0

    def __enter__(self) -> AccessLab:
        try:
            self._make()
        except BaseException:
            self._stack.close()
            raise
        return self

    def __exit__(self, *exc: object) -> None:
        self._stack.close()

    def _make(self) -> None:
        self.lab = self._stack.enter_context(Lab())
        network = self.lab.network("11.0.0.0/24")
        for name in (*OURS, "kubo", "watcher"):
            self.hosts[name] = self.lab.host(name, network)
        self.watcher = Watcher(self.hosts["watcher"], self.folder / "watcher")
        self._stack.callback(self.watcher.stop)
        for name in OURS:
            self.stations[name] = self.hosts[name].workstation(self.folder / name, env=QUIET)

    # --- settings

    def set_up(self, *names: str, mdns: bool = False, dht: bool = False, hidden: bool = False) -> None:
        """Start the nodes of all machines, or of some, or start them again with other settings.

        Args:
            names: of the machines; all where there are none.
            mdns: whether they find each other by multicast DNS.
            dht: whether they are in the DHT.
            hidden: whether nobody but the relay can exchange packets with them.
        """

        def start(name: str) -> None:
            station = self.stations[name]
            if station.peer_id:
                station.stop()
            self._reachable_by_relay_alone(name, hidden)
            own = {"ann": "erin", "erin": "ann"}.get(name)
            station.env |= {
                "KACHERY_CLOUD_MDNS": "on" if mdns else "off",
                "KACHERY_CLOUD_LAN_DHT": "off",
                "KACHERY_CLOUD_PUBLIC": "on" if dht else "off",
                "KACHERY_CLOUD_BOOTSTRAP": self.watcher.addr if dht else "none",
                "KACHERY_CLOUD_RELAYS": self.watcher.addr,
                "KACHERY_CLOUD_REACHABILITY": "private" if hidden else "public",
                "KACHERY_CLOUD_KNOWN_PEERS": "off",
                "KACHERY_CLOUD_TIMEOUT": str(IN_VAIN),
            }
            if own is not None:
                station.env["KACHERY_CLOUD_OWN_PEERS"] = self.peer_ids[own]
            if name == "erin":  # `group=own` in a URI says whom to ask, and not where that is
                circuit = f"{self.watcher.addr}/p2p-circuit/p2p/{self.peer_ids['ann']}"
                station.env["KACHERY_CLOUD_PEERS"] = f"{self.addr('ann')},{circuit}"
            station.start("--gateway", "127.0.0.1:8090", "--gateway-fetch")

        self.each(start, names or OURS)

    @property
    def peer_ids(self) -> dict[str, str]:
        """Of our machines, also before their nodes were started."""
        if not hasattr(self, "_peer_ids"):
            self._peer_ids = {
                name: json.loads(self.stations[name].run("kachery-cloud", "init", "--json").stdout)["peer_id"]
                for name in OURS
            }
        return self._peer_ids

    def each(self, work: Any, names: Sequence[str]) -> dict[str, Any]:
        """Do something for several machines at once."""
        with ThreadPoolExecutor(len(names)) as pool:
            return dict(zip(names, pool.map(work, names), strict=True))

    def addr(self, name: str) -> str:
        """Where a machine of ours is dialled, on its own network."""
        return f"/ip4/{self.hosts[name].address}/tcp/4001/p2p/{self.peer_ids[name]}"

    # --- groups

    def make_groups(self) -> None:
        """Ann and dora make theirs, and the others join by invitations."""
        for owner, group, members in (
            ("ann", CORTEX, ("bob", "carl")),
            ("dora", RETINA, ("ann", "carl")),
        ):
            at = self.stations[owner]
            at.run("kachery-cloud", "group", "create", group)
            for member in members:
                invited = at.run("kachery-cloud", "group", "invite", group, "--role", "writer").stdout
                self.stations[member].run("kachery-cloud", "group", "join", invited.strip().splitlines()[-1])

    # --- what is stored

    def store(self, *, size: int = SIZE, local: bool = False, at: str = "ann") -> dict[str, str]:
        """New files, one for each audience; their URIs."""
        wanted: dict[str, tuple[str, list[str]]] = {}
        paths: dict[str, Path] = {}
        for name, to in AUDIENCES.items():
            self._files += 1
            path = write_random(self.folder / f"file-{self._files}.dat", size, seed=self._files)
            wanted[name], paths[name] = (str(path), to), path
        uris = self.stations[at].call(_STORE, wanted, PROFILE, local)
        for name, uri in uris.items():
            data = paths[name].read_bytes()
            self.sums[cid_of(uri)] = hashlib.sha256(data).hexdigest()
            self.pieces[cid_of(uri)] = data[size // 2 : size // 2 + 64]
            self.stored.append((name, uri))
        return uris

    # --- loading

    def load(self, name: str, *rounds: Mapping[str, str], providers: Sequence[str] = ()) -> dict[str, bool]:
        """Which of these a machine of ours gets, whole and right. Those of one round are asked for at the same time.

        Raises:
            AssertionError: a load ended in another way than with the bytes or with "nobody has it".
        """
        found = self.stations[name].call(LOAD, rounds, list(providers), IN_VAIN)
        uris = {key: uri for each in rounds for key, uri in each.items()}
        return {key: self._judge(uris[key], answer) for key, answer in found.items()}

    def _judge(self, uri: str, answer: str) -> bool:
        if answer == self.sums[cid_of(uri)]:
            return True
        assert answer in ("ContentNotFound", "NotAMember"), f"{uri}: {answer}"
        return False

    # --- the firewall

    def _reachable_by_relay_alone(self, name: str, on: bool) -> None:
        """Let nobody but the relay exchange packets with a machine, whose node does not run now."""
        relay = self.hosts["watcher"].address
        self.hosts[name].run("nft", "flush", "ruleset")
        if on:
            own = self.hosts[name].address
            for chain, hook, field in (("coming", "input", "saddr"), ("going", "output", "daddr")):
                self.hosts[name].run("nft", "add", "table", "ip", "wall")
                self.hosts[name].run(
                    "nft", "add", "chain", "ip", "wall", chain, f"{{ type filter hook {hook} priority 0; }}"
                )
                self.hosts[name].run(
                    "nft", "add", "rule", "ip", "wall", chain, "ip", field, "!=",
                    f"{{ {relay}, {own}, 127.0.0.0/8 }}", "meta", "l4proto", "tcp", "reject", "with", "tcp", "reset",
                )  # fmt: skip


class PinningService:
    """`scripts.pinning_service` on a machine of the lab: its API there on loopback, its node for all."""

    TOKEN = "the-token-of-this-test"

    def __init__(self, host: Host, folder: Path) -> None:
        self.folder = folder
        command = [sys.executable, "-m", "scripts.pinning_service", str(folder), "--token", self.TOKEN]
        with host.entered():
            self._process = subprocess.Popen(
                [*command, "--listen", "/ip4/0.0.0.0/tcp/4002"],
                cwd=ROOT, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True,
            )  # fmt: skip
        assert self._process.stdout is not None
        ready = json.loads(self._process.stdout.readline())
        self.url: str = ready["url"]
        self.addr = f"/ip4/{host.address}/tcp/4002/p2p/{ready['addr'].rpartition('/')[2]}"

    def has(self, data: bytes) -> bool:
        """Whether these bytes lie anywhere on its disk."""
        return any(data in path.read_bytes() for path in self.folder.rglob("*") if path.is_file())

    def stop(self) -> None:
        """End it."""
        self._process.kill()
        self._process.communicate()


class Watcher:
    """The recording outsider; see `tests.helpers.watcher`."""

    def __init__(self, host: Host, folder: Path) -> None:
        self.folder = folder
        folder.mkdir(parents=True)
        with host.entered(), open(folder / "log", "ab") as log:
            self._process = subprocess.Popen(
                [sys.executable, "-m", "tests.helpers.watcher", str(folder), "/ip4/0.0.0.0/tcp/4001"],
                cwd=ROOT, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=log, text=True,
            )  # fmt: skip
        ready = self._answer()
        self.peer_id: str = ready["peer_id"]
        self.addr: str = next(addr for addr in ready["addresses"] if host.address in addr)

    def _answer(self) -> dict[str, Any]:
        assert self._process.stdout is not None
        line = self._process.stdout.readline()
        assert line, (self.folder / "log").read_text(encoding="utf-8")[-2000:]
        return json.loads(line)

    def records(self) -> dict[str, bytes]:
        """All that it saw until now, by where: `packets`, and "PEER PROTOCOL DIRECTION"."""
        assert self._process.stdin is not None
        self._process.stdin.write("\n")
        self._process.stdin.flush()
        self._answer()
        found: dict[str, bytearray] = {"packets": bytearray((self.folder / "packets.bin").read_bytes())}
        with open(self.folder / "streams.jsonl", encoding="utf-8") as lines:
            for line in lines:
                each = json.loads(line)
                name = f"{each['peer']} {each['protocol']} {each['direction']}"
                found.setdefault(name, bytearray()).extend(bytes.fromhex(each["hex"]) + bytes(64))
        return {name: bytes(data) for name, data in found.items()}

    def stop(self) -> None:
        """End it."""
        self._process.kill()
        self._process.communicate()


def cid_of(uri: str) -> str:
    """The CID in a URI."""
    rest = uri.removeprefix("ipfs://")
    return rest.partition("@")[2] or rest.partition("?")[0]


def bare(uri: str) -> str:
    """What somebody knows who knows the CID alone."""
    return f"ipfs://{cid_of(uri)}"


def multihash_of(uri: str) -> bytes:
    """Of its root."""
    return CID.parse(cid_of(uri)).multihash
