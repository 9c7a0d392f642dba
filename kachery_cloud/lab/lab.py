"""What each part of the lab gets: who asks, the database, the node. Handed to `routes(lab)` of each of them.

How a part is made::

    def routes(lab: Lab) -> list[Route]:
        async def listed(request: Request) -> Response:
            caller = await lab.require(request)
            found = await lab.do(things.of, caller.member.id)
            return Json({"items": found, "next": None})

        return [Route("/api/v1/things", listed)]

and its name in `app.PARTS`. A method that is not among those of a route is refused, HEAD goes with GET. A request that
changes something in a session has shown `X-CSRF-Token` when `who` or `require` returns. What `lab.do` is given may use
SQLite and the disk.
"""

from __future__ import annotations

import hmac
import ipaddress
import time
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any, Literal, TypeVar
from urllib.parse import urlsplit

import trio
from starlette.requests import Request

from kachery_cloud.lab import limits
from kachery_cloud.lab.accounts_store import CLIENT, Accounts, Client, Member, Role
from kachery_cloud.lab.answers import forbidden, read_body, unauthorized
from kachery_cloud.lab.database import LabDatabase
from kachery_cloud.lab.files import Files, Uploads
from kachery_cloud.lab.invitations import Invitations
from kachery_cloud.lab.nonces import Nonces
from kachery_cloud.lab.openid import ProviderClient
from kachery_cloud.lab.origins import host_of, is_loopback, normal
from kachery_cloud.lab.projects import Projects
from kachery_cloud.lab.rates import Rate
from kachery_cloud.lab.registrations import Registrations
from kachery_cloud.lab.sessions import COOKIE, SECURE_COOKIE, Session, Sessions
from kachery_cloud.lab.signed_requests import BadSignature, Signed, check
from kachery_cloud.lab.usage_store import Usage
from kachery_cloud.settings.secret_file import client_secret
from kachery_p2p.groups import group_of
from kachery_p2p.node.pin_server import PinKeeper
from kachery_p2p.node.served_log import LOG_NAME, ServedLog
from kachery_p2p.pinning.server.limits import DEFAULT_UPLOAD
from kachery_p2p.pinning.server.requests import Refusal
from kachery_p2p.pinning.server.store import PinStore

if TYPE_CHECKING:
    from starlette.responses import Response

    from kachery_cloud.settings.config import Config
    from kachery_p2p.http_server import HttpServer
    from kachery_p2p.node.node import Node
    from kachery_p2p.pinning.server.keeper import Keeper
    from kachery_p2p.pinning.server.queue import PinQueue

T = TypeVar("T")

#: Threads that look into the database and at the disk for requests.
_THREADS = 8
#: Settings that hold from when they are read again.
_RELOADED = ("lab_name", "lab_members", "lab_url", "lab_gateway", "openid_client_secret", "openid_client_secret_file")
_SAFE = ("GET", "HEAD", "OPTIONS")


@dataclass(frozen=True)
class Caller:
    """Who makes a request.

    Attributes:
        member: whose request it is.
        client: the computer that makes it, where it is one; None for a browser.
        how: how that was shown.
        session: of the browser.
    """

    member: Member
    client: Client | None
    how: Literal["session", "token", "signature"]
    session: Session | None = None


