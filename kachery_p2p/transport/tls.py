"""libp2p's TLS 1.3 handshake, run by OpenSSL: afterwards both sides know each other, the keys, and the muxer.

(https://github.com/libp2p/specs/blob/master/tls/tls.md; connections/inlined-muxer-negotiation.md for the muxer.)

Why pyOpenSSL. Python's `ssl` cannot ask a client for a certificate that no authority signed. The `tls` of aioquic knows
no HelloRetryRequest, and asks for client certificates "for test purposes only". pyOpenSSL is OpenSSL's whole handshake
without a socket, asks and lets us judge the certificate, and tells the traffic secrets in the format that browsers log
them in (`SSLKEYLOGFILE`). `tls_records.py` takes over from there.

Where one ends and the other begins. OpenSSL is given one record at a time, so it never sees what comes behind the last
one of the handshake. A client's last words are written by OpenSSL. What a server's OpenSSL would write after the
handshake are session tickets, under the new key: they are switched off, and where a library sends them all the same,
they are thrown away before anybody saw them, so that our first record is the first one under that key.

pyOpenSSL and `cryptography.x509` are imported when the first handshake runs: not every process connects.
"""

from __future__ import annotations

import contextlib
import logging
import time
import weakref
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Protocol

import trio
from cryptography.hazmat.primitives.ciphers.aead import AESGCM, ChaCha20Poly1305

from kachery_p2p.errors import DialError, StreamError
from kachery_p2p.transport import compat, limits
from kachery_p2p.transport.security import YAMUX, HandshakeError, WrongPeer
from kachery_p2p.transport.tls_records import HEADER, SUITES, TlsRecords

if TYPE_CHECKING:
    from cryptography import x509
    from OpenSSL import SSL, crypto
    from OpenSSL.SSL import Connection

    from kachery_p2p.transport.tls_certificate import CertificateKey

log = logging.getLogger("kachery_p2p.transport")

#: What is offered by ALPN: the muxer with large records (see `tls_records.py`), which nodes of ours alone know; the
#: muxer; and what stands for choosing it later, as older peers do.
_LARGE = b"/kachery/yamux/1.0.0/records-63k"
_PROTOCOLS = [_LARGE, YAMUX.encode(), b"libp2p"]
_CHACHA = b"TLS_CHACHA20_POLY1305_SHA256"
_AES = b"TLS_AES_128_GCM_SHA256:TLS_AES_256_GCM_SHA384"
#: Types of the records of a handshake: changes of the cipher, which mean nothing in TLS 1.3; alerts, handshake
#: messages, encrypted ones.
_RECORD_TYPES = (20, 21, 22, 23)


class Channel(Protocol):
    """What a handshake needs of the channel below it."""

    async def read_exactly(self, count: int, /) -> bytes: ...

    async def write(self, data: bytes, /) -> None: ...


@dataclass
class TlsSecured:
    """What a handshake gives.

    Attributes:
        records: the record layer.
        peer: the peer ID, base58.
        muxed: whether Yamux was agreed on as well; else that is still to be done.
    """

    records: TlsRecords
    peer: str
    muxed: bool


@dataclass
class _State:
    """What OpenSSL tells while one handshake runs."""

    expected: str | None
    peer: str = ""
    problem: Exception | None = None
    secrets: dict[bytes, bytes] = field(default_factory=dict)


class _NoCommonMuxer(Exception):
    """The client offers only muxers that are not spoken here."""


async def tls_handshake(channel: Channel, keys: compat.Keys, *, initiator: bool, expected: str | None) -> TlsSecured:
    """Run the handshake.

    Args:
        channel: it may have more to give afterwards, which belongs to the record layer.
        keys: of this node.
        initiator: whether this side is the client.
        expected: the peer ID that must be at the other end; `None` for any.

    Raises:
        WrongPeer: it is another one. Our own identity has not been given away then, if we are the client.
        HandshakeError: the peer breaks the rules, or there is no common ground.
        OSError: the channel broke.
    """
    session = _Session(_contexts(keys)[initiator], expected, initiator=initiator)
    received = 0
    for _ in range(limits.TLS_HANDSHAKE_RECORDS):
        try:
            done = session.step()
        except (HandshakeError, WrongPeer):
            with contextlib.suppress(OSError, trio.ClosedResourceError):
                await channel.write(session.output())  # the alert that tells the peer why
            raise
        if initiator or not done:
            await channel.write(session.output())
        if done:
            return session.result()
        header = await channel.read_exactly(HEADER)
        size = int.from_bytes(header[3:], "big")
        received += HEADER + size
        if header[0] not in _RECORD_TYPES or header[1] != 3 or size > limits.TLS_CIPHERTEXT:
            raise HandshakeError("The peer sent something else than a TLS record.")
        if received > limits.TLS_HANDSHAKE:
            break
        session.put(header + await channel.read_exactly(size))
    raise HandshakeError("The peer's TLS handshake is too long.")


