"""CAR files, and forms with them, as `dag/import` gets them."""

from __future__ import annotations

import json
from collections.abc import Sequence
from typing import Any

import httpx

from kachery_p2p.dag.car import car_header, car_section
from kachery_p2p.dag.cid import CID
from kachery_p2p.load.cars import write_dags
from kachery_p2p.repo.repo import Repo

BOUNDARY = "kachery-test-boundary"
TYPE = f"multipart/form-data; boundary={BOUNDARY}"


def car_of(repo: Repo, *roots: CID) -> bytes:
    """The CAR file of what is in a repo."""
    parts: list[bytes] = []
    write_dags(repo, roots, lambda data: parts.append(bytes(data)))
    return b"".join(parts)


def car_with(roots: Sequence[CID], blocks: Sequence[tuple[CID, bytes]]) -> bytes:
    """A CAR file with these blocks, right or wrong."""
    return car_header(list(roots)) + b"".join(car_section(cid, len(data)) + data for cid, data in blocks)


def form(*files: bytes, end: bool = True) -> bytes:
    """A form as Kubo's client sends it."""
    parts = [
        f'--{BOUNDARY}\r\nAbspath: /tmp/{number}.car\r\nContent-Disposition: form-data; name="file"; '
        f'filename="{number}.car"\r\nContent-Type: application/octet-stream\r\n\r\n'.encode()
        + data
        + b"\r\n"
        for number, data in enumerate(files)
    ]
    return b"".join(parts) + (f"--{BOUNDARY}--\r\n".encode() if end else b"")


async def send(client: httpx.AsyncClient, body: bytes, **query: str) -> httpx.Response:
    """Send a form."""
    return await client.post("/api/v0/dag/import", params=query, content=body, headers={"content-type": TYPE})


def lines(answer: httpx.Response) -> list[dict[str, Any]]:
    """The objects of a good answer."""
    assert answer.status_code == 200, answer.text
    return [json.loads(line) for line in answer.text.splitlines()]


def roots(answer: httpx.Response) -> dict[str, str]:
    """What is said of each root: why it is not pinned, or nothing."""
    return {each["Root"]["Cid"]["/"]: each["Root"]["PinErrorMsg"] for each in lines(answer) if "Root" in each}
