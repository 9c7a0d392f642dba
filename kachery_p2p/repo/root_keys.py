"""How the catalog names roots: by their binary CIDv1."""

from __future__ import annotations

from kachery_p2p.dag.cid import CID, DAG_PB, read_cid


def cid_of(key: bytes, version: int) -> CID:
    """The CID of a root's key, in the version it was asked by."""
    cid, _ = read_cid(key, 0)
    return CID(0, DAG_PB, cid.multihash) if version == 0 else cid
