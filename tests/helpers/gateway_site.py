"""Content of every kind for the tests of the gateway that are written from the specifications."""

from __future__ import annotations

import random
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import cbor2

from kachery_p2p.dag.cid import CID, DAG_PB, RAW, sha256_multihash
from kachery_p2p.dag.pb import PBLink, decode_node, encode_node
from kachery_p2p.dag.unixfs import DataType, UnixFSData, encode
from kachery_p2p.repo.repo import Repo

DAG_CBOR, DAG_JSON, CBOR, JSON = 0x71, 0x0129, 0x51, 0x0200
#: Bytes of `big.bin`: two leaves and a bit.
BIG = 2 * 2**20 + 1000


def link(cid: CID) -> cbor2.CBORTag:
    """A link of dag-cbor."""
    return cbor2.CBORTag(42, b"\0" + bytes(cid))


class Site:
    """A repo with content.

    docs/   hello.txt, ten.bin (b"0123456789"), big.bin, data.json, ąę/ź ł.txt, web/index.html, to-hello (a symbolic
            link), sub/x.txt
    """

    def __init__(self, path: Path) -> None:
        self.repo = Repo.open(path / "repo")
        self.folder = path / "docs"
        for name in ("ąę", "web", "sub"):
            (self.folder / name).mkdir(parents=True)
        self.big = random.Random(1).randbytes(BIG)
        for name, data in {
            "hello.txt": b"Hello, all.\n",
            "ten.bin": b"0123456789",
            "big.bin": self.big,
            "data.json": b'{"a": [1, 2]}',
            "ąę/ź ł.txt": b"letters",
            "web/index.html": b"<!doctype html><h1>Web</h1>",
            "sub/x.txt": b"x",
        }.items():
            (self.folder / name).write_bytes(data)
        (self.folder / "to-hello").symlink_to("hello.txt")
        self.docs = self.repo.store_directory(self.folder).cid
        self.dag_json = self.put(DAG_JSON, b'{"dir":{"/":"' + str(self.docs).encode() + b'"},"n":1}')
        self.cbor_value: Mapping[str, object] = {
            "a": {"b": {"docs": link(self.docs)}, "text": "<b>bold</b>"},
            "list": [1, link(self.dag_json)],
        }
        self.dag_cbor = self.put(DAG_CBOR, cbor2.dumps(self.cbor_value, canonical=True))
        self.cbor = self.put(CBOR, cbor2.dumps({"x": [1, 2]}))
        self.json = self.put(JSON, b'{"x":[1,2]}')
        self.not_unixfs = self.put(DAG_PB, encode_node([PBLink("docs", self.docs, 1)], None))

    def put(self, codec: int, block: bytes) -> CID:
        """Store a block as it is."""
        cid = CID(1, codec, sha256_multihash(block))
        self.repo.put_blocks([(cid, block)])
        return cid

    def block(self, cid: CID) -> bytes:
        """A stored block."""
        found = self.repo.get_block(cid.multihash)
        assert found is not None
        return found

    def cid(self, path: str) -> CID:
        """Where a path below `docs` leads."""
        at = self.docs
        for name in path.split("/"):
            at = next(each.cid for each in decode_node(self.block(at), at).links if each.name == name)
        return at

    def directory(self, entries: Mapping[str, CID] | list[tuple[str, CID]]) -> CID:
        """A directory of any entries, however bad."""
        pairs = list(entries.items()) if isinstance(entries, Mapping) else entries
        links = [PBLink(name, cid, 1) for name, cid in pairs]
        return self.put(DAG_PB, encode_node(links, encode(UnixFSData(DataType.DIRECTORY))))

    def symlink(self, target: str) -> CID:
        """A symbolic link."""
        return self.put(DAG_PB, encode_node([], encode(UnixFSData(DataType.SYMLINK, target.encode()))))

    def names(self) -> dict[str, str]:
        """CIDs by the names that tests have for them."""
        named = {
            "docs": self.docs,
            "hello": self.cid("hello.txt"),
            "ten": self.cid("ten.bin"),
            "big": self.cid("big.bin"),
            "datajson": self.cid("data.json"),
            "letters": self.cid("ąę"),
            "zl": self.cid("ąę/ź ł.txt"),
            "web": self.cid("web"),
            "index": self.cid("web/index.html"),
            "symlink": self.cid("to-hello"),
            "dagcbor": self.dag_cbor,
            "dagjson": self.dag_json,
            "cbor": self.cbor,
            "json": self.json,
            "notunixfs": self.not_unixfs,
            "absent": CID(1, RAW, sha256_multihash(b"nobody has stored this")),
        }
        return {name: str(cid) for name, cid in named.items()}


@dataclass(frozen=True)
class Case:
    """A request, and what a clause of a specification says of its answer.

    `{name}` in texts stands for a CID, see `Site.names`. Headers that are None must be missing; those that begin with
    `~` are regular expressions.
    """

    clause: str
    url: str
    status: int
    headers: Mapping[str, str | None]
    asked: Mapping[str, str]
    method: str
    body: bytes | None

    def __str__(self) -> str:
        return f"{self.clause}: {self.method} {self.url} {dict(self.asked) or ''}"


def case(
    clause: str,
    url: str,
    status: int = 200,
    headers: Mapping[str, str | None] | None = None,
    *,
    asked: Mapping[str, str] | None = None,
    method: str = "GET",
    body: bytes | None = None,
) -> Case:
    """A row of a table."""
    return Case(clause, url, status, headers or {}, asked or {}, method, body)
