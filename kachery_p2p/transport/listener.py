"""Listening: sockets, and the connections that come in up to the end of their handshake."""

from __future__ import annotations

import errno
import ipaddress
import logging
import socket
import time
from collections.abc import Callable, Sequence

import trio

from kachery_p2p.errors import AddressInUse, KacheryError
from kachery_p2p.groups import group_of, most_crowded
from kachery_p2p.transport import compat, limits
from kachery_p2p.transport.addresses import expand, parse_listen, socket_multiaddr
from kachery_p2p.transport.dialer import Reached
from kachery_p2p.transport.limits import TransportLimits
from kachery_p2p.transport.sockets import ByteIO, SocketIO, listen_tcp
from kachery_p2p.transport.upgrade import upgrade

log = logging.getLogger("kachery_p2p.transport")

_NO_SUCH_FAMILY = (errno.EAFNOSUPPORT, errno.EADDRNOTAVAIL, errno.EPROTONOSUPPORT, errno.ENOPROTOOPT)
_OUT_OF_FILES = (errno.EMFILE, errno.ENFILE, errno.ENOBUFS, errno.ENOMEM)


class Listener:
    """All listening sockets of a host.

    Args:
        listen: multiaddrs.
        keys: of this node.
        wrap: puts the private network's layer on a socket where there is one.
        adopt: takes what came in, after the handshake.
        bounds: of the host.
        max_handshakes: that are in progress at a time.
        spare: is called when the process has no files left, to close what can be spared.
    """

    def __init__(
        self,
        listen: Sequence[str],
        keys: compat.Keys,
        wrap: Callable[[ByteIO], ByteIO],
        adopt: Callable[[Reached], object],
        *,
        bounds: TransportLimits,
        max_handshakes: int,
        spare: Callable[[], object] = lambda: None,
    ) -> None:
        self._addresses = [parse_listen(text) for text in listen]
        self._keys = keys
        self._wrap = wrap
        self._adopt = adopt
        self._sockets: list[socket.socket] = []
        self._bound: list[tuple[str, int]] = []
        self._ports: dict[str, int] = {}
        self._limits = bounds
        self._max_handshakes = max_handshakes
        self._spare = spare
        #: in progress, the oldest first; and from which group of addresses each came
        self._handshakes: dict[object, trio.CancelScope] = {}
        self._groups: dict[object, str] = {}
        self._warned = float("-inf")
        self._expanded: tuple[float, list[str]] = (float("-inf"), [])

    @property
    def handshakes(self) -> int:
        """Connections whose handshake is in progress."""
        return len(self._handshakes)

    def open(self) -> None:
        """Bind and listen on all addresses.

        Raises:
            AddressInUse: one of them is not to be had. `/ip6/::` beside others is left out where there is no IPv6.
        """
        for address in self._addresses:
            try:
                sock = listen_tcp(address.host, address.port, multiaddr=address.text)
            except (OSError, AddressInUse) as error:
                cause = error.__cause__ if isinstance(error, AddressInUse) else error
                missing = isinstance(cause, OSError) and cause.errno in _NO_SUCH_FAMILY
                if address.host == "::" and len(self._addresses) > 1 and missing:
                    log.debug("no IPv6 on this machine, listening on IPv4 only")
                    continue
                self.close()
                if isinstance(error, AddressInUse):
                    raise
                raise AddressInUse(f"Cannot listen on {address.text}: {error.strerror or error}.") from error
            self._sockets.append(sock)
            self._bound.append((address.host, sock.getsockname()[1]))
            self._ports[address.text] = sock.getsockname()[1]

    def close(self) -> None:
        """Close the sockets and drop the handshakes in progress."""
        for sock in self._sockets:
            if sock.fileno() != -1:
                if trio.lowlevel.in_trio_run():
                    trio.lowlevel.notify_closing(sock)
                sock.close()
        for scope in list(self._handshakes.values()):
            scope.cancel()

    def addresses(self) -> list[str]:
        """Where we can be dialled, without the peer ID. The interfaces are looked at again every few seconds."""
        now = time.monotonic()  # also asked from other threads
        if now - self._expanded[0] > limits.INTERFACES_REFRESH:
            self._expanded = (now, expand(self._bound))
        return self._expanded[1]

    def beside(self, host: str) -> socket.socket | None:
        """The listening socket whose port a connection to an IP address can be dialled from; `None` without one.

        Dials on loopback have no NAT to open, so they get none.
        """
        loopback = ipaddress.ip_address(host.partition("%")[0]).is_loopback
        family = socket.AF_INET6 if ":" in host else socket.AF_INET
        for sock in self._sockets:
            if sock.family == family and sock.fileno() != -1 and not loopback:
                return sock
        return None

    def ports(self) -> dict[str, int]:
        """The port that each multiaddr to listen on led to."""
        return dict(self._ports)

    def start(self, nursery: trio.Nursery) -> None:
        """Accept connections in tasks of `nursery`."""
        for sock in self._sockets:
            nursery.start_soon(self._accept_loop, sock, nursery)

    async def _accept_loop(self, listener: socket.socket, nursery: trio.Nursery) -> None:
        while True:
            try:
                sock, name = listener.accept()
            except BlockingIOError:
                try:
                    await trio.lowlevel.wait_readable(listener)
                except trio.ClosedResourceError:
                    return
                continue
            except OSError as error:
                if listener.fileno() == -1:
                    return
                if error.errno in _OUT_OF_FILES:
                    self._warn_of_files()
                    # One for each pause: whoever took the files may give them back meanwhile.
                    if not self._drop_handshake():
                        self._spare()
                    await trio.sleep(limits.ACCEPT_PAUSE)
                else:
                    await trio.lowlevel.checkpoint()  # the peer was gone before it was accepted
                continue
            sock.setblocking(False)
            if len(self._handshakes) >= self._max_handshakes:
                self._drop_handshake()
            key, scope = object(), trio.CancelScope()
            self._handshakes[key] = scope
            self._groups[key] = group_of(name[0])
            nursery.start_soon(
                self._accept, SocketIO(sock, self._limits.write_stall_timeout), socket_multiaddr(name), key, scope
            )
            await trio.lowlevel.checkpoint()

    def _drop_handshake(self) -> bool:
        """End the oldest handshake of the address that has most of them; whether there was one.

        Honest handshakes take milliseconds, so the oldest one most likely is not.
        """
        key = most_crowded(self._groups)
        if key is None:
            return False
        del self._groups[key]
        self._handshakes.pop(key).cancel()
        return True

    def _warn_of_files(self) -> None:
        now = time.monotonic()
        if now - self._warned > limits.WARN_INTERVAL:
            self._warned = now
            log.warning("This process has no file descriptors left; new connections wait. Raise `ulimit -n`.")

    async def _accept(self, sock: SocketIO, address: str, key: object, scope: trio.CancelScope) -> None:
        io = self._wrap(sock)
        secured = None
        try:
            with scope, trio.move_on_after(self._limits.handshake_timeout):
                secured = await upgrade(io, self._keys, initiator=False)
        except (KacheryError, OSError, trio.ClosedResourceError) as error:
            log.debug("handshake with %s failed: %s", address, error)
        except Exception:
            log.exception("error in the handshake with %s", address)  # a stranger must not be able to end the host
        finally:
            self._handshakes.pop(key, None)
            self._groups.pop(key, None)
            if secured is None:
                io.close()
        if secured is not None:
            self._adopt(Reached(io, secured, address))
