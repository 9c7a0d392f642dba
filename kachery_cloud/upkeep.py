"""Looking after a data directory: making it, its node, and whether its files are still what they were."""

from __future__ import annotations

from collections.abc import Generator, Iterator, Sequence
from contextlib import closing
from dataclasses import replace
from typing import TYPE_CHECKING, NamedTuple

from kachery_cloud.answers import (
    Announcement,
    Elsewhere,
    Here,
    PinCounts,
    ProblemTable,
    Repaired,
    Running,
    SharedDirectory,
    Status,
    Stopped,
    Trouble,
    WhereisRow,
    WhereisTable,
)
from kachery_cloud.arguments import check_flags, text_list
from kachery_cloud.auditing import visible_now
from kachery_cloud.errors import ContentNotFound, DamagedFile, InvalidArgument, IsADirectory, KacheryError, NoPermission
from kachery_cloud.local import BlockNotLocal, check_lost, find_local, is_local_directory, repository, resolve_local
from kachery_cloud.pinning import outbox
from kachery_cloud.progress import progress_bar
from kachery_cloud.settings.config import load_config
from kachery_cloud.settings.values import parse_timeout
from kachery_cloud.uri import check_peer_addresses, parse_listed, parse_uri
from kachery_p2p.json_shapes import to_json

if TYPE_CHECKING:
    from kachery_cloud.node.status_messages import RunningNode
    from kachery_cloud.settings.config import Config
    from kachery_cloud.uri import ContentURI
    from kachery_p2p.dag.cid import CID
    from kachery_p2p.node.messages import Whereabouts, WhereisRequest
    from kachery_p2p.repo.repo import Problem, Repo

#: Seconds that `whereis` searches for unless it is told otherwise: a lookup in the public DHT takes a few.
WHEREIS_TIMEOUT = 15.0
#: Seconds that `announce` waits: a lookup in the public DHT and twenty dials.
ANNOUNCE_TIMEOUT = 60.0


def status(*, start: bool = False) -> Status:
    """What the node of this machine is doing. Starts none, unless told to.

    Args:
        start: become the node if none runs.

    Returns:
        What it is doing; where none runs, what it would do. It is a dict of the same, too, and shows itself as a table
        in notebooks.

    Raises:
        NodeError: with `start`: the node cannot be started.

    Example:
        >>> kcl.status().addresses
        ['/ip4/192.168.1.20/tcp/40121/p2p/12D3KooW...']
    """
    found = find_status(start=start)
    answer = to_json(found)
    if isinstance(found, Stopped):
        answer["settings"] = dict(found.settings)
    return Status(answer)


def find_status(*, start: bool = False) -> Running | Stopped:
    """The same as an object."""
    from kachery_cloud.node.connection import ask_running_node, get_connection
    from kachery_cloud.node.endpoint import NodeElsewhere, NodeGone
    from kachery_cloud.node.status_messages import STATUS

    check_flags(start=start)
    config = load_config()
    try:
        found = get_connection(config).status() if start else ask_running_node(config, STATUS)
    except NodeGone:
        return _without_node(config)
    except NodeElsewhere as error:
        if start:
            raise
        holder = error.holder
        elsewhere = Elsewhere(holder.host.name, holder.pid, holder.since, str(error))
        return replace(_without_node(config), elsewhere=elsewhere)
    key = _swarm_key_facts(config)
    visible, problems = visible_now(config)
    warnings = (*key.warnings, *_another_key(config, found, key), *problems, *_damaged(config))
    return Running(found=found, warnings=warnings, shared=shared_directories(config), visible=visible)


def get_node_info() -> Status:
    """The same as `status`."""
    return status()


