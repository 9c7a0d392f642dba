"""The way out, multicast, and the peers and relays that the settings name."""

from __future__ import annotations

import errno
import secrets
import socket
from collections.abc import Awaitable, Callable, Iterable, Sequence
from typing import TYPE_CHECKING

import trio

from kachery_cloud.doctor.findings import NOTHING, Finding, Report, found
from kachery_p2p.errors import DialError, InvalidAddress, KacheryError
from kachery_p2p.transport.addresses import Address, expand, parse_address

if TYPE_CHECKING:
    from kachery_cloud.doctor.facts import Facts

#: Where packets would go that go anywhere: addresses for documentation (RFC 5737, RFC 3849). Nothing is sent there.
_ANYWHERE = ((socket.AF_INET, "192.0.2.1"), (socket.AF_INET6, "2001:db8::1"))
#: Seconds to dial a peer, and to hear one's own multicast.
_DIAL_SECONDS, _ECHO_SECONDS = 10.0, 3.0
#: Peers that are dialled at once.
_DIALS = 8

#: Says whether there is a way to anywhere, by the family of the address.
Route = Callable[[socket.AddressFamily, str], bool]


# --- the way out -----------------------------------------------------------------------------------------------------


def has_route(family: socket.AddressFamily, host: str) -> bool:
    """Whether the system has a way to an address. Nothing is sent."""
    try:
        with socket.socket(family, socket.SOCK_DGRAM) as probe:
            probe.connect((host, 9))
            return True
    except OSError:
        return False


def check_route(facts: Facts, route: Route = has_route) -> Report:
    """Whether this machine has a way to other networks."""
    ways = [family for family, host in _ANYWHERE if route(family, host)]
    if ways:
        return Report("there is a way to other networks" + ("" if len(ways) > 1 else " (of one kind of address only)"))
    others = [addr for addr in expand([("0.0.0.0", 1), ("::", 1)]) if "/127.0.0.1/" not in addr and "/::1/" not in addr]
    needed = facts.config.public
    return found(
        [
            Finding(
                "This machine has no way to other networks: no default route"
                + ("." if others else ", and no address but that of itself."),
                "Nobody outside can be reached, and no name be looked up."
                if others
                else "Nobody can be reached, and nobody can reach it.",
                "Plug it in or join the Wi-Fi; `ip route` (macOS: netstat -rn) must show a line that begins with "
                "`default`. In a container, give it a network."
                + ("" if needed else " If it is meant to be alone, all is well."),
                grave=needed,
            )
        ]
    )


# --- multicast -------------------------------------------------------------------------------------------------------


async def check_multicast(facts: Facts) -> Report:
    """Whether multicast DNS works: a question of ours is heard by ourselves.

    It is the question that a node asks when it starts, on the same interfaces.
    """
    if not facts.config.mdns or facts.config.private:
        return NOTHING
    from kachery_p2p.routing.mdns.interfaces import System

    machine = System()
    own = await trio.to_thread.run_sync(expand, [("0.0.0.0", 4001)])
    interfaces = machine.interfaces([addr for addr in own if "/127." not in addr])
    if not interfaces:
        return NOTHING
    problems: list[str] = []
    heard: list[str] = []

    async def listen(name: str, link: object, question: bytes) -> None:
        with trio.move_on_after(_ECHO_SECONDS):
            try:
                link.send(question)  # type: ignore[attr-defined]
                while True:
                    if any(data == question for data, _, _ in await link.receive()):  # type: ignore[attr-defined]
                        heard.append(name)
                        return
            except OSError as error:
                problems.append(f"The system does not let multicast out on {name}: {error.strerror or error}.")
                return
        problems.append(f"What is sent by multicast on {name} (UDP port 5353) does not come back to this machine.")

    links: list[tuple[str, object]] = []
    try:
        for interface in interfaces:
            sockets, said = machine.open(interface)
            problems += said
            links += [(interface.name, each) for each in sockets if type(each).__name__ == "_Socket4"]
        async with trio.open_nursery() as nursery:
            for name, link in links:
                nursery.start_soon(listen, name, link, _question())
    finally:
        for _, link in links:
            link.close()  # type: ignore[attr-defined]
    if not problems:
        return Report("multicast works on " + ", ".join(dict.fromkeys(heard)))
    return found(
        [
            Finding(
                " ".join(problems),
                "Machines of the local network are not found by themselves, and do not find this one.",
                "Have the firewall let UDP port 5353 to 224.0.0.251 in and out (ufw allow 5353/udp; firewall-cmd "
                "--add-service=mdns). Without it, name the other machines in the setting `peers`, or set `mdns` off.",
                grave=False,
            )
        ]
    )


