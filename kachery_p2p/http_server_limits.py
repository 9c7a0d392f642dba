"""Every bound of what is served over HTTP, each with its reason. Sizes in bytes, times in seconds."""

from __future__ import annotations

from dataclasses import dataclass

from kachery_p2p.units import KIB, MIB

# --- connections ----------------------------------------------------------------------------------------------------

#: Connections beyond `max_connections` that are told so at a time; more are closed without a word.
MAX_REFUSALS = 16
#: Line and headers of one request; what browsers send is below 4 KiB.
MAX_REQUEST_HEAD = 16 * KIB
#: Bytes that a reader must take within `send_seconds`.
SEND_STEP = 1 * MIB
#: Bytes that it must take within `crowded_seconds` while requests wait for their turn.
PROGRESS_STEP = 256 * KIB
#: What HTTP/2 may cost us. A frame that asks for nothing takes some 40 microseconds, and a request that is reset at
#: once takes as much as any other. So each byte received costs one unit, which is 2 microseconds in small frames. A
#: connection may save up H2_BURST units; those that have spent more are given H2_RATE units a second together.
H2_BURST = 32_000.0
H2_RATE = 80_000.0
#: Units that a request costs beside its bytes.
H2_REQUEST_COST = 150.0
#: Bytes sent that earn one unit back: a reader that takes what it asked for never waits.
H2_SENT_PER_UNIT = 8
#: Bytes of HTTP/2 dealt with at a time: 120 of the smallest frames.
H2_PIECE = 2 * KIB
#: To tell a connection beyond `max_connections` that it is one too many.
REFUSE_SECONDS = 1.0
#: Connections that the operating system keeps until we take them.
BACKLOG = 128
#: What Retry-After says to those who got no turn.
RETRY_AFTER = 5


@dataclass(frozen=True)
class HttpLimits:
    """What one server gives to those who read from it. Sizes in bytes, times in seconds."""

    #: Connections at once: a browser opens six, Helia some dozens; each costs a task and two buffers. Fewer where the
    #: process may open few files. One more closes the one that was silent for longest; with none silent, it is refused.
    max_connections: int = 256
    #: From the opening of a connection, or the last answer, until a whole request is there.
    idle_seconds: float = 30.0
    #: For each SEND_STEP that a reader takes: 35 kB/s is slower than any line that is worth waiting for.
    send_seconds: float = 30.0
    #: While requests wait for their turn, an answer of which less than PROGRESS_STEP was taken for so long makes way.
    crowded_seconds: float = 5.0
    #: Answers that nobody takes are looked for so often.
    watch_interval: float = 1.0
    #: Requests answered at once: each holds two or three MiB, and two cores are busy with far fewer.
    max_running: int = 64
    #: Of these, requests of one address: slow readers on one machine leave room for all others.
    max_running_each: int = 32
    #: Requests that wait for their turn: Helia asks for all blocks of a directory at the same time.
    max_waiting: int = 256
    #: A request that got no turn for so long is told to come again.
    wait_seconds: float = 20.0
