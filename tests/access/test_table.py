"""Who can load what: five machines in two groups that overlap, and outsiders, over every way in.

Each cell of the table is a real load, or a real refusal. What the outsider that is everywhere has seen of all of it is
searched for the CIDs of what was not for everybody.
"""

from __future__ import annotations

import hashlib
import urllib.error
import urllib.request
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest

from kachery_p2p.dag.cid import CID
from kachery_p2p.dag.pb import decode_node
from kachery_p2p.repo import Repo
from scripts.lab import unavailable
from scripts.peers import Kubo, PeerError, missing
from tests.helpers.access_lab import (
    AUDIENCES,
    CORTEX,
    IN_VAIN,
    LOAD,
    MAY,
    AccessLab,
    PinningService,
    bare,
    cid_of,
    multihash_of,
)
from tests.helpers.patience import wait_until
from tests.helpers.traces import Search

pytestmark = [pytest.mark.slow, pytest.mark.interop]

#: What each machine gets, by what it is for.
Cells = dict[tuple[str, str], bool]
#: Who must get what.
May = Mapping[str, frozenset[str]]
LOADERS = ("bob", "carl", "dora", "erin", "stranger")


@pytest.fixture
def lab(tmp_path: Path) -> Iterator[AccessLab]:
    if reason := unavailable() or missing():
        pytest.skip(f"this takes several machines and a real Kubo: {reason}")
    with AccessLab(tmp_path) as made:
        yield made


class Table:
    """What was found, and what it must be."""

    def __init__(self) -> None:
        self.wrong: list[str] = []
        self.cells = 0

    def add(self, way: str, found: Cells, may: May = MAY) -> None:
        """Print what a way gave, and note what is not as it must be."""
        who = list(dict.fromkeys(name for _, name in found))
        width = max(map(len, who))
        print(f"\n{way}\n  {'':8}" + "".join(f"{name:>{width + 2}}" for name in who))
        for kind in dict.fromkeys(kind for kind, _ in found):
            row = ""
            for name in who:
                right = found[kind, name] == (name in may[kind])
                row += f"{('yes' if found[kind, name] else '-') + ('' if right else ' !'):>{width + 2}}"
                self.cells += 1
                if not right:
                    self.wrong.append(f"{way}: {name} {'got' if found[kind, name] else 'did not get'} {kind}")
            print(f"  {kind:8}{row}", flush=True)


def ours(lab: AccessLab, uris: Mapping[str, str], *, providers: tuple[str, ...] = (), may: May = MAY) -> Cells:
    """What our machines get, by the URI that `store` printed, and by one with the CID alone; both must agree.

    A CID alone does not say that it is for somebody. So who may have it and cannot ask a member would ask everybody.
    Here each machine first loads what the URI says is for it, by the way that is tried, and then what is public, which
    connects it to who has it; and only then all the rest.
    """

    def load(name: str) -> dict[str, bool]:
        told = {f"{kind} as given": uri for kind, uri in uris.items() if "group=" in uri and name in may[kind]}
        public = {"public as given": uris["public"], "public bare": bare(uris["public"])}
        rest = {f"{kind} as given": uri for kind, uri in uris.items()}
        rest |= {f"{kind} bare": bare(uri) for kind, uri in uris.items()}
        return lab.load(name, told, public, {**rest, **told, **public}, providers=providers)

    wait_until(lambda: lab.peer_ids["ann"] in connected(lab, "erin"), "ann's own machines are connected")
    found: Cells = {}
    for name, got in lab.each(load, LOADERS).items():
        for kind in uris:
            given, alone = got[f"{kind} as given"], got[f"{kind} bare"]
            assert given == alone, f"{name} gets {kind} {'by its URI' if given else 'by its CID'} alone"
            found[kind, name] = given
    return found


