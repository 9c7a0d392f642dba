"""The libp2p host: TCP, TLS and Noise, Yamux, and the connections they make.

`host.Host` is what the node uses: it listens, dials, and gives out streams (`stream.Stream`). Everything else
in this package stands behind it. From the wire up:

    sockets.py      a TCP socket as a `ByteIO`: non-blocking reads and writes, tried before waited for
    pnet.py         a `ByteIO` on a `ByteIO`: the private network's XSalsa20
    multistream.py  two sides agree on a protocol name
    upgrade.py      raw channel -> multistream -> handshake, which names the muxer (else multistream) -> record layer
    tls.py, tls_certificate.py    the handshake of TLS, by OpenSSL, and whose a certificate is
    security.py     what a record layer is; buffers of messages
    tls_records.py, noise.py      the record layers: messages from one buffer that exists into another
    yamux.py        streams over one connection, without input and output: bytes in, state and bytes out
    connection.py   moves bytes between `ByteIO`, records and Yamux; one per connection
                    (what a peer may make it do: `kachery_p2p/turns.py`)
    dialer.py, listener.py, peers.py, identify.py, ping.py    what their names say
    interfaces.py   what identify and the relay's circuits need of the host
    relay/          circuit relay v2: reaching peers that nobody can dial through one that everybody can
    holepunch.py    from a relayed connection to a direct one (DCUtR)
    nat/            whether others can reach us, and where
    compat.py       what we use of py-libp2p, what we do not, and why

How it goes fast. One Yamux frame of bulk data is exactly one message of the record layer: eight records of TLS, or
a message of Noise with 65 507 bytes of payload. A writer's bytes are copied once, into the plaintext of a message,
which is encrypted straight into a send buffer; half a MiB goes to the kernel in one call, from the writer's own task,
without waking another. A reader's bytes are received into one buffer that all connections of the host share, and
decrypted, four records at a time, into buffers that are used again when nobody looks at them any more. Views of those
are queued until somebody reads: `Stream.read_into` copies each byte once, to where it is wanted.

How it stays whole. A send is one synchronous call, so a cancelled task cannot leave half a message behind; what
the kernel does not take at once is the property of the connection's own writer task. A cancelled write resets
its own stream at most. A connection ends in one place, `Connection.abort`, which says why, wakes everybody who
waits, and closes the socket; nothing a peer sends can do more than call it. Exceptions of handlers end at
`Host`.

How it stays small. Each stream's window starts at 256 KiB and grows only while its reader uses it up and waits
for more; what windows grow by, and what lies unread, is counted for each connection and for the host
(`limits.py`). An idle connection holds no buffers, an idle stream a few hundred bytes. Handshakes in progress,
connections, streams, proposals, answers that a peer provokes and frames that do no work all have a limit; at
each limit the one who hits it loses, and the oldest stranger before anybody who is in use.

Who owns what. `Host.run` holds a nursery in which all connections, dials and handshakes live. Each connection
holds one for its reader, writer and keeper, and one for the handlers of the streams its peer opened: a handler
lives as long as its connection, a stream as long as its handler, unless the handler keeps it. Dials belong to
the callers that wait for them, together: the last one who stops waiting cancels the dial.
"""
