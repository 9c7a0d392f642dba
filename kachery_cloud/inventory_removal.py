"""Freeing the disk without fear: `remove` and `gc` take nothing away of which this machine may have the last copy.

What counts as another copy is decided in `kachery_cloud.other_copies`. `force` removes it all the same.
"""

from __future__ import annotations

import contextlib
import os
import time
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from kachery_cloud.arguments import check_flags
from kachery_cloud.cancelling import Cancellation, result_of
from kachery_cloud.encryption.plain import PlainCopies
from kachery_cloud.encryption.records import EncryptedRoots
from kachery_cloud.errors import (
    ContentNotFound,
    DiskFull,
    InvalidArgument,
    KacheryError,
    LastCopy,
    NoPermission,
    RepoBusy,
)
from kachery_cloud.inventory import PinnedAt, pins_by_cid
from kachery_cloud.inventory_tables import Column, Table, html_of, size_text
from kachery_cloud.local import BlockNotLocal, repository, resolve_local
from kachery_cloud.other_copies import label_of, other_copy, uri_of
from kachery_cloud.records import Shown
from kachery_cloud.settings.config import load_config
from kachery_cloud.settings.values import byte_count, parse_timeout
from kachery_cloud.uri import check_peer_addresses, format_uri, parse_listed, without_key

if TYPE_CHECKING:
    from kachery_cloud.settings.config import Config
    from kachery_p2p.dag.cid import CID
    from kachery_p2p.node.room import RoomHooks
    from kachery_p2p.repo.inventory import KeptRoot
    from kachery_p2p.repo.repo import Repo

#: Seconds to look for another copy of one thing: a lookup in the public DHT takes a few.
COPY_TIMEOUT = 15.0
#: Things of which `gc` looks for other copies at once.
AT_ONCE = 8
#: Seconds after which what was seen of another copy is not believed any more.
FRESH_SECONDS = 30.0
#: Seconds for which files that no list has are left alone: the load that brought them may go on.
UNLISTED_SECONDS = 7 * 24 * 3600.0
#: Seconds for which a plain copy stays when a node makes room.
PLAIN_REST = 600.0


@dataclass(frozen=True)
class RemovedItem:
    """Something that was removed, or would be.

    Attributes:
        uri: of it.
        label: what it was called.
        freed: bytes of the disk that are free, or will be when `gc` has tidied up.
        shared: files of it that stay, because something else has them.
        why: why it could go: who has another copy; or that nothing was lost.
    """

    uri: str
    label: str | None
    freed: int
    shared: int
    why: str

    def _repr_html_(self) -> str:
        return html_of([self], _COLUMNS)


_COLUMNS: tuple[Column[RemovedItem], ...] = (
    Column("label", lambda row: row.label or ""),
    Column("freed", lambda row: size_text(row.freed), right=True),
    Column("why", lambda row: row.why),
    Column("uri", lambda row: row.uri),
)


@dataclass(frozen=True)
class KeptBack(Shown):
    """Something that `gc` left, and why.

    Attributes:
        uri: of it.
        label: what it is called.
        size: bytes of it that are here.
        why: it stays.
    """

    sizes = ("size",)

    uri: str
    label: str | None
    size: int
    why: str


class RemovedItems(Table[RemovedItem]):
    """What was removed."""

    row_type = RemovedItem
    columns = _COLUMNS


class KeptBackItems(Table[KeptBack]):
    """What `gc` tried, and left."""

    row_type = KeptBack
    columns = (
        Column[KeptBack]("label", lambda row: row.label or ""),
        Column[KeptBack]("size", lambda row: size_text(row.size), right=True),
        Column[KeptBack]("why", lambda row: row.why),
        Column[KeptBack]("uri", lambda row: row.uri),
    )