def kubos(lab: AccessLab, kubo: Kubo, uris: Mapping[str, str]) -> Cells:
    """What the real Kubo gets."""
    futures = {
        kind: kubo.begin("get", cid=cid_of(uri), dest=str(lab.folder / f"kubo-{cid_of(uri)}"), timeout=IN_VAIN)
        for kind, uri in uris.items()
    }
    found: Cells = {}
    for kind, future in futures.items():
        try:
            future.result(IN_VAIN + 60)
            data = (lab.folder / f"kubo-{cid_of(uris[kind])}").read_bytes()
            assert hashlib.sha256(data).hexdigest() == lab.sums[cid_of(uris[kind])]
            found[kind, "kubo"] = True
        except PeerError:
            found[kind, "kubo"] = False
    return found


def both(lab: AccessLab, kubo: Kubo, uris: Mapping[str, str], may: May, *providers: str) -> Cells:
    """What our machines get, and the real Kubo. That is no member either way, so it tries each way in once."""
    return ours(lab, uris, providers=providers, may=may) | (kubos(lab, kubo, uris) if may is MAY else {})


def start_kubo(lab: AccessLab, **options: Any) -> Kubo:
    host = lab.hosts["kubo"]
    with host.entered():
        return Kubo(host=host.address, tcp=4001, no_fsync=True, **options)


_TOKEN = """
from pathlib import Path
from kachery_p2p.gateway.server.token import gateway_token
import os
say(gateway_token(Path(os.environ["KACHERY_CLOUD_DIR"])))
"""
_EXPORT = """
found, refused = {}, []
for kind, uri in args[0].items():
    try:
        found[kind] = kcl.export_car(uri, args[1][kind]).uris[0]
    except kcl.NoPermission:
        refused.append(kind)
        found[kind] = kcl.export_car(uri, args[1][kind], encrypt=True).uris[0]
say({**found, "refused": refused})
"""
_IMPORT = """
import hashlib
found = {}
for kind, path in args[0].items():
    kcl.import_car(path, local=True)
    try:
        found[kind] = hashlib.sha256(kcl.load_bytes(args[1][kind], local_only=True)).hexdigest()
    except kcl.KacheryError as error:
        found[kind] = type(error).__name__
say(found)
"""
_PIN = "say({kind: kcl.pin(uri, wait='verified')[0]['cid'] for kind, uri in args[0].items()})"


def readers(may: May) -> May:
    """Who can read what leaves a machine encrypted: its groups. The user's other machines have no key of theirs."""
    return {**may, "private": frozenset[str](), "public": may["public"] | {"anybody", "service"}}


# --- the ways in -----------------------------------------------------------------------------------------------------


def direct(lab: AccessLab, may: May = MAY) -> Cells:
    """Everybody has the address of the machine that has it."""
    uris = lab.store()
    with start_kubo(lab) as kubo:
        kubo.connect(lab.addr("ann"))
        return both(lab, kubo, uris, may, lab.addr("ann"))


def on_the_lan(lab: AccessLab, may: May = MAY) -> Cells:
    """Nobody is told an address; multicast DNS finds who has it."""
    uris = lab.store()
    with start_kubo(lab, mdns=True) as kubo:
        others = {lab.peer_ids[name] for name in LOADERS} | {kubo.peer_id}
        wait_until(lambda: others <= connected(lab, "ann"), "all on the network know ann")
        return both(lab, kubo, uris, may)


def by_the_dht(lab: AccessLab, may: May = MAY) -> Cells:
    """All that they have in common is a server of the DHT, which is the one that records all of it."""
    uris = lab.store()
    announce(lab, uris)
    with start_kubo(lab) as kubo:
        kubo.connect(lab.watcher.addr)
        return both(lab, kubo, uris, may)


def announce(lab: AccessLab, uris: Mapping[str, str]) -> None:
    """Wait until ann has told the DHT; what is for her own machines is not told to it."""
    lab.stations["ann"].call(
        "for uri in args[0]: kcl.announce(uri)", [uri for kind, uri in uris.items() if kind != "private"]
    )


