"""`scrub.json` in the data directory: how far a node has read through what it has, and what is damaged.

Light, for commands look here, too. `kachery_p2p.node.scrub` writes it.
"""

from __future__ import annotations

import json
import logging
from dataclasses import asdict, dataclass, field
from pathlib import Path

from kachery_p2p.errors import KacheryError
from kachery_p2p.json_reader import InvalidJSON, read_json
from kachery_p2p.json_shapes import WrongShape, from_json
from kachery_p2p.ownfiles import read_own_file
from kachery_p2p.repo.wholefile import write_whole
from kachery_p2p.units import MIB

log = logging.getLogger("kachery_p2p.node.scrub")

STATE_NAME = "scrub.json"
#: Bytes of that file: the damaged things in it are bounded.
_MAX_STATE = MIB
#: Damaged things that are remembered. A disk that has more of them is to be replaced.
MAX_DAMAGED = 1_000


@dataclass(frozen=True)
class Damaged:
    """Something that is wrong.

    Attributes:
        cid: of the file or block.
        path: where it was.
        what: see `kachery_p2p.repo.checking.Problem`; "block" for one that the catalog keeps.
        detail: a sentence.
        found: when; seconds since 1970.
        tried: when it was last tried to mend it.
    """

    cid: str
    path: str
    what: str
    detail: str
    found: float
    tried: float = 0.0


@dataclass(frozen=True)
class ScrubState:
    """What is written down.

    Attributes:
        stage, row, leaves: the place; see `kachery_p2p.repo.scrubbing.ScrubPlace`.
        begun: when this round began; seconds since 1970. 0 before the first one.
        done: bytes that were read in it.
        finished: when the last round ended; 0 where none has.
        damaged: what is wrong and not mended.
    """

    stage: str = "files"
    row: int = 0
    leaves: int = 0
    begun: float = 0.0
    done: int = 0
    finished: float = 0.0
    damaged: tuple[Damaged, ...] = field(default=())


def read_state(path: Path) -> ScrubState:
    """What was written down; the beginning where nothing was, or it cannot be read: then all is read anew."""
    try:
        return from_json(ScrubState, read_json(read_own_file(path, _MAX_STATE)))
    except FileNotFoundError:
        return ScrubState()
    except (OSError, KacheryError, InvalidJSON, WrongShape) as error:
        log.warning("%s cannot be read, so all that is here is read from the beginning: %s", path, error)
        return ScrubState()


def write_state(path: Path, state: ScrubState) -> None:
    """Write it down, whole or not at all.

    Raises:
        OSError: it cannot be written.
    """
    write_whole(path, json.dumps(asdict(state), indent=1).encode("utf-8"))
