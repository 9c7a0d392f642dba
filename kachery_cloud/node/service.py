"""What `kachery-cloud-node` does beside being a node, for months.

It keeps its directory under the limit, reads through what is there, counts who fetches what, takes up settings and
certificates that change, and tells a service manager of itself.
"""

from __future__ import annotations

import logging
import os
import time
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import trio

from kachery_cloud.node import systemd
from kachery_cloud.node.limits import STOP_SECONDS, TLS_INTERVAL
from kachery_cloud.node.messages import Method, Methods, Nothing, Progress, by_name
from kachery_cloud.node.reloading import RELOAD, Apply, Reloaded, ServiceHooks, differing, lines_of, sort_out
from kachery_p2p.errors import KacheryError
from kachery_p2p.node.fetched import Fetched
from kachery_p2p.node.pulse import BUCKETS, Pulse
from kachery_p2p.node.room import Room
from kachery_p2p.node.scrub import Scrub
from kachery_p2p.pinning.server.keeper import ServiceFigures

if TYPE_CHECKING:
    from kachery_cloud.settings.config import Config
    from kachery_p2p.http_server import HttpServer
    from kachery_p2p.node.node import Node

log = logging.getLogger("kachery_cloud.node")

#: What a file was when it was last looked at: None where it cannot be.
_Stamp = tuple[int, int, int] | None


