"""What a shell offers to somebody who types a URI: what was stored, linked or loaded here, and what it is called.

It is asked at each press of a key, beside whatever else runs: the catalog is only read, nothing is made or mended, and
no file is looked at.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

from kachery_p2p.access.audience import PUBLIC, Audience
from kachery_p2p.dag.cid import CID, read_cid
from kachery_p2p.repo.catalog import CATALOG_NAME, Catalog
from kachery_p2p.repo.claim_rows import parsed
from kachery_p2p.repo.limits import OFFERED_ROOTS

_KEPT = """
SELECT k.key, coalesce(r.version, 1),
    (SELECT label FROM labels l WHERE l.key = k.key ORDER BY given DESC, added DESC LIMIT 1),
    (SELECT audience FROM access a WHERE a.key = k.key)
FROM (SELECT key, used FROM kept ORDER BY used DESC LIMIT ?) k LEFT JOIN roots r ON r.key = k.key
WHERE NOT EXISTS (SELECT 1 FROM going g WHERE g.key = k.key)
ORDER BY k.used DESC
"""


def kept_names(directory: Path) -> Iterator[tuple[CID, str | None, Audience]]:
    """The roots that were used last, the label of each, and for whom it is; the newest first.

    Raises:
        RepoError, NoPermission: there is no catalog that can be read.
    """
    path = directory / CATALOG_NAME
    if not path.exists():
        return
    catalog = Catalog(path, read_only=True)
    try:
        for key, version, label, audience in catalog.all(_KEPT, (OFFERED_ROOTS,)):
            cid, _ = read_cid(key, 0)
            yield (
                cid if version else CID(0, cid.codec, cid.multihash),
                label,
                PUBLIC if audience is None else parsed(audience),
            )
    finally:
        catalog.close()
