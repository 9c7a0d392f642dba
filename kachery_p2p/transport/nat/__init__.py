"""Can others reach us, and at which addresses?

    endpoints.py          IP address and port; which are public, and which network each belongs to
    observed.py           at which address others say they see us, and when that is believed
    votes.py              several answers to one question
    autonat_messages.py   the wire format of AutoNAT versions 1 and 2
    autonat.py            the client: has a server dial us back
    autonat_server.py     the server: dials back others, within strict limits
    home_router.py        the router of the default route
    natpmp.py, upnp.py    asking the router for a forwarded port
    portmap.py            keeps that port
    known.py              our addresses, where each comes from, and which ones peers are told
    reachability.py       puts it together; what the node uses

What is believed, and of whom. A peer may lie about everything here: where it sees us, and whether it could dial us.
The damage would be that we announce an address that is not ours (a victim's), or announce nothing that works. So one
network (/16 of IPv4, /32 of IPv6) is one voice, three voices are needed where there are three, the majority of the
newest three counts, and an address that neither an interface of ours, nor our router, nor three networks' view of us
vouches for is never announced on fewer than three dial backs. A node with a public address and nobody to ask says
`unknown` and announces that address; a node that listens on loopback sends nothing at all.

What it costs. Three requests, at first every quarter of an hour, then every four hours; a look at the interfaces
every twenty seconds; a datagram or two to the router every hour.
"""

from __future__ import annotations