class _Session:
    """One handshake, without input and output: records in, records out."""

    def __init__(self, context: SSL.Context, expected: str | None, *, initiator: bool) -> None:
        from OpenSSL import SSL

        self._initiator = initiator
        self._state = _State(expected)
        self._openssl = SSL.Connection(context, None)
        self._openssl.set_app_data(self._state)
        if initiator:
            self._openssl.set_connect_state()
        else:
            self._openssl.set_accept_state()

    def put(self, record: bytes) -> None:
        """Give it one record of the peer."""
        self._openssl.bio_write(record)

    def output(self) -> bytes:
        """What is to be sent now, perhaps nothing."""
        from OpenSSL import SSL

        data = b""
        while True:
            try:
                data += self._openssl.bio_read(limits.TLS_HANDSHAKE)
            except SSL.WantReadError:
                return data

    def step(self) -> bool:
        """Go on with what is there; whether the handshake is done.

        Raises:
            WrongPeer: it is not the peer that was expected.
            HandshakeError: the handshake has failed.
        """
        from OpenSSL import SSL

        try:
            self._openssl.do_handshake()
        except SSL.WantReadError:
            return False
        except _NoCommonMuxer as error:
            raise HandshakeError("The peer offers no muxer that is spoken here.") from error
        except SSL.Error as error:
            if self._state.problem is not None:
                raise self._state.problem from error
            raise HandshakeError(f"The TLS handshake failed: {_reason(error)}.") from error
        return True

    def result(self) -> TlsSecured:
        """What it has given, once it is done.

        Raises:
            HandshakeError: what the peer sent is not enough.
        """
        state, openssl = self._state, self._openssl
        # A server's OpenSSL leaves the one that was judged out of the chain.
        chain = openssl.get_peer_cert_chain() or []
        if not state.peer or len(chain) > self._initiator:
            raise HandshakeError("The peer sent several certificates instead of one.")
        suite = SUITES.get(openssl.get_cipher_name() or "")
        client, server = (state.secrets.get(each) for each in (b"CLIENT_TRAFFIC_SECRET_0", b"SERVER_TRAFFIC_SECRET_0"))
        if suite is None or client is None or server is None:
            raise HandshakeError("The TLS handshake left no keys behind.")
        ours, theirs = (client, server) if self._initiator else (server, client)
        agreed = openssl.get_alpn_proto_negotiated()
        records = TlsRecords(suite, ours, theirs, initiator=self._initiator, large=agreed == _LARGE)
        return TlsSecured(records, state.peer, agreed in (_LARGE, YAMUX.encode()))


def _reason(error: SSL.Error) -> str:
    """What OpenSSL says, in its own words."""
    if error.args and isinstance(error.args[0], list) and error.args[0]:
        return str(error.args[0][-1][-1])
    return "the peer closed the connection" if not error.args else str(error.args[-1])


# --- the settings of a node ------------------------------------------------------------------------------------------

_made: dict[int, dict[bool, SSL.Context]] = {}
_broken = False


def tls_works(keys: compat.Keys) -> bool:
    """Whether handshakes can be run here. It is said once in a process when they cannot.

    pyOpenSSL is made for some versions of `cryptography`, and people upgrade one without the other. Its import fails
    then, or what it makes; peers are to be reached by Noise all the same.
    """
    global _broken
    if not _broken:
        try:
            _contexts(keys)
        except Exception:
            # Of whatever kind: what does not fit together fails in ways of its own. The log has the whole of it.
            _broken = True
            log.warning(
                "TLS is not used, because pyOpenSSL does not work here. `pip check` may say why.", exc_info=True
            )
    return not _broken


