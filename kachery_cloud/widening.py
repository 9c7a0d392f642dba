"""What a store would give to more people than have it now: refused, or said.

A folder is stored for everybody unless it is said for whom it is, and a file in it may be for some already, because it
was stored so before, or loaded from a group. Such a file does not become public by the way:

- What is from a group in which this machine may only read is given on to nobody, whatever is said.
- Nothing else is given on where nothing is said. The error names it, and what to say.
- Where it is said, it is done, and what became public by it is told, with how to undo it.

It is found by its blocks. Where whole files are not among them, but only blocks that two files have in common, it is
told, and not refused: blocks of zeros are in many files.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING

from kachery_cloud.audiences import groups_here, whom, words_here
from kachery_cloud.errors import NoPermission
from kachery_cloud.local import BlockNotLocal, is_local_directory, list_local
from kachery_cloud.terminal import tell
from kachery_p2p.access.audience import NOBODY, Audience
from kachery_p2p.text import shown

if TYPE_CHECKING:
    from kachery_cloud.settings.config import Config
    from kachery_p2p.dag.cid import CID
    from kachery_p2p.repo.repo import Repo

#: Files of a folder that are named.
_MOST_NAMED = 3


def stays(config: Config) -> bool:
    """Whether this machine is in a group in which it may only read, so that what is from there stays there."""
    return any(group.role == "reader" for group in groups_here(config))


def check(
    config: Config, repo: Repo, cid: CID, said: Audience | None, found: Callable[[], Mapping[bytes, Audience]]
) -> None:
    """See what a store would give to more people, before it does.

    Args:
        config: of the data directory.
        repo: it is stored in.
        cid: of what is stored.
        said: for whom it is to be; None where nothing was said.
        found: gives the blocks of it that are for fewer so far, and who may see each.

    Raises:
        NoPermission: it may not be, or has to be said.
    """
    readable = {group.id: group.name for group in groups_here(config) if group.role == "reader"}
    public = said is None or said.everyone
    if not public and not readable:
        return
    blocks = found()
    if not blocks:
        return
    whole = _whole(repo, cid, blocks)
    for names, audience in _by_audience(whole):
        for group in sorted(readable.keys() & audience.groups):
            raise NoPermission(
                f"{_these(names)} from {shown(readable[group])}, of which this machine is a reader: what is loaded "
                f"from a group stays in it. A writer or an owner can give it to others.{_leave_out(names)}"
            )
    if said is None and whole:
        names, audience = _by_audience(whole)[0]
        way = _options(config, audience)
        raise NoPermission(
            f"{_these(names)} for {_alone(config, audience)}, and nothing was said of who may load what is stored now, "
            f"so everybody could load {_it(names)} by that. Say for whom it is: {f'{way}, or ' if way else ''}"
            f"--to public (to='public') where everybody may have {_it(names)}.{_leave_out(names)}"
        )
    if public:
        _tell(config, cid, whole, blocks)


def _tell(config: Config, cid: CID, whole: Mapping[str, Audience], blocks: Mapping[bytes, Audience]) -> None:
    """Say what becomes public."""
    audience = NOBODY
    for each in (whole or blocks).values():
        audience |= each
    if whole:
        names = list(whole)
        text = f"{_these(names, was=True)} for {_alone(config, audience)}; now everybody can load {_it(names)}."
    else:
        text = (
            f"A part of this was for {_alone(config, audience)}, for something else has it, too; now everybody can "
            "load that part."
        )
    way = _options(config, audience)
    tell(f"{text} To undo: kachery-cloud visibility ipfs://{cid} {way}" if way else text)


# --- parts -----------------------------------------------------------------------------------------------------------


def _whole(repo: Repo, cid: CID, blocks: Mapping[bytes, Audience]) -> dict[str, Audience]:
    """The files and folders that begin with one of some blocks, by their paths; "" is the root."""
    if cid.multihash in blocks:
        return {"": blocks[cid.multihash]}
    found: dict[str, Audience] = {}
    seen = {cid}
    waiting = [("", cid)] if is_local_directory(repo, cid) else []
    while waiting:
        path, folder = waiting.pop()
        try:
            entries = list_local(repo, folder)
        except BlockNotLocal:  # it was stored just now, so all of it is here
            continue
        for entry in entries:
            where = f"{path}{entry.name}"
            if entry.cid.multihash in blocks:
                found[where] = blocks[entry.cid.multihash]
            elif entry.cid not in seen and is_local_directory(repo, entry.cid):
                seen.add(entry.cid)
                waiting.append((f"{where}/", entry.cid))
    return dict(sorted(found.items()))


def _by_audience(whole: Mapping[str, Audience]) -> list[tuple[list[str], Audience]]:
    """Paths of those that are for the same, together."""
    found: dict[Audience, list[str]] = {}
    for path, audience in whole.items():
        found.setdefault(audience, []).append(path)
    return [(names, audience) for audience, names in found.items()]


def _these(names: list[str], *, was: bool = False) -> str:
    """The beginning of a sentence about them, up to the verb."""
    if names == [""]:
        return "This was" if was else "This is"
    more = len(names) - _MOST_NAMED
    if more > 0:
        return f"{', '.join(map(shown, names[:_MOST_NAMED]))} and {more:,} more in it {'were' if was else 'are'}"
    verb = ("was" if was else "is") if len(names) == 1 else ("were" if was else "are")
    return f"{' and '.join(filter(None, (', '.join(map(shown, names[:-1])), shown(names[-1]))))} in it {verb}"


def _it(names: list[str]) -> str:
    return "it" if len(names) == 1 else "them"


def _leave_out(names: list[str]) -> str:
    return "" if names == [""] else f" Or leave {_it(names)} out: --exclude (exclude=)."


def _alone(config: Config, audience: Audience) -> str:
    return f"{whom(config, audience)} alone" if audience.groups else "nobody else"


def _options(config: Config, audience: Audience) -> str:
    """As commands take it."""
    return " ".join(f"--to {word}" for word in words_here(config, audience))