def announce(uri: str, *, timeout: float | None = None) -> Announcement:
    """Tell the network that a file or directory is here, and wait until that is done.

    What is stored is announced by itself, in the background, again and again; this is for those who want to know that
    it has happened, before they send the URI to somebody, say. It goes on in the background after the timeout.

    Args:
        uri: of something that is on this machine.
        timeout: seconds to wait at most; 60 by default.

    Returns:
        How many peers keep a record of who has it now, and after how many seconds; a dict of the same, too.

    Raises:
        ContentNotFound: it is not on this machine.

    Example:
        >>> kcl.announce(kcl.store_text("example"))
        Announcement(copies=20, seconds=1.7)
    """
    from kachery_cloud.node.connection import get_connection
    from kachery_p2p.node.messages import AnnounceRequest

    config = load_config()
    parsed = parse_uri(uri)
    seconds = ANNOUNCE_TIMEOUT if timeout is None else parse_timeout(timeout, "timeout")
    if _here(config, parsed) is None:
        if config.directory.exists():
            check_lost(repository(config), parsed, parsed.root)
        raise ContentNotFound(
            f"{parsed.locator} is not on this machine, so it cannot be announced from here. Store or load it first."
        )
    return Announcement(to_json(get_connection(config).announce(AnnounceRequest(parsed.root, seconds))))


def whereis(uri: str, *, providers: Sequence[str] = (), timeout: float | None = None) -> WhereisTable:
    """Who has a file or directory. Loads nothing; starts a node where none runs, as a load does.

    For a URI with a path it is asked who has the directory that the URI begins with.

    Args:
        uri: as for `load_file`.
        providers: multiaddrs of peers to ask, besides those that are found and those that the URI names.
        timeout: seconds to search for at most; 15 by default.

    Returns:
        A `WhereisRow` for each peer, those that have it first. The first row is that of this machine, where it is here:
        its `source` is "here", and it has a `path` where that is a file. Peers that this machine is connected to are
        asked, too, so `has` may be False. The list shows itself as a table in notebooks, and has `to_dataframe()`.

    Raises:
        NodeError: the node cannot be started.
        KacheryError: InvalidURI, InvalidAddress ...

    Example:
        >>> [(each.source, each.peer) for each in kcl.whereis("ipfs://bafy...")]
        [('mdns', '12D3KooW...')]
    """
    rows = {key_of(row): row for row in search_whereis(uri, providers=providers, timeout=timeout)}
    order = {True: 0, None: 1, False: 2}
    found = sorted(rows.values(), key=lambda row: (order[row.has], row.seconds))
    return WhereisTable(WhereisRow(to_json(row)) for row in found)


def iter_whereis(uri: str, *, providers: Sequence[str] = (), timeout: float | None = None) -> Iterator[WhereisRow]:
    """The rows of `whereis`, each as soon as it is known. Who stops before the end ends the search.

    Whether it is here comes at once, then each peer that answers, and at the end those that did not. Each comes once,
    with what had named it until then.

    Args:
        uri: as for `load_file`.
        providers: multiaddrs of peers to ask, besides those that are found and those that the URI names.
        timeout: seconds to search for at most; 15 by default.

    Returns:
        An iterator over `WhereisRow`.

    Raises:
        KacheryError: what `whereis` raises.

    Example:
        >>> next(each.peer for each in kcl.iter_whereis("ipfs://bafy...") if each.has)
        '12D3KooW...'
    """
    return _each_once(search_whereis(uri, providers=providers, timeout=timeout))


def _each_once(found: Generator[Whereabouts, None, None]) -> Iterator[WhereisRow]:
    told: set[str] = set()
    with closing(found) as rows:
        for row in rows:
            if key_of(row) not in told:
                told.add(key_of(row))
                yield WhereisRow(to_json(row))