def _contexts(keys: compat.Keys) -> dict[bool, SSL.Context]:
    """The settings for both roles of a node, by whether it is the client. Made once for its keys."""
    found = _made.get(id(keys))
    if found is None:
        found = _made[id(keys)] = make_contexts(keys, aes_is_fast=_aes_is_fast())
        weakref.finalize(keys, _made.pop, id(keys), None).atexit = False
    return found


def make_contexts(keys: compat.Keys, *, aes_is_fast: bool) -> dict[bool, SSL.Context]:
    """New settings for both roles of a node, with a new certificate."""
    from kachery_p2p.transport.tls_certificate import make_certificate

    made = make_certificate(keys.public_key, keys.sign)
    return {initiator: _context(*made, initiator, aes_is_fast) for initiator in (True, False)}


def _context(key: CertificateKey, certificate: x509.Certificate, initiator: bool, aes_is_fast: bool) -> SSL.Context:
    from OpenSSL import SSL

    context = SSL.Context(SSL.TLS_CLIENT_METHOD if initiator else SSL.TLS_SERVER_METHOD)
    context.set_min_proto_version(SSL.TLS1_3_VERSION)
    context.set_max_proto_version(SSL.TLS1_3_VERSION)
    context.use_certificate(certificate)
    context.use_privatekey(key)
    context.set_verify(SSL.VERIFY_PEER | SSL.VERIFY_FAIL_IF_NO_PEER_CERT, _judge)
    context.set_keylog_callback(_keep_secret)
    context.set_session_cache_mode(SSL.SESS_CACHE_OFF)
    context.set_options(SSL.OP_NO_TICKET)
    if initiator:
        context.set_alpn_protos(_PROTOCOLS)
    else:
        context.set_alpn_select_callback(_choose_muxer)
    if aes_is_fast:
        # As a server the client's order is followed, which puts ChaCha20 first where its CPU has no AES.
        context.set_tls13_ciphersuites(_AES + b":" + _CHACHA)
    else:
        context.set_tls13_ciphersuites(_CHACHA + b":" + _AES)
        context.set_options(SSL.OP_CIPHER_SERVER_PREFERENCE)
    return context


def _choose_muxer(_: Connection, offered: list[bytes]) -> bytes:
    """The first of the client's that is spoken here, as the specification asks."""
    for name in offered:
        if name in _PROTOCOLS:
            return name
    raise _NoCommonMuxer


def _keep_secret(connection: Connection, line: bytes) -> None:
    label, _, secret = line.split(b" ")
    connection.get_app_data().secrets[label] = bytes.fromhex(secret.decode())


def _judge(connection: Connection, certificate: crypto.X509, error: int, depth: int, ok: int) -> bool:
    """Whether the peer may go on with this certificate; OpenSSL asks once for each fault that it finds, and once more.

    It will find that no authority has signed it, as it should be. Ours is the only judgement, made when it first asks,
    before a client shows its own certificate. OpenSSL then has the peer prove that it has the key.
    """
    from OpenSSL import crypto

    from kachery_p2p.transport.tls_certificate import peer_of

    state = connection.get_app_data()
    if state.problem is None and not state.peer:
        try:
            if depth:
                raise HandshakeError("The peer sent several certificates instead of one.")
            state.peer = peer_of(crypto.dump_certificate(crypto.FILETYPE_ASN1, certificate))
            if state.expected is not None and state.peer != state.expected:
                raise WrongPeer(f"the peer there is {state.peer}")
        except (StreamError, DialError) as problem:
            state.problem = problem
    return state.problem is None


# --- which cipher ----------------------------------------------------------------------------------------------------

_aes: bool | None = None


def _aes_is_fast() -> bool:
    """Whether AES-GCM is faster here than ChaCha20, as it is with a CPU that has instructions for it.

    Tried once in a process, within a millisecond. That holds on every system, and inside of virtual machines that hide
    what the CPU has.
    """
    global _aes
    if _aes is None:
        data = bytes(limits.TLS_RECORD)
        _aes = _quickest(AESGCM(data[:16]), data) <= _quickest(ChaCha20Poly1305(data[:32]), data)
    return _aes


def _quickest(cipher: AESGCM | ChaCha20Poly1305, data: bytes) -> float:
    """Seconds for one record, the best of a few tries, as others may use the CPU meanwhile."""
    best = 1.0
    for _ in range(8):
        began = time.perf_counter()
        cipher.encrypt(data[:12], data, None)
        best = min(best, time.perf_counter() - began)
    return best
