"""Running the node of a data directory: what the background thread and ``kachery-cloud-node`` have in common."""

from __future__ import annotations

import concurrent.futures
import contextlib
import logging
import os
import signal
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING
from urllib.parse import urlsplit

from kachery_cloud.local import outbox, repository, served_repository
from kachery_cloud.node import messages, systemd
from kachery_cloud.node.control_client import ControlClient
from kachery_cloud.node.control_server import serve_control
from kachery_cloud.node.endpoint import ControlEndpoint, NodeGone, node_elsewhere, silent_holder
from kachery_cloud.node.limits import LOCK_PAUSE, SETTLING, TIMES, NodeTimes
from kachery_cloud.node.messages import Method, Nothing, by_name
from kachery_cloud.node.status_messages import STATUS, FollowedNode, RunningNode, ServedGateway
from kachery_p2p.errors import DiskFull, KacheryError, NodeError
from kachery_p2p.repo.locks import NodeLock

if TYPE_CHECKING:
    import trio
    from trio import TaskStatus

    from kachery_cloud.lab.lab import Lab
    from kachery_cloud.lab.server import LabServer
    from kachery_cloud.node.messages import Methods, Progress, Telling
    from kachery_cloud.node.reloading import ServiceHooks
    from kachery_cloud.node.service import Service
    from kachery_cloud.settings.config import Config
    from kachery_p2p.dag.cid import CID
    from kachery_p2p.gateway.server.server import GatewayServer
    from kachery_p2p.node.messages import (
        Announced,
        AnnounceRequest,
        Copies,
        CopiesRequest,
        JoinRequest,
        LeaveRequest,
        LoadKind,
        LoadRequest,
        LoadResult,
        OwnerRequest,
        PublishedName,
        PublishRequest,
        RemovedNote,
        ResolvedName,
        ResolveRequest,
        StoredNote,
        WaitPinnedRequest,
        Whereabouts,
        WhereisRequest,
    )
    from kachery_p2p.node.node import Node
    from kachery_p2p.node.options import NodeOptions
    from kachery_p2p.node.served_log import ServedLog
    from kachery_p2p.pinning.follow.follower import Follower
    from kachery_p2p.pinning.server.service import PinServer
    from kachery_p2p.repo.keys import NodeKey

log = logging.getLogger("kachery_cloud.node")


@dataclass(frozen=True)
class GatewayChoice:
    """That the node serves an HTTP gateway.

    It says where that listens (`HOST:PORT`; empty for 127.0.0.1:8090), and whether it fetches from the network what
    this machine does not have.
    """

    address: str = ""
    fetch: bool = False


async def run_node(
    config: Config,
    *,
    listen: Sequence[str] = (),
    peers: Sequence[str] = (),
    service: bool = False,
    gateway: GatewayChoice | None = None,
    hand_over: Callable[[], bool],
    hooks: ServiceHooks | None = None,
    on_service: Callable[[Service], None] = lambda service: None,
    task_status: TaskStatus[Methods],
) -> None:
    """Be the node of ``config.directory``, for this process and the others, until cancelled. The caller holds the lock.

    Args:
        config: the settings.
        listen: multiaddrs to listen on, instead of the configured ones.
        peers: multiaddrs of peers to keep connected to, besides the configured ones.
        service: this is ``kachery-cloud-node``, which stays; it may relay for others.
        gateway: serve an HTTP gateway, too.
        hand_over: called when ``kachery-cloud-node`` wants to take the place; True when it may.
        hooks: what a service needs of the program.
        on_service: is given what a service does beside the node.
        task_status: is given the methods of the node when it serves.
    """
    import trio

    from kachery_cloud.settings.pin_choice import usable_services
    from kachery_p2p.node.node import Node
    from kachery_p2p.repo.swarm_key import read_swarm_key

    swarm_key = await trio.to_thread.run_sync(read_swarm_key, config.directory)
    await trio.to_thread.run_sync(repository, config)
    with served_repository(config) as repo:
        node = Node(
            repo,
            await trio.to_thread.run_sync(_identity, config.directory),
            listen=listen or config.listen,
            peers=[*config.peers, *peers],
            announce=config.announce,
            swarm_key=swarm_key,
            options=node_options(config, private=swarm_key is not None, service=service),
            pin_services=await trio.to_thread.run_sync(usable_services, config, swarm_key is not None),
            outbox=outbox(config),
            served_log=_served_log(config) if service and config.lab is not None else None,
        )
        server = None if gateway is None else _gateway_server(node, config, gateway)
        pins = await trio.to_thread.run_sync(_pin_server, node, config) if service else None
        followed: list[Follower] = []
        methods = _methods(node, config, hand_over, server, pins, followed)
        beside: Service | None = None
        if service:
            from kachery_cloud.node.service import Service

            listeners = {"gateway": server, "pinning_service": pins}
            servers = {what: each for what, each in listeners.items() if each is not None}
            lab: Lab | None = getattr(pins, "lab", None)
            if lab is not None:
                lab.gateway_server = server
            beside = Service(node, config, servers, lab=lab, hooks=hooks, private=swarm_key is not None)
            methods = {**methods, **beside.methods}
            on_service(beside)
        async with trio.open_nursery() as nursery:
            await nursery.start(node.run)
            if service:
                await node.host.prepare()
            if server is not None:
                await nursery.start(server.run)
            if pins is not None:
                await nursery.start(pins.run)
            if beside is not None:
                await nursery.start(beside.run)
            if service and config.follow:
                await nursery.start(_follow, node, config, pins, followed)
            await nursery.start(serve_control, config.directory, methods)
            task_status.started(methods)


