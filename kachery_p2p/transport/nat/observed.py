"""At which address do others see us? What one peer says is a claim; what several networks say alike is believed.

A peer that lies could otherwise make us announce a victim's address, and send everybody who wants us there. So each
network (`endpoints.network_of`) has one voice per address, however many peers it has, each peer holds one view at a
time, and an address counts when `limits.OBSERVERS` networks see it. Behind a NAT that gives every connection another
port no port is ever seen three times, but the IP address is, and is believed on its own. Sans-IO.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable, Iterable
from dataclasses import dataclass

from kachery_p2p.transport.nat import limits
from kachery_p2p.transport.nat.endpoints import IP, TcpEndpoint, is_public, network_of


@dataclass(frozen=True)
class _View:
    seen: TcpEndpoint
    network: str
    at: float


class Observed:
    """What connected peers, and those of the last half hour, say of our address.

    Args:
        counts: which IP addresses are worth believing, ours and theirs; the public ones.
    """

    def __init__(self, counts: Callable[[IP], bool] = is_public) -> None:
        self._counts = counts
        self._views: OrderedDict[str, _View] = OrderedDict()
        self._confirmed: dict[TcpEndpoint, int] | None = None  # None: has to be worked out anew
        self._confirmed_ips: list[IP] = []

    def saw(self, peer: str, peer_ip: IP, seen: TcpEndpoint, now: float) -> None:
        """A peer at `peer_ip` says that it sees us at `seen`. It replaces what that peer said before.

        A peer in a private network sees the inside of a NAT, and one that sees a private address is there, too:
        neither counts.
        """
        before = self._views.pop(peer, None)
        if before is not None:
            self._confirmed = None
        if not self._counts(peer_ip) or not self._counts(seen.ip) or seen.ip.version != peer_ip.version:
            return
        self._views[peer] = _View(seen, network_of(peer_ip), now)
        self._confirmed = None
        while len(self._views) > limits.MAX_OBSERVATIONS:
            self._views.popitem(last=False)

    def purge(self, connected: Iterable[str], now: float) -> None:
        """Forget the views of peers that left long ago."""
        here = set(connected)
        for peer, view in list(self._views.items()):
            if peer not in here and now - view.at > limits.OBSERVATION_LIFETIME:
                del self._views[peer]
                self._confirmed = None

    def by(self, peer: str) -> TcpEndpoint | None:
        """Where that peer sees us."""
        view = self._views.get(peer)
        return view.seen if view else None

    def confirmed(self) -> dict[TcpEndpoint, int]:
        """The addresses that are believed, and how many networks see each; those that most see first."""
        if self._confirmed is None:
            self._confirmed = self._most([(view.seen, view.network) for view in self._views.values()])
            ips = self._most([(TcpEndpoint(view.seen.ip, 0), view.network) for view in self._views.values()])
            self._confirmed_ips = [each.ip for each in ips]
        return self._confirmed

    def confirmed_ips(self) -> list[IP]:
        """The IP addresses that are believed, whatever the port."""
        self.confirmed()
        return self._confirmed_ips

    def _most(self, views: list[tuple[TcpEndpoint, str]]) -> dict[TcpEndpoint, int]:
        networks: dict[TcpEndpoint, set[str]] = {}
        for seen, network in views:
            networks.setdefault(seen, set()).add(network)
        ranked = sorted(networks.items(), key=lambda item: -len(item[1]))
        chosen: dict[TcpEndpoint, int] = {}
        for version in (4, 6):
            fits = [
                (seen, len(who)) for seen, who in ranked if seen.ip.version == version and len(who) >= limits.OBSERVERS
            ]
            chosen.update(fits[: limits.MAX_CONFIRMED])
        return chosen
