"""What is here: what was stored, linked and loaded, and what takes the room of the disk. No network is used."""

from __future__ import annotations

import builtins
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, TypeAlias

from kachery_cloud.arguments import check_flags
from kachery_cloud.audiences import chosen, groups_here, uri_groups, words_of
from kachery_cloud.encryption.plain import PlainCopies
from kachery_cloud.encryption.records import encrypted_in
from kachery_cloud.errors import InvalidArgument
from kachery_cloud.inventory_tables import Column, Table, html_of, size_text, text_table, time_text
from kachery_cloud.local import outbox, repository
from kachery_cloud.settings.config import load_config
from kachery_cloud.uri import AGE, ContentURI, format_uri
from kachery_p2p.access.audience import OWN, PUBLIC
from kachery_p2p.text import shown

if TYPE_CHECKING:
    from kachery_cloud.audiences import To
    from kachery_cloud.settings.config import Config
    from kachery_p2p.access.audience import Audience
    from kachery_p2p.dag.cid import CID
    from kachery_p2p.repo.access import RootAccess
    from kachery_p2p.repo.inventory import KeptRoot
    from kachery_p2p.repo.layers import Opened

Kind: TypeAlias = Literal["stored", "linked", "loaded", "pinned", "partial"]


@dataclass(frozen=True)
class PinnedAt:
    """A pinning service that is to keep something, and how far that is; the states are those of `pins`."""

    service: str
    state: str


@dataclass(frozen=True)
class Item:
    """A file or folder that was stored, linked or loaded by itself.

    Attributes:
        uri: of it, with its label.
        label: what it is called: as you said, else the name of the file, else what its URI said; None without any.
        kind: "stored" (a copy), "linked" (your own file, without a copy), "loaded" (from others), "pinned" (by users of
            this node's pinning service), or "partial" (being loaded, or only parts of it were asked for: ranges of a
            file, files of a folder by their paths). What was
            stored and loaded is stored.
        directory: whether it is a folder.
        size: in bytes; None where that is not known yet. Of a folder of which a part is here, what its first block
            says: a little more than its files.
        here: bytes of it that are here.
        complete: whether all of it is here, as far as that is known without reading it; `verify` reads it. Of files in
            folders some thousand are looked at, those that came last.
        problem: why it is not: "missing" (deleted by hand?), "changed" (it is not what it was), "incomplete".
        added: when it was first stored, linked or loaded; seconds since 1970.
        used: when it was last read by a program on this machine, to the hour.
        pinned: where it is to be kept.
        path: of the copy, or of the linked file; None for a folder, and for a small file that has no path yet.
        labels: all of them.
        cid: its CID.
        shared: the data directory of others that it is in; None where it is in your own.
        visibility: who may load it from here, as `to` of `store_file` takes it: names of groups, "private", "public";
            empty where it is for nobody else, because nothing is known any more of for whom it was.
        groups: the IDs of these groups.
        encryption: "age" where it was stored encrypted; `size` is that of the cipher text then.
    """

    uri: str
    label: str | None
    kind: Kind
    directory: bool
    size: int | None
    here: int
    complete: bool
    problem: str
    added: float
    used: float
    pinned: tuple[PinnedAt, ...]
    path: str | None
    labels: tuple[str, ...]
    cid: str
    shared: str | None = None
    visibility: tuple[str, ...] = ("public",)
    groups: tuple[str, ...] = ()
    encryption: str | None = None

    def _repr_html_(self) -> str:
        return html_of([self], _COLUMNS)

    def as_json(self) -> dict[str, Any]:
        """Plain JSON values."""
        from kachery_p2p.json_shapes import to_json

        return to_json(self)


def _state(item: Item) -> str:
    if item.kind == "partial" and item.directory:
        return f"{size_text(item.here)} of it"
    if item.kind == "partial" and item.size:
        return f"{min(99, round(100 * item.here / item.size))} %"
    return "yes" if item.complete else item.problem or "no"


def _uri_of(item: Item) -> ContentURI:
    return ContentURI(item.cid, label=item.label, groups=item.groups, encryption=item.encryption)


def _pins(item: Item) -> str:
    return ", ".join(f"{each.service} ({each.state})" for each in item.pinned)


def _visibility(item: Item) -> str:
    return ", ".join(item.visibility) or "nobody else"


#: What a list shows where there is none.
_NO_LABEL = "(no label)"
_VISIBILITY: Column[Item] = Column("for", _visibility)
_COLUMNS: tuple[Column[Item], ...] = (
    Column("label", lambda item: (item.label or _NO_LABEL) + ("/" if item.directory else "")),
    Column("size", lambda item: size_text(item.size), right=True),
    Column("kind", lambda item: item.kind),
    Column("added", lambda item: time_text(item.added)),
    Column("used", lambda item: time_text(item.used)),
    Column("complete", _state),
    Column("pinned", _pins),
    Column("in", lambda item: item.shared or ""),
    Column("uri", lambda item: _uri_of(item).pasteable),
)


