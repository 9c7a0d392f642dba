"""What a load says when it gives up: who was asked, and what each of them answered."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

from kachery_p2p.access.audience import OWN
from kachery_p2p.bitswap.limits import MAX_BLOCK_SIZE
from kachery_p2p.bitswap.session import WantAnswer
from kachery_p2p.errors import BlockTooLarge, ContentNotFound

if TYPE_CHECKING:
    from kachery_p2p.dag.cid import CID
    from kachery_p2p.load.interfaces import Session

#: Peers named for each answer, and failed dials told: more is no help to anybody.
MOST_NAMES = 5

#: For each answer what one peer did, and what several did.
_WORDS = {
    WantAnswer.LACKS: ("does not have it", "do not have it"),
    WantAnswer.SILENT: ("did not answer", "did not answer"),
    WantAnswer.HAS: ("has it, but did not send it", "have it, but did not send it"),
    WantAnswer.TOO_LARGE: ("sent more than Bitswap allows", "sent more than Bitswap allows"),
    WantAnswer.GONE: ("went away", "went away"),
    WantAnswer.BAD: ("sent wrong data, and is not asked any more", "sent wrong data, and are not asked any more"),
    WantAnswer.NOT_ASKED: ("was not asked for it", "were not asked for it"),
}


def not_found(
    root: CID,
    waiting_for: CID | None,
    session: Session,
    seconds: float,
    failures: Mapping[str, str],
    *,
    groups: frozenset[str] | None = None,
    why: str = "",
) -> ContentNotFound | BlockTooLarge:
    """Why a load ended.

    Args:
        root: what the user asked for.
        waiting_for: the block that the load needed next.
        session: that of the load.
        seconds: how long it tried.
        failures: why addresses and peers could not be reached.
        groups: only their members, and the user's own machines, were asked; None where everybody was.
        why: how it was known that these alone may be.
    """
    missing = session.missing()
    block = missing[0] if missing else waiting_for or root
    if root in missing:
        block = root
    for cid, size in session.too_large().items():
        return _too_large(root, cid, f"has {size:,} bytes")
    answers = session.answers(block)
    if WantAnswer.TOO_LARGE in answers.values():
        return _too_large(root, block, "came in a message that is larger than Bitswap allows")
    said = session.gateways_said()
    no = all(answer is WantAnswer.LACKS for answer in answers.values())
    if not answers and not said:
        first = f"Nobody is connected who could have {root}."
    elif no and block == root:
        first = f"Nobody who was asked has {root}."
    elif no:
        first = f"Nobody who was asked has all of {root}: the block {block} is missing."
    elif block == root:
        first = f"{root} did not come."
    else:
        first = f"Not all of {root} came: the block {block} is missing."
    parts = [first, *_asked(answers, len(said), seconds)]
    parts += [f"The gateway {name.removeprefix('gateway:')}: {why}" for name, why in said.items()]
    parts += [f"Could not reach {addr}: {why}" for addr, why in list(failures.items())[:MOST_NAMES]]
    if groups is not None:
        parts.append(_members_alone(sorted(groups - {OWN}), why))
    else:
        parts.append(
            "Check that kachery-cloud-node runs on a machine that has it, and use the string that kachery-cloud share "
            "prints there, or give its address with --peer or KACHERY_CLOUD_PEERS."
        )
    return ContentNotFound(" ".join(parts))


def _members_alone(groups: Sequence[str], why: str) -> str:
    """Who was asked, why nobody else was, and what to look at."""
    reason = f", {why}" if why else ""
    if not groups:
        return (
            f"Only your own machines were asked{reason}. Check that kachery-cloud-node runs on one that has it, and "
            "that each of the two names the other in KACHERY_CLOUD_OWN_PEERS."
        )
    more = f" and {len(groups) - MOST_NAMES} more" if len(groups) > MOST_NAMES else ""
    which = f"group{'s' if len(groups) > 1 else ''} {', '.join(groups[:MOST_NAMES])}{more}"
    return (
        f"Only members of the {which} and your own machines were asked{reason}. Check that kachery-cloud-node runs on "
        f"one of them that has it, and that it is still a member: kachery-cloud-group members {groups[0]}"
    )


def _asked(answers: Mapping[str, WantAnswer], gateways: int, seconds: float) -> list[str]:
    asked = [*_count(len(answers), "peer"), *_count(gateways, "gateway")]
    if not asked:
        return []
    told: list[str] = []
    for answer, words in _WORDS.items():
        peers = [peer for peer, given in answers.items() if given is answer]
        if peers:
            told.append(f"{_names(peers)} {words[len(peers) > 1]}")
    what = f": {'; '.join(told)}" if told else ""
    return [f"Asked {' and '.join(asked)} in {seconds:.1f} s{what}."]


def _count(number: int, what: str) -> list[str]:
    return [f"{number} {what}{'' if number == 1 else 's'}"] if number else []


def _names(peers: Sequence[str]) -> str:
    if len(peers) > MOST_NAMES:
        return f"{', '.join(peers[:MOST_NAMES])} and {len(peers) - MOST_NAMES} more"
    return " and ".join([", ".join(peers[:-1]), peers[-1]] if len(peers) > 1 else peers)


def _too_large(root: CID, block: CID, how: str) -> BlockTooLarge:
    part = "" if block == root else f", a part of {root},"
    return BlockTooLarge(
        f"The block {block}{part} {how}. Peers exchange blocks of up to {MAX_BLOCK_SIZE:,} bytes (2 MiB), so it "
        "cannot be loaded. Whoever has the data must store it again in smaller blocks: with kachery-cloud-store, or "
        "with 'ipfs add', which cuts files into blocks of at most 1 MiB."
    )
