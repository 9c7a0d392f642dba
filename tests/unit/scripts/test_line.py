"""A long line delays, limits and loses as it was asked to. Without a network, with a clock of the test's own."""

from __future__ import annotations

import struct

import pytest

from scripts.line import VNET, Direction, Line

HEAD = 20 + 32  # IPv4, and TCP with timestamps
FIN, SYN, RST, PSH, ACK, URG, ECE, CWR = (1 << bit for bit in range(8))


def plain(size: int, mark: int = 0) -> bytes:
    """A packet of `size` bytes that is not one of many."""
    return VNET.pack(0, 0, 0, 0, 0, 0) + mark.to_bytes(4, "big").ljust(size, b"x")


def large(payload: bytes, segment: int, *, flags: int = ACK | PSH, kind: int = 1, sequence: int = 0xFFFF_FF00) -> bytes:
    """Many TCP segments in one packet, as the kernel hands them over: checksums are left to the network card."""
    ip = struct.pack(
        "!BBHHHBBH4s4s", 0x45, 0, HEAD + len(payload), 7, 0x4000, 64, 6, 0, bytes((10, 0, 0, 1)), bytes((10, 0, 0, 2))
    )
    tcp = struct.pack("!HHIIBBHHH", 4001, 5555, sequence, 9, 8 << 4, flags, 500, 0, 0) + bytes(12)
    return VNET.pack(1, kind, HEAD, segment, 20, 16) + ip + tcp + payload


def total(data: bytes) -> int:
    """The sum of RFC 1071."""
    result = sum(int.from_bytes(data[at : at + 2], "big") for at in range(0, len(data), 2))
    while result > 0xFFFF:
        result = (result & 0xFFFF) + (result >> 16)
    return result


def drain(way: Direction) -> list[tuple[float, bytes]]:
    """All packets that are under way, with the times of their arrival."""
    arrived: list[tuple[float, bytes]] = []
    while (due := way.due) is not None:
        assert not way.pop(due - 1e-9), "a packet came before it was due"
        arrived += [(due, packet) for packet in way.pop(due)]
    return arrived


def test_packets_take_their_delay_and_their_time_on_the_line() -> None:
    """Each arrives when the line has taken all its bits, and the delay later; a pause is not saved up."""
    way = Direction(Line(delay=0.025, rate=10e6), seed=1)
    for _ in range(3):
        way.push(plain(1250), 1.0)  # a millisecond each
    way.push(plain(1250), 2.0)
    assert [round(due, 6) for due, _ in drain(way)] == [1.026, 1.027, 1.028, 2.026]


def test_a_full_queue_drops_what_comes_last() -> None:
    """What does not fit behind what waits is dropped and counted; later there is room again. Order is kept."""
    way = Direction(Line(rate=10e6, queue=12_500), seed=1)
    for number in range(25):
        way.push(plain(1250, number), 0.0)
    assert way.counts.overflowed == 15
    way.push(plain(1250, 99), 0.005)
    numbers = [int.from_bytes(packet[VNET.size : VNET.size + 4], "big") for _, packet in drain(way)]
    assert numbers == [*range(10), 99]
    assert (way.counts.packets, way.counts.bytes) == (26, 26 * 1250)


@pytest.mark.parametrize("loss", [0.01, 0.3])
def test_losses_are_as_many_as_asked(loss: float) -> None:
    """Of a hundred thousand packets the share that was asked for gets lost, within five standard deviations; single
    ones and segments of large packets alike."""
    for segments in (1, 40):
        way = Direction(Line(rate=1e12, loss=loss), seed=7)
        packet = plain(1000) if segments == 1 else large(bytes(1000 * segments), 1000)
        for number in range(100_000 // segments):
            way.push(packet, number * 1.0)
            way.pop(number + 0.5)
        assert way.counts.packets == 100_000
        assert abs(way.counts.lost - 100_000 * loss) < 5 * (100_000 * loss * (1 - loss)) ** 0.5
    assert Direction(Line(), seed=7).counts.lost == 0


def test_a_large_packet_goes_through_whole() -> None:
    """It counts as the packets that it would be on a wire, with a header each."""
    way = Direction(Line(rate=8e6), seed=1)
    packet = large(bytes(2500), 1000)
    way.push(packet, 0.0)
    ((due, arrived),) = drain(way)
    assert arrived == packet
    assert (way.counts.packets, way.counts.bytes) == (3, 2500 + 3 * HEAD)
    assert due == pytest.approx((2500 + 3 * HEAD) / 1e6)


def test_what_is_left_of_a_large_packet_is_right() -> None:
    """With segments lost, the others arrive with their bytes, lengths, sequence numbers, flags and checksums."""
    payload = bytes(number % 251 for number in range(40_000))
    way = Direction(Line(rate=1e12, loss=0.2), seed=3)
    way.push(large(payload, 1448, flags=ACK | PSH | FIN | CWR, kind=1 | 0x80), 0.0)
    pieces = [packet for _, packet in drain(way)]
    assert way.counts.lost > 2
    assert len(pieces) > 2
    seen = 0
    for piece in pieces:
        flags, kind, _, segment, start, offset = VNET.unpack_from(piece)
        ip, tcp, body = (piece[VNET.size :], piece[VNET.size + 20 :], piece[VNET.size + HEAD :])
        at = (struct.unpack_from("!I", tcp, 4)[0] - 0xFFFF_FF00) % 2**32
        assert body == payload[at : at + len(body)]
        assert at % 1448 == 0
        assert struct.unpack_from("!HHH", ip, 2) == (len(ip), 7 + at // 1448, 0x4000)
        assert total(ip[:20]) == 0xFFFF
        assert (kind, segment) == ((0x81, 1448) if len(body) > 1448 else (0, 0))
        assert (flags, start, offset) == (1, 20, 16)
        pseudo = ip[12:20] + bytes((0, 6)) + (len(ip) - 20).to_bytes(2, "big")
        assert struct.unpack_from("!H", tcp, 16)[0] == total(pseudo)
        last = at + len(body) == len(payload)
        assert tcp[13] == ACK | (PSH | FIN if last else 0) | (CWR if at == 0 else 0)
        seen += -(-len(body) // 1448)
    assert seen + way.counts.lost == way.counts.packets == 28
