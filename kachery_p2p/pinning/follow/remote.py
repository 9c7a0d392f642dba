"""Asking the node that is followed, and reading what it answers, which is checked as if a stranger had written it."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from kachery_p2p.http import HttpBounds, HttpClient, HttpFailure
from kachery_p2p.json_reader import InvalidJSON, json_or_none, read_json
from kachery_p2p.pinning.server import limits
from kachery_p2p.pinning.server.following import RemotePin, RemoteToken
from kachery_p2p.pinning.server.requests import Refusal, read_pin, read_time
from kachery_p2p.text import printable, shortened

#: Pins of a page: with the longest metadata there are, a page is still read.
PAGE = 50
_MAX_PAGE = (PAGE + 2) * limits.MAX_BODY
#: Bytes of the answer beside: the names, hashes and accounts of a hundred thousand tokens.
_MAX_FACTS = 32 * limits.MIB
_SECONDS = 60.0
_BOUNDS = HttpBounds(connect=10.0, redirects=0, connections=2, idle=2)
_STATUSES = "queued,pinning,pinned"


class NotFollowed(Exception):
    """A node cannot be followed now; says why.

    Attributes:
        status: of HTTP; 0 where there was no answer.
    """

    def __init__(self, why: str, status: int = 0) -> None:
        super().__init__(why)
        self.status = status


@dataclass(frozen=True)
class Facts:
    """What is known of a node that is followed, beside its pins.

    Attributes:
        list_id: which list it has.
        deleted: what members deleted there of our list: a number, which grows, and the request here.
        tokens: those that it hands on; None where it does not.
        accounts: whose quota these share there, by their names; a node of an older version hands on none.
    """

    list_id: str
    deleted: tuple[tuple[int, str], ...]
    tokens: tuple[RemoteToken, ...] | None
    accounts: Mapping[str, str] = field(default_factory=dict[str, str])


@dataclass(frozen=True)
class Page:
    """Some pins, newest first.

    Attributes:
        pins: those that can be pinned here.
        created: when each pin on the page was made, those that cannot among them.
        more: whether there are more behind it.
    """

    pins: tuple[RemotePin, ...]
    created: tuple[int, ...]
    more: bool


class Remote:
    """One node that is followed. Must be closed.

    Args:
        url: of its pinning service, without `/pins`.
        token: that it gave us.
    """

    def __init__(self, url: str, token: str) -> None:
        self._url = url.removesuffix("/pins")
        self._client = HttpClient(_BOUNDS, headers={"authorization": f"Bearer {token}", "accept": "application/json"})

    async def close(self) -> None:
        """Close all connections."""
        await self._client.close()

    async def facts(self, our_list: str, after: int) -> Facts:
        """What is known of it.

        Raises:
            NotFollowed: it does not answer so.
        """
        body = await self._ask("/follow", {"list": our_list, "after": str(after)}, _MAX_FACTS)
        return read_facts(body)

    async def page(self, bounds: Mapping[str, int], text_of: Any) -> Page:
        """A page of its list.

        Args:
            bounds: see `plan.bounds`.
            text_of: writes a time as RFC 3339 has it.

        Raises:
            NotFollowed: it does not answer so.
        """
        query = {"limit": str(PAGE), "status": _STATUSES, **{name: text_of(at) for name, at in bounds.items()}}
        return read_page(await self._ask("/pins", query, _MAX_PAGE))

    async def _ask(self, path: str, query: dict[str, str], most: int) -> bytes:
        try:
            async with self._client.ask(
                "GET", self._url + path, params=query, seconds=_SECONDS, follow=lambda redirect: False
            ) as answer:
                if answer.status != 200:
                    said = json_or_none(await answer.start(4096))
                    error = said.get("error") if isinstance(said, dict) else None
                    words = error.get("details") if isinstance(error, dict) else None
                    told = f": {shortened(printable(words), 300)}" if isinstance(words, str) else ""
                    raise NotFollowed(f"it answers with status {answer.status}{told}", answer.status)
                return await answer.read(most, stall=_SECONDS)
        except HttpFailure as failure:
            raise NotFollowed(failure.words or str(failure)) from failure


def read_facts(body: bytes) -> Facts:
    """What a node that is followed says of itself.

    Raises:
        NotFollowed: this is something else.
    """
    value = _json(body)
    list_id, deleted, tokens = value.get("list"), value.get("deleted"), value.get("tokens")
    if not isinstance(list_id, str) or not 0 < len(list_id) <= 64 or not isinstance(deleted, list):
        raise NotFollowed("it answers with something that no node says")
    gone: list[tuple[int, str]] = []
    for each in deleted:
        match each:
            case [int(number), str(request_id)] if 0 < number < 1 << 62:
                gone.append((number, request_id))
            case _:
                raise NotFollowed("it answers with something that no node says")
    handed = None if tokens is None else _tokens(tokens)
    return Facts(list_id, tuple(gone), handed, _accounts(value.get("accounts")))


def _accounts(value: Any) -> dict[str, str]:
    if value is None:
        return {}
    if not isinstance(value, dict) or not all(isinstance(each, str) and _is_name(each) for each in value.values()):
        raise NotFollowed("it hands on accounts that are none")
    return {name: account for name, account in value.items() if _is_name(name)}


def _tokens(value: Any) -> tuple[RemoteToken, ...]:
    found: list[RemoteToken] = []
    for each in value if isinstance(value, list) else ():
        match each:
            case {"name": str(name), "hash": str(text), "quota": quota} if (
                (quota is None or (type(quota) is int and 0 <= quota < 1 << 62))
                and _is_name(name)
                and len(text) == 64
                and all(digit in "0123456789abcdef" for digit in text)
            ):
                found.append(RemoteToken(name, bytes.fromhex(text), quota))
            case _:
                raise NotFollowed("it hands on tokens that are none")
    return tuple(found)


def read_page(body: bytes) -> Page:
    """A page of a list.

    Raises:
        NotFollowed: this is something else.
    """
    value = _json(body)
    count, results = value.get("count"), value.get("results")
    if type(count) is not int or not isinstance(results, list) or len(results) > PAGE:
        raise NotFollowed("it answers with something that is not a list of pins")
    pins: list[RemotePin] = []
    created: list[int] = []
    for each in results:
        try:
            request_id, pin, info = each["requestid"], each["pin"], each["info"]
            at = read_time(each["created"], "created")
            if not isinstance(pin, dict) or not isinstance(request_id, str) or not 0 < len(request_id) <= 512:
                raise TypeError("no pin")
            delegates = [addr for addr in each["delegates"] if isinstance(addr, str)]
        except (Refusal, KeyError, TypeError):
            raise NotFollowed("it answers with something that is not a list of pins") from None
        created.append(at)
        owner = info.get("owner") if isinstance(info, dict) else None
        named = pin.get("origins")
        named = [addr for addr in named if isinstance(addr, str)] if isinstance(named, list) else []
        origins = list(dict.fromkeys([*delegates, *named]))[: limits.MAX_ADDRESSES]
        try:
            wanted = read_pin(json.dumps({**pin, "origins": origins}).encode())
        except Refusal:
            continue  # what cannot be pinned here: of a newer version perhaps
        if isinstance(owner, str) and _is_name(owner):
            pins.append(RemotePin(request_id, owner, wanted, at))
    return Page(tuple(pins), tuple(created), count > len(results))


def _is_name(name: str) -> bool:
    return 0 < len(name) <= limits.MAX_TOKEN_NAME and name.isprintable() and bool(name.strip())


def _json(body: bytes) -> dict[str, Any]:
    try:
        value = read_json(body)
    except InvalidJSON:
        value = None
    if not isinstance(value, dict):
        raise NotFollowed("it answers with something that is not JSON")
    return value
