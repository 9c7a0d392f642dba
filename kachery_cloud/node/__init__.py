"""The node of a data directory, as the processes that share it see it: started on need, spoken to by a socket.

    connection  the node of a directory, whoever is it: this process, in a thread, or another
    serve       running it: what that thread and `kachery-cloud-node` have in common
    control     the control socket, both sides
    endpoint    where it listens: `node.json`
    places      who may stay connected when many want to
    params      what another process asks, checked
    log         the log of `kachery-cloud-node`

The node itself is `kachery_p2p.node`.
"""
