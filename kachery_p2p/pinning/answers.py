"""Reading what services answer. No input or output.

All of it was written by others. So it is cut to a bounded length and to what can be printed, and what makes no sense is
an error in plain words.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from kachery_p2p.dag.cid import CID
from kachery_p2p.errors import InvalidCID, UnsupportedCID
from kachery_p2p.json_reader import json_or_none
from kachery_p2p.pinning import limits

#: Problems that can be put right at the service, without us hearing of it: tried again now and then.
ACCESS = ("unauthorized", "forbidden", "not_found", "redirect", "funds")
#: Those of them that stop every root, not only one.
WHOLE_SERVICE = ("unauthorized", "forbidden", "not_found", "redirect")
#: How the details of a request that has failed begin where the quota is crossed, or one pin may not be so large. A
#: service that has to fetch first, to know the size, can say it only so.
NO_FUNDS = "INSUFFICIENT_FUNDS"
#: Problems that stay as they are until the user does something.
FINAL = ("too_large", "bad_request", "over_limit")


class ServiceError(Exception):
    """A request to a service failed. The message is for the user and names the service.

    Attributes:
        problem: one word: one of ACCESS or FINAL, or `rate`, `server`, `network`, `slow`, `answer`, `gone`, `local`.
        pause: seconds for which the service asks to be left alone, if it does.
        said: what it said itself.
    """

    def __init__(self, problem: str, message: str, *, pause: float | None = None, said: str = "") -> None:
        super().__init__(message)
        self.problem = problem
        self.pause = pause
        self.said = said


@dataclass(frozen=True)
class PinStatus:
    """A request as a pinning service sees it.

    Attributes:
        status: `queued`, `pinning`, `pinned` or `failed`.
        delegates: multiaddrs of the service's peers.
        details: what the service says about it, empty where it says nothing.
        created: when it was made, as the service wrote it.
        meta: the words that were given with it, as far as the service has them.
    """

    request_id: str
    status: str
    cid: CID
    delegates: tuple[str, ...]
    details: str
    created: str
    meta: Mapping[str, str] = field(default_factory=dict[str, str])


def one_line(text: object, longest: int = limits.MAX_WORDS) -> str:
    """Words of a stranger on one line, without what a terminal would obey; empty for what is no text."""
    if not isinstance(text, str):
        return ""
    words = " ".join("".join(c if c.isprintable() else " " for c in text[: 4 * longest]).split())
    return words if len(words) <= longest else words[:longest] + " ..."


def pin_status(value: Any) -> PinStatus | None:
    """Read one PinStatus object of the specification.

    Returns:
        None when it is anything else.
    """
    if not isinstance(value, dict):
        return None
    request_id, status, pin = value.get("requestid"), value.get("status"), value.get("pin")
    if not isinstance(request_id, str) or not 0 < len(request_id) <= limits.MAX_REQUEST_ID:
        return None
    if status not in ("queued", "pinning", "pinned", "failed") or not isinstance(pin, dict):
        return None
    if not request_id.isprintable():
        return None
    try:
        cid = CID.parse(pin["cid"])
    except (InvalidCID, UnsupportedCID, KeyError, TypeError, AttributeError):
        return None
    delegates, meta = value.get("delegates"), pin.get("meta")
    info = value.get("info")
    details = info.get("status_details") if isinstance(info, dict) else None
    return PinStatus(
        request_id,
        status,
        cid,
        tuple(multiaddrs(delegates if isinstance(delegates, list) else [])),
        one_line(details),
        one_line(value.get("created"), 64),
        {key: word for key, word in meta.items() if isinstance(word, str)} if isinstance(meta, dict) else {},
    )


def multiaddrs(values: list[Any]) -> list[str]:
    """Those that look like multiaddrs. Whether they can be dialled is found out by dialling."""
    good = [v for v in values[: limits.MAX_ADDRESSES] if isinstance(v, str) and v.startswith("/") and len(v) < 400]
    return [v for v in dict.fromkeys(good) if v.isprintable()]


def pin_list(value: Any) -> list[PinStatus] | None:
    """Read a list of pins: a PinResults object of the specification. Members of the list that are no pins are left out.

    Returns:
        None when it is not such an object.
    """
    results = value.get("results") if isinstance(value, dict) else None
    if results is None and isinstance(value, dict) and value.get("count") == "0":
        results = []  # some services leave an empty list out
    if not isinstance(results, list):
        return None
    return [pin for each in results[: limits.MAX_LOOKED_UP] if (pin := pin_status(each)) is not None]


def said(body: bytes) -> str:
    """What an error answer says, in the form of the specification, in that of Kubo, or as plain text."""
    value = json_or_none(body)
    if isinstance(value, dict):
        error = value.get("error")
        if isinstance(error, dict):
            parts = [one_line(error.get("reason")), one_line(error.get("details"))]
            return ": ".join(part for part in parts if part)
        return one_line(error) or one_line(value.get("Message")) or one_line(value.get("message"))
    text = body[: 4 * limits.MAX_WORDS].decode("utf-8", "replace")
    return "" if "<" in text[:64] else one_line(text)


def refusal(name: str, status: int, words: str, pause: float | None) -> ServiceError:
    """What an HTTP status other than success means, for the user.

    Args:
        name: of the service.
        status: the HTTP status.
        words: what the service says itself.
        pause: seconds for which it asks to be left alone, if it does.
    """
    reason = f" It says: {words.rstrip('.')}." if words else ""

    def error(problem: str, text: str) -> ServiceError:
        return ServiceError(problem, text, pause=pause, said=words)

    if status == 401:
        return error(
            "unauthorized",
            f"The pinning service {name} does not accept the token (status 401).{reason} Make a new token at the "
            "service and put it into the settings.",
        )
    if status == 403:
        return error(
            "forbidden",
            f"The token does not allow this at the pinning service {name} (status 403).{reason} Use a token with the "
            "right to pin, or ask those who run the service.",
        )
    if status in (404, 405):
        return error(
            "not_found",
            f"At the URL of {name} there is no such service (status {status}).{reason} Check its URL and its kind in "
            "the settings.",
        )
    if status in (402, 409):
        return error(
            "funds",
            f"The pinning service {name} takes nothing more (status {status}).{reason} Its quota or credit is used up: "
            "remove pins there, or change the plan.",
        )
    if status == 413:
        return error(
            "too_large",
            f"This is too large for the pinning service {name} (status 413).{reason} Use another service, or keep it "
            "alive with kachery-cloud-node on a machine that stays on.",
        )
    if status == 429:
        return error("rate", f"The pinning service {name} says that we ask too often (status 429).{reason}")
    if status in (408, 425):
        return error("slow", f"The pinning service {name} gave up waiting for us (status {status}).{reason}")
    if 400 <= status < 500:
        return error(
            "bad_request",
            f"The pinning service {name} refuses this (status {status}).{reason} Nothing is sent again by itself; when "
            "the reason is gone, pin it again.",
        )
    return error("server", f"The pinning service {name} has failed (status {status}).{reason} It is asked again later.")
