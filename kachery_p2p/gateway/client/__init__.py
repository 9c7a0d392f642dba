"""The client of HTTP gateways: what they have, checked.

    client      `GatewayClient`: asks for a block or a CAR, and hashes what comes
    gateway     one gateway: its address, its token
    answers     what an address, a redirect and the head of an answer mean
    defaults    the public gateways that are asked unless the settings say otherwise
    limits      every bound

Which block is asked of which gateway is decided by `kachery_p2p.bitswap.gateways`.
"""
