"""A long line: it delays, limits and loses what goes through it, the same each way.

`Lab.line` puts one between two machines of a lab. Each machine has a TUN interface, and one process for the line,
which runs this module, carries the packets from one to the other. Not every kernel has `netem`, and where it is there,
it loses the large packets of segmentation offload as a whole; this is the same everywhere and loses packets as a wire
does.

The model, of each direction by itself: a packet that comes is queued, or dropped where the queue is full; it leaves the
queue at the rate of the line; it may be lost then; it arrives `delay` later. Order is kept.

The kernel hands over many TCP segments as one packet (segmentation offload), which is what lets Python keep up: some
2 Gbit/s on one core. The queue and the losses take single segments out of these. Bytes are those of IP packets.
"""

from __future__ import annotations

import argparse
import contextlib
import errno
import json
import math
import os
import random
import select
import struct
import sys
import time
from collections import deque
from dataclasses import asdict, dataclass
from typing import TextIO

#: The header that the kernel puts before each packet: flags, GSO type, length of the headers, size of a segment,
#: and where the checksum begins and is written (`linux/virtio_net.h`).
VNET = struct.Struct("=BBHHHH")
GSO_NONE = 0
GSO_TCP4 = 1
#: A bit beside the type: the first segment has the flag CWR, which those behind it do not have.
GSO_ECN = 0x80
_FIN, _PSH, _CWR = 0x01, 0x08, 0x80
_LARGEST = VNET.size + 65535
#: Packets taken from one side before the other has its turn.
_IN_A_ROW = 64
_MOST_SECONDS = 0.5
_NICE = -10


@dataclass(frozen=True)
class Line:
    """How a line behaves, each way.

    Attributes:
        delay: seconds that a packet is under way; a round trip takes twice as long.
        rate: bits per second.
        loss: the share of packets that get lost, from 0 to less than 1.
        queue: bytes that wait at most where they come faster than the line takes them. Default: what fits into the
            line in one round trip, and never less than 256 KiB.
        seed: of the dice for the losses. The same packets in the same order lose the same ones.
    """

    delay: float = 0.0
    rate: float = 1e9
    loss: float = 0.0
    queue: int | None = None
    seed: int = 1

    @property
    def most_queued(self) -> int:
        """`queue`, or its default."""
        return max(256 * 1024, int(self.rate / 8 * 2 * self.delay)) if self.queue is None else self.queue

    def __str__(self) -> str:
        rate = f"{self.rate / 1e9:g} Gbit/s" if self.rate >= 1e9 else f"{self.rate / 1e6:g} Mbit/s"
        lost = f", {self.loss:.0%} lost" if self.loss else ""
        return f"{self.delay * 1e3:g} ms each way, {rate}{lost}"


@dataclass
class Counts:
    """What one direction was given, and what became of it. Packets as they would be on a wire."""

    packets: int = 0
    bytes: int = 0
    lost: int = 0
    overflowed: int = 0


class Direction:
    """One direction of a line. Does no I/O and has no clock: packets and times go in, packets come out."""

    def __init__(self, line: Line, seed: int) -> None:
        self.counts = Counts()
        self._delay = line.delay
        self._seconds = 8 / line.rate
        # Times are sums of many fractions: half a byte more or less is no difference.
        self._most_seconds = (line.most_queued + 0.5) * self._seconds
        self._dice = random.Random(seed)
        self._log_kept = math.log1p(-line.loss) if line.loss else 0.0
        self._until_loss = self._draw()
        self._free = 0.0
        self._flying: deque[tuple[float, bytes]] = deque()

    @property
    def due(self) -> float | None:
        """When the next packet arrives; None where none is under way."""
        return self._flying[0][0] if self._flying else None

    def push(self, packet: bytes, now: float) -> None:
        """Take a packet, its `VNET` header in front, at the time `now`."""
        head, payload, segment = _shape(packet)
        first = None
        start = 0
        self._free = max(self._free, now)
        while True:
            size = head + min(segment, payload - start)
            took = self._take(size, now)
            if took and first is None:
                first = start
            start += segment
            # What follows without a gap stays one packet.
            if first is not None and (not took or start >= payload):
                end = payload if took else start - segment
                whole = first == 0 and end >= payload
                piece = packet if whole else _cut(packet, head, segment, first, end)
                self._flying.append((self._free + self._delay, piece))
                first = None
            if start >= payload:
                return

    def pop(self, now: float) -> list[bytes]:
        """The packets that have arrived."""
        arrived: list[bytes] = []
        while self._flying and self._flying[0][0] <= now:
            arrived.append(self._flying.popleft()[1])
        return arrived

    def _take(self, size: int, now: float) -> bool:
        """Whether one packet of the wire gets through."""
        counts = self.counts
        counts.packets += 1
        counts.bytes += size
        if self._free - now + size * self._seconds > self._most_seconds:
            counts.overflowed += 1
            return False
        self._free += size * self._seconds
        if self._log_kept:
            self._until_loss -= 1
            if self._until_loss < 0:
                self._until_loss = self._draw()
                counts.lost += 1
                return False
        return True

    def _draw(self) -> int:
        """How many packets get through before the next one is lost."""
        if not self._log_kept:
            return 0
        return int(math.log(1 - self._dice.random()) / self._log_kept)


def _shape(packet: bytes) -> tuple[int, int, int]:
    """The bytes of the headers, of what follows, and of a segment. A packet that is none of many is one segment."""
    _, kind, _, segment, checksum_at, _ = VNET.unpack_from(packet)
    if kind & ~GSO_ECN != GSO_TCP4:
        return 0, len(packet) - VNET.size, len(packet)
    head = checksum_at + (packet[VNET.size + checksum_at + 12] >> 4) * 4
    return head, len(packet) - VNET.size - head, segment