@dataclass(frozen=True)
class Collected(Shown):
    """What `gc` did.

    Attributes:
        removed: what is gone, or would go.
        kept_back: what it tried, and left.
        before: bytes of files in the data directory.
        after: the same afterwards, or as it would be.
        keep: how many there should be; None where nothing was said.
        dry_run: whether nothing was done.
    """

    removed: RemovedItems
    kept_back: KeptBackItems
    before: int
    after: int
    keep: int | None
    dry_run: bool

    sizes = ("before", "after", "keep")

    @property
    def reached(self) -> bool:
        """Whether there are no more bytes than there should be."""
        return self.keep is None or self.after <= self.keep


def remove(
    uri: str, *, force: bool = False, providers: Sequence[str] = (), timeout: float | None = None
) -> RemovedItem:
    """Remove something that was stored, linked or loaded from this machine.

    Refuses unless somebody else has it: see the module. A linked file is only forgotten; your own file is never
    touched. What a folder, or something else that is listed, also has stays. What is pinned elsewhere stays there
    (`unpin`).

    Args:
        uri: of what `list` shows.
        force: remove it even if this is the last copy.
        providers: multiaddrs of peers to ask for it, besides those that are found.
        timeout: seconds to look for another copy; 15 by default.

    Returns:
        What is free now, and why it could go.

    Raises:
        ContentNotFound: it is not here, or not listed by itself.
        LastCopy: no other copy was seen and verified now.
        RepoBusy: it is being loaded, or something is being stored.

    Example:
        >>> kcl.remove(kcl.store_text("of no use"), force=True).freed
        9
    """
    check_flags(force=force)
    config = load_config()
    parsed = parse_listed(uri)
    seconds = COPY_TIMEOUT if timeout is None else parse_timeout(timeout, "timeout")
    peers = (*parsed.providers, *check_peer_addresses(providers, "providers"))
    repo = writable(config)
    try:
        cid = resolve_local(repo, parsed)
    except BlockNotLocal:
        raise _not_here(uri) from None
    root = repo.inventory.get(cid)
    if root is None:
        raise _not_listed(repo, uri, cid)
    why = "forced" if force else other_copy(config, repo, root, peers, seconds, parsed.groups)
    try:
        done = take_away(repo, root, why)
        shared = repo.only_beneath(cid)
        return done if shared is None else replace(done, why=f"{why}; the shared directory {shared} still has it")
    finally:
        _tell(config, [cid])


def gc(
    keep: str | int | None = None,
    *,
    to: str | int | None = None,
    dry_run: bool = False,
    stored: bool = False,
    force: bool = False,
    timeout: float | None = None,
) -> Collected:
    """Free the disk: first what is of no use to anybody, then what was loaded and has not been used for longest.

    Plain copies of what is encrypted go before that: they are made again when they are needed. What you stored, pinned
    or gave a label stays, unless `stored` is set. As with `remove`, nothing goes of which no other copy was seen and
    verified now. Linked files take no room, and stay.

    Args:
        keep: how many bytes of files may stay, such as "200GB"; without it only what is of no use goes: what removed
            small files have left, and what interrupted removals have.
        to: the same as `keep`, as `kachery-cloud-node` does it with its `storage_limit`: all of the directory counts,
            only what was loaded goes, and nobody is asked for another copy, for it came from somebody else.
        dry_run: only say what would go, if another copy of it is found. Asks nobody.
        stored: also what was stored, pinned or labelled, after all that was only loaded.
        force: also what this machine may have the last copy of.
        timeout: seconds to look for another copy of each; 15 by default.

    Example:
        >>> kcl.gc("200GB", dry_run=True).reached
        True
    """
    removed = RemovedItems()
    if to is None:
        return collect(removed, keep, dry_run=dry_run, stored=stored, force=force, timeout=timeout)
    if keep is not None or stored or force or timeout is not None:
        raise InvalidArgument("to asks nobody, and takes only what was loaded: give it alone, or with dry_run.")
    return make_room(removed, to, dry_run=dry_run)