def search_whereis(
    uri: str, *, providers: Sequence[str] = (), timeout: float | None = None
) -> Generator[Whereabouts, None, None]:
    """The rows of `whereis` as objects, as they come. One that more is known of at the end comes again.

    What is wrong with the arguments is raised by the call, not by the first row.
    """
    from kachery_p2p.node.messages import WhereisRequest

    config = load_config()
    parsed = parse_uri(uri)
    seconds = WHEREIS_TIMEOUT if timeout is None else parse_timeout(timeout, "timeout")
    peers = (*parsed.providers, *check_peer_addresses(providers, "providers"))
    return _search(config, parsed, WhereisRequest(parsed.root, seconds, peers, parsed.groups, config.members_only))


def _search(config: Config, uri: ContentURI, request: WhereisRequest) -> Generator[Whereabouts, None, None]:
    from kachery_cloud.node.connection import get_connection

    here = _here(config, uri)
    if here is not None:
        yield here
    known: dict[str, Whereabouts] = {}
    for told in get_connection(config).whereis(request):
        before = known.get(key_of(told))
        row = known[key_of(told)] = _joined(before, told)
        if before is None or (before.has, before.found_by) != (row.has, row.found_by):
            yield row


def key_of(row: Whereabouts) -> str:
    """What rows of one peer have in common: its ID; for an address that leads to nobody, that. Empty for "here"."""
    return "" if row.source == "here" else row.peer or " ".join(row.addrs)


def _joined(before: Whereabouts | None, row: Whereabouts) -> Whereabouts:
    """A row with what an earlier one of the same peer says. Nodes of older versions give one for each way to it."""
    ways = {**(before.found_by if before else {}), **(row.found_by or {row.source: row.seconds})}
    found_by = dict(sorted(ways.items(), key=lambda way: way[1]))
    source, seconds = next(iter(found_by.items()))
    addrs = tuple(dict.fromkeys([*(before.addrs if before else ()), *row.addrs]))
    return replace(row, addrs=addrs, source=source, seconds=seconds, found_by=found_by)


def _here(config: Config, uri: ContentURI) -> Here | None:
    """The row of `whereis` for this machine, if all of the file, or the directory's own block, is here."""
    if not config.directory.exists():
        return None
    try:
        path = str(find_local(repository(config), uri, needs_path=True).path)
    except IsADirectory:
        path = None
    except (BlockNotLocal, DamagedFile):
        return None
    return Here(
        _peer_id(config),
        (),
        "here",
        0.0,
        connected=False,
        round_trip_ms=None,
        has=True,
        found_by={"here": 0.0},
        path=path,
    )


def shared_directories(config: Config) -> tuple[SharedDirectory, ...]:
    """How the data directories of others are that are read beneath one's own."""
    if not config.shared_dirs:
        return ()
    from kachery_p2p.repo.repo import Repo

    # Apart from those that loads use: a rest is not waited for, and what is wrong is told by whoever asks.
    layers = Repo.layers_beneath(config.directory, config.shared_dirs, say=lambda problem: None)
    try:
        return tuple(
            SharedDirectory(str(state.directory), None, None, state.problem or f"{state.directory} cannot be read now.")
            if state.stats is None
            else SharedDirectory(
                str(state.directory),
                state.stats.files + state.stats.linked_files,
                state.stats.bytes + state.stats.linked_bytes,
            )
            for state in layers.states()
        )
    finally:
        layers.close()


def _without_node(config: Config) -> Stopped:
    key = _swarm_key_facts(config)
    private = key.private
    sources = {
        "mdns": config.mdns,
        "lan-dht": config.lan_dht,
        "known": config.known_peers,
        "dht": config.dht_mode(private) != "off",
        "delegated": bool(config.delegated_routers(private)),
        "gateways": bool(config.gateway_urls(private)),
    }
    counts, error = _pin_counts(config)
    visible, problems = visible_now(config)
    errors = tuple(Trouble(each) for each in (key.error, error) if each)
    return Stopped(
        directory=str(config.directory),
        peer_id=_peer_id(config),
        private_network=private,
        warnings=(*key.warnings, *problems, *_damaged(config)),
        swarm_key_fingerprint=key.fingerprint,
        settings={**config.shown(), "sources": sources},
        pinning=PinCounts(counts),
        errors=errors,
        shared=shared_directories(config),
        visible=visible,
    )