def by_the_relay(lab: AccessLab, may: May = MAY) -> Cells:
    """The machine that has it can be reached through the relay alone, which belongs to an outsider."""
    lab.set_up("ann", dht=True, hidden=True)
    uris = lab.store(size=20_000)  # a relay carries 128 KiB for strangers

    def circuits() -> list[str]:
        return [addr for addr in lab.stations["ann"].status()["addresses"] if "p2p-circuit" in addr]

    wait_until(circuits, "ann has a reservation at the relay")
    addr = circuits()[0]
    with start_kubo(lab, set=["Swarm.Transports.Network.Relay=true"]) as kubo:
        kubo.connect(addr)
        return both(lab, kubo, uris, may, addr)


def connected(lab: AccessLab, name: str) -> set[str]:
    """The peers that a machine of ours is connected to."""
    return {each["peer"] for each in lab.stations[name].status()["connected"]}


def gateways(lab: AccessLab, may: May = MAY, whose: Sequence[str] = ("ann", "bob", "stranger")) -> tuple[Cells, May]:
    """The HTTP gateways of a member that stored it, of another member, and of a stranger; with and without a token.

    Args:
        lab: all of it.
        may: who may load what is stored for whom.
        whose: gateways.

    Returns:
        What was found, and what it must be.
    """
    uris = lab.store()
    # His gateway has it then; for those who show no token it fetches, apart from that, what everybody may have.
    lab.load("bob", uris, providers=(lab.addr("ann"),))
    asking = {(name, with_token) for name in whose for with_token in (False, True)}
    tokens = {name: lab.stations[name].call(_TOKEN) for name in whose}

    def get(case: tuple[str, bool]) -> Cells:
        name, with_token = case
        called = f"{name}+token" if with_token else name
        assert lab.stations[name].node.poll() is None, f"the node of {name} has ended"
        with lab.hosts[name].entered():
            return {(kind, called): fetched(lab, uri, tokens[name] if with_token else "") for kind, uri in uris.items()}

    found: Cells = {}
    with ThreadPoolExecutor(len(asking)) as pool:
        for cells in pool.map(get, sorted(asking)):
            found |= cells
    with_tokens = {kind: {"ann+token", *(["bob+token"] if "bob" in may[kind] else [])} for kind in AUDIENCES}
    with_tokens["public"] = {name for _, name in found}
    return found, {kind: frozenset(names) for kind, names in with_tokens.items()}


def car_files(lab: AccessLab) -> Cells:
    """Everybody has the CAR files; `anybody` is who reads their bytes."""
    uris = lab.store()
    paths = {kind: str(lab.folder / f"{kind}-{cid_of(uri)}.car") for kind, uri in uris.items()}
    exported = lab.stations["ann"].call(_EXPORT, uris, paths)
    assert exported.pop("refused") == [kind for kind in uris if kind != "public"]

    def load(name: str) -> dict[str, str]:
        return lab.stations[name].call(_IMPORT, paths, exported)

    return judged(lab, uris, lab.each(load, LOADERS)) | {
        (kind, "anybody"): lab.pieces[cid_of(uri)] in Path(paths[kind]).read_bytes() for kind, uri in uris.items()
    }


def by_a_pinning_service(lab: AccessLab) -> Cells:
    """All load from the node of the service; `service` is who runs it, and looks at its disk."""
    uris = lab.store()
    service = PinningService(lab.hosts["ann"], lab.folder / f"pins-{len(lab.stored)}")
    try:
        ann = lab.stations["ann"]
        ann.env["THE_TOKEN"] = service.TOKEN
        ann.run("kachery-cloud-pins", "service", "add", "pins", service.url, "--token-env", "THE_TOKEN")
        lab.set_up("ann")
        pinned = ann.call(_PIN, uris)
        asked = {kind: f"ipfs://{cid}{'' if kind == 'public' else '?encryption=age'}" for kind, cid in pinned.items()}
        assert [kind for kind in uris if cid_of(asked[kind]) == cid_of(uris[kind])] == ["public"]

        def load(name: str) -> dict[str, str]:
            return lab.stations[name].call(LOAD, [asked], [service.addr], IN_VAIN)

        return judged(lab, uris, lab.each(load, LOADERS)) | {
            (kind, "service"): service.has(lab.pieces[cid_of(uri)]) for kind, uri in uris.items()
        }
    finally:
        service.stop()