def make_room(removed: RemovedItems, to: str | int, *, dry_run: bool) -> Collected:
    """The same as `gc(to=...)`. What goes is put into `removed` as soon as it is gone."""
    check_flags(dry_run=dry_run)
    config = load_config()
    most = byte_count(to, "to")
    repo = writable(config)
    before = _all_bytes(repo)
    dry = DryRun(repo) if dry_run else None
    if dry is None:
        with contextlib.suppress(DiskFull):  # afterwards there is room for it
            repo.removal.tidy()
    over = (_all_bytes(repo) if dry is None else before - dry.freed()) - most
    over -= _drop_plain(repo, over, dry)
    pinned = {key for key, pins in pins_by_cid(config).items() if _is_pinned(pins)}

    def take(root: KeptRoot) -> int:
        why = "only loaded"
        done = take_away(repo, root, why, more=True) if dry is None else dry.take_away(root, why)
        removed.append(done)
        return done.freed

    if over > 0:
        gone = repo.eviction.evict(over, now=time.time(), rest=0, pinned=pinned, remove=take)
        if gone and dry is None:
            repo.removal.tidy()
            _tell(config, [each.cid for each in gone])
    after = _all_bytes(repo) if dry is None else before - dry.freed()
    return Collected(removed, KeptBackItems(), before, after, most, dry_run)


def room_hooks(config: Config) -> RoomHooks:
    """What a node needs of here to keep its directory under a limit."""
    from kachery_p2p.node.public_loads import FOLDER
    from kachery_p2p.node.room import RoomHooks

    def pinned() -> set[bytes]:
        return {key for key, pins in pins_by_cid(config).items() if _is_pinned(pins)}

    def drop_plain(most: int) -> int:
        """Plain copies are made again from what is encrypted. Who has asked for one may be about to open it."""
        copies, freed, rested = PlainCopies(repository(config)), 0, time.time() - PLAIN_REST
        for copy in sorted(copies.all(), key=lambda each: each.made):
            if freed < most and copy.made < rested:
                freed += copies.drop(copy)
        return freed

    def remove(root: KeptRoot) -> int:
        return take_away(repository(config), root, "only loaded", more=True).freed

    def more() -> int:
        """Plain copies; and what was fetched for readers of the gateway, which has a bound of its own."""
        total = sum(copy.size for copy in PlainCopies(repository(config)).all())
        for below, _, names in os.walk(config.directory / FOLDER):
            for name in names:
                with contextlib.suppress(OSError):
                    total += os.lstat(os.path.join(below, name)).st_size
        return total

    return RoomHooks(pinned, drop_plain, remove, more)


def _all_bytes(repo: Repo) -> int:
    """Bytes of the data directory, plain copies among them."""
    return repo.eviction.bytes_here() + sum(copy.size for copy in PlainCopies(repo).all())


def collect(
    removed: RemovedItems,
    keep: str | int | None,
    *,
    dry_run: bool,
    stored: bool,
    force: bool,
    timeout: float | None,
) -> Collected:
    """The same as `gc`. What goes is put into `removed` as soon as it is gone: for whoever is interrupted."""
    check_flags(dry_run=dry_run, stored=stored, force=force)
    config = load_config()
    most = None if keep is None else byte_count(keep, "keep")
    seconds = COPY_TIMEOUT if timeout is None else parse_timeout(timeout, "timeout")
    repo = writable(config)
    before = _bytes(repo)
    dry = DryRun(repo) if dry_run else None
    if dry is None:
        with contextlib.suppress(DiskFull):  # afterwards there is room for it
            repo.removal.tidy()
    over = 0 if most is None else (_bytes(repo) if dry is None else dry.left()) - most
    over -= _drop_plain(repo, over, dry)
    left: list[KeptBack] = []
    roots = _in_order(repo, config, stored) if over > 0 else iter(())
    if dry is not None:
        for root in roots:
            if over <= 0:
                break
            done = dry.take_away(root, "forced" if force else "if another copy is found")
            over -= done.freed
            removed.append(done)
        return Collected(removed, KeptBackItems(), before, dry.left(), most, True)
    while over > 0 and (some := [root for _, root in zip(range(AT_ONCE), roots, strict=False)]):
        over -= _collect(config, repo, some, over, seconds, force, removed, left)
    if removed:
        repo.removal.tidy()
    return Collected(removed, KeptBackItems(left), before, _bytes(repo), most, False)


