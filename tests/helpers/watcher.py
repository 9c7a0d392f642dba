"""An outsider that is everywhere: a DHT server, a relay, a peer of all, which writes down all that it sees.

    python -m tests.helpers.watcher FOLDER LISTEN

It is a node like others, over the classes of `kachery_p2p`. Each byte of each stream that it is sent, or sends, is kept
as it is after decryption; and each packet that its network interface gets, multicast and what it relays among them. It
prints a line of JSON when it serves, and one for each line that it is sent: then its records are on the disk.

    streams.jsonl   {"peer", "protocol", "direction", "hex"}, one line for each direction of each stream
    packets.bin     frames of the interface, each behind its length in four bytes
"""

from __future__ import annotations

import argparse
import json
import socket
import sys
import threading
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import trio

from kachery_p2p.node.node import Node
from kachery_p2p.node.options import NodeOptions
from kachery_p2p.repo.keys import load_or_create_identity
from kachery_p2p.repo.repo import Repo
from kachery_p2p.transport.yamux import YamuxCore
from kachery_p2p.transport.yamux_stream import YamuxStream

_ETH_P_ALL = 3


class Recorder:
    """Keeps what passes through the streams of this process."""

    def __init__(self) -> None:
        self.streams: dict[int, tuple[YamuxStream, bytearray, bytearray]] = {}

    def of(self, stream: YamuxStream) -> tuple[YamuxStream, bytearray, bytearray]:
        """A stream, which is kept alive, what it was sent, and what it sent."""
        return self.streams.setdefault(id(stream), (stream, bytearray(), bytearray()))

    def install(self) -> None:
        """From now on all is kept, what nobody reads among it."""
        deliver, submit = YamuxCore._deliver, YamuxStream.submit

        def delivering(core: YamuxCore, stream: YamuxStream, piece: memoryview, message: int) -> None:
            self.of(stream)[1].extend(piece)
            deliver(core, stream, piece, message)

        def submitting(stream: YamuxStream, parts: Sequence[bytes | bytearray | memoryview]) -> None:
            for part in parts:
                self.of(stream)[2].extend(memoryview(part).cast("B") if memoryview(part).nbytes else b"")
            submit(stream, parts)

        YamuxCore._deliver = delivering  # pyright: ignore[reportAttributeAccessIssue]
        YamuxStream.submit = submitting  # pyright: ignore[reportAttributeAccessIssue]

    def write(self, path: Path) -> int:
        """Write all of it down; how many streams there were."""
        with path.open("w", encoding="utf-8") as out:
            for stream, came, went in list(self.streams.values()):
                about: Any = stream
                for direction, data in (("in", came), ("out", went)):
                    if data:
                        line = {"peer": about.peer, "protocol": about.protocol, "direction": direction}
                        out.write(json.dumps({**line, "hex": data.hex()}) + "\n")
        return len(self.streams)


def _capture(path: Path) -> None:
    """Write down each frame of every interface, until the process ends."""
    sock = socket.socket(socket.AF_PACKET, socket.SOCK_RAW, socket.htons(_ETH_P_ALL))
    out = path.open("wb", buffering=0)

    def work() -> None:
        while True:
            frame = sock.recv(1 << 17)
            out.write(len(frame).to_bytes(4, "big") + frame)

    threading.Thread(target=work, daemon=True).start()


async def _main(folder: Path, listen: str) -> None:
    recorder = Recorder()
    recorder.install()
    _capture(folder / "packets.bin")
    options = NodeOptions(
        dht="server", lan_dht=True, mdns=True, provide="roots", relay_service="on", reachability="public"
    )
    with Repo.open(folder / "data") as repo:
        node = Node(repo, load_or_create_identity(repo.directory), listen=[listen], options=options)
        async with trio.open_nursery() as nursery:
            await nursery.start(node.run)
            addresses = node.host.addresses()
            print(json.dumps({"peer_id": node.host.peer_id, "addresses": addresses}), flush=True)
            while await trio.to_thread.run_sync(sys.stdin.readline, abandon_on_cancel=True):
                print(json.dumps({"streams": recorder.write(folder / "streams.jsonl")}), flush=True)
            nursery.cancel_scope.cancel()


def main() -> None:
    """The program."""
    parser = argparse.ArgumentParser(description="A node that writes down all it sees.")
    parser.add_argument("folder", type=Path)
    parser.add_argument("listen")
    arguments = parser.parse_args()
    arguments.folder.mkdir(parents=True, exist_ok=True)
    trio.run(_main, arguments.folder, arguments.listen)


if __name__ == "__main__":
    main()