class Service:
    """Beside the node of a data directory, while `kachery-cloud-node` runs.

    Args:
        node: which.
        config: the settings with which it was started.
        servers: HTTP listeners, by what they are.
        hooks: what it needs of the program; None where settings are not read again.
        private: whether there is a swarm key.
    """

    def __init__(
        self,
        node: Node,
        config: Config,
        servers: Mapping[str, HttpServer],
        *,
        hooks: ServiceHooks | None,
        private: bool,
    ) -> None:
        self._node = node
        self._config = config
        self._servers = servers
        self._hooks = hooks
        self._private = private
        self._begun = time.time()
        self._reloading = trio.Lock()
        self.fetched = Fetched(node.repo)
        self.scrub = Scrub(node, config.scrub_days)
        self.room = Room(
            node.repo,
            config.storage_limit,
            told=node.notify_removed,
            hooks=None if hooks is None else hooks.room,
        )
        self.pulse = Pulse()
        self._tls = self._tls_stamps()
        node.counters.append(self.fetched)
        if "gateway" in servers:
            servers["gateway"].on_answered = self.fetched.answered
        node.room = self.room
        node.service_figures = self.figures

    async def run(self, *, task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED) -> None:
        """All of it, until cancelled."""
        async with trio.open_nursery() as nursery:
            await nursery.start(self.fetched.run)
            await nursery.start(self.room.run)
            await nursery.start(self.scrub.run)
            await nursery.start(self.pulse.run)
            nursery.start_soon(self._watch_tls)
            nursery.start_soon(systemd.keep_alive)
            task_status.started()

    async def drain(self) -> None:
        """Let requests that are being answered end, and take no others; for some seconds at the most."""
        with trio.move_on_after(STOP_SECONDS):
            async with trio.open_nursery() as nursery:
                for server in self._servers.values():
                    nursery.start_soon(server.drain)

    @property
    def methods(self) -> Methods:
        """What may be asked of it."""

        async def reload(request: Nothing, progress: Progress) -> Reloaded:
            return await self.reload()

        return by_name(Method(RELOAD, reload))

    # --- settings ----------------------------------------------------------------------------------------------------

    async def reload(self) -> Reloaded:
        """Read the settings again. Where they make no sense everything stays as it is."""
        async with self._reloading:
            systemd.reloading()
            try:
                found = await self._reload()
            except KacheryError as error:
                found = Reloaded(error=str(error))
            except Exception:
                # A reload that goes wrong must not end the node; who asked for it hears where to look.
                log.exception("settings could not be read again by a mistake of this program")
                found = Reloaded(error="this program made a mistake, which is in the log of the node.")
            finally:
                systemd.notify("READY=1")
            for line in lines_of(found):
                log.log(logging.WARNING if found.error or found.restart else logging.INFO, "%s", line)
            return found

    async def _reload(self) -> Reloaded:
        if self._hooks is None:
            return Reloaded(error="this node has not read its settings from a file.")
        new = await trio.to_thread.run_sync(self._hooks.reread)
        appliers = self._appliers()
        apply, restart = sort_out(differing(self._config, new), appliers)
        # What can be refused comes first: then nothing has changed.
        tls = await self._new_tls(new) if new.tls_cert is not None else None
        services = await trio.to_thread.run_sync(self._services, new)
        self._node.set_peers(new.peers)
        await self._node.keeping.use(services)
        for name in apply:
            await appliers[name](new)
        files: list[str] = []
        if tls is not None and self._serve_tls(tls):
            files.append(str(new.tls_cert))
            self._tls = self._tls_stamps(new)
        else:
            restart += [name for name in ("tls_cert", "tls_key") if name in apply]
            apply = [name for name in apply if name not in restart]
        self._config = replace(self._config, **{name: getattr(new, name) for name in apply})
        self._hooks.log(self._config)
        return Reloaded(tuple(apply), tuple(restart), tuple(files))

    def _appliers(self) -> dict[str, Apply]:
        async def done_already(new: Config) -> None:
            """Peers, services and certificates were taken up before; the log is afterwards."""

        async def storage_limit(new: Config) -> None:
            self.room.set_limit(new.storage_limit)

        async def scrub_days(new: Config) -> None:
            self.scrub.set_days(new.scrub_days)

        done: dict[str, Apply] = dict.fromkeys(
            ("peers", "pin_services", "tls_cert", "tls_key", "log_level"), done_already
        )
        return {**done, "storage_limit": storage_limit, "scrub_days": scrub_days}

    def _services(self, config: Config) -> list[Any]:
        from kachery_cloud.settings.pin_choice import usable_services

        return usable_services(config, self._private)

    # --- certificates ------------------------------------------------------------------------------------------------

    async def _watch_tls(self) -> None:
        """Take up a certificate that was renewed. Both files may not be there at the same instant."""
        while self._config.tls_cert is not None:
            await trio.sleep(TLS_INTERVAL)
            stamps = await trio.to_thread.run_sync(self._tls_stamps)
            if stamps == self._tls:
                continue
            try:
                tls = await self._new_tls(self._config)
            except KacheryError as error:
                log.warning("The certificate has changed, and the one before is used on: %s", error)
            else:
                if self._serve_tls(tls):
                    log.info("The certificate %s was renewed.", self._config.tls_cert)
            self._tls = stamps

    async def _new_tls(self, config: Config) -> Any:
        from kachery_p2p.pinning.server.service import tls_context

        assert config.tls_cert is not None
        return await trio.to_thread.run_sync(tls_context, config.tls_cert, config.tls_key)

    def _serve_tls(self, tls: Any) -> bool:
        """Give it to those listeners that speak HTTPS; whether there is one."""
        served = [server.use_tls(tls) for server in self._servers.values()]
        return True in served

    def _tls_stamps(self, config: Config | None = None) -> tuple[_Stamp, ...]:
        config = config or self._config
        return tuple(_stamp(path) for path in (config.tls_cert, config.tls_key) if path is not None)

    # --- figures -----------------------------------------------------------------------------------------------------

    def figures(self) -> ServiceFigures:
        """For `/metrics`."""
        connections = {"inbound": 0, "outbound": 0}
        for each in self._node.host.connections():
            kind = "inbound" if each.direction == "inbound" else "outbound"
            connections[kind] += 1
        connections.update((what, server.open_connections) for what, server in self._servers.items())
        return ServiceFigures(
            uptime=time.time() - self._begun,
            storage_limit=self.room.limit,
            storage_used=self.room.used,
            cache_bytes=self.room.cached,
            evicted_bytes=self.room.evicted_bytes,
            evicted_roots=self.room.evicted_roots,
            scrubbed_bytes=self.scrub.bytes,
            damaged=len(self.scrub.state.damaged),
            mended=self.scrub.mended,
            scrubbed_at=self.scrub.state.finished,
            connections=connections,
            lag_buckets=BUCKETS,
            lag_counts=tuple(self.pulse.counts),
            lag_seconds=self.pulse.total,
        )


def level_of(config: Config) -> Any:
    """From which level on is logged."""
    if config.log_level != "auto":
        return config.log_level
    return "warning" if config.log_file is None else "info"


def _stamp(path: Path) -> _Stamp:
    try:
        status = os.stat(path)
    except OSError:
        return None
    return status.st_mtime_ns, status.st_size, status.st_ino
