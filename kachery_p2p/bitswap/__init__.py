r"""The block exchange: Bitswap, with HTTP gateways beside the peers.

It speaks Bitswap 1.2.0, and 1.1.0 / 1.0.0 for old peers (https://specs.ipfs.tech/bitswap-protocol/).

Theory of operation
===================

Bitswap is two conversations that share a message format. As a *client* we tell peers which blocks we want and hear
back blocks, HAVE or DONT_HAVE. As a *server* we keep the wants of our peers and answer them. A message that goes out
is never an answer on the stream that brought the question: both sides speak on streams of their own and only read
those of the other. Kubo and Helia insist on it.

Two cores do the thinking, without I/O and without a clock of their own, so that a swarm of peers can be simulated in
virtual time:

- `client.WantManager` is told what sessions want and what peers and gateways say, and decides what is asked of whom. A
  *session* is one load: an ordered list of wants, and the peers that take part. A want belongs to all sessions that
  want the block, so a block is asked for once. `asks` keeps the books of who was asked for what, `schedule` picks the
  peer, `link` measures how fast a peer is and thereby how much it is given to do, `watch` finds out who stalls, and
  lets fast peers finish what slow ones still owe at the end.
- `engine.Engine` is told what peers want. It looks blocks up in batches, by size only; a block is read when its turn
  has come. Peers take turns by bytes served.

`exchange.Exchange` wires them to a host and a store: `reader` takes messages from inbound streams, `serving` runs the
engine, `lanes` write to the two outgoing streams of each peer, `handle` is the session as its user sees it, `stats`
counts.

Gateways. A gateway is a link like a peer, with a window, a stall and a record of its own. What is asked of it goes out
on an HTTP lane instead of the want lane:

                     asks at the link
    WantManager ---> peer     ---> outbox ---> `lanes.WantLane`    ---> wantlist on a stream
                \--> gateway              ---> `http_lane.HttpLane` ---> a request for each block, or a CAR

The answers are reported in the same terms. Bytes are a block, and 404 is DONT_HAVE. A failure, or "too many requests",
is a pause, after which the gateway gets one request to prove itself. Wrong bytes cost it its place for good. What takes
too long is asked of another gateway, too, and one that is overtaken three times in a row rests.

Peers come first. In each session the gateways stand by (`standby`) and bring only what no peer can supply. They join
for everything when the head start of the peers is over and these are slow; then they work from the back of the order
while peers work from the front. `gateways` picks the want. Peers never wait for a gateway: what it has under way is
asked of them all the same, and the first to deliver ends the ask of the other. At the beginning a gateway is asked for
a CAR of the root and the first bytes that are wanted of the file, which saves a round trip for each level of the DAG.
What it brings before it is wanted is kept by the handle. A gateway that gives no CARs is asked block by block.

HTTP itself is not known here. `interfaces.GatewaySource` is what a gateway must be able to do.

Loading the same. A peer that wants of us what a session wants, too, is a fellow of that session. Its store may have a
part of it and will have more, so it is asked what it has, and says when a block comes. Among the fellows it is divided
who fetches what from the source, so that the source sends little more than one copy; `fellows` says how, and why nobody
has to be trusted for that.

Where a want stands. In the table of wants, and in the order of each session that wants it. An ask stands at its want
and at the link that was asked. The outbox of a peer names it until the next message has gone out. Beside these
there are lists of the wants that are special: those that nobody can supply (`Session.hopeless`), or no peer
(`Session.peerless`), those that a peer declined (`Session.orphans`), and those that it says it has (`Member.has`).

What bounds memory. Nothing is asked for that would not fit: bytes asked for and bytes received but not yet taken by the
user of a session are one budget, for peers and gateways. How large a block will be, the DAG above it says, and where it
says nothing the blocks that came before. So hundreds of small blocks are asked for at once. A DAG may lie: a block that
is larger than was said, and for which there is no room, is left, and asked for again when there is. A user who stops
receiving therefore stops the asking, not the reading, and sessions that share a peer do not block each other. On the
way out, bytes that are being read from disk or written to a stream are bounded for each peer and in all; a peer that
does not read is dropped after a while, and at once when its room is needed. Bodies of messages under way are on a
budget as well, because any peer may announce 4 MiB and then stop.

What is believed. Nothing: each block is hashed (in a thread when it is large) and looked for by its hash among the
wants, not by what the peer says it is. A block that nobody wanted is how wrong bytes look from here. Its sender is
dropped from all sessions, for as long as the process lives, and reported to the node, which may ban it. A block that
was wanted lately and came too late is a duplicate, no lie. What cannot be read costs the stream, and repeated, the
peer. What a gateway sends is hashed by its source.

How copies are avoided. The body of a message is read into one buffer, and blocks are views of it; blocks that we send
are handed to the stream as they came from the store, between small parts of protobuf.

`limits` holds every bound with its reason.
"""
