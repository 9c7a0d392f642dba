"""What is known of our own addresses: where each comes from, what servers said of it, and which ones peers are told.

Sans-IO: `reachability.py` feeds it and asks it. The rules, in one place:

- The user's `announce` list is told always, first.
- A public address of an interface, a mapped one and one that three networks see us at is told unless servers have
  proven it unreachable.
- Any other address at which servers say that they reached us (a port the user has forwarded by hand, on an IP address
  that only they see) is told when servers of three networks say so: fewer could make us announce a victim's address.
- Addresses of private networks are told, a bounded number, those of the interface with the default route first:
  peers of the same LAN need them. Loopback comes last.
- Relay addresses are told unless we are public.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

from kachery_p2p.transport.nat import limits
from kachery_p2p.transport.nat.autonat import DialBackAnswer
from kachery_p2p.transport.nat.endpoints import IP, TcpEndpoint, from_text, is_public
from kachery_p2p.transport.nat.votes import Ballot, Tally, Vote

PUBLIC, PRIVATE, UNKNOWN = "public", "private", "unknown"


@dataclass(frozen=True)
class AddressState:
    """One address of ours, for display.

    Attributes:
        address: multiaddr without the peer ID.
        source: `announce`, `interface`, `mapped`, `observed`, `dialled back`, `lan`, `loopback` or `relay`.
        reachable: whether others can dial it; `None` when nobody has tried.
        told: whether peers are told of it.
        reason: in plain words, why.
    """

    address: str
    source: str
    reachable: bool | None
    told: bool
    reason: str


@dataclass
class Known:
    """Our addresses.

    Args:
        announce: multiaddrs the user wants told.
        counts: which IP addresses are public.
    """

    announce: Sequence[str] = ()
    counts: Callable[[IP], bool] = is_public
    #: what the network interfaces, the router and other peers give
    listening: list[str] = field(default_factory=list)
    mapped: TcpEndpoint | None = None
    observed: dict[TcpEndpoint, int] = field(default_factory=dict)
    observed_ips: list[IP] = field(default_factory=list)
    #: our address on the interface of the default route, as text
    preferred: str = ""
    _ballots: OrderedDict[TcpEndpoint, Ballot] = field(default_factory=OrderedDict)
    _overall: Ballot = field(default_factory=Ballot)

    # --- votes -----------------------------------------------------------------------------------------------------

    def record(self, network: str, peer: str, answer: DialBackAnswer, now: float) -> None:
        """A server's answer."""
        for endpoint, reached in answer.reached.items():
            ballot = self._ballots.setdefault(endpoint, Ballot())
            self._ballots.move_to_end(endpoint)
            ballot.add(network, Vote(reached, peer, now))
            while len(self._ballots) > limits.MAX_VOTED_ADDRESSES:
                self._ballots.popitem(last=False)
        self._overall.add(network, Vote(answer.overall, peer, now))

    def forget(self) -> None:
        """This machine is in another network now: what servers said before means nothing."""
        self._ballots.clear()
        self._overall = Ballot()

    def voted_since(self, moment: float) -> set[str]:
        """Networks whose servers answered at or after a moment."""
        return self._overall.since(moment)

    def last_vote(self, network: str) -> float:
        """When a server of that network answered last."""
        return self._overall.last(network)

    def tally(self, endpoint: TcpEndpoint, needed: int, now: float) -> Tally:
        """What servers say of an address."""
        return self._ballots.get(endpoint, Ballot()).tally(needed, now)

    # --- candidates ------------------------------------------------------------------------------------------------

    def listening_endpoints(self) -> list[TcpEndpoint]:
        """Where we listen, without loopback unless that counts."""
        found = [each for each in map(from_text, self.listening) if each is not None]
        return [each for each in found if not each.ip.is_loopback or self.counts(each.ip)]

    def candidates(self) -> dict[TcpEndpoint, str]:
        """The addresses at which others may be able to reach us, each with its source; all trusted to be ours."""
        found: dict[TcpEndpoint, str] = {}
        for text in self.announce:
            endpoint = from_text(text)
            if endpoint is not None and self.counts(endpoint.ip):
                found.setdefault(endpoint, "announce")
        for endpoint in self.listening_endpoints():
            if self.counts(endpoint.ip):
                found.setdefault(endpoint, "interface")
        if self.mapped is not None:
            found.setdefault(self.mapped, "mapped")
        for endpoint in self.observed:
            found.setdefault(endpoint, "observed")
        return found

    def trusted_ips(self) -> set[IP]:
        """IP addresses that are ours for certain."""
        return {each.ip for each in self.candidates()} | set(self.observed_ips)

    def questions(self, seen_by_server: TcpEndpoint | None) -> list[TcpEndpoint]:
        """What to ask a server about: the candidates, then guesses at the address where that server sees us.

        A guess is its business alone: a server that lies about where it sees us is asked to dial its own lie, and
        nobody else is.
        """
        asked = list(self.candidates())
        if seen_by_server is not None and self.counts(seen_by_server.ip):
            ports = [each.port for each in self.listening_endpoints() if each.ip.version == seen_by_server.ip.version]
            asked += [TcpEndpoint(seen_by_server.ip, port) for port in dict.fromkeys(ports)]
            asked.append(seen_by_server)
            # The server's own IP version first: it need not have the other.
            asked.sort(key=lambda each: each.ip.version != seen_by_server.ip.version)
        return list(dict.fromkeys(asked))[: limits.MAX_ASKED_ADDRESSES]

    # --- results ---------------------------------------------------------------------------------------------------

    def reachable(self, needed: int, now: float) -> list[TcpEndpoint]:
        """The addresses that servers reached us at, as far as we believe them."""
        trusted = self.trusted_ips()
        found = []
        for endpoint in list(self._ballots):
            tally = self.tally(endpoint, needed, now)
            if tally.result and (endpoint.ip in trusted or tally.yes >= limits.OBSERVERS):
                found.append(endpoint)
        return found

    def state(self, needed: int, now: float) -> str:
        """`public` when an address is known to be reachable, `private` when servers agree that none is."""
        if self.reachable(needed, now):
            return PUBLIC
        return PRIVATE if self._overall.tally(needed, now).result is False else UNKNOWN

    def overall(self, needed: int, now: float) -> Tally:
        """What servers say of this node as a whole."""
        return self._overall.tally(needed, now)

    def told(
        self, state: str, needed: int, now: float, relayed: Sequence[str] = (), *, forced: bool = False
    ) -> list[AddressState]:
        """All addresses, those that peers are told first, in the order in which they are told.

        Args:
            state: `PUBLIC`, `PRIVATE` or `UNKNOWN`.
            needed: votes that decide.
            now: trio's clock.
            relayed: addresses through relays.
            forced: the state is the user's word, not the servers'.
        """
        return _Telling(self, state, needed, now, forced).all(relayed)