def _identity(directory: Path) -> NodeKey:
    """Who this node is. Where the disk has no room for a new key, it has one for this run alone."""
    from kachery_p2p.repo.keys import load_or_create_identity, new_identity

    try:
        return load_or_create_identity(directory)
    except DiskFull as error:
        log.warning("until the next start this node has a peer ID that is not kept: %s", error)
        return new_identity()


def _gateway_server(node: Node, config: Config, choice: GatewayChoice) -> GatewayServer:
    from kachery_cloud.figures.viewer import viewer_site
    from kachery_p2p.gateway.server.server import DEFAULT_ADDRESS, GatewayServer
    from kachery_p2p.gateway.server.token import read_token
    from kachery_p2p.node.messages import LoadRequest
    from kachery_p2p.node.node import AGENT

    async def fetch(
        cid: CID, path: Sequence[str], *, kind: LoadKind, start: int | None = None, end: int | None = None
    ) -> LoadResult:
        # A gateway shows a symbolic link as it is.
        wanted = LoadRequest(cid, tuple(path), kind, start, end, timeout=config.timeout, follow=False)
        return await node.load(wanted)

    async def fetch_apart(
        cid: CID, path: Sequence[str], *, kind: LoadKind, start: int | None = None, end: int | None = None
    ) -> LoadResult:
        wanted = LoadRequest(cid, tuple(path), kind, start, end, timeout=config.timeout, follow=False)
        return await node.load_public(wanted)

    address = choice.address or DEFAULT_ADDRESS
    return GatewayServer(
        node.repo,
        address,
        fetch=fetch if choice.fetch else None,
        fetch_apart=fetch_apart if choice.fetch else None,
        fetched_apart=lambda: node.public_loads.contents,
        names=(*config.gateway_names, *_host_of(config.lab_gateway)),
        agent=AGENT,
        resolver=node.finding.names,
        gate=node.gate,
        token=lambda: read_token(config.directory),
        origins=config.gateway_origins,
        sites=[viewer_site()],
    )


def _host_of(url: str | None) -> list[str]:
    """The host of a URL, if there is one: the gateway answers to the name by which members are told of it."""
    host = None if url is None else urlsplit(url).hostname
    return [] if host is None else [host]


def _served_log(config: Config) -> ServedLog:
    """Counts how much is served to whom."""
    from kachery_p2p.node.served_log import LOG_NAME, ServedLog

    return ServedLog(config.directory / LOG_NAME)


def _pin_server(node: Node, config: Config) -> PinServer | LabServer | None:
    """The lab of the settings, which is a pinning service as well, or that alone; None without either."""
    if config.lab is None and config.pinning_service is None:
        return None
    from kachery_p2p.node.pin_server import PinKeeper
    from kachery_p2p.pinning.server.limits import DEFAULT_UPLOAD
    from kachery_p2p.pinning.server.service import PinServer, tls_context
    from kachery_p2p.pinning.server.store import STORE_NAME, PinStore

    store, keeper = PinStore(config.directory / STORE_NAME), PinKeeper(node)
    tls = None if config.tls_cert is None else tls_context(config.tls_cert, config.tls_key)
    if config.lab is not None:
        from kachery_cloud.lab.server import LabServer

        return LabServer(config, node, store, keeper, tls=tls)
    assert config.pinning_service is not None
    return PinServer(
        store,
        keeper,
        config.pinning_service,
        most_bytes=DEFAULT_UPLOAD if config.max_pin_bytes is None else config.max_pin_bytes,
        tls=tls,
    )


