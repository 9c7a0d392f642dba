"""The block exchange: Bitswap 1.2.0, and 1.1.0 / 1.0.0 for old peers (https://specs.ipfs.tech/bitswap-protocol/).

Theory of operation
===================

Bitswap is two conversations that share a message format. As a *client* we tell peers which blocks we want and hear
back blocks, HAVE or DONT_HAVE. As a *server* we keep the wants of our peers and answer them. A message that goes out
is never an answer on the stream that brought the question: both sides speak on streams of their own and only read
those of the other. Kubo and Helia insist on it.

Two cores do the thinking, without I/O and without a clock of their own, so that a swarm of peers can be simulated in
virtual time:

- `client.Client` is told what sessions want and what peers say, and keeps an outbox for each peer. A *session* is one
  load: an ordered list of wants, and the peers that take part. A want belongs to all sessions that want the block, so
  a block is asked for once. `asks` keeps the books of who was asked for what, `schedule` picks the peer, `link`
  measures how fast a peer is and thereby how much it is given to do, `watch` finds out who stalls, and lets fast
  peers finish what slow ones still owe at the end.
- `engine.Engine` is told what peers want. It looks blocks up in batches, by size only; a block is read when its turn
  has come. Peers take turns by bytes served.

`exchange.Exchange` wires them to a host and a store: `reader` takes messages from inbound streams, `lanes` write to
the two outgoing streams of each peer, `handle` is the session as its user sees it.

What bounds memory. Nothing is asked for that would not fit: bytes asked for and bytes received but not yet taken by
the user of a session are one budget. A user who stops receiving therefore stops the asking, not the reading, and
sessions that share a peer do not block each other. On the way out, bytes that are being read from disk or written to
a stream are bounded for each peer and in all; a peer that does not read is dropped after a while, and at once when
its room is needed. Bodies of messages under way are on a budget as well, because any peer may announce 4 MiB and then
stop.

What is believed. Nothing: each block is hashed (in a thread when it is large) and looked for by its hash among the
wants, not by what the peer says it is. A block that nobody wanted is how wrong bytes look from here. Its sender is
dropped from all sessions, for as long as the process lives, and reported to the node, which may ban it. A block that
was wanted lately and came too late is a duplicate, no lie. What cannot be read costs the stream, and repeated, the
peer.

How copies are avoided. The body of a message is read into one buffer, and blocks are views of it; blocks that we send
are handed to the stream as they came from the store, between small parts of protobuf.

`limits` holds every bound with its reason.
"""