# --- parts -------------------------------------------------------------------------------------------------------


def writable(config: Config) -> Repo:
    """The repo, if this user may change it.

    Raises:
        NoPermission: it is another user's.
    """
    repo = repository(config)
    if repo.read_only:
        raise NoPermission(f"{repo.directory} can only be read by this user, so nothing can be removed from it.")
    return repo


def _collect(
    config: Config,
    repo: Repo,
    roots: Sequence[KeptRoot],
    over: int,
    seconds: float,
    force: bool,
    removed: RemovedItems,
    left: list[KeptBack],
) -> int:
    """Remove some roots, the first first, until so many bytes are free; the bytes."""
    wanted = Cancellation()

    def look(root: KeptRoot) -> tuple[KacheryError | None, str, float]:
        try:
            why = "forced" if force else wanted.run(other_copy, config, repo, root, (), seconds)
            return None, why, time.monotonic()
        except KacheryError as error:
            return error, "", 0.0

    freed = 0
    tried: list[CID] = []
    try:
        # One alone starts the node, if none runs, before the others need it.
        with ThreadPoolExecutor(len(roots), thread_name_prefix="kachery-copies") as pool:
            try:
                looks = [pool.submit(look, root) for root in roots]
                for root, found in zip(roots, looks, strict=True):
                    error, why, seen = result_of(found)
                    if freed >= over:
                        break
                    try:
                        if error is not None:
                            raise error
                        if not force and time.monotonic() > seen + FRESH_SECONDS:
                            why = other_copy(config, repo, root, (), seconds)
                        tried.append(root.cid)
                        done = take_away(repo, root, why, more=True)
                    except (LastCopy, RepoBusy) as problem:
                        left.append(KeptBack(uri_of(repo, root), label_of(root), root.here, str(problem)))
                    else:
                        freed += done.freed
                        removed.append(done)
            finally:
                wanted.cancel()  # nobody waits for those that look still: there is enough room, or it was interrupted
    finally:
        if tried:
            _tell(config, tried)
    return freed


def _in_order(repo: Repo, config: Config, stored: bool) -> Iterator[KeptRoot]:
    """What may go: what no list has, then what was only loaded, then on request the rest; least recently used first."""
    from kachery_p2p.repo.inventory import KeptRoot
    from kachery_p2p.repo.kept_rows import LOADED, PINNED

    old = time.time() - UNLISTED_SECONDS
    for cid, size, added in repo.removal.leftovers():
        if added < old:
            yield KeptRoot(cid, False, LOADED, size, size, added, added, copied=True)
    pins = pins_by_cid(config)
    # What is pinned here by others is not this user's to give up.
    roots = sorted((each for each in repo.inventory.roots() if not each.how & PINNED), key=lambda root: root.used)
    ours = [root for root in roots if root.how & ~LOADED or root.given or _is_pinned(pins.get(root.key, ()))]
    kept = {root.key for root in ours}
    yield from (root for root in roots if root.copied and root.here and root.key not in kept)
    if stored:
        yield from (root for root in ours if root.copied and root.here)


def _is_pinned(pins: Sequence[PinnedAt]) -> bool:
    return any(pin.state not in ("removing", "removed") for pin in pins)


def take_away(repo: Repo, root: KeptRoot, why: str, *, more: bool = False) -> RemovedItem:
    """Remove a root, and what was decrypted of it; `why` it may go is for whoever asks."""
    files = [root.cid]
    uri = uri_of(repo, root)  # as long as it is known for whom it is
    if root.directory and EncryptedRoots(repo).has(root.cid):
        files += repo.inventory.members(root.cid).files
    done = repo.removal.remove(root, more=more)
    EncryptedRoots(repo).forget(root.cid)
    plain = PlainCopies(repo).remove(files)
    return RemovedItem(uri, label_of(root), done.freed + done.packed + plain, done.shared, why)


