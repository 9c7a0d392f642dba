"""Byte channels under the security layer: a TCP socket, or any libp2p raw connection.

`SocketIO` drives a non-blocking socket directly. Reads and writes are first tried without waiting, because at
full speed the kernel almost always has room, and a system call is several times cheaper than a round through
the scheduler. A synchronous send also has no point at which a cancelled task could leave half a message behind.

All sockets are remembered in a weak set and closed in a forked child: a worker process must neither keep our
port nor hold connections open after the parent closed them.
"""

from __future__ import annotations

import contextlib
import errno
import os
import socket
import weakref
from typing import Protocol

import trio

from kachery_p2p.errors import AddressInUse
from kachery_p2p.transport import limits

_sockets: weakref.WeakSet[socket.socket] = weakref.WeakSet()


def _close_after_fork() -> None:
    for sock in list(_sockets):
        try:
            sock.close()
        except OSError:
            pass


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_close_after_fork)


class ByteIO(Protocol):
    """What a connection needs from the channel below it.

    Errors of the channel are `OSError` or `trio.ClosedResourceError`; `recv_into` returns 0 at the end of the input.
    """

    async def wait_readable(self) -> None: ...

    def recv_into(self, buffer: memoryview) -> int:
        """Take what has come; `BlockingIOError` when nothing has."""
        ...

    def send_nowait(self, data: memoryview) -> int:
        """Hand over as much as goes without waiting; the number of bytes taken, perhaps 0."""
        ...

    async def send_all(self, data: memoryview) -> None:
        """Hand over everything; `OSError` when the peer takes nothing for too long."""
        ...

    def shutdown_write(self) -> None: ...

    def close(self) -> None: ...


class SocketIO:
    """A connected, non-blocking TCP socket.

    Args:
        sock: it is closed with this.
        stall: a peer that takes no byte for so many seconds is gone.
    """

    def __init__(self, sock: socket.socket, stall: float = limits.DEFAULTS.write_stall_timeout) -> None:
        self._stall = stall
        self._sock = sock
        _sockets.add(sock)
        try:
            sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        except OSError:
            pass  # not TCP (a socket pair in a test), or already gone: the first read will tell

    async def wait_readable(self) -> None:
        self._check_open()
        await trio.lowlevel.wait_readable(self._sock)

    def _check_open(self) -> None:
        if self._sock.fileno() == -1:
            raise trio.ClosedResourceError

    def recv_into(self, buffer: memoryview) -> int:
        return self._sock.recv_into(buffer)

    def send_nowait(self, data: memoryview) -> int:
        try:
            return self._sock.send(data)
        except BlockingIOError:
            return 0

    async def send_all(self, data: memoryview) -> None:
        while data:
            sent = self.send_nowait(data)
            if sent:
                data = data[sent:]
                continue
            self._check_open()
            with trio.move_on_after(self._stall) as stall:
                await trio.lowlevel.wait_writable(self._sock)
            if stall.cancelled_caught:
                raise TimeoutError(errno.ETIMEDOUT, "the peer takes no more bytes")

    def shutdown_write(self) -> None:
        try:
            self._sock.shutdown(socket.SHUT_WR)
        except OSError:
            pass  # the peer was faster

    def close(self) -> None:
        if self._sock.fileno() != -1:
            trio.lowlevel.notify_closing(self._sock)
            self._sock.close()


def listen_tcp(host: str, port: int, *, multiaddr: str) -> socket.socket:
    """Bind and listen on one IP address.

    SO_REUSEADDR lets a restarted node have its port back at once. SO_REUSEPORT is not set: with it two nodes share a
    port without a word, and each gets half of the connections. On Windows SO_REUSEADDR means what SO_REUSEPORT means
    elsewhere, so exclusive use is asked for there.

    Raises:
        AddressInUse: the port is taken, or the address is not one of this machine's.
        OSError: the address family does not exist here (EAFNOSUPPORT and the like).
    """
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    address, scope = _split_scope(host)
    sock = socket.socket(family, socket.SOCK_STREAM)
    try:
        if os.name == "nt":
            sock.setsockopt(socket.SOL_SOCKET, getattr(socket, "SO_EXCLUSIVEADDRUSE", ~4), 1)
        else:
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        if family == socket.AF_INET6:
            # Else [::] would take the IPv4 port as well, and the IPv4 listener beside it would fail.
            sock.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 1)
        sock.setblocking(False)
        sock.bind((address, port, 0, scope) if family == socket.AF_INET6 else (address, port))
        sock.listen(limits.LISTEN_BACKLOG)
    except OSError as error:
        sock.close()
        if error.errno in (errno.EADDRINUSE, errno.EACCES, errno.EADDRNOTAVAIL):
            reason = {
                errno.EADDRINUSE: "another process listens on that port; choose another one, or 0 for any free one",
                errno.EACCES: "this user may not listen on that port; choose one above 1023",
                errno.EADDRNOTAVAIL: "this machine does not have that address",
            }[error.errno]
            raise AddressInUse(f"Cannot listen on {multiaddr}: {reason}.") from error
        raise
    except BaseException:
        sock.close()
        raise
    _sockets.add(sock)
    return sock


