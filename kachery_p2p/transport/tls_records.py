"""The TLS 1.3 record layer: from the end of the handshake on, everything travels in records.

(RFC 8446, section 5 and appendix B; section 7 for the keys.) The handshake is OpenSSL's, see `tls.py`; what it leaves
behind is a secret for each direction. The records are our own, because a TLS library moves bytes through a connection
object and a buffer of its own, at half the rate of the cipher.

A record holds up to 16 KiB. For each, cipher and interpreter begin anew, which is a tenth of what it costs to move a
GiB. Two nodes of ours agree on large ones, of up to 63 KiB, which the header's 16 bits can tell as well: by a name of
their own in ALPN, of which other implementations take no notice. A key is then used for fewer records; else all is as
the RFC has it.

Sending: `seal` cuts one message of the muxer into full records. The content type stands behind the content within a
record, so the byte behind each piece is borrowed for it. Receiving: a few records that lie side by side are decrypted
into one buffer, each over the content type of the one before, so that the muxer finds long pieces which it need not
copy.

After the handshake there are three more kinds of messages. Session tickets are of no use here and ignored. Key updates
are followed, asked for and answered. An alert ends the connection, in good order if it is `close_notify`. Whatever
costs the receiver work and brings no data comes out of `read` as an empty message, for which the muxer has a budget.
"""

from __future__ import annotations

import hmac
import struct
from collections.abc import Iterator
from dataclasses import dataclass

from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.ciphers.aead import AESGCM, ChaCha20Poly1305

from kachery_p2p.transport import limits
from kachery_p2p.transport.security import Buffers, Leftover, RecordError

TLS = "/tls/1.0.0"

HEADER = 5
_TAG = 16
_header = struct.Struct("!BHH")
_VERSION = 0x0303  # of TLS 1.2, for the sake of middleboxes

#: Content types.
ALERT, HANDSHAKE, APPLICATION = 21, 22, 23
#: Handshake messages that may come after the handshake.
_NEW_SESSION_TICKET, _KEY_UPDATE = 4, 24

_CLOSE_NOTIFY, _USER_CANCELED = 0, 90
_UNEXPECTED_MESSAGE, _BAD_RECORD_MAC, _RECORD_OVERFLOW, _DECODE_ERROR, _ILLEGAL_PARAMETER = 10, 20, 22, 50, 47
_ALERTS = {
    10: "unexpected message",
    20: "bad record",
    22: "record too long",
    40: "handshake failure",
    42: "it does not accept our certificate",
    43: "it does not accept our certificate",
    44: "certificate revoked",
    45: "certificate expired",
    46: "it does not accept our certificate",
    47: "illegal parameter",
    48: "it does not accept our certificate",
    49: "access denied",
    50: "message not understood",
    51: "bad signature",
    70: "protocol version",
    71: "insufficient security",
    80: "internal error",
    109: "missing extension",
    110: "unsupported extension",
    116: "certificate required",
    120: "no common muxer",
}

_HAS_INTO = all(hasattr(aead, name) for aead in (AESGCM, ChaCha20Poly1305) for name in ("encrypt_into", "decrypt_into"))


@dataclass(frozen=True)
class Suite:
    """A cipher suite: its AEAD, the size of its key in bytes, and its hash function."""

    aead: type[AESGCM] | type[ChaCha20Poly1305]
    key_size: int
    digest: str


#: The suites of TLS 1.3 that are spoken, by the names that OpenSSL and RFC 8446 give them.
SUITES = {
    "TLS_AES_128_GCM_SHA256": Suite(AESGCM, 16, "sha256"),
    "TLS_AES_256_GCM_SHA384": Suite(AESGCM, 32, "sha384"),
    "TLS_CHACHA20_POLY1305_SHA256": Suite(ChaCha20Poly1305, 32, "sha256"),
}


def expand_label(secret: bytes, label: bytes, size: int, digest: str) -> bytes:
    """HKDF-Expand-Label of RFC 8446, section 7.1, without a context, for up to one block of the hash function."""
    info = size.to_bytes(2, "big") + bytes((6 + len(label),)) + b"tls13 " + label + b"\x00"
    return hmac.digest(secret, info + b"\x01", digest)[:size]


class _Key:
    """What encrypts one direction: the AEAD, the nonce of its first record, and how many records there were."""

    __slots__ = ("_secret", "_suite", "aead", "nonce", "records")

    def __init__(self, suite: Suite, secret: bytes) -> None:
        self._suite = suite
        self._use(secret)

    def _use(self, secret: bytes) -> None:
        suite = self._suite
        self._secret = secret
        self.aead = suite.aead(expand_label(secret, b"key", suite.key_size, suite.digest))
        self.nonce = int.from_bytes(expand_label(secret, b"iv", 12, suite.digest), "big")
        self.records = 0

    def update(self) -> None:
        """The next key of this direction."""
        self._use(expand_label(self._secret, b"traffic upd", len(self._secret), self._suite.digest))