def _question() -> bytes:
    """Who is there? (RFC 6762), with an ID by which we know it again."""
    name = b"".join(bytes([len(part)]) + part for part in (b"_p2p", b"_udp", b"local")) + b"\0"
    return secrets.token_bytes(2) + bytes((0, 0, 0, 1, 0, 0, 0, 0, 0, 0)) + name + bytes((0, 12, 0, 1))


# --- peers -----------------------------------------------------------------------------------------------------------


async def check_peers(facts: Facts) -> Report:
    """Whether the peers that the settings name can be reached."""
    return await _check(
        facts, (*facts.config.peers, *facts.options.peers), "peer", "`peers`", "Nothing is loaded from it."
    )


async def check_relays(facts: Facts) -> Report:
    """Whether the relays that the settings name can be reached."""
    lost = "Machines outside that cannot dial this one do not reach it at all."
    return await _check(facts, facts.config.relays, "relay", "`relays`", lost)


async def check_bootstrap(facts: Facts) -> Report:
    """Whether the peers can be reached that the settings name to enter the DHT by. Public ones are not asked."""
    addresses = facts.config.bootstrap if facts.config.public else ()
    lost = "Where none of them answers, the DHT has no peers, and nothing is found by its URI alone."
    return await _check(facts, addresses or (), "peer to enter the DHT by", "`bootstrap`", lost)


async def _check(facts: Facts, addresses: Iterable[str], what: str, setting: str, lost: str) -> Report:
    addresses = list(dict.fromkeys(addresses))
    if not addresses:
        return NOTHING
    faults = await reach(facts, addresses)
    findings = [Finding(f"The {what} {addr} cannot be used: {say}", lost, todo + f" It is named in {setting}.") for
                addr, (say, todo) in faults.items()]  # fmt: skip
    count = len(addresses) - len(faults)
    return found(findings, f"{count} {what}{'s' if count != 1 else ''} can be reached")


async def reach(facts: Facts, addresses: Sequence[str]) -> dict[str, tuple[str, str]]:
    """Dial peers with an identity that is made for this; of those that cannot be used, what is wrong and what to do."""
    from kachery_p2p.repo.swarm_key import read_swarm_key

    try:
        key = await trio.to_thread.run_sync(lambda: read_swarm_key(facts.directory, warn=False))
    except KacheryError as error:
        return dict.fromkeys(addresses, (f"{error}", "Correct that file first."))
    faults: dict[str, tuple[str, str]] = {}
    limit = trio.CapacityLimiter(_DIALS)

    async def look(addr: str) -> None:
        async with limit:
            fault = await _fault(addr, key)
        if fault is not None:
            faults[addr] = fault

    async with trio.open_nursery() as nursery:
        for addr in addresses:
            nursery.start_soon(look, addr)
    return {addr: faults[addr] for addr in addresses if addr in faults}


async def _fault(addr: str, key: bytes | None) -> tuple[str, str] | None:
    try:
        address = parse_address(addr)
    except InvalidAddress as error:
        return f"{error}", "Correct the address."
    if address.problem:
        return f"{address.problem}.", "Give an address of it with /tcp/."
    why = await _dial(addr, key)
    if why is None:
        return None
    if "the peer there is" in why:
        return (
            f"another one answers there. {_last(why)}",
            "It has a new key, or that machine another address now: ask for its address again "
            "(kachery-cloud-status there).",
        )
    return await judge_dial(address, why, key is not None, _connects, lambda: _dial(addr, None))


