"""The node of a data directory, as the processes that share it see it: started on need, spoken to by a socket.

    connection      the node of a directory: in this process, or in another one
    thread          the node in a background thread of this process
    serve           running it: what that thread and `kachery-cloud-node` have in common
    messages        what a node is asked, and the frames of the control socket
    control         the control socket: what both sides need
    control_client  the side of the processes that ask
    control_server  the side of the node
    endpoint        where it listens: `node.json`
    places          who may stay connected when many want to
    limits          how long they wait for each other
    log             the log of `kachery-cloud-node`

The node itself is `kachery_p2p.node`.
"""