class TlsRecords(Leftover):
    """The record layer of one connection (see `security.Records`).

    Args:
        suite: that was agreed on.
        send_secret: the first application traffic secret of this side.
        receive_secret: that of the peer.
        initiator: whether this side was the client.
        large: whether both sides send and take large records.
        records_per_key: records after which this side takes a new key, if not as many as are safe.
    """

    __slots__ = (
        "_alert",
        "_full_header",
        "_idle",
        "_initiator",
        "_longest",
        "_message",
        "_receive",
        "_record",
        "_records_per_key",
        "_send",
        "_update_due",
        "ended",
        "fill",
    )

    security = TLS

    def __init__(
        self,
        suite: Suite,
        send_secret: bytes,
        receive_secret: bytes,
        *,
        initiator: bool,
        large: bool = False,
        records_per_key: int | None = None,
    ) -> None:
        super().__init__()
        self.ended = False
        self.fill = limits.TLS_LARGE_MESSAGE if large else limits.TLS_MESSAGE
        if records_per_key is None:
            records_per_key = limits.TLS_LARGE_RECORDS_PER_KEY if large else limits.TLS_RECORDS_PER_KEY
        self._record = limits.TLS_LARGE_RECORD if large else limits.TLS_RECORD
        # What a full record has in front: its ciphertext is the content, its type and the tag.
        self._full_header = _header.pack(APPLICATION, _VERSION, self._record + 1 + _TAG)
        self._longest = self._record + 256  # as RFC 8446, section 5.2, has it for the small ones
        self._send = _Key(suite, send_secret)
        self._receive = _Key(suite, receive_secret)
        self._initiator = initiator
        self._records_per_key = records_per_key
        self._update_due = False
        self._alert = _CLOSE_NOTIFY
        self._message = bytearray()  # an incomplete handshake message
        self._idle = 0  # messages that did no work, and have not been told yet

    # --- sending ---------------------------------------------------------------------------------------------------

    def seal(self, plaintext: memoryview, size: int, out: memoryview) -> int:
        key = self._send
        position = 0
        if self._update_due or key.records >= self._records_per_key:
            # Only ours: a peer that has sent as many records takes a new key by itself.
            position = self._seal_message(HANDSHAKE, bytes((_KEY_UPDATE, 0, 0, 1, 0)), out)
            key.update()
            self._update_due = False
        aead, first, number = key.aead, key.nonce, key.records
        full, full_header = self._record, self._full_header
        start = 0
        while start < size:
            stop = start + full
            if stop <= size:
                header = full_header
            else:
                stop = size
                header = _header.pack(APPLICATION, _VERSION, stop - start + 1 + _TAG)
            body = position + HEADER
            after = body + stop - start + 1 + _TAG
            out[position:body] = header
            borrowed = plaintext[stop]
            plaintext[stop] = APPLICATION
            nonce = (first ^ number).to_bytes(12, "big")
            if _HAS_INTO:
                aead.encrypt_into(nonce, plaintext[start : stop + 1], header, out[body:after])
            else:
                out[body:after] = aead.encrypt(nonce, bytes(plaintext[start : stop + 1]), header)
            plaintext[stop] = borrowed
            number += 1
            start, position = stop, after
        key.records = number
        return position

    def _seal_message(self, kind: int, content: bytes, out: memoryview) -> int:
        """Write a short record of another type than data; the number of bytes written."""
        key = self._send
        header = _header.pack(APPLICATION, _VERSION, len(content) + 1 + _TAG)
        nonce = (key.nonce ^ key.records).to_bytes(12, "big")
        record = header + key.aead.encrypt(nonce, content + bytes((kind,)), header)
        key.records += 1
        out[: len(record)] = record
        return len(record)

    def goodbye(self, out: memoryview) -> int:
        level = 2 if self._alert else 1
        return self._seal_message(ALERT, bytes((level, self._alert)), out)

    # --- receiving -------------------------------------------------------------------------------------------------

    def read(self, buffer: memoryview, end: int, buffers: Buffers) -> Iterator[bytearray]:
        self._buffer, self._position, self._end = buffer, 0, end
        while (message := self._open_some(buffers)) is not None:
            if message:
                yield message
            while self._idle:
                self._idle -= 1
                yield bytearray()
        self._rest = bytes(self._buffer[self._position : self._end])
        self._buffer = memoryview(b"")

    def cut_off(self) -> str:
        return "the connection was cut off: the peer has not said that this is the end"

    def _open_some(self, buffers: Buffers) -> bytearray | None:
        """Decrypt the next records into one buffer, up to the first that is not data; `None` when none is whole."""
        buffer, position, end = self._buffer, self._position, self._end
        key = self._receive
        aead, first, number = key.aead, key.nonce, key.records
        room = end - position
        if room < HEADER:
            return None
        if room > limits.MESSAGE_BUFFER:
            room = limits.MESSAGE_BUFFER
            message = buffers.take()
        else:
            message = bytearray(room)
        out = memoryview(message)
        used = records = 0
        kind = APPLICATION
        content = b""
        while records < limits.TLS_GATHER and end - position >= HEADER:
            kind, _, size = _header.unpack_from(buffer, position)
            if kind != APPLICATION:
                raise self._fault(_UNEXPECTED_MESSAGE, f"The peer sent a TLS record of type {kind} without encryption.")
            if not _TAG < size <= self._longest:
                raise self._fault(_RECORD_OVERFLOW, f"The peer sent a TLS record of {size} bytes.")
            body = position + HEADER
            after = body + size
            stop = used + size - _TAG
            if after > end or stop > room:
                break
            nonce = (first ^ number).to_bytes(12, "big")
            header = buffer[position:body]
            try:
                if _HAS_INTO:
                    aead.decrypt_into(nonce, buffer[body:after], header, out[used:stop])
                else:
                    out[used:stop] = aead.decrypt(nonce, bytes(buffer[body:after]), bytes(header))
            except InvalidTag as error:
                raise self._fault(_BAD_RECORD_MAC, "The peer sent bytes that do not decrypt.") from error
            number += 1
            records += 1
            position = after
            kind = message[stop - 1]
            if kind == 0:
                stop = used + len(bytes(out[used:stop]).rstrip(b"\x00"))
                if stop == used:
                    raise self._fault(_UNEXPECTED_MESSAGE, "The peer sent a TLS record without a type.")
                kind = message[stop - 1]
            stop -= 1
            if stop - used > self._record:
                raise self._fault(_RECORD_OVERFLOW, f"The peer sent {stop - used} bytes in one TLS record.")
            if kind != APPLICATION:
                content = bytes(out[used:stop])
                break
            if stop == used:
                self._idle += 1
                break
            used = stop
        key.records = number
        self._position = position
        if not records:
            return None
        if used and self._message:
            raise self._fault(_UNEXPECTED_MESSAGE, "The peer sent data within a TLS handshake message.")
        if kind == HANDSHAKE:
            self._take_handshake(content)
        elif kind == ALERT:
            self._take_alert(content)
        elif kind != APPLICATION:
            raise self._fault(_UNEXPECTED_MESSAGE, f"The peer sent a TLS record of the unknown type {kind}.")
        out.release()
        del message[used:]
        buffers.give_back(message)
        return message

    def _take_handshake(self, content: bytes) -> None:
        if not content:
            raise self._fault(_UNEXPECTED_MESSAGE, "The peer sent an empty piece of a TLS handshake message.")
        waiting = self._message
        waiting += content
        self._idle += 1
        while len(waiting) >= 4:
            size = int.from_bytes(waiting[1:4], "big")
            if size > limits.TLS_LATE_MESSAGE:
                raise self._fault(_DECODE_ERROR, f"The peer sent a TLS handshake message of {size} bytes.")
            if len(waiting) < 4 + size:
                return
            kind, body = waiting[0], bytes(waiting[4 : 4 + size])
            del waiting[: 4 + size]
            self._idle += 1
            if kind == _KEY_UPDATE:
                self._update_received(body)
            elif kind != _NEW_SESSION_TICKET or not self._initiator:
                raise self._fault(_UNEXPECTED_MESSAGE, f"The peer sent a TLS handshake message of type {kind}.")

    def _update_received(self, body: bytes) -> None:
        if self._message:
            raise self._fault(_UNEXPECTED_MESSAGE, "The peer sent something behind a TLS key update.")
        if body not in (b"\x00", b"\x01"):
            raise self._fault(_ILLEGAL_PARAMETER, "The peer sent a TLS key update that is malformed.")
        self._receive.update()
        # Ours goes out in front of the next data: however many it asks for meanwhile, it gets one.
        self._update_due |= body == b"\x01"

    def _take_alert(self, content: bytes) -> None:
        if len(content) != 2:
            raise self._fault(_DECODE_ERROR, "The peer sent a TLS alert that is malformed.")
        alert = content[1]
        if alert == _CLOSE_NOTIFY:
            self.ended = True
            self._position = self._end
        elif alert == _USER_CANCELED:
            self._idle += 1  # a `close_notify` follows
        else:
            raise RecordError(f"The peer refused the connection: {_ALERTS.get(alert, f'TLS alert {alert}')}.")

    def _fault(self, alert: int, text: str) -> RecordError:
        """The error to raise for what the peer did; `goodbye` will tell it."""
        self._alert = alert
        return RecordError(text)
