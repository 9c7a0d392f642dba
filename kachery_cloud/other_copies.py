"""Whether something on this machine is elsewhere, too, so that it may go from here.

Another copy counts when it was seen and verified now: a peer that says that it has it, says the same of blocks chosen
by chance, and gives some of them, whose hashes are right (`kachery_p2p.node.copies` has the figures); or a pinning
service that says so now and gives a block back; or your own linked file, if it is as it was.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from kachery_cloud.audiences import audience_here, uri_groups
from kachery_cloud.errors import LastCopy
from kachery_cloud.inventory import pins_by_cid
from kachery_cloud.local import outbox
from kachery_cloud.uri import format_uri

if TYPE_CHECKING:
    from kachery_cloud.settings.config import Config
    from kachery_p2p.dag.cid import CID
    from kachery_p2p.node.messages import Copies
    from kachery_p2p.repo.inventory import KeptRoot
    from kachery_p2p.repo.repo import Repo

#: Blocks that a peer is asked about, and those that it must give besides the root; see `kachery_p2p.node.copies`.
ASKED_BLOCKS = 256
GIVEN_BLOCKS = 8


def uri_of(repo: Repo, root: KeptRoot) -> str:
    """The URI by which something is loaded again; it says for whom it is."""
    return format_uri(str(root.cid), groups=uri_groups(audience_here(repo, root.cid)))


def label_of(root: KeptRoot) -> str | None:
    """What something is called; None where it has no label."""
    return root.labels[0].text if root.labels else None


def _still_pinned(config: Config, cid: CID, service: str, seconds: float) -> bool:
    """Whether a service that was seen to have a root says now that it still has it, and gives a block back.

    Others may have deleted it there. If so, it is not pinned anew: whoever removes something does not ask for that.
    """
    from kachery_cloud.node.connection import get_connection
    from kachery_p2p.node.messages import WaitPinnedRequest

    box = outbox(config)
    before = box.get(cid, service)
    if before is None or before.verified is None or not box.doubt(cid, service, anew=False):
        return False
    get_connection(config).wait_pinned(WaitPinnedRequest(cid, True, (service,), seconds))
    now = box.get(cid, service)
    return now is not None and now.state == "verified" and now.verified != before.verified


def other_copy(
    config: Config, repo: Repo, root: KeptRoot, peers: Sequence[str], seconds: float, groups: Sequence[str] = ()
) -> str:
    """Why a root may go: who else has it.

    Raises:
        LastCopy: nobody is seen to have it.
    """
    from kachery_p2p.pinning.outbox import CLAIMED
    from kachery_p2p.repo.kept_rows import LINKED, PINNED

    lost = repo.removal.loses(root)
    if not lost and not (root.directory and root.how & ~LINKED):
        if root.linked:
            return "linked: your file stays"
        if repo.removal.stays(root):
            return "nothing is lost: a folder still has it"
        return "nothing is lost: no right copy of it was here"
    if root.how & PINNED:
        raise LastCopy(
            f"{label_of(root) or format_uri(str(root.cid))} is pinned here by users of this node's pinning service, so "
            "it stays. They can delete their pins; kachery-cloud-node tokens list shows who has any. Remove it all the "
            f"same with: kachery-cloud rm --force {format_uri(str(root.cid))}"
        )
    for pin in pins_by_cid(config).get(root.key, ()):
        if pin.state in CLAIMED and _still_pinned(config, root.cid, pin.service, seconds):
            return f"pinned at {pin.service}, and verified"
    from kachery_cloud.node.connection import get_connection
    from kachery_p2p.node.messages import CopiesRequest

    blocks, proofs = repo.removal.sample(root, ASKED_BLOCKS, GIVEN_BLOCKS)
    found = get_connection(config).copies(
        CopiesRequest(root.cid, tuple(blocks), tuple(proofs), seconds, tuple(peers), tuple(groups), config.members_only)
    )
    if found.seen:
        each = found.seen[0]
        return f"{each.peer} has it: {each.blocks} blocks asked about, {each.given} given"
    uri = uri_of(repo, root)
    shared = repo.layers.holder(root.cid)
    beneath = (
        ""
        if shared is None
        else f" The shared directory {shared} has it, or a part of it; that does not count, for its owner may remove "
        "it at the same moment."
    )
    who = "somebody" if audience_here(repo, root.cid).everyone else "one of those for whom it is"
    raise LastCopy(
        f"{label_of(root) or uri} may be the last copy, so it stays: {_nobody(found)}.{beneath} Have "
        f"{who} load it and run kachery-cloud-node, or pin it (kachery-cloud-pins add), or remove it all the same "
        f"with: kachery-cloud rm --force {uri}"
    )


def _nobody(found: Copies) -> str:
    """Why none of those that were found is known to have all of something."""
    if not found.asked:
        return "no other machine was found"
    silent = found.asked - len(found.partly) - found.lacking
    kinds = (
        (found.lacking, "lacks it", "lack it"),
        (len(found.partly), "has only a part of it", "have only a part of it"),
        (silent, "does not answer", "do not answer"),
    )
    if found.asked == 1:
        return "the one machine that was found " + next(one for count, one, _ in kinds if count)
    told = [f"{count:,} {one if count == 1 else several}" for count, one, several in kinds if count]
    return f"of the {found.asked:,} machines that were found, {', '.join(told)}"