def _pin_counts(config: Config) -> tuple[dict[str, dict[str, int]], str]:
    """What is to be pinned, by service and state, and what is wrong where that cannot be read."""
    try:
        return outbox(config).counts(), ""
    except NoPermission:
        return {}, ""  # in another user's directory it is private
    except KacheryError as error:
        return {}, str(error)


def _peer_id(config: Config) -> str | None:
    """Who this machine is, if it is anybody yet."""
    from kachery_p2p.repo.keys import kept_identity

    identity = kept_identity(config.directory)
    return None if identity is None else identity.peer_id


class _SwarmKey(NamedTuple):
    """The network that a node which starts now would be in, and what is wrong with its key."""

    private: bool
    warnings: tuple[str, ...]
    fingerprint: str | None = None
    error: str = ""


def _swarm_key_facts(config: Config) -> _SwarmKey:
    from kachery_p2p.private import too_open
    from kachery_p2p.repo.swarm_key import fingerprint, loose_permissions, read_swarm_key

    loose = loose_permissions(config.directory)
    warnings = (*too_open(config.directory), *([] if loose is None else [loose]))
    try:
        key = read_swarm_key(config.directory, warn=False)
    except KacheryError as error:  # the node would not start; that it is private is what the file is there for
        return _SwarmKey(True, warnings, error=str(error))
    return _SwarmKey(key is not None, warnings, None if key is None else fingerprint(key))


def _another_key(config: Config, found: RunningNode, key: _SwarmKey) -> list[str]:
    """A warning where `swarm.key` is not the one that the running node read when it started."""
    used = found.node.discovery
    if (key.private, key.fingerprint) == (used.private_network, used.swarm_key_fingerprint):
        return []
    return [
        f"swarm.key in {config.directory} was made, changed or removed after the node had started: stop the node "
        f"(process {found.pid}) and start it again."
    ]


def _damaged(config: Config) -> list[str]:
    """A warning where a node has found something damaged here that it could not bring back."""
    from kachery_p2p.node.scrub_state import STATE_NAME, read_state

    found = read_state(config.directory / STATE_NAME).damaged
    if not found:
        return []
    things = "One thing here was" if len(found) == 1 else f"{len(found):,} things here were"
    return [f"{things} found to be damaged, changed or missing. What, and what to do: kachery-cloud verify"]


def repair(
    uris: Sequence[str] | None = None, *, providers: Sequence[str] = (), timeout: float | None = None
) -> Repaired:
    """Put a data directory right whose databases were lost or damaged; or bring files back that `verify` names.

    With `uris`, of files and folders: what is damaged or missing of them is loaded again from others. Damaged copies
    are set aside, and what is right in them is not fetched. What a linked file has is copied from that.

    Without, the catalog is made anew from the files beside it: everything that was stored or loaded, and every linked
    file, is read and compared with its hash. The list of what is to be pinned, and what the node has learned about the
    network, are made anew if they are damaged. What was damaged is kept in the folder `damaged`. No other program may
    use the directory meanwhile.

    Args:
        uris: of what is to be brought back, as `verify` names it; None for all of the data directory.
        providers: with `uris`: multiaddrs of peers to ask, besides those that are found and those that a URI names.
        timeout: with `uris`: seconds of silence after which it is given up; 60 by default.

    Returns:
        What is here now, and what could not be brought back; with `uris`, only the latter. It is a dict of the same,
        too, and shows itself as a table in notebooks.

    Raises:
        RepoBusy: a node runs in this directory; with `uris` it does no harm.
        ContentNotFound: with `uris`: nobody has what is missing.
        InvalidArgument: `providers` or `timeout` without `uris`.

    Example:
        >>> kcl.repair().directories
        3
    """
    if uris is not None:
        return Repaired(problems=ProblemTable(_load_again(text_list(uris, "uris"), providers, timeout)))
    if timeout is not None or check_peer_addresses(providers, "providers"):
        raise InvalidArgument("providers and timeout are for what is loaded again: name the URIs of that, too.")
    from kachery_cloud.local import close_repositories
    from kachery_p2p.pinning.outbox import OUTBOX_NAME
    from kachery_p2p.pinning.repair import repair_outbox
    from kachery_p2p.repo.repo import Repo
    from kachery_p2p.routing.database import DATABASE_NAME, set_aside_if_damaged

    config = load_config()
    close_repositories()
    outbox(config).close()
    with progress_bar("Repairing") as update:
        problems = Repo.rebuild(config.directory, progress=update)
    stats = repository(config).stats
    pins = repair_outbox(config.directory / OUTBOX_NAME, config.directory / "damaged")
    return Repaired(
        files=stats.files,
        linked_files=stats.linked_files,
        directories=stats.directories,
        problems=ProblemTable(problems),
        pins=None
        if pins is None
        else {"kept": pins.kept, "begun_anew": pins.begun_anew, "aside": pins.aside and str(pins.aside)},
        routing=set_aside_if_damaged(config.directory / DATABASE_NAME),
    )


