"""HTTP to one service: careful with the token, and every failure in words that name the service.

The token goes to the service's own scheme, host and port and nowhere else: a redirect that leads away from there is an
error that names the other host. It is taken out of whatever is shown, should a service send it back. What is the same
for all HTTP of ours is in `kachery_p2p.http`.
"""

from __future__ import annotations

import base64
import time
from collections.abc import AsyncIterable, Callable, Mapping
from typing import Any
from urllib.parse import urlsplit

import trio

from kachery_p2p.http import HttpAnswer, HttpBounds, HttpClient, HttpFailure, HttpProblem, Redirect, retry_after
from kachery_p2p.pinning import answers, limits
from kachery_p2p.pinning.answers import ServiceError
from kachery_p2p.pinning.config import PinService

_BOUNDS = HttpBounds(
    connect=limits.CONNECT_SECONDS,
    redirects=limits.MAX_REDIRECTS,
    connections=2 * limits.MAX_STEPS_PER_SERVICE,
    idle=limits.MAX_STEPS_PER_SERVICE,
    write=limits.STALL_SECONDS,
)


class ServiceHttp:
    """Requests to one service. Must be closed.

    Args:
        service: whose URL and token are used.
        seconds: for a request, where it is not said otherwise.
        wall: seconds since 1970.
    """

    def __init__(
        self,
        service: PinService,
        *,
        seconds: float = limits.REQUEST_SECONDS,
        wall: Callable[[], float] = time.time,
    ) -> None:
        self.service = service
        self._seconds = seconds
        self._wall = wall
        self._http = HttpClient(_BOUNDS, headers={"accept": "application/json"})

    async def close(self) -> None:
        """Close all connections."""
        await self._http.close()

    async def ask(
        self,
        method: str,
        url: str,
        *,
        params: Mapping[str, str] | None = None,
        json: Any = None,
        content: AsyncIterable[bytes] | None = None,
        headers: Mapping[str, str] | None = None,
        authorized: bool = True,
        seconds: float | None = None,
        most: int = limits.MAX_ANSWER_SIZE,
    ) -> bytes:
        """Send a request and read the answer.

        Args:
            method: such as "GET".
            url: within the service, or, with `authorized` False, anywhere.
            params: added to the query of the URL.
            json: a body that is sent as JSON.
            content: a body that is sent as it comes; such a request is not sent on to where a redirect leads.
            headers: further ones.
            authorized: whether the token is sent.
            seconds: for all of it; with `content`, only for the answer after the last byte of the body.
            most: bytes read of the answer's body.

        Returns:
            The body of a good answer.

        Raises:
            ServiceError: it failed, or its status is not a success.
        """
        seconds = self._seconds if seconds is None else seconds
        every = {**(self._authorization() if authorized else {}), **(headers or {})}
        request = self._http.ask(
            method,
            url,
            params=params,
            json=json,
            content=content,
            headers=every,
            seconds=seconds,
            follow=self._may_follow,
        )
        try:
            # An upload takes as long as it takes; one that stalls is noticed by the bounds of each write and read.
            with trio.fail_after(seconds if content is None else float("inf")):
                async with request as answer:
                    return await self._read(answer, most)
        except trio.TooSlowError:
            raise self._too_slow() from None
        except HttpFailure as failure:
            raise self._failed(failure) from None

    def clean(self, text: str) -> str:
        """Text without the token in it."""
        token = self.service.token
        for secret in {token, *self._authorization().values(), *token.split(":")[2:]}:
            if len(secret) > 3:
                text = text.replace(secret, "(token)")
        return text

    # --- inside -----------------------------------------------------------------------------------------------------

    def _authorization(self) -> dict[str, str]:
        token = self.service.token
        if not token:
            return {}
        if token.startswith("basic:"):
            return {"authorization": "Basic " + base64.b64encode(token[6:].encode()).decode()}
        return {"authorization": f"Bearer {token}"}

    def _may_follow(self, redirect: Redirect) -> bool:
        """Follow a redirect that stays within the service and keeps its method.

        Raises:
            ServiceError: it does not.
        """
        old, new = urlsplit(redirect.before), urlsplit(redirect.after)
        if (old.scheme, old.netloc) != (new.scheme, new.netloc):
            raise ServiceError(
                "redirect",
                f"The pinning service {self.service.name} sends us on to "
                f"{new.scheme}://{answers.one_line(new.netloc)}, and the token is not sent to another host or port. If "
                "you trust it, put that address into the settings.",
            )
        if not redirect.same_method:
            raise ServiceError(
                "redirect",
                f"The pinning service {self.service.name} sends us on to another page (status {redirect.status}), "
                "most likely one for people. Check its URL in the settings.",
            )
        return True

    async def _read(self, answer: HttpAnswer, most: int) -> bytes:
        if 200 <= answer.status < 300:
            return await answer.read(most)
        words = self.clean(answers.said(await answer.start(limits.MAX_LINE_SIZE)))
        if 300 <= answer.status < 400:
            raise ServiceError(
                "redirect",
                f"The pinning service {self.service.name} sends us elsewhere (status {answer.status}). Check its URL "
                "in the settings.",
            )
        pause = retry_after(answer.headers, self._wall(), longest=limits.MAX_RETRY_AFTER)
        raise answers.refusal(self.service.name, answer.status, words, pause)

    def _too_slow(self) -> ServiceError:
        return ServiceError("slow", f"The pinning service {self.service.name} did not answer in time.")

    def _failed(self, failure: HttpFailure) -> ServiceError:
        """The same for the user."""
        name, words = self.service.name, self.clean(answers.one_line(failure.words))
        if failure.problem is HttpProblem.SLOW:
            return self._too_slow()
        if failure.problem in (HttpProblem.REDIRECT, HttpProblem.TOO_LARGE):
            problem = "redirect" if failure.problem is HttpProblem.REDIRECT else "answer"
            return ServiceError(problem, f"The pinning service {name} {str(failure).removeprefix('It ')}")
        if failure.problem is HttpProblem.CLIENT:
            return ServiceError("network", str(failure))
        if failure.problem is HttpProblem.BROKEN:
            return ServiceError("network", f"The line to the pinning service {name} broke: {words}.")
        if not words:
            return ServiceError(
                "network",
                f"The pinning service {name} could not be reached within {limits.CONNECT_SECONDS:g} seconds. It is "
                "tried again later.",
            )
        text = f"The pinning service {name} cannot be reached: {words}. It is tried again later."
        if "certificate" in words and ("expired" in words or "not yet valid" in words):
            text += " If the clock of this machine is wrong, set it right: by it, the certificate is not valid now."
        return ServiceError("network", text)
