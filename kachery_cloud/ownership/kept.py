"""The proof of this machine in its data directory: `ownership.json`, mode 0600.

    {"version": 1, "proof": {...}, "keys": {"issuer": ..., "fetched": ..., "audiences": [...], "keys": [...]}}

`keys` is what the issuer published when the proof was made. The same text is what `kachery-cloud owner --save` writes,
and what a peer hands over.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any, NamedTuple

from kachery_cloud.errors import ConfigError, NotAFile, ProofRefused
from kachery_cloud.ownership.archive import KeySet, read_key_set
from kachery_cloud.ownership.claims import Malformed
from kachery_cloud.ownership.proofs import Proof, read_proof
from kachery_p2p.json_reader import InvalidJSON, read_json
from kachery_p2p.ownership_file import MAX_PROOF, PROOF_NAME


class Kept(NamedTuple):
    """A proof, and the keys of its issuer as whoever made it saw them."""

    proof: Proof
    keys: KeySet

    def to_json(self) -> dict[str, Any]:
        """As it is kept and sent."""
        return {"version": 1, "proof": self.proof.to_json(), "keys": self.keys.to_json()}


def read_kept(data: bytes) -> Kept:
    """A proof with its keys, from a file or a peer. That it is of the right form is all that is checked.

    Raises:
        ProofRefused: it is something else.
    """
    try:
        value = read_json(data)
        if not isinstance(value, dict) or value.get("version") != 1:
            raise Malformed("it is no proof of ownership of a version that is known here")
        return Kept(read_proof(value.get("proof")), read_key_set(value.get("keys")))
    except (InvalidJSON, Malformed) as error:
        raise ProofRefused(f"The proof cannot be read: {error}.", "MALFORMED") from None


def own_proof(directory: Path) -> Kept | None:
    """The proof of this machine; None where nobody has signed in.

    Raises:
        ConfigError: the file cannot be read.
    """
    from kachery_p2p.ownfiles import read_own_file

    path = directory / PROOF_NAME
    try:
        return read_kept(read_own_file(path, MAX_PROOF))
    except FileNotFoundError:
        return None
    except (OSError, NotAFile, ProofRefused) as error:
        raise ConfigError(
            f"{path} cannot be read ({error}). Move it away and sign in again: kachery-cloud-init --sign-in"
        ) from None


def keep_proof(directory: Path, kept: Kept) -> None:
    """Keep a proof of this machine, in the place of one that there is.

    Raises:
        NoPermission, DiskFull: it cannot be written.
    """
    from kachery_p2p.oserrors import explained
    from kachery_p2p.repo.wholefile import write_whole

    path = directory / PROOF_NAME
    with explained("writing", path):
        write_whole(path, (json.dumps(kept.to_json(), indent=2) + "\n").encode(), secret=True)


def forget_proof(directory: Path) -> bool:
    """Take away the proof of this machine; whether there was one."""
    from kachery_p2p.oserrors import explained

    path = directory / PROOF_NAME
    with explained("removing", path):
        try:
            path.unlink()
        except FileNotFoundError:
            return False
    return True
