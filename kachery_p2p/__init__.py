"""An IPFS node for Python: UnixFS DAGs, a block store made of plain files, Bitswap over libp2p.

Importing this package imports nothing else; each room (``dag``, ``repo``, ``bitswap``, ``transport``) stands on
its own and ``kachery_p2p.node.node`` puts one node together.
"""

__version__ = "0.1.0"