async def judge_dial(
    address: Address,
    why: str,
    keyed: bool,
    connects: Callable[[Address], Awaitable[OSError | None]],
    plainly: Callable[[], Awaitable[str | None]],
) -> tuple[str, str]:
    """What to say of a peer that could not be dialled.

    Args:
        address: of it.
        why: in the words of the one who tried.
        keyed: whether there is a swarm key here.
        connects: try whether anything listens there; None where it does.
        plainly: dial it without the swarm key; None where that worked.
    """
    error = None if address.relay is not None else await connects(address)
    if error is not None:
        return _silent(address, error)
    if keyed:
        if await plainly() is None:
            return (
                "it is in no private network, and this machine is (swarm.key).",
                "Copy swarm.key of this machine to that one, or take it away here.",
            )
        return (
            "something listens there, but speaks with another swarm key, or is no peer at all.",
            "Compare the fingerprints that kachery-cloud-status shows on both machines, and copy swarm.key from one to "
            "the other.",
        )
    if "handshake" in why or "protocol" in why or "closed the connection" in why:
        return (
            "something listens there, but does not speak with us. It may be in a private network (swarm.key), or "
            "no peer.",
            "If it is of a private lab, copy its swarm.key into this data directory. Else see whether the port is "
            f"right. ({_last(why)})",
        )
    return f"{_last(why)}", "See whether it runs, and whether a firewall is in the way."


def _silent(address: Address, error: OSError) -> tuple[str, str]:
    where = f"{address.host}, port {address.port}"
    if isinstance(error, socket.gaierror):
        return (
            f"the name {address.host} is not known ({error.strerror}).",
            "Correct it, or see whether names can be looked up at all (`getent hosts example.org`).",
        )
    if error.errno == errno.ECONNREFUSED:
        return (
            f"nothing listens at {where}: the connection is refused.",
            "Start the node there, and see whether it still has that port (kachery-cloud-status there).",
        )
    if error.errno in (errno.ENETUNREACH, errno.EHOSTUNREACH):
        return (
            f"there is no way from here to {where} ({error.strerror}).",
            "See whether both machines are in the network that they should be in: VPN, cable, router.",
        )
    return (
        f"{where} does not answer.",
        "See whether that machine is on, and whether a firewall there, or in between, lets the port in.",
    )


def _last(why: str) -> str:
    text = why.rpartition(": ")[2].strip().rstrip(".") if len(why) > 200 else why.rstrip(".")
    return text[:1].upper() + text[1:] + "."


async def _connects(address: Address) -> OSError | None:
    if not address.port:
        return None
    try:
        with trio.fail_after(_DIAL_SECONDS):
            stream = await trio.open_tcp_stream(address.host, address.port)
        await trio.aclose_forcefully(stream)
    except trio.TooSlowError:
        return TimeoutError(errno.ETIMEDOUT, "no answer")
    except OSError as error:
        inner = error
        while inner.errno is None and inner.__cause__ is not None:
            cause: BaseException = inner.__cause__
            cause = getattr(cause, "exceptions", (cause,))[0]  # of a name with several addresses
            if not isinstance(cause, OSError):
                break
            inner = cause
        return inner
    return None


async def _dial(addr: str, key: bytes | None) -> str | None:
    """Why a peer cannot be dialled; None where it can."""
    from kachery_p2p.transport.host import Host

    host = Host(secrets.token_bytes(32), listen=(), swarm_key=key, agent="kachery-cloud doctor")
    why: str | None = None
    async with trio.open_nursery() as nursery:
        await nursery.start(host.run)
        try:
            await host.connect(addr, timeout=_DIAL_SECONDS)
        except DialError as error:
            why = str(error)
        nursery.cancel_scope.cancel()
    return why
