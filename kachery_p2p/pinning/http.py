"""HTTP as the pinning room needs it: one client for each service, bounded, and careful with the token.

The token goes to the service's own scheme, host and port and nowhere else: a redirect that leads away from there is an
error that names the other host. It is taken out of whatever is shown, should a service send it back. Proxies come from
the environment (HTTPS_PROXY, NO_PROXY ...) as with any HTTP client, and TLS certificates are verified.
"""

from __future__ import annotations

import base64
import contextlib
import importlib
import time
from collections.abc import AsyncGenerator, AsyncIterable, Callable, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, cast

import trio

from kachery_p2p import __version__
from kachery_p2p.errors import plain_words
from kachery_p2p.pinning import answers, limits
from kachery_p2p.pinning.answers import ServiceError
from kachery_p2p.pinning.config import PinService

if TYPE_CHECKING:
    import httpx


@dataclass(frozen=True)
class ServiceAnswer:
    """An HTTP answer, read to its end."""

    status: int
    headers: Mapping[str, str]
    body: bytes


class HttpClient:
    """Requests to one service. Must be closed.

    Args:
        wall: seconds since 1970.
    """

    def __init__(self, service: PinService, *, wall: Callable[[], float] = time.time) -> None:
        self._service = service
        self._wall = wall
        self._client: httpx.AsyncClient | None = None
        self._opening = trio.Lock()

    async def close(self) -> None:
        """Close all connections."""
        if self._client is not None:
            with trio.move_on_after(1, shield=True):
                await self._client.aclose()
            self._client = None

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
    ) -> ServiceAnswer:
        """Send a request and read the answer.

        Args:
            url: within the service, or, with `authorized` False, anywhere; then no token is sent.
            content: a body that is sent as it comes; such a request is not sent on to where a redirect leads.
            seconds: for all of it, REQUEST_SECONDS where it is not said; with `content`, only for the answer after the
                last byte of the body.
            most: bytes read of the answer's body.

        Raises:
            ServiceError: it failed, or its status is not a success.
        """
        name = self._service.name
        seconds = limits.REQUEST_SECONDS if seconds is None else seconds
        client = await self._open()
        httpx = importlib.import_module("httpx")
        every = {**(self._authorization() if authorized else {}), **(headers or {})}
        timeout = httpx.Timeout(seconds, connect=limits.CONNECT_SECONDS, write=limits.STALL_SECONDS)
        try:
            # An upload takes as long as it takes; a stalled one is noticed by the timeouts of each write and read.
            with trio.fail_after(seconds if content is None else float("inf")):
                request = client.build_request(
                    method, url, params=params, json=json, content=content, headers=every, timeout=timeout
                )
                for _ in range(limits.MAX_REDIRECTS + 1):
                    response = await client.send(request, stream=True, follow_redirects=False)
                    try:
                        if response.next_request is None or content is not None:
                            return await self._read(response, most)
                        request = self._next(request, response)
                    finally:
                        with trio.move_on_after(1, shield=True):
                            await response.aclose()
        except (trio.TooSlowError, httpx.ReadTimeout, httpx.WriteTimeout, httpx.PoolTimeout):
            raise ServiceError("slow", f"The pinning service {name} did not answer in time.") from None
        except httpx.ConnectTimeout:
            raise ServiceError(
                "network",
                f"The pinning service {name} could not be reached within {limits.CONNECT_SECONDS:g} seconds. It is "
                "tried again later.",
            ) from None
        except httpx.ConnectError as error:
            raise ServiceError("network", self._unreachable(error)) from None
        except (httpx.HTTPError, httpx.InvalidURL, httpx.StreamError, OSError, ValueError) as error:
            raise ServiceError(
                "network",
                self.clean(f"The line to the pinning service {name} broke: {answers.printable(plain_words(error))}."),
            ) from None
        raise ServiceError(
            "redirect", f"The pinning service {name} sends us on more than {limits.MAX_REDIRECTS} times."
        )

    def clean(self, text: str) -> str:
        """Text without the token in it."""
        token = self._service.token
        for secret in {token, *self._authorization().values(), *token.split(":")[2:]}:
            if len(secret) > 3:
                text = text.replace(secret, "(token)")
        return text

    # --- inside -----------------------------------------------------------------------------------------------------

    def _authorization(self) -> dict[str, str]:
        token = self._service.token
        if not token:
            return {}
        if token.startswith("basic:"):
            return {"authorization": "Basic " + base64.b64encode(token[6:].encode()).decode()}
        return {"authorization": f"Bearer {token}"}

    async def _open(self) -> httpx.AsyncClient:
        """The HTTP client; made when it is first needed, in a thread, since importing it takes a fifth of a second."""
        async with self._opening:
            if self._client is None:

                def make() -> httpx.AsyncClient:
                    httpx = importlib.import_module("httpx")
                    return httpx.AsyncClient(
                        headers={
                            "accept": "application/json",
                            # Compressed answers could unfold to anything, and these are small.
                            "accept-encoding": "identity",
                            "user-agent": f"kachery-p2p/{__version__}",
                        },
                        limits=httpx.Limits(
                            max_connections=2 * limits.MAX_STEPS_PER_SERVICE,
                            max_keepalive_connections=limits.MAX_STEPS_PER_SERVICE,
                        ),
                    )

                try:
                    self._client = await trio.to_thread.run_sync(make)
                except (ImportError, OSError, ValueError) as error:
                    # A proxy or a file of certificates that the environment names, most likely.
                    raise ServiceError("network", f"The HTTP client cannot be made: {error}.") from error
            return self._client

    def _next(self, request: httpx.Request, response: httpx.Response) -> httpx.Request:
        """The request that a redirect asks for, if it stays within the service and keeps its method."""
        following = response.next_request
        assert following is not None
        old, new = request.url, following.url
        if (old.scheme, old.host, old.port) != (new.scheme, new.host, new.port):
            raise ServiceError(
                "redirect",
                f"The pinning service {self._service.name} sends us on to "
                f"{new.scheme}://{answers.printable(new.netloc.decode('ascii', 'replace'))}, and the token is not sent "
                "to another host or port. If you trust it, put that address into the settings.",
            )
        if following.method != request.method:
            raise ServiceError(
                "redirect",
                f"The pinning service {self._service.name} sends us on to another page (status "
                f"{response.status_code}), most likely one for people. Check its URL in the settings.",
            )
        # httpx takes the token from every redirect it is not sure of; this one stays within the service.
        if "authorization" in request.headers:
            following.headers["authorization"] = request.headers["authorization"]
        return following

    async def _read(self, response: httpx.Response, most: int) -> ServiceAnswer:
        body = bytearray()
        good = 200 <= response.status_code < 300
        if not good:
            most = limits.MAX_LINE_SIZE
        stream = cast("AsyncGenerator[bytes, None]", response.aiter_raw())
        async with contextlib.aclosing(stream) as chunks:
            async for chunk in chunks:
                body += chunk
                if len(body) > most:
                    if good:
                        raise ServiceError(
                            "answer", f"The pinning service {self._service.name} answers with more than {most} bytes."
                        )
                    break
        if good:
            return ServiceAnswer(response.status_code, response.headers, bytes(body))
        words = self.clean(answers.said(bytes(body[:most])))
        if 300 <= response.status_code < 400:
            raise ServiceError(
                "redirect",
                f"The pinning service {self._service.name} sends us elsewhere (status {response.status_code}). Check "
                "its URL in the settings.",
            )
        pause = answers.retry_after(response.headers, self._wall())
        raise answers.refusal(self._service.name, response.status_code, words, pause)

    def _unreachable(self, error: Exception) -> str:
        words = answers.printable(plain_words(error))
        text = f"The pinning service {self._service.name} cannot be reached: {words}. It is tried again later."
        if "certificate" in words and ("expired" in words or "not yet valid" in words):
            text += " If the clock of this machine is wrong, set it right: by it, the certificate is not valid now."
        return self.clean(text)
