"""IPNS: names that are keys, and point to what their owner signed last (https://specs.ipfs.tech/ipns/ipns-record/).

    names     a name in all its written forms
    making    a record, signed; which sequence number the next one has
    shelf     the keys and records of our own names, in the data directory
    seen      the newest record that was seen of each name: none is believed that is older
    service   publishing, resolving, and keeping our names alive: the shell

What makes a record valid, and which of several counts, is in `kachery_p2p.routing.dht.records`, for the DHT asks the
same. Where records are kept by others, a *route*, is a DHT or an HTTP router (`interfaces.ValueRoute`).
"""