class _Telling:
    """Decides on each address once."""

    def __init__(self, known: Known, state: str, needed: int, now: float, forced: bool) -> None:
        self.known, self.state, self.needed, self.now, self.forced = known, state, needed, now, forced
        self.found: dict[str, AddressState] = {}

    def all(self, relayed: Sequence[str]) -> list[AddressState]:
        known = self.known
        for text in known.announce:
            self._put(AddressState(text, "announce", self._reachable(text), True, "told because the settings say so"))
        public = known.candidates()
        for endpoint in known.reachable(self.needed, self.now):
            public.setdefault(endpoint, "dialled back")
        for number, (endpoint, source) in enumerate(public.items()):
            self._public(endpoint, source, number < limits.MAX_PUBLIC_ADDRESSES)
        self._relayed(relayed)
        self._local()
        return sorted(self.found.values(), key=lambda each: not each.told)

    def _put(self, entry: AddressState) -> None:
        self.found.setdefault(entry.address, entry)

    def _reachable(self, text: str) -> bool | None:
        endpoint = from_text(text)
        return None if endpoint is None else self.known.tally(endpoint, self.needed, self.now).result

    def _public(self, endpoint: TcpEndpoint, source: str, room: bool) -> None:
        tally = self.known.tally(endpoint, self.needed, self.now)
        words = {
            "interface": "an address of this machine",
            "mapped": "forwarded by the router",
            "observed": f"{self.known.observed.get(endpoint, 0)} networks see us there",
        }.get(source, "forwarded to us, it seems")
        asked = tally.yes + tally.no
        result = tally.result
        if self.forced:
            result = self.state == PUBLIC
            words += "; the settings say that others can" + ("" if result else "not") + " reach us"
        elif asked:
            words += f"; {tally.yes} of {asked} {'peer' if asked == 1 else 'peers'} could dial back"
        else:
            words += "; nobody has tried it yet"
        told = room and result is not False
        self._put(AddressState(endpoint.text, source, result, told, words))

    def _relayed(self, relayed: Sequence[str]) -> None:
        wanted = self.state != PUBLIC
        for number, text in enumerate(relayed):
            reason = "through a relay" if wanted else "not needed: others can reach us directly"
            self._put(AddressState(text, "relay", None, wanted and number < limits.MAX_RELAY_ADDRESSES, reason))

    def _local(self) -> None:
        loopback, lan = [], []
        for text in self.known.listening:
            endpoint = from_text(text)
            if endpoint is not None and endpoint.ip.is_loopback:
                loopback.append(text)
            elif endpoint is None or not self.known.counts(endpoint.ip):
                lan.append(text)
        lan.sort(key=lambda text: self.known.preferred not in text.split("/"))
        for number, text in enumerate(lan):
            told = number < limits.MAX_LAN_ADDRESSES
            reason = "for peers of the same network" if told else "there are too many addresses of private networks"
            self._put(AddressState(text, "lan", None, told, reason))
        for text in loopback:
            self._put(AddressState(text, "loopback", None, True, "for other programs on this machine"))
