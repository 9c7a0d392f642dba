"""Circuit relay v2: peers that nobody can dial are reached through one that everybody can.

(libp2p circuit-v2 specification.) A peer behind a NAT reserves a slot at a relay (`client.py`) and announces
`<address of the relay>/p2p/<relay>/p2p-circuit`. Whoever dials that (`circuit.py`) asks the relay for a circuit on a
stream of the `hop` protocol; the relay (`service.py`) opens a stream of the `stop` protocol to the other side, and
when that agrees copies bytes between the two. The ends run the whole handshake through it, so the relay learns who
talks with whom and how much, and nothing of what they say.

    messages.py   what is said on hop and stop streams, and the vouchers
    circuit.py    a stream as the channel below a connection; asking a relay for a circuit
    client.py     reservations: made, renewed, and replaced when a relay is lost; circuits that come in
    service.py    being a relay: who may, how much, and the copying
    scope.py      how far an address reaches
    limits.py     every bound

This is our own because that of py-libp2p 0.8.1 (`relay/circuit_v2/`) carried 21 MB/s, and needs its host.
"""