class Lab:
    """The lab.

    Args:
        config: the settings; `config.directory` is the data directory.
        node: of this process.
        pins: the list of the pinning service, in which clients have their tokens.
        queue: that works it off, to be woken when there is something new; None where none does.
        keeper: of the node, for pins; made here where there is none.
        tls: whether the listener speaks HTTPS itself.
        wall: seconds since 1970.

    Attributes:
        url: where the listener is; `base` gives what others are told.
        gateway_server: the gateway of this node; None without one.
        projects, files, usage: what members have stored, in which projects, and how much.
        uploads: what comes through the page.
        provider: at which members sign in; None where they do so by invitations alone.
    """

    def __init__(
        self,
        config: Config,
        node: Node,
        pins: PinStore,
        *,
        queue: PinQueue | None = None,
        keeper: Keeper | None = None,
        tls: bool = False,
        wall: Callable[[], float] = time.time,
    ) -> None:
        self.config = config
        self.queue = queue
        self.node = node
        self.pins = pins
        self.wall = wall
        self.url = ""
        self.gateway_server: HttpServer | None = None
        self.database = LabDatabase(config.directory, wall=wall)
        self.accounts = Accounts(self.database, pins)
        self.sessions = Sessions(self.database)
        self.invitations = Invitations(self.database)
        self.registrations = Registrations(self.database)
        self.nonces = Nonces(self.database)
        self.keeper = keeper or PinKeeper(node)
        self.projects = Projects(self.database, self.accounts, pins, node)
        self.files = Files(self.projects, self.accounts, pins)
        served = node.served_log or ServedLog(config.directory / LOG_NAME, wall=wall)
        self.usage = Usage(served, self.projects.store, self.accounts, pins, node.repo, wall)
        most = DEFAULT_UPLOAD if config.max_pin_bytes is None else config.max_pin_bytes
        self.uploads = Uploads(config.directory, node, pins, self.keeper, self.wake_pins, most_bytes=most)
        self.provider = self._provider()
        self._tls = tls
        self._threads = trio.CapacityLimiter(_THREADS)
        self._addresses = Rate(limits.ADDRESS_RATE, time.monotonic)
        self._accounts = Rate(limits.ACCOUNT_RATE, time.monotonic)
        self._entries = Rate(limits.ENTRY_RATE, time.monotonic)

    def node_addresses(self) -> list[str]:
        """Multiaddrs at which others can dial the node; those of the loopback last."""
        return self.keeper.addresses()

    def wake_pins(self) -> None:
        """Have the queue of pins look at what is new."""
        if self.queue is not None:
            self.queue.wake()

    async def do(self, work: Callable[..., T], *args: Any) -> T:
        """Do something that waits for the disk, in a thread."""
        return await trio.to_thread.run_sync(work, *args, limiter=self._threads)

    # --- where it is ------------------------------------------------------------------------------------------------

    def base(self, request: Request) -> str:
        """The URL under which who asks reaches the lab, without a slash at its end: that of the settings, or his."""
        if self.config.lab_url is not None:
            return self.config.lab_url
        return f"{'https' if self._tls else 'http'}://{request.headers.get('host', '')}"

    def gateway(self, request: Request) -> str | None:
        """The URL under which who asks reaches the gateway of this node; None where there is none for him."""
        if self.config.lab_gateway is not None:
            return self.config.lab_gateway
        server = self.gateway_server
        if server is None:
            return None
        authority = request.headers.get("host", "")
        if is_loopback(authority):
            return server.url
        # It answers to addresses, and to the names that it was given.
        host = host_of(authority)
        if not server.open_to_others or not (host in self.config.gateway_names or _is_address(host)):
            return None
        return f"http://{_authority(host)}:{urlsplit(server.url).port}"

    def is_secure(self, request: Request) -> bool:
        """Whether he reaches it over HTTPS."""
        return self.base(request).startswith("https:")

    def address(self, request: Request) -> str:
        """The network that a request counts for.

        A proxy before us is on this machine and says for whom it asks (`X-Forwarded-For`); only where the settings name
        the URL at which it listens is it believed.
        """
        host = "" if request.client is None else request.client.host
        if self.config.lab_url is not None and is_loopback(_authority(host)):
            last = request.headers.get("x-forwarded-for", "").rpartition(",")[2].strip()
            try:
                host = str(ipaddress.ip_address(last))
            except ValueError:
                pass
        return group_of(host)

    # --- how often --------------------------------------------------------------------------------------------------

    def count(self, request: Request) -> None:
        """Count a request for its address.

        Raises:
            Refusal: there are too many.
        """
        _take(self._addresses, self.address(request))

    def count_entry(self, request: Request) -> None:
        """Count a try to come in: to sign in, to register, to use an invitation.

        Raises:
            Refusal: there are too many.
        """
        _take(self._entries, self.address(request))

    # --- who asks ---------------------------------------------------------------------------------------------------

    async def who(self, request: Request) -> Caller | None:
        """Who makes a request, by a signature, a token or a session.

        Returns:
            None where nothing is shown, or a session that is over.

        Raises:
            Refusal: what is shown is wrong; or a session is to change something, and the request may come from a page
                of somebody else.
        """
        headers = request.headers
        if "signature-input" in headers or "signature" in headers:
            signed = await self._signed(request)
            caller = await self.do(self._of_client, signed.peer, "signature")
            if caller is None:
                raise unauthorized(
                    f"{signed.peer} is not registered here. Register it with: kachery-cloud-init --node URL",
                    "NOT_REGISTERED",
                )
            _take(self._accounts, caller.member.id)
            await self._take_once(signed)
            return caller
        if "authorization" in headers:
            return await self._bearer(headers["authorization"])
        secret = self.session_secret(request)
        caller = None if secret is None else await self.do(self._of_session, secret)
        if caller is None or caller.session is None:
            return None
        if request.method not in _SAFE:
            self.check_origin(request)
            self._check_csrf(request, caller.session)
        _take(self._accounts, caller.member.id)
        return caller

    async def require(self, request: Request, role: Role = "member") -> Caller:
        """The same, where somebody has to be known.

        Raises:
            Refusal: nobody is, or his role is not enough; and as `who` does.
        """
        caller = await self.who(request)
        if caller is None:
            raise unauthorized("Sign in first.")
        if role == "administrator" and not caller.member.is_administrator:
            raise forbidden("This is for administrators of the lab.")
        return caller

    async def check_figures(self, request: Request) -> None:
        """See that somebody may have the figures of the node: they say how much the lab does.

        Programs of this machine may; so may administrators, and whoever has a token that the operator made.

        Raises:
            Refusal: it is somebody else.
        """
        headers = request.headers
        direct = "x-forwarded-for" not in headers and "forwarded" not in headers
        if direct and request.client is not None and is_loopback(_authority(request.client.host)):
            return
        scheme, _, text = headers.get("authorization", "").strip().partition(" ")
        token = await self.do(self.pins.token, text.strip()) if scheme.lower() == "bearer" else None
        if token is None or token.name.startswith(CLIENT):
            await self.require(request, "administrator")

    async def signer(self, request: Request) -> str:
        """The peer ID that has signed a request, whoever that is; the same request is taken once.

        Raises:
            Refusal: nobody has.
        """
        signed = await self._signed(request)
        await self._take_once(signed)
        return signed.peer

    async def _take_once(self, signed: Signed) -> None:
        if not await self.do(self.nonces.take, signed):
            raise unauthorized("This request was made before: sign a new one.", "REPLAYED")

    async def _signed(self, request: Request) -> Signed:
        host = request.headers.get("host", "")
        scheme = "https" if self.is_secure(request) else "http"
        self._check_signed_host(request, host)
        body = await read_body(request, limits.MAX_SIGNED)
        path = request.scope["raw_path"].decode("ascii", "replace")
        query = request.scope["query_string"].decode("ascii", "replace")
        headers = {name: ", ".join(request.headers.getlist(name)) for name in request.headers}
        now = self.wall()
        try:
            return check(request.method, normal(scheme, host), path, query, headers, body, now=now)
        except BadSignature as error:
            raise unauthorized(str(error), error.reason) from None

    def _check_signed_host(self, request: Request, host: str) -> None:
        """A request that was signed for somebody else, at an address which we do not know for ours, is not for us."""
        public = self.config.lab_url
        own = [] if public is None else [public.partition("://")[2]]
        server = request.scope.get("server")
        if server is not None:
            own.append(f"{_authority(server[0])}:{server[1]}")
        schemes = ("https",) if self._tls else ("http", "https")
        if not is_loopback(host) and not any(
            normal(scheme, host) == normal(scheme, each) for scheme in schemes for each in own
        ):
            raise unauthorized(
                f"This lab does not know that it is reached at {host}, so it takes no signed requests there. Those who "
                "run it can tell it so with the setting lab_url.",
                "UNKNOWN_HOST",
            )

    async def _bearer(self, header: str) -> Caller:
        scheme, _, text = header.strip().partition(" ")
        caller = None
        if scheme.lower() == "bearer" and text.strip():
            caller = await self.do(self._of_token, text.strip())
        if caller is None:
            raise unauthorized("This token is none of a client here.", "INVALID_TOKEN")
        _take(self._accounts, caller.member.id)
        return caller

    # Each in one go, in a thread: all requests come by here.

    def _of_session(self, secret: str) -> Caller | None:
        session = self.sessions.find(secret)
        member = None if session is None else self.accounts.member(session.member)
        if member is None:
            return None
        self.accounts.saw(member.id)
        return Caller(member, None, "session", session)

    def _of_token(self, text: str) -> Caller | None:
        token = self.pins.token(text)
        if token is None or not token.name.startswith(CLIENT):
            return None
        return self._of_client(token.name.removeprefix(CLIENT), "token")

    def _of_client(self, peer: str, how: Literal["token", "signature"]) -> Caller | None:
        client = self.accounts.client(peer)
        member = None if client is None else self.accounts.member(client.member)
        if client is None or member is None:
            return None
        self.accounts.saw(member.id, peer)
        return Caller(member, client, how)

    # --- browsers ---------------------------------------------------------------------------------------------------

    def check_origin(self, request: Request) -> None:
        """See that a request which changes something does not come from a page of somebody else.

        Raises:
            Refusal: it does, by what the browser says of it.
        """
        site, origin = request.headers.get("sec-fetch-site"), request.headers.get("origin")
        if site == "same-origin" and origin == "null":
            return  # a form of a page of ours that sends no referrer
        if site not in (None, "same-origin", "none") or origin not in (None, self.base(request)):
            raise Refusal(
                403,
                "OTHER_ORIGIN",
                f"This request comes from a page of another origin than {self.base(request)}, where this lab is.",
            )

    def _check_csrf(self, request: Request, session: Session) -> None:
        shown = request.headers.get("x-csrf-token", "").encode("latin-1", "replace")
        if not hmac.compare_digest(shown, session.csrf.encode("ascii")):
            raise Refusal(
                403, "CSRF", "The header X-CSRF-Token is missing or wrong; GET /api/v1/me says what it has to be."
            )

    def session_secret(self, request: Request) -> str | None:
        """What the cookie of the browser says."""
        return request.cookies.get(SECURE_COOKIE if self.is_secure(request) else COOKIE)

    async def begin_session(self, request: Request, response: Response, member: str) -> None:
        """Sign somebody in: the browser gets a new session, and one that it had ends."""
        secret = await self.do(self.sessions.begin, member, self.session_secret(request))
        self.set_cookie(request, response, COOKIE, secret, limits.SESSION_LIFE)

    def set_cookie(self, request: Request, response: Response, name: str, value: str, seconds: float) -> None:
        """Set a cookie of ours, which no script can read; over HTTPS as `__Host-` and its name."""
        secure = self.is_secure(request)
        response.set_cookie(
            f"__Host-{name}" if secure else name,
            value,
            max_age=int(seconds),
            path="/",
            secure=secure,
            httponly=True,
            samesite="lax",
        )

    def cookie(self, request: Request, name: str) -> str | None:
        """A cookie that `set_cookie` has set."""
        return request.cookies.get(f"__Host-{name}" if self.is_secure(request) else name)

    # --- settings ---------------------------------------------------------------------------------------------------

    @property
    def reloaded(self) -> tuple[str, ...]:
        """The settings that `use` takes up: those that need no restart."""
        return _RELOADED

    def check(self, config: Config) -> None:
        """See that `use` can take settings up.

        Raises:
            ConfigError: there is no secret where they say.
        """
        if config.openid_client_id:
            client_secret(config)

    def use(self, config: Config) -> None:
        """Take up those of some settings that need no restart (`reloaded`)."""
        self.config = replace(self.config, **{name: getattr(config, name) for name in _RELOADED})

    def _provider(self) -> ProviderClient | None:
        config = self.config
        if not config.openid_client_id:
            return None
        self.check(config)  # what is wrong with the secret is said when the node starts
        # It is read anew for each sign-in: it may be changed meanwhile.
        return ProviderClient(
            config.openid_issuer, config.openid_client_id, lambda: client_secret(self.config), wall=self.wall
        )

    # --- upkeep -----------------------------------------------------------------------------------------------------

    async def begin(self) -> None:
        """The process has begun: see that no token is left of what is no client any more."""
        await self.do(self.accounts.reconcile)

    async def tidy(self) -> None:
        """Take away what is over; it is not used before that, either."""
        await self.do(self.sessions.forget_old)

    async def close(self) -> None:
        """Close the database, and connections to the provider; they are opened again when they are needed."""
        if self.provider is not None:
            await self.provider.close()
        self.database.close()


def _authority(host: str) -> str:
    """An IP address as it stands in a URL."""
    return f"[{host}]" if ":" in host else host


def _is_address(host: str) -> bool:
    try:
        ipaddress.ip_address(host)
    except ValueError:
        return False
    return True


def _take(rate: Rate, who: str) -> None:
    wait = rate.take(who)
    if wait:
        seconds = int(wait) + 1
        raise Refusal(
            429, "TOO_MANY_REQUESTS", f"There were too many requests. Try again in {seconds} seconds.",
            {"retry-after": str(seconds)},
        )  # fmt: skip
