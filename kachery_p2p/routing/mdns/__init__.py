"""Finding peers on the same network, without any configuration: multicast DNS (RFC 6762) as libp2p uses it.

    packets     DNS messages: reading what anybody sends, writing what Kubo and Helia understand
    addresses   which addresses are announced on which interface, and which are believed
    book        who was heard of, and when that is to be told
    schedule    when to ask and when to answer
    pace        how much of what comes is read
    interfaces  the machine's network interfaces, and multicast sockets on them
    service     `Mdns` puts them together

All but the last two do no I/O and know no clock. py-libp2p uses `zeroconf`, which takes a service for real only with
SRV and address records; Helia sends none, so py-libp2p does not see it.
"""

from __future__ import annotations

from kachery_p2p.routing.mdns.service import Mdns

__all__ = ["Mdns"]