class Items(Table[Item]):
    """A list of items: of what `list` returns. Shows itself as a table in notebooks."""

    columns = _COLUMNS
    times = ("added", "used")

    def lines(self) -> builtins.list[str]:
        """The items as lines of text; for whom each is, where any is not for everybody."""
        return text_table(self, self._shown())

    def _shown(self) -> tuple[Column[Item], ...]:
        apart = any(item.visibility != ("public",) for item in self)
        return (*_COLUMNS[:-1], _VISIBILITY, _COLUMNS[-1]) if apart else _COLUMNS

    def _repr_html_(self) -> str:
        return html_of(self, self._shown())


@dataclass(frozen=True)
class UsageRow:
    """What takes room, of one kind.

    Attributes:
        what: "stored", "loaded", "partial", "unlisted" (files of stores and loads that were interrupted), "holes" (what
            removed small files have left), "damaged" (copies that were set aside), "unfinished" (stores under way),
            "catalog" (with the records beside it), "plain" (copies of what was decrypted); "linked" files lie elsewhere
            and take no room here, nor do those of each shared directory ("in", and its path).
        files: how many.
        bytes: of them.
        here: whether they take room in the data directory.
    """

    what: str
    files: int
    bytes: int
    here: bool = True

    def _repr_html_(self) -> str:
        return html_of([self], _USAGE_COLUMNS)


_USAGE_COLUMNS: tuple[Column[UsageRow], ...] = (
    Column("what", lambda row: row.what),
    Column("files", lambda row: f"{row.files:,}", right=True),
    Column("size", lambda row: size_text(row.bytes), right=True),
)


class UsageTable(Table[UsageRow]):
    """What takes the room of the disk; of what `du` returns."""

    columns = _USAGE_COLUMNS

    @property
    def total(self) -> int:
        """Bytes of all that lies in the data directory."""
        return sum(row.bytes for row in self if row.here)


def list(
    *,
    find: str | None = None,
    sort: str = "added",
    reverse: bool = False,
    own: bool = False,
    to: To | None = None,
) -> Items:
    """What is on this machine: all that was stored, linked or loaded, or is being loaded.

    Files inside folders are not listed; see `list_dir`. Uses no network, and reads no data. What is in a shared
    directory alone is listed, too; once, where several have it.

    Args:
        find: only what has this text in its label, URI or path; capitals do not matter.
        sort: "added" or "used" (the newest first), "size" (the largest first), "label" or "kind".
        reverse: the other way round.
        own: only what is in your own data directory.
        to: only what is for the members of this group, or these; "private" for what is for your own machines, "public"
            for what is for everybody.

    Returns:
        A list of `Item`, which shows itself as a table in notebooks, and has `to_dataframe()`.

    Example:
        >>> [(item.label, item.size, item.kind) for item in kcl.list(sort="size")]
        [('session.nwb', 200000128, 'stored')]
    """
    check_flags(reverse=reverse, own=own)
    order = _order(sort)
    if find is not None and not isinstance(find, str):
        raise InvalidArgument(f"find is {shown(find)}; it must be text, or None.")
    config = load_config()
    pins = pins_by_cid(config)
    repo = repository(config)
    known = Visibilities(config, repo.access)
    wanted_by = None if to is None else chosen(config, to)
    found = {root.key: item_of(root, pins, known=known) for root in repo.inventory.roots()}
    for layer in () if own else repo.layers:
        theirs = layer.look(lambda opened, where=layer.directory: _items_of(config, opened, where)) or {}
        found = {**theirs, **found}
    items = builtins.list(found.values())
    if wanted_by is not None:
        items = [item for item in items if _is_for(item, wanted_by)]
    if find is not None:
        wanted = find.casefold()
        items = [item for item in items if wanted in _text_of(item)]
    return Items(sorted(items, key=order, reverse=reverse))


def du() -> UsageTable:
    """What takes the room of the disk.

    Returns:
        A list of `UsageRow`, with `total`, the bytes of all that lies in the data directory.

    Example:
        >>> kcl.du().total > 0
        True
    """
    repo = repository(load_config())
    rows = [UsageRow(row.what, row.files, row.bytes, here=row.what != "linked") for row in repo.usage.read()]
    copies = builtins.list(PlainCopies(repo).all())
    if copies:
        rows.insert(-1, UsageRow("plain", len(copies), sum(copy.size for copy in copies)))
    for state in repo.layers.states():
        stats = state.stats
        if stats is not None:
            files, size = stats.files + stats.linked_files, stats.bytes + stats.linked_bytes
            rows.append(UsageRow(f"in {state.directory}", files, size, here=False))
    return UsageTable(rows)


# --- parts -------------------------------------------------------------------------------------------------------