def _cut(packet: bytes, head: int, segment: int, start: int, end: int) -> bytes:
    """The segments of a large TCP packet that carry its payload from `start` to `end`."""
    flags, kind, length, _, tcp, checksum_at = VNET.unpack_from(packet)
    body = VNET.size + head
    ip = bytearray(packet[VNET.size : body])
    size = head + end - start
    struct.pack_into("!H", ip, 2, size)
    (number,) = struct.unpack_from("!H", ip, 4)
    struct.pack_into("!H", ip, 4, (number + start // segment) & 0xFFFF)
    struct.pack_into("!H", ip, 10, 0)
    struct.pack_into("!H", ip, 10, ~_sum(ip[:tcp]) & 0xFFFF)
    (sequence,) = struct.unpack_from("!I", ip, tcp + 4)
    struct.pack_into("!I", ip, tcp + 4, (sequence + start) & 0xFFFFFFFF)
    if body + end < len(packet):
        ip[tcp + 13] &= ~(_FIN | _PSH)  # they belong to the last segment
    if start:
        ip[tcp + 13] &= ~_CWR
    # The kernel leaves the sum of the pseudo header here, and whoever needs the rest adds it.
    pseudo = bytes(ip[12:20]) + struct.pack("!BBH", 0, ip[9], size - tcp)
    struct.pack_into("!H", ip, tcp + checksum_at, _sum(pseudo))
    many = end - start > segment
    offload = (kind, length, segment) if many else (GSO_NONE, 0, 0)
    return VNET.pack(flags, *offload, tcp, checksum_at) + bytes(ip) + packet[body + start : body + end]


def _sum(data: bytes | bytearray) -> int:
    """The sum of the Internet checksum (RFC 1071), not inverted."""
    total = sum(struct.unpack(f"!{len(data) // 2}H", data))
    while total >> 16:
        total = (total & 0xFFFF) + (total >> 16)
    return total


# --- the process ----------------------------------------------------------------------------------------------------


class Relay:
    """Carries packets between two TUN interfaces until its input ends; answers each line of it with its counts."""

    def __init__(self, ends: tuple[int, int], line: Line, log: TextIO | None) -> None:
        first, second = ends
        self._ways = {
            first: (Direction(line, line.seed), second),
            second: (Direction(line, line.seed + 1), first),
        }
        self._log = log

    def run(self) -> None:
        """Carry."""
        while True:
            ready, _, _ = select.select([*self._ways, sys.stdin], [], [], self._wait())
            for end, (way, _) in self._ways.items():
                if end in ready:
                    self._read(end, way)
            for way, other in self._ways.values():
                for packet in way.pop(time.monotonic()):
                    _write(other, packet)
            if sys.stdin in ready and not self._answer():
                return

    def _wait(self) -> float:
        due = [way.due for way, _ in self._ways.values() if way.due is not None]
        return max(0.0, min(due) - time.monotonic()) if due else _MOST_SECONDS

    def _read(self, end: int, way: Direction) -> None:
        for _ in range(_IN_A_ROW):
            try:
                packet = os.read(end, _LARGEST)
            except BlockingIOError:
                return
            now = time.monotonic()
            way.push(packet, now)
            if self._log is not None:
                self._log.write(f"{now:.6f} {list(self._ways).index(end)} {_described(packet)}\n")

    def _answer(self) -> bool:
        if not sys.stdin.readline():
            return False
        print(json.dumps([asdict(way.counts) for way, _ in self._ways.values()]), flush=True)
        return True


def _write(end: int, packet: bytes) -> None:
    try:
        os.write(end, packet)
    except OSError as error:
        # A machine whose interface is down gets nothing, as with a cable that is pulled.
        if error.errno not in (errno.EIO, errno.ENETDOWN):
            raise


def _described(packet: bytes) -> str:
    """Ports, flags, sequence number and bytes of payload of a TCP packet, for the log."""
    ip = memoryview(packet)[VNET.size :]
    if ip[0] >> 4 != 4 or ip[9] != 6:
        return f"- {len(ip)}"
    tcp = (ip[0] & 15) * 4
    source, dest, sequence = struct.unpack_from("!HHI", ip, tcp)
    flags = "".join(name for bit, name in ((2, "S"), (16, "A"), (8, "P"), (1, "F"), (4, "R")) if ip[tcp + 13] & bit)
    return f"{source} {dest} {flags} {sequence} {len(ip) - tcp - (ip[tcp + 12] >> 4) * 4}"


def main() -> None:
    """Carries packets between the two interfaces whose descriptors are given."""
    parser = argparse.ArgumentParser(description="carry packets between two TUN interfaces, slowly")
    parser.add_argument("ends", type=int, nargs=2, help="descriptors of the interfaces")
    parser.add_argument("--line", required=True, help="the fields of `Line`, as JSON")
    parser.add_argument("--log", help="a file that gets a line for each packet")
    options = parser.parse_args()
    with contextlib.suppress(OSError):
        os.nice(_NICE)  # others that work on this machine should not make the line longer
    line = Line(**json.loads(options.line))
    with open(options.log, "w", buffering=1, encoding="utf-8") if options.log else contextlib.nullcontext() as log:
        Relay((options.ends[0], options.ends[1]), line, log).run()


if __name__ == "__main__":
    main()