def judged(lab: AccessLab, uris: Mapping[str, str], answers: Mapping[str, Mapping[str, str]]) -> Cells:
    """What of what is encrypted came to be read."""
    found: Cells = {}
    for name, got in answers.items():
        for kind, answer in got.items():
            assert answer in ("NoDecryptionKey", lab.sums[cid_of(uris[kind])]), f"{name}: {kind}: {answer}"
            found[kind, name] = answer != "NoDecryptionKey"
    return found


def fetched(lab: AccessLab, uri: str, token: str) -> bool:
    """Whether the gateway of this machine gives the bytes."""
    headers = {"authorization": f"Bearer {token}"} if token else {}
    request = urllib.request.Request(f"http://127.0.0.1:8090/ipfs/{cid_of(uri)}", headers=headers)
    try:
        with urllib.request.build_opener(urllib.request.ProxyHandler({})).open(request, timeout=120) as answer:
            return hashlib.sha256(answer.read()).hexdigest() == lab.sums[cid_of(uri)]
    except urllib.error.HTTPError as error:
        if error.code not in (404, 410, 502, 504):
            raise
        return False


# --- after a removal -------------------------------------------------------------------------------------------------


def remove_bob(lab: AccessLab) -> May:
    """Ann removes bob, while he is connected to her. What he must get from then on."""
    bob = lab.peer_ids["bob"]
    assert bob in connected(lab, "ann")
    lab.stations["ann"].run("kachery-cloud", "group", "remove", CORTEX, bob)

    def knows(name: str) -> bool:
        said = lab.stations[name].run("kachery-cloud", "group", "members", CORTEX, "--json").stdout
        return bob not in said

    wait_until(lambda: knows("carl"), "carl has heard of it")
    return {kind: names - {"bob"} if kind != "public" else names for kind, names in MAY.items()}


# --- the record ------------------------------------------------------------------------------------------------------


def quietly(lab: AccessLab) -> list[tuple[str, str]]:
    """Stored, and loaded by all who may, and nobody else is told of it: for whom, and the URIs."""
    uris = lab.store()
    announce(lab, uris)

    def load(name: str) -> None:
        told = {kind: uri for kind, uri in uris.items() if "group=" in uri and name in MAY[kind]}
        mine = {kind: uri for kind, uri in uris.items() if name in MAY[kind]}
        assert all(lab.load(name, told, {"public": uris["public"]}, mine).values())

    wait_until(lambda: lab.peer_ids["ann"] in connected(lab, "erin"), "ann's own machines are connected")
    lab.each(load, LOADERS)
    return lab.stored[-len(uris) :]


def blocks_of(repo: Repo, uri: str) -> set[bytes]:
    """The multihashes of the blocks of a file."""
    root = CID.parse(cid_of(uri))
    block = repo.get_block(root.multihash)
    assert block is not None
    return {root.multihash, *(link.cid.multihash for link in decode_node(block).links)}