def _load_again(uris: Sequence[str], providers: Sequence[str], timeout: float | None) -> list[Problem]:
    """Load what is damaged or missing of some URIs again; what is still wrong then."""
    from kachery_cloud.request import Request

    repo = repository(load_config())
    for uri in uris:
        request = Request(uri, providers=providers, timeout=timeout)
        cid = _cid_here(repo, request.uri)
        is_directory = is_local_directory(repo, cid)
        mended = [_mended(repo, cid, problem) for problem in repo.verify([cid]) if problem.what != "changed"]
        if not all(mended):
            request.ask("directory" if is_directory else "file")
    return repo.verify([_cid_here(repo, parse_uri(uri)) for uri in uris])


def _mended(repo: Repo, cid: CID, problem: Problem) -> bool:
    """Whether something wrong with a file, or with one in a directory, could be put right without others."""
    if problem.cid.to_v1() == cid.to_v1() and is_local_directory(repo, cid):
        return False
    if problem.what == "unknown":  # what is here may be right or not, and nothing here tells
        repo.quarantine(problem.cid)
        return False
    return repo.mend(problem.cid)


def _cid_here(repo: Repo, uri: ContentURI) -> CID:
    """What a URI leads to.

    Raises:
        ContentNotFound: a directory on the way to it is not here.
    """
    try:
        cid = resolve_local(repo, uri)
    except BlockNotLocal:
        raise ContentNotFound(f"{uri.locator} is not on this machine, so there is nothing to verify.") from None
    shared = repo.only_beneath(cid)
    if shared is not None:
        raise ContentNotFound(f"{uri.locator} is in the shared directory {shared}, which its owner looks after.")
    return cid


def verify(uris: Sequence[str] | None = None) -> ProblemTable:
    """Read every stored and linked file, or those of `uris`, and compare it with its hash.

    Returns:
        A list of `Problem(cid, path, what, detail)`: files that are damaged, changed or missing. Empty where all is
        well. It shows itself as a table in notebooks, and has `to_dataframe()`.

    Raises:
        ContentNotFound: a directory on the way to one of `uris` is not on this machine.
    """
    return ProblemTable(iter_problems(uris))


def iter_problems(uris: Sequence[str] | None = None) -> Iterator[Problem]:
    """What `verify` finds, each as soon as it is found: for whoever may be interrupted."""
    parsed = None if uris is None else [parse_listed(uri) for uri in text_list(uris, "uris")]
    repo = repository(load_config())
    cids = None if parsed is None else [_cid_here(repo, uri) for uri in parsed]
    with progress_bar("Verifying") as update:
        yield from repo.each_problem(cids, progress=update)
