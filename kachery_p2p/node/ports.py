"""The same port at each start. Others remember where a machine was; it should be there again.

Where a free port is asked for (port 0), the one that was taken the last time is taken again if it is still free.
"""

from __future__ import annotations

import contextlib
import socket
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

from kachery_p2p.transport.addresses import parse_listen, tcp_multiaddr

if TYPE_CHECKING:
    from kachery_p2p.routing.database import Database

_TABLES = "CREATE TABLE IF NOT EXISTS ports (listen TEXT PRIMARY KEY, port INTEGER NOT NULL);"


class Ports:
    """The ports of a data directory, by the multiaddr that asked for a free one."""

    def __init__(self, db: Database) -> None:
        self._db = db
        db.create(_TABLES)

    def recall(self, listen: Sequence[str]) -> dict[str, str]:
        """What to listen on now, by what was asked for.

        In place of port 0 stands the port of the last time, where it is free.

        Returns:
            Multiaddr to listen on -> the one of `listen` that it stands for.

        Raises:
            InvalidAddress: one of `listen` is not an address to listen on.
        """
        known = dict(self._db.read("SELECT listen, port FROM ports"))
        recalled: dict[str, str] = {}
        for text in listen:
            address = parse_listen(text)
            port = known.get(text, 0)
            if address.port == 0 and port and _is_free(address.host, port):
                recalled[tcp_multiaddr(address.kind, address.host, port)] = text
            else:
                recalled[text] = text
        return recalled

    def remember(self, listen: Mapping[str, str], ports: Mapping[str, int]) -> None:
        """What came of it.

        Args:
            listen: what `recall` gave.
            ports: the port that each of its keys led to; one on which nothing listens is left out.
        """
        taken = [(text, ports[used]) for used, text in listen.items() if used in ports and parse_listen(text).port == 0]
        with self._db.write() as db:
            db.executemany("INSERT OR REPLACE INTO ports (listen, port) VALUES (?, ?)", taken)


def _is_free(host: str, port: int) -> bool:
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    with contextlib.suppress(OSError), socket.socket(family, socket.SOCK_STREAM) as probe:
        if family == socket.AF_INET6:
            probe.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 1)
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)  # as the listener does
        probe.bind((host, port))
        return True
    return False