async def _follow(
    node: Node,
    config: Config,
    pins: PinServer | LabServer | None,
    followed: list[Follower],
    *,
    task_status: TaskStatus[None],
) -> None:
    """Follow the nodes of the settings; also where this node lets nobody pin."""
    import trio

    from kachery_p2p.node.pin_server import PinKeeper
    from kachery_p2p.pinning.follow.follower import Follower
    from kachery_p2p.pinning.server.limits import DEFAULT_UPLOAD
    from kachery_p2p.pinning.server.queue import PinQueue
    from kachery_p2p.pinning.server.store import STORE_NAME, PinStore

    store = PinStore(config.directory / STORE_NAME)
    most = DEFAULT_UPLOAD if config.max_pin_bytes is None else config.max_pin_bytes
    async with trio.open_nursery() as nursery:
        if pins is None:
            queue = PinQueue(store, PinKeeper(node), most_bytes=most)
            await nursery.start(queue.run)
        else:
            queue = pins.queue
        follower = Follower(store, queue, config.follow)
        followed.append(follower)
        await nursery.start(follower.run)
        task_status.started()


def node_options(config: Config, *, private: bool, service: bool) -> NodeOptions:
    """How the node of these settings finds others and is found.

    Args:
        config: the settings.
        private: there is a swarm key.
        service: this is ``kachery-cloud-node``; a script or notebook does not relay for others unless it is told to.
    """
    from kachery_p2p.node.options import NodeOptions

    return NodeOptions(
        dht=config.dht_mode(private),
        lan_dht=config.lan_dht,
        mdns=config.mdns,
        known_peers=config.known_peers,
        bootstrap=config.bootstrap_peers(private),
        delegated=config.delegated_routers(private),
        provide=config.provide,
        dnslink=config.public,
        relays=config.relays,
        use_relays=config.public or bool(config.relays),
        relay_service=config.relay_service if service or config.relay_service != "auto" else "off",
        port_map=config.port_map,
        autonat=config.public,
        reachability=config.reachability,
        gateways=(gateways := config.gateway_urls(private)),
        gateway_tokens={url: token for url, token in config.gateway_tokens.items() if url in gateways},
        own_peers=config.own_peers,
        show_owner=config.show_owner,
        access_log=config.access_log,
    )