async def connect_tcp(host: str, port: int, *, beside: socket.socket | None = None) -> socket.socket:
    """Connect to one IP address; cancellation closes the socket.

    Args:
        host: an IP address, of IPv6 perhaps with a scope behind a `%`.
        port: TCP.
        beside: a listening socket whose port is to be dialled from.

    Raises:
        PortNotFree: there can be no connection from that port to this address (there is one already, for example).
        OSError: no connection.
    """
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    address, scope = _split_scope(host)
    name = (address, port, 0, scope) if family == socket.AF_INET6 else (address, port)
    sock = socket.socket(family, socket.SOCK_STREAM)
    try:
        sock.setblocking(False)
        if beside is not None:
            _bind_beside(sock, beside, name)
        code = sock.connect_ex(name)
        if beside is not None and code in (errno.EADDRNOTAVAIL, errno.EADDRINUSE, errno.EINVAL):
            raise PortNotFree(code, os.strerror(code))
        if code in (errno.EINPROGRESS, errno.EWOULDBLOCK, errno.EINTR, getattr(errno, "WSAEWOULDBLOCK", -1)):
            await trio.lowlevel.wait_writable(sock)
            code = sock.getsockopt(socket.SOL_SOCKET, socket.SO_ERROR)
        else:
            await trio.lowlevel.checkpoint()
        if code:
            raise OSError(code, os.strerror(code))
        if sock.getsockname()[:2] == sock.getpeername()[:2]:
            # Linux can connect a socket to itself when the port is free and in the ephemeral range.
            raise OSError(errno.ECONNREFUSED, os.strerror(errno.ECONNREFUSED))
    except BaseException:
        trio.lowlevel.notify_closing(sock)
        sock.close()
        raise
    return sock


#: Some address of 127.0.0.0/8 that nothing listens on. Systems other than Linux do not have it, and do not need it.
_UNUSED_LOOPBACK = "127.83.101.17"


class PortNotFree(OSError):
    """A connection cannot be made from the port that was wanted."""


def _bind_beside(sock: socket.socket, listener: socket.socket, name: tuple[object, ...]) -> None:
    """Give a socket that is about to dial `name` the port of a listening one.

    So a NAT in between opens a hole through which others reach the listener, too.

    SO_REUSEPORT must be set on both, but on the listener only at the instant of the bind: while it is set, another
    process of the same user could listen there as well and take half of our connections. Linux remembers the
    permission beyond that, for the local address that was bound last (`inet_csk_update_fastreuse`): so the last one
    bound is a loopback address that nobody uses, for an instant.

    Raises:
        PortNotFree: it cannot be had, or this system has no such thing (Windows).
    """
    if os.name == "nt" or not hasattr(socket, "SO_REUSEPORT"):
        raise PortNotFree(errno.EOPNOTSUPP, os.strerror(errno.EOPNOTSUPP))
    try:
        with socket.socket(sock.family, socket.SOCK_DGRAM) as probe:
            probe.connect(name)  # sends nothing: it only looks up the route
            source = probe.getsockname()[0]
        bound, port = listener.getsockname()[:2]
        if bound not in ("0.0.0.0", "::", source):
            raise PortNotFree(errno.EADDRNOTAVAIL, os.strerror(errno.EADDRNOTAVAIL))
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)  # so that a restart need not wait for TIME_WAIT
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
        try:
            sock.bind((source, port, *name[2:]))
            with socket.socket(socket.AF_INET) as last, contextlib.suppress(OSError):
                last.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
                last.bind((_UNUSED_LOOPBACK, port))
        finally:
            listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 0)
    except OSError as error:
        raise PortNotFree(error.errno or errno.EADDRINUSE, error.strerror or "the port is not free") from error


def _split_scope(host: str) -> tuple[str, int]:
    """The address and the scope number of `fe80::1%eth0`; 0 where there is none."""
    address, _, zone = host.partition("%")
    if not zone:
        return address, 0
    return address, int(zone) if zone.isdigit() else socket.if_nametoindex(zone)
