"""What is here: lists, roots and numbers, as the catalog has them."""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import NamedTuple

from kachery_p2p.dag.cid import CID, read_cid
from kachery_p2p.repo.catalog import DIRECTORY, OK, Catalog
from kachery_p2p.repo.limits import LOOKED_INSIDE, SQL_KEYS
from kachery_p2p.repo.root_keys import cid_of
from kachery_p2p.repo.serving import BlockReader, unchanged

#: What stands before the multihash in the key of a root, a CIDv1: the codecs raw, dag-pb, dag-cbor and dag-json.
_ROOT_PREFIXES = (b"\x01\x55", b"\x01\x70", b"\x01\x71", b"\x01\xa9\x02")

#: What a row of `roots` must be to be here, whole.
_HERE = (
    f"(r.kind = {DIRECTORY} OR EXISTS (SELECT 1 FROM files f WHERE f.root = r.id AND f.state = {OK}) "
    "OR EXISTS (SELECT 1 FROM packed p WHERE p.root = r.id))"
)
#: The same for files that lie in a pack, and nowhere else as a copy of ours.
_PACKED_ALONE = (
    "r.id IN (SELECT root FROM packed) "
    f"AND NOT EXISTS (SELECT 1 FROM files f WHERE f.root = r.id AND f.linked = 0 AND f.state = {OK})"
)


class ListedFile(NamedTuple):
    """One place where a root lies: `kind` is 'file' or 'directory', `state` 'ok', 'changed' or 'missing' as last seen.

    `path` is None for a directory, whose nodes are in the catalog, and for a file that lies in a pack. `added` is in
    seconds since 1970.
    """

    cid: CID
    kind: str
    size: int
    path: Path | None
    linked: bool
    state: str
    added: float


class RepoStats(NamedTuple):
    """Counts, and sizes in bytes: of our own copies, of linked files, of the blocks kept in the catalog."""

    files: int
    bytes: int
    linked_files: int
    linked_bytes: int
    directories: int
    blocks: int
    block_bytes: int


class Listing:
    """Lists of one repo."""

    def __init__(self, catalog: Catalog, reader: BlockReader) -> None:
        self._catalog = catalog
        self._reader = reader

    def files(self) -> list[ListedFile]:
        """See Repo.list_files."""
        states = ("ok", "changed", "missing")
        listed = []
        for key, version, kind, size, added, path, linked, state in self._catalog.all(
            "SELECT key, version, kind, size, added, path, linked, state FROM ("
            "SELECT r.*, f.path, f.linked, f.state FROM roots r LEFT JOIN files f ON f.root = r.id "
            f"WHERE r.kind = {DIRECTORY} OR f.id IS NOT NULL "
            f"UNION ALL SELECT r.*, NULL, 0, {OK} FROM roots r WHERE {_PACKED_ALONE}) ORDER BY added, id, linked"
        ):
            listed.append(
                ListedFile(
                    cid_of(key, version),
                    "directory" if kind == DIRECTORY else "file",
                    size,
                    None if path is None else Path(os.fsdecode(self._reader.absolute(path, linked))),
                    bool(linked),
                    states[state or 0],
                    added,
                )
            )
        return listed

    def roots(self) -> Iterator[bytes]:
        """See Repo.roots."""
        rows = self._catalog.all(f"SELECT r.key FROM roots r WHERE {_HERE} ORDER BY r.added, r.id")
        for (key,) in rows:
            yield read_cid(key, 0)[0].multihash

    def roots_among(self, multihashes: Sequence[bytes]) -> set[bytes]:
        """See Repo.roots_among."""
        return set(self.root_keys(multihashes))

    def root_keys(self, multihashes: Sequence[bytes]) -> dict[bytes, bytes]:
        """See Repo.root_keys."""
        found: dict[bytes, bytes] = {}
        step = SQL_KEYS // len(_ROOT_PREFIXES)
        for start in range(0, len(multihashes), step):
            keys = {prefix + key: key for key in multihashes[start : start + step] for prefix in _ROOT_PREFIXES}
            rows = self._catalog.all(
                f"SELECT r.key FROM roots r WHERE r.key IN ({','.join('?' * len(keys))}) AND {_HERE}",
                list(keys),
            )
            found.update((keys[key], key) for (key,) in rows)
        return found

    def files_with(self, multihashes: Sequence[bytes]) -> dict[bytes, list[tuple[bytes, bool]]]:
        """See Repo.files_with."""
        found: dict[bytes, list[tuple[bytes, bool]]] = {}
        for start in range(0, len(multihashes), SQL_KEYS):
            keys = multihashes[start : start + SQL_KEYS]
            for multihash, key, kept in self._catalog.all(
                "SELECT l.multihash, r.key, EXISTS (SELECT 1 FROM kept k WHERE k.key = r.key AND k.how > 0) "
                "FROM leaves l JOIN files f ON f.id = l.file JOIN roots r ON r.id = f.root "
                f"WHERE l.multihash IN ({','.join('?' * len(keys))})",
                keys,
            ):
                found.setdefault(multihash, []).append((key, bool(kept)))
        return found

    def all_multihashes(self) -> Iterator[bytes]:
        """See Repo.all_multihashes."""
        seen_roots = set(self.roots())
        yield from seen_roots
        for table in ("blocks", "leaves"):
            for (multihash,) in self._catalog.all(f"SELECT DISTINCT multihash FROM {table}"):
                if multihash not in seen_roots:
                    yield multihash

    def stats(self) -> RepoStats:
        """See Repo.stats."""
        one = self._catalog.one
        files, size = one(f"SELECT count(*), coalesce(sum(size), 0) FROM files WHERE linked = 0 AND state = {OK}")
        packed, packed_size = one(f"SELECT count(*), coalesce(sum(r.size), 0) FROM roots r WHERE {_PACKED_ALONE}")
        linked, linked_size = one(
            f"SELECT count(*), coalesce(sum(size), 0) FROM files WHERE linked = 1 AND state = {OK}"
        )
        (folders,) = one("SELECT count(*) FROM roots WHERE kind = ?", (DIRECTORY,))
        blocks, block_size = one("SELECT count(*), coalesce(sum(length(data)), 0) FROM blocks")
        return RepoStats(files + packed, size + packed_size, linked, linked_size, folders, blocks, block_size)


def gone_inside(catalog: Catalog, reader: BlockReader) -> set[bytes]:
    """The keys of files in folders that are not as the catalog has them: people remove files by hand.

    Some thousand are looked at, those that came last; none is read.
    """
    right: dict[bytes, bool] = {}
    for key, path, linked, *stamp in catalog.all(
        "SELECT r.key, f.path, f.linked, f.size, f.mtime_ns, f.ctime_ns, f.inode FROM files f "
        "JOIN roots r ON r.id = f.root LEFT JOIN kept k ON k.key = r.key "
        f"WHERE k.key IS NULL AND f.state = {OK} ORDER BY f.id DESC LIMIT {LOOKED_INSIDE}"
    ):
        try:
            same = unchanged(os.stat(reader.absolute(path, linked)), linked, *stamp)
        except OSError:
            same = False
        right[key] = right.get(key, False) or same
    gone = [cid_of(key, 1) for key, same in right.items() if not same]
    return {bytes(cid) for cid in gone} - reader.packs.files(gone).keys() if gone else set()