def _methods(
    node: Node,
    config: Config,
    hand_over: Callable[[], bool],
    gateway: GatewayServer | None,
    pins: PinServer | LabServer | None,
    followed: Sequence[Follower],
) -> Methods:
    """What a process may ask of the node, whichever process it is in."""

    async def load(request: LoadRequest, progress: Progress) -> LoadResult:
        return await node.load(request, progress)

    async def status(request: Nothing, progress: Progress) -> RunningNode:
        served = None if gateway is None else ServedGateway(gateway.url, gateway.fetches)
        url = None if pins is None else pins.url
        lab = None if config.lab is None else config.lab_url or url
        nodes = {name: state for follower in followed for name, state in follower.states.items()}
        follows = {name: FollowedNode(state.problem, state.new, state.missing) for name, state in nodes.items()}
        return RunningNode(node.status(), str(config.directory), os.getpid(), served, url, lab, follows or None)

    async def whereis(request: WhereisRequest, telling: Telling) -> tuple[Whereabouts, ...]:
        return await node.whereis(request, telling.part)

    async def announce(request: AnnounceRequest, progress: Progress) -> Announced:
        return await node.announce(request)

    async def publish(request: PublishRequest, progress: Progress) -> PublishedName:
        return await node.publish(request)

    async def resolve(request: ResolveRequest, progress: Progress) -> ResolvedName:
        return await node.resolve(request)

    async def owner(request: OwnerRequest, progress: Progress) -> str:
        return await node.owner(request)

    async def notify_stored(request: StoredNote, progress: Progress) -> None:
        await node.notify_stored((request.cid, *request.more))

    async def copies(request: CopiesRequest, progress: Progress) -> Copies:
        return await node.copies(request)

    async def notify_removed(request: RemovedNote, progress: Progress) -> None:
        await node.notify_removed(request.cids)
        if pins is not None:
            await pins.queue.lost(request.cids)

    async def notify_access(request: Nothing, progress: Progress) -> None:
        await node.notify_access()

    async def wake_pins(request: Nothing, progress: Progress) -> None:
        node.keeping.wake(again=True)

    async def wait_pinned(request: WaitPinnedRequest, progress: Progress) -> None:
        node.keeping.wake(again=True)
        await node.keeping.wait_pinned(request)

    async def join_group(request: JoinRequest, progress: Progress) -> str:
        return await node.membership.join_by(request.invitation, request.label, request.timeout)

    async def leave_group(request: LeaveRequest, progress: Progress) -> bool:
        return await node.membership.leave(request.group, request.timeout)

    async def groups_changed(request: Nothing, progress: Progress) -> None:
        await node.membership.refresh()

    async def yield_place(request: Nothing, progress: Progress) -> bool:
        return hand_over()

    return by_name(
        Method(messages.LOAD, load),
        Method(messages.LOAD_FROM_MEMBERS, load),
        Method(STATUS, status),
        Method(messages.WHEREIS, whereis),
        Method(messages.WHEREIS_AT_MEMBERS, whereis),
        Method(messages.ANNOUNCE, announce),
        Method(messages.PUBLISH, publish),
        Method(messages.RESOLVE, resolve),
        Method(messages.OWNER, owner),
        Method(messages.NOTIFY_STORED, notify_stored),
        Method(messages.COPIES, copies),
        Method(messages.COPIES_AT_MEMBERS, copies),
        Method(messages.NOTIFY_REMOVED, notify_removed),
        Method(messages.NOTIFY_ACCESS, notify_access),
        Method(messages.WAKE_PINS, wake_pins),
        Method(messages.WAIT_PINNED, wait_pinned),
        Method(messages.JOIN_GROUP, join_group),
        Method(messages.LEAVE_GROUP, leave_group),
        Method(messages.GROUPS_CHANGED, groups_changed),
        Method(messages.YIELD_PLACE, yield_place),
    )


def serve_forever(
    config: Config,
    *,
    listen: Sequence[str] = (),
    peers: Sequence[str] = (),
    gateway: GatewayChoice | None = None,
    on_ready: Callable[[RunningNode], None] = lambda status: None,
    times: NodeTimes = TIMES,
    hooks: ServiceHooks | None = None,
) -> None:
    """Be the node of the directory until SIGINT or SIGTERM: ``kachery-cloud-node``.

    On the first signal requests that are being answered are finished, within some seconds; a second one ends it at
    once. SIGHUP has it read its settings again. A notebook or script that happens to be the node of this directory
    hands its place over and goes on as a client.

    Args:
        config: the settings.
        listen: as for `run_node`.
        peers: as for `run_node`.
        gateway: serve an HTTP gateway, too.
        on_ready: called once with the node's status when it serves.
        times: how long its parts may take.
        hooks: what a service needs of the program; without them settings are not read again.

    Raises:
        NodeError: another ``kachery-cloud-node`` serves this directory; names its process id.
        KacheryError: the node could not start (address in use, damaged key ...).
    """
    import trio

    from kachery_p2p.clock import RunningClock
    from kachery_p2p.descriptors import raise_soft_limit

    raise_soft_limit()  # this is a program of ours; the number of connections follows
    lock = NodeLock(config.directory)
    _acquire(lock, config.directory, times)

    async def main() -> None:
        async with trio.open_nursery() as nursery:
            services: list[Service] = []
            await nursery.start(_heed_signals, nursery.cancel_scope, services)

            async def serve(*, task_status: TaskStatus[Methods]) -> None:
                await run_node(
                    config,
                    listen=listen,
                    peers=peers,
                    service=True,
                    gateway=gateway,
                    hand_over=lambda: False,
                    hooks=hooks,
                    on_service=services.append,
                    task_status=task_status,
                )

            log.info("starting for %s (process %d)", config.directory, os.getpid())
            methods = await nursery.start(serve)
            found: RunningNode = await methods[STATUS.name].run(Nothing(), messages.TellNobody())
            about = {"event": "started", "peer": found.node.peer_id, "pid": os.getpid()}
            log.info("serving as %s", found.node.peer_id, extra={"fields": about})
            on_ready(found)
            systemd.notify("READY=1", f"STATUS=serving as {found.node.peer_id}")

    try:
        trio.run(main, strict_exception_groups=True, clock=RunningClock())
    except BaseException as error:  # noqa: BLE001 - re-raised at once, without the groups around it
        raise plain_error(error) from None
    finally:
        lock.release()
        log.info("stopped", extra={"fields": {"event": "stopped"}})


