"""An IPFS node for Python: UnixFS DAGs, a block store made of plain files, Bitswap over libp2p.

Importing this package imports nothing else. From the ground up:

    dag         files and directories as blocks and links, without a disk or a network
    access      for whom roots are, and who may see a block
    repo        what one data directory holds, and how it stays sound
    bitswap     the block exchange
    routing     who has a CID, and telling the others what we have
    transport   the libp2p host
    gateway     blocks over HTTP: a client and a server
    pinning     keeping data alive elsewhere
    load        one request of the user
    membership  groups that this machine is in: lists and secrets, from peer to peer
    node        one node put together

Imports point down only. `dag` and `access` do not know each other, nor do the five from `bitswap` to `pinning`, nor
`load` and `membership`: what is above brings them together. The modules beside the packages are each one place for a
question that several of them ask.
"""

#: The version of both packages. pyproject.toml, the commands and what peers and servers are told take it from here.
__version__ = "1.0.0"
