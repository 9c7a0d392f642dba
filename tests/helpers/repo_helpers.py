"""What tests ask of a repo."""

from __future__ import annotations

from kachery_p2p.dag.cid import CID
from kachery_p2p.repo.repo import Repo


def is_directory(repo: Repo, cid: CID) -> bool:
    """Whether a directory with that CID was stored here."""
    return any(each.kind == "directory" and each.cid.to_v1() == cid.to_v1() for each in repo.list_files())