def _acquire(lock: NodeLock, directory: Path, times: NodeTimes) -> None:
    """Take the node lock; from a script or notebook that has it, by asking for it.

    Raises:
        NodeElsewhere: the node runs on another machine.
        NodeError: another process keeps the lock.
    """
    begun = time.monotonic()
    agreed: int | None = None
    while not lock.try_acquire():
        waited = time.monotonic() - begun
        if waited > SETTLING and (elsewhere := node_elsewhere(directory)) is not None:
            raise elsewhere
        if agreed is None:
            agreed = _ask_for_place(directory, times)
        if waited > times.hand_over:
            if agreed is None:
                raise NodeError(silent_holder(directory))
            raise NodeError(f"Process {agreed} agreed to hand over {directory} but still holds its lock.")
        time.sleep(LOCK_PAUSE)  # nothing tells when a lock of another process is free


def _ask_for_place(directory: Path, times: NodeTimes) -> int | None:
    """The process that agreed to hand the place over; None without an answer: it may be starting or leaving.

    Raises:
        NodeError: it does not agree.
    """
    try:
        endpoint = ControlEndpoint.read(directory)
        if endpoint.holder is not None and endpoint.holder.is_elsewhere:
            return None  # left there; its socket means nothing here
        client = ControlClient(endpoint, on_gone=lambda client: None)
    except NodeGone:
        return None
    try:
        agreed = client.start(messages.YIELD_PLACE, Nothing())[1].result(timeout=times.hand_over)
    except NodeGone:
        agreed = True  # it was leaving already, or left as its answer
    except concurrent.futures.TimeoutError:
        return None
    finally:
        client.close()
    if not agreed:
        raise NodeError(
            f"Process {client.pid} is already the node of {directory}. One node per directory: stop that one first, or "
            "set KACHERY_CLOUD_DIR to serve another directory."
        )
    return client.pid


async def _heed_signals(scope: trio.CancelScope, services: Sequence[Service], *, task_status: TaskStatus[None]) -> None:
    """Stop on SIGINT and SIGTERM: at once on the second one. Read the settings again on SIGHUP."""
    import trio

    hangup = getattr(signal, "SIGHUP", None)
    terminal = _has_terminal()
    with trio.open_signal_receiver(signal.SIGINT, signal.SIGTERM, *([] if hangup is None else [hangup])) as received:
        task_status.started()
        async with trio.open_nursery() as nursery:
            stopping = False
            async for number in received:
                # The terminal was closed, for one that was started in it: it is not left running where nobody sees it.
                ends = number != hangup or (terminal and not _has_terminal())
                if ends and (stopping or not services):
                    break
                if ends:
                    stopping = True
                    log.info("stopping on %s", signal.Signals(number).name)
                    systemd.notify("STOPPING=1")
                    nursery.start_soon(_drain, services[0], scope)
                elif services:
                    nursery.start_soon(services[0].reload)
            log.info("stopping at once")
            scope.cancel()


async def _drain(service: Service, scope: trio.CancelScope) -> None:
    await service.drain()
    scope.cancel()


def _has_terminal() -> bool:
    return any(_is_terminal(fd) for fd in (0, 1, 2))


def _is_terminal(fd: int) -> bool:
    try:
        return os.isatty(fd)
    except OSError:
        return False


def plain_error(error: BaseException) -> BaseException:
    """The named error, or the interruption, inside nested exception groups, if there is one; else the error itself."""
    inner = error
    with contextlib.suppress(AttributeError, IndexError):
        while True:
            inner = inner.exceptions[0]  # type: ignore[attr-defined]
    return inner if isinstance(inner, (KacheryError, KeyboardInterrupt)) else error