class Visibilities:
    """For whom the roots of a repo are, and which are encrypted, looked up once for all."""

    def __init__(self, config: Config, access: RootAccess, directory: Path | None = None) -> None:
        restricted = access.roots() if access.any_restricted() else ()
        self._audiences = {bytes(cid.to_v1()): audience for cid, audience in restricted}
        self._groups = groups_here(config) if self._audiences else ()
        self._encrypted = encrypted_in(directory or config.directory)

    def of(self, root: KeptRoot) -> tuple[tuple[str, ...], tuple[str, ...], str | None]:
        """The words for it, the IDs of its groups, and how it is encrypted."""
        audience = self._audiences.get(root.key, PUBLIC)
        encryption = AGE if self._encrypted and str(root.cid.to_v1()) in self._encrypted else None
        return words_of(audience, self._groups), uri_groups(audience), encryption


def _items_of(config: Config, opened: Opened, directory: Path) -> dict[bytes, Item]:
    """What is listed in the directory of others, and for whom its owner has it."""
    known = Visibilities(config, opened.access, directory)
    return {root.key: item_of(root, {}, directory, known) for root in opened.inventory.roots()}


def _is_for(item: Item, wanted: Audience) -> bool:
    if item.visibility == ("public",):
        return wanted.everyone
    return not wanted.groups.isdisjoint({*item.groups, *([OWN] if "private" in item.visibility else [])})


def item_of(
    root: KeptRoot,
    pins: dict[bytes, builtins.list[PinnedAt]],
    shared: Path | None = None,
    known: Visibilities | None = None,
) -> Item:
    """A root as it is listed; of the directory of others that it is in, where it is in one."""
    visibility, groups, encryption = (("public",), (), None) if known is None else known.of(root)
    labels = tuple(label.text for label in root.labels)
    label = labels[0] if labels else None
    return Item(
        uri=format_uri(str(root.cid), label=label, groups=groups, encryption=encryption),
        label=label,
        kind=kind_of(root),
        directory=root.directory,
        size=root.size,
        here=root.here,
        complete=root.whole,
        problem=root.problem,
        added=root.added,
        used=root.used,
        pinned=tuple(pins.get(root.key, ())),
        path=None if root.path is None else str(root.path),
        labels=labels,
        cid=str(root.cid),
        shared=None if shared is None else str(shared),
        visibility=visibility,
        groups=groups,
        encryption=encryption,
    )


def kind_of(root: KeptRoot) -> Kind:
    """What was done with a root, in one word."""
    from kachery_p2p.repo.kept_rows import LINKED, PINNED, STORED

    if root.how & STORED:
        return "stored"
    if root.how & LINKED:
        return "linked"
    if root.how == PINNED:
        return "pinned"
    return "loaded" if root.how else "partial"


def pins_by_cid(config: Config) -> dict[bytes, builtins.list[PinnedAt]]:
    """Where what is to be kept, by binary CIDv1. Nothing, in another user's directory, where that is private."""
    from kachery_cloud.errors import NoPermission
    from kachery_p2p.dag.cid import CID

    found: dict[bytes, builtins.list[PinnedAt]] = {}
    try:
        entries = outbox(config).list()
    except NoPermission:
        return {}
    for entry in entries:
        key = bytes(CID.parse(entry.cid).to_v1())
        found.setdefault(key, []).append(PinnedAt(entry.service, entry.state))
    return found


#: What is said of something that is listed, beside what it is.
_ABOUT = ("labels", "here", "complete", "problem", "added", "used", "pinned", "visibility")


def about(config: Config, cid: CID) -> dict[str, Any]:
    """What `load_file_info` says of something that is listed."""
    if not config.directory.exists():
        return {}
    repo = repository(config)
    root, shared = repo.inventory.get(cid), None
    for layer in repo.layers if root is None else ():
        root, shared = layer.look(lambda opened: opened.inventory.get(cid)), layer.directory
        if root is not None:
            break
    if root is None:
        return {}
    known = Visibilities(config, repo.access) if shared is None else None
    item = item_of(root, pins_by_cid(config), shared, known).as_json()
    return {
        "kept": item["kind"],
        **{name: item[name] for name in _ABOUT},
    }


def _order(sort: str) -> Callable[[Item], Any]:
    orders: dict[str, Callable[[Item], Any]] = {
        "added": lambda item: -item.added,
        "used": lambda item: -item.used,
        "size": lambda item: -(item.size or 0),
        "label": lambda item: ((item.label or "").casefold(), item.cid),
        "kind": lambda item: (item.kind, -item.added),
    }
    if not isinstance(sort, str) or sort not in orders:
        raise InvalidArgument(f"sort is {shown(sort)}; it must be one of {', '.join(orders)}.")
    return orders[sort]


def _text_of(item: Item) -> str:
    parts: Iterable[str] = (item.uri, item.cid, item.path or "", *item.labels)
    return "\n".join(parts).casefold()