def check_record(lab: AccessLab, quiet: Sequence[tuple[str, str]], after: Sequence[tuple[str, str]]) -> None:
    """Nobody who may see something has named it to the outsider.

    Those who may not were given the CIDs by this test, and asked everybody for them aloud. So what they said counts
    only of what they were not told of.

    Args:
        lab: all of it.
        quiet: what nobody was told of who may not see it.
        after: what bob was told of when he was one of those.
    """
    records = lab.watcher.records()
    names = {peer: name for name, peer in lab.peer_ids.items()}
    seen_public = 0
    searched = 0
    wrong: list[str] = []
    with Repo.open(lab.stations["ann"].directory) as repo:
        for kind in AUDIENCES:
            for some in (quiet, after, [each for each in lab.stored if each not in quiet and each not in after]):
                blocks = {block for name, uri in some if name == kind for block in blocks_of(repo, uri)}
                may = {"ann", *MAY[kind]} - ({"bob"} if some is after else set())
                heard = {
                    where: data
                    for where, data in records.items()
                    if some is quiet or where == "packets" or names.get(where.split()[0]) in may
                }
                found = Search(blocks).named_in(heard)
                if kind == "public":
                    seen_public += len(found)
                    continue
                for uri in {uri for name, uri in some if name == kind}:
                    for block in found.keys() & blocks_of(repo, uri):
                        who, _, how = found[block].partition(" ")
                        number = lab.stored.index((kind, uri)) // len(AUDIENCES)
                        wrong.append(f"{names.get(who, who)} names {uri} ({kind}, store {number}) by {how}")
                searched += len(blocks)
        shown = dict(quiet)["public"]
        assert multihash_of(shown) in Search(blocks_of(repo, shown)).named_in(records)
    size = sum(map(len, records.values()))
    print(f"\n{size:,} bytes were recorded, {len(records) - 1} kinds of streams and the packets of the wire.")
    assert wrong == [], "\n".join(wrong)
    print(f"They name {seen_public} public blocks, and none of the {searched} others.")


def test_who_can_load_what(lab: AccessLab) -> None:
    """100 % of the cells are as they must be, and the outsider on the way has seen no CID that is not public."""
    table = Table()
    lab.set_up()
    lab.make_groups()
    table.add("Bitswap, direct", direct(lab))
    table.add("HTTP gateways", *gateways(lab))
    table.add("CAR files", car_files(lab), readers(MAY))
    table.add("Pinning service", by_a_pinning_service(lab), readers(MAY))
    lab.set_up(mdns=True)
    table.add("LAN, found by multicast DNS", on_the_lan(lab))
    lab.set_up(dht=True)
    table.add("DHT", by_the_dht(lab))
    quiet = quietly(lab)
    table.add("Relay of an outsider", by_the_relay(lab))
    lab.set_up("ann", dht=True)
    known = len(lab.stored)
    before = lab.store()
    lab.load("carl", before)  # what he has of it must not be given to bob, either
    lab.load("bob", {"public": before["public"]}, providers=(lab.addr("ann"),))
    may = remove_bob(lab)
    found = ours(lab, before, providers=(lab.addr("ann"), lab.addr("carl")), may=may)
    table.add("Stored before bob was removed", found, may)
    after = lab.store()
    found = ours(lab, after, providers=(lab.addr("ann"), lab.addr("carl")), may=may)
    table.add("Stored after bob was removed", found, may)
    # Every way in once more: bob is an outsider now, who knows the group and its members.
    table.add("DHT, without bob", by_the_dht(lab, may), may)
    table.add("Relay of an outsider, without bob", by_the_relay(lab, may), may)
    lab.set_up()  # a gateway that fetches asks its neighbours for what a stranger opens there, and one of them records
    lab.load("bob", {"public": after["public"]}, providers=(lab.addr("ann"),))
    # What the stranger may do has not changed.
    table.add("HTTP gateways, without bob", *gateways(lab, may, ("ann", "bob")))
    table.add("CAR files, without bob", car_files(lab), readers(may))
    table.add("Pinning service, without bob", by_a_pinning_service(lab), readers(may))
    lab.set_up(mdns=True)
    table.add("LAN, without bob", on_the_lan(lab, may), may)
    check_record(lab, quiet, lab.stored[known:])
    assert table.wrong == []
    print(f"{table.cells} cells, all as they must be")