def _bytes(repo: Repo) -> int:
    """Bytes of files in the data directory."""
    counted = ("stored", "loaded", "partial", "unlisted", "holes")
    plain = sum(copy.size for copy in PlainCopies(repo).all())
    return plain + sum(row.bytes for row in repo.usage.read() if row.what in counted)


def _drop_plain(repo: Repo, over: int, dry: DryRun | None = None) -> int:
    """Take plain copies away: those of which the cipher text is gone, and as many more as are over, the oldest first.

    They are made again from the cipher text, so nothing is lost.

    Returns:
        Bytes that are free then, or would be.
    """
    copies, freed = PlainCopies(repo), 0
    for copy in sorted(copies.all(), key=lambda each: each.made):
        cid = _parsed(copy.cid)
        if freed < over or cid is None or repo.own.file_size(cid) is None:
            freed += copies.drop(copy) if dry is None else dry.drop_plain(copy.cid)
    return freed


class DryRun:
    """What `gc` would do, played through from how it is now; see `kachery_p2p.repo.foresight`."""

    def __init__(self, repo: Repo) -> None:
        self._repo = repo
        self._foresight = repo.removal.foresee()
        self._encrypted = EncryptedRoots(repo)
        self._plain = {copy.cid: copy.size for copy in PlainCopies(repo).all()}
        self._before = _bytes(repo)

    def take_away(self, root: KeptRoot, why: str) -> RemovedItem:
        """The same as `take_away`."""
        files = [root.cid]
        if root.directory and self._encrypted.has(root.cid):
            files += self._repo.inventory.members(root.cid).files
        freed, shared = self._foresight.remove(root)
        freed += sum(self.drop_plain(str(cid.to_v1())) for cid in files)
        return RemovedItem(uri_of(self._repo, root), label_of(root), freed, shared, why)

    def drop_plain(self, cid: str) -> int:
        """A plain copy goes; its bytes."""
        return self._plain.pop(cid, 0)

    def left(self) -> int:
        """Bytes of files in the data directory then; what tidying up gives back is gone."""
        return self._foresight.bytes_left() + sum(self._plain.values())

    def freed(self) -> int:
        """Bytes that are free then and were not before."""
        return self._before - self.left()


def _parsed(text: str) -> CID | None:
    from kachery_cloud.errors import InvalidCID, UnsupportedCID
    from kachery_p2p.dag.cid import CID

    try:
        return CID.parse(text)
    except (InvalidCID, UnsupportedCID):
        return None


def _tell(config: Config, cids: Sequence[CID]) -> None:
    """Tell the node of the directory, which may be another process, what is gone."""
    from kachery_cloud.node.connection import tell_removed

    tell_removed(config, cids)


def _not_here(uri: str) -> ContentNotFound:
    return ContentNotFound(f"{without_key(uri)} is not on this machine. kachery-cloud list shows what is.")


def _not_listed(repo: Repo, uri: str, cid: CID) -> KacheryError:
    shared = repo.only_beneath(cid)
    if shared is not None:
        return ContentNotFound(
            f"{without_key(uri)} is not in your own data directory. It is in the shared directory {shared}, from which "
            "only its owner removes things."
        )
    key = bytes(cid.to_v1())
    for _, folder in repo.inventory.folders():
        if any(bytes(member.to_v1()) == key for member in repo.inventory.members(folder).files):
            return _goes_with(uri, folder)
    for partial in repo.inventory.parts.folders():
        if any(bytes(file.to_v1()) == key for file in partial.files):
            return _goes_with(uri, partial.cid)
    return _not_here(uri)


def _goes_with(uri: str, folder: CID) -> InvalidArgument:
    return InvalidArgument(
        f"{without_key(uri)} is in the folder {format_uri(str(folder))}, and was not stored or loaded by itself. "
        "It goes with that folder."
    )
