"""A client of the IPFS Pinning Service API 1.0.0 (https://ipfs.github.io/pinning-services-api-spec/).

Each method is one request. What it means for a root, and when the next one is due, is for the worker to say.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any
from urllib.parse import quote

from kachery_p2p.dag.cid import CID, verify_block
from kachery_p2p.json_reader import json_or_none
from kachery_p2p.pinning import answers, limits
from kachery_p2p.pinning.answers import PinStatus, ServiceError
from kachery_p2p.pinning.service_http import ServiceHttp

#: The best of several requests for one CID is the one that is furthest.
_ORDER = ("failed", "queued", "pinning", "pinned")


class PinningClient:
    """One pinning service. All methods but `from_gateway` raise ServiceError."""

    def __init__(self, http: ServiceHttp) -> None:
        self._http = http
        self.service = http.service

    async def look_up(self, cid: CID) -> PinStatus | None:
        """The request that the service has for a root, the one that is furthest if there are several; or None."""
        # Without a list of states the service names only what is pinned.
        params = {"cid": str(cid), "status": "queued,pinning,pinned,failed", "limit": str(limits.MAX_ADDRESSES)}
        answer = await self._http.ask("GET", f"{self.service.url}/pins", params=params)
        found = answers.pin_list(json_or_none(answer))
        if found is None:
            raise self._nonsense("a list of pins")
        # A service that does not know the filter names others as well.
        same = [pin for pin in found if pin.cid.to_v1() == cid.to_v1()]
        return max(same, key=lambda pin: (_ORDER.index(pin.status), pin.created), default=None)

    async def request(
        self, cid: CID, *, name: str, origins: Sequence[str], meta: Mapping[str, str], replaces: str = ""
    ) -> PinStatus:
        """Ask it to pin a root.

        Args:
            cid: the root.
            name: what the service's own pages call it; cut where it is too long.
            origins: our multiaddrs, at most MAX_ADDRESSES of them are sent.
            meta: further words for the service.
            replaces: the request that this one takes the place of.
        """
        pin: dict[str, Any] = {"cid": str(cid)}
        if name:
            pin["name"] = name[: limits.MAX_NAME]
        if origins:
            pin["origins"] = list(origins)[: limits.MAX_ADDRESSES]
        if meta:
            pin["meta"] = dict(meta)
        url = self._url(replaces) if replaces else f"{self.service.url}/pins"
        return self._status(cid, await self._http.ask("POST", url, json=pin))

    async def status(self, cid: CID, request_id: str) -> PinStatus | None:
        """How far a request is; None when the service no longer knows it."""
        try:
            return self._status(cid, await self._http.ask("GET", self._url(request_id)))
        except ServiceError as error:
            if error.problem == "not_found":
                return None
            raise

    async def remove(self, request_id: str) -> None:
        """Take a request back, and with it the pin. One that the service does not know is as good as removed."""
        try:
            await self._http.ask("DELETE", self._url(request_id))
        except ServiceError as error:
            if error.problem != "not_found":
                raise

    async def from_gateway(self, cid: CID) -> bool:
        """Whether the service's gateway has a block, with the right hash. Raises nothing."""
        if not self.service.gateway:
            return False
        try:
            answer = await self._http.ask(
                "GET",
                f"{self.service.gateway}/ipfs/{cid}",
                params={"format": "raw"},
                headers={"accept": "application/vnd.ipld.raw"},
                authorized=False,
                seconds=limits.FETCH_BACK_SECONDS,
                most=4 * limits.MIB,
            )
        except ServiceError:
            return False
        return verify_block(cid.multihash, answer)

    def _url(self, request_id: str) -> str:
        return f"{self.service.url}/pins/{quote(request_id, safe='')}"

    def _status(self, cid: CID, answer: bytes) -> PinStatus:
        status = answers.pin_status(json_or_none(answer))
        if status is None:
            raise self._nonsense("the status of a pin")
        if status.cid.to_v1() != cid.to_v1():
            raise ServiceError(
                "answer",
                f"The pinning service {self.service.name} was asked about {cid}, and answers about {status.cid}.",
            )
        return status

    def _nonsense(self, expected: str) -> ServiceError:
        return ServiceError(
            "answer",
            f"The pinning service {self.service.name} answers with something that is not {expected}. Check its URL in "
            "the settings; it is asked again later.",
        )
