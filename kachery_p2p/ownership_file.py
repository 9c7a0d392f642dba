"""Where a machine keeps the proof of who stands behind it. Quick to import; `ownership` hands the proof out."""

from __future__ import annotations

#: The file in the data directory that has the proof.
PROOF_NAME = "ownership.json"
#: Bytes of a proof with the keys of its issuer: Google's has 8 KiB.
MAX_PROOF = 256 << 10
