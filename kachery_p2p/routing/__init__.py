"""Who has a CID, and telling the others what we have.

    dht/        the Kademlia DHT: cores without I/O, and the shell that runs them
    mdns/       machines on the same network
    known       the address book: whom we met before, where, and how fast they answered
    delegated   HTTP routers (`/routing/v1`)
    router      asks all of these side by side for one CID
    ipns/       names that move: published, resolved, kept alive
    provide/    announces what the repo has, again and again, at a cost that does not grow with its size

The packages beside this one are known by the protocols in `interfaces`; `kachery_p2p.node.node` puts them together.
"""
