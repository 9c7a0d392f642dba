"""What `pins` returns, and `pin`, `unpin` and `wait_pinned`."""

from __future__ import annotations

from kachery_cloud.inventory_tables import Column, Table, size_text, time_text
from kachery_cloud.records import Record


class PinRow(Record):
    """A file or directory that a pinning service is to keep, and how far that is. A dict of the same, too.

    Times are in seconds since 1970.

    Attributes:
        uri: of it.
        id: of the row.
        cid: of it.
        service: the name of the service.
        name: what the service is told that it is called.
        meta: what else the service is told.
        size: in bytes, or None.
        state: "waiting", "uploading", "queued", "pinning", "pinned", "verified", "failed" (and tried again), "refused"
            until you do something, "removing", "removed".
        request_id: what the service calls the request; empty before it has answered.
        delegates: multiaddrs of the service's peers.
        tries: failures since the last success.
        waited: seconds for which the request was watched while it was only queued.
        next_try: when it goes on; None when it is your turn.
        problem: why it is not done yet, in one word; empty where all is well.
        last_error: the same in a sentence, with what to do.
        added: when it was asked for.
        changed: when its state last changed.
        verified: when a block was last fetched back from the service, or None.
        claimed: whether the service says that it has it.
    """

    times = ("next_try", "added", "changed", "verified")
    sizes = ("size",)

    uri: str
    id: int
    cid: str
    service: str
    name: str
    meta: dict[str, str]
    size: int | None
    state: str
    request_id: str
    delegates: list[str]
    tries: int
    waited: float
    next_try: float | None
    problem: str
    last_error: str
    added: float
    changed: float
    verified: float | None
    claimed: bool


class PinTable(Table[PinRow]):
    """What is to be pinned, and how far that is; of what `pins` returns."""

    row_type = PinRow
    times = PinRow.times
    columns = (
        Column[PinRow]("name", lambda row: row.name),
        Column[PinRow]("size", lambda row: size_text(row.size), right=True),
        Column[PinRow]("service", lambda row: row.service),
        Column[PinRow]("state", lambda row: row.state),
        Column[PinRow]("verified", lambda row: "" if row.verified is None else time_text(row.verified)),
        Column[PinRow]("last error", lambda row: row.last_error),
        Column[PinRow]("uri", lambda row: row.uri),
    )
