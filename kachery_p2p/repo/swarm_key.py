"""`swarm.key`: the key that all members of a private network share, in the file format of Kubo.

Three lines: `/key/swarm/psk/1.0.0/`, then how the key is written (`/base16/`, `/base64/` or `/bin/`), then the key, 32
bytes (libp2p's Private-Networks-PSK-V1). With such a file in its directory a node speaks to holders of the key alone.
So a file that is there but does not read is an error, never a reason to go on without it; and no message says what is
in the key's line.
"""

from __future__ import annotations

import base64
import binascii
import contextlib
import hashlib
import logging
import os
import secrets
import stat
from pathlib import Path

from kachery_p2p.errors import FileMissing, NotAFile, SwarmKeyError
from kachery_p2p.oserrors import explained
from kachery_p2p.ownfiles import read_own_file
from kachery_p2p.private import is_shared, make_directory
from kachery_p2p.repo.wholefile import write_new

log = logging.getLogger("kachery_p2p.repo")

SWARM_KEY_NAME = "swarm.key"
KEY_SIZE = 32

_HEADER = b"/key/swarm/psk/1.0.0/"
_ENCODINGS = (b"/base16/", b"/base64/", b"/bin/")
#: A file of this format has 95 bytes; more than this is something else, and is not read to its end.
_MAX_FILE = 4096
_ADVICE = "Copy it again from another machine of the lab, or make a new one there with kachery-cloud-keygen-swarm."


def read_swarm_key(directory: Path, *, warn: bool = True) -> bytes | None:
    """The key in `directory/swarm.key`, 32 bytes; None where there is no such file.

    Others who may read the file are worth a warning in the log, unless `warn` is off.

    Raises:
        SwarmKeyError: the file is there and is not a key; says which line is wrong.
        NoPermission: the file may not be read.
    """
    path = Path(directory) / SWARM_KEY_NAME
    # A name that leads nowhere (a broken link, a disk that is not mounted) must not read as "no private network".
    if not os.path.lexists(path):
        return None
    try:
        with explained("reading the key of the private network,", path):
            content = read_own_file(path, _MAX_FILE)
    except FileMissing:
        raise SwarmKeyError(f"{path} is not a file that can be read. {_ADVICE}") from None
    except NotAFile as error:
        raise SwarmKeyError(f"This is not a swarm key: {error} {_ADVICE}") from None
    key = parse_swarm_key(content, str(path))
    warning = loose_permissions(directory) if warn else None
    if warning:
        log.warning("%s", warning)
    return key


def parse_swarm_key(content: bytes, origin: str = SWARM_KEY_NAME) -> bytes:
    """The 32 bytes of the key in the content of a `swarm.key`.

    Raises:
        SwarmKeyError: it is not one; names `origin` and the line.
    """
    header, _, rest = content.partition(b"\n")
    encoding, _, written = rest.partition(b"\n")
    if header.rstrip(b"\r") != _HEADER:
        raise SwarmKeyError(f"Line 1 of {origin} is not {_HEADER.decode()}, so it is not a swarm key. {_ADVICE}")
    encoding = encoding.rstrip(b"\r")
    if encoding not in _ENCODINGS:
        raise SwarmKeyError(f"Line 2 of {origin} is not /base16/, /base64/ or /bin/. {_ADVICE}")
    if encoding == b"/bin/":
        # Any byte may be part of the key, so only what follows its 32 may be the end of a line.
        key, after = written[:KEY_SIZE], written[KEY_SIZE:]
        whole = after in (b"", b"\n", b"\r\n")
    else:
        text = written.strip(b" \t\r\n")
        try:
            key = binascii.unhexlify(text) if encoding == b"/base16/" else base64.b64decode(text, validate=True)
        except ValueError:
            name = "hexadecimal digits" if encoding == b"/base16/" else "base64"
            raise SwarmKeyError(f"Line 3 of {origin}, the key, is not {name}. {_ADVICE}") from None
        whole = True
    if len(key) != KEY_SIZE or not whole:
        size = len(key) if whole else len(written)
        raise SwarmKeyError(f"Line 3 of {origin}, the key, has {size} bytes instead of {KEY_SIZE}. {_ADVICE}")
    return key


def format_swarm_key(key: bytes) -> str:
    """The text of a `swarm.key` that holds this key (keep it secret)."""
    return f"{_HEADER.decode()}\n/base16/\n{key.hex()}\n"


def generate_swarm_key() -> bytes:
    """A new key of 32 random bytes."""
    return secrets.token_bytes(KEY_SIZE)


def write_swarm_key(path: Path, key: bytes) -> None:
    """Write the key to the file `path`, mode 0600 (in a shared directory 0660), durably.

    Its folder is made where it is missing (0700).

    Raises:
        SwarmKeyError: there is a file of that name. A key is never overwritten: who has lost it is shut out.
        NoPermission, DiskFull: the system does not allow it.
    """
    with explained("writing the key of the private network,", path):
        make_directory(path.parent)
        if not write_new(path, format_swarm_key(key).encode("ascii")):
            raise SwarmKeyError(
                f"There is a key in {path} already, and a key is never overwritten: the members of its network would "
                f"no longer be reached. To begin a new network, move it away first: mv {path} {path}.old"
            )


def fingerprint(key: bytes) -> str:
    """32 hexadecimal digits that tell keys apart and do not give them away: what Kubo prints when it starts.

    SHAKE-128 of 64 bytes of the key's Salsa20 stream (nonce `finprint`).
    """
    from Crypto.Cipher import Salsa20

    return hashlib.shake_128(Salsa20.new(key=key, nonce=b"finprint").encrypt(bytes(64))).hexdigest(16)


def loose_permissions(directory: Path) -> str | None:
    """A sentence where other users of this machine may read or change `directory/swarm.key`; else None."""
    path = Path(directory) / SWARM_KEY_NAME
    if os.name != "posix":
        return None
    try:
        mode = stat.S_IMODE(path.stat().st_mode)
    except OSError:  # no file, or none that may be looked at: reading it says so
        return None
    with contextlib.suppress(OSError):
        if is_shared(path.parent):
            mode &= ~0o060
    if not mode & 0o077:
        return None
    verb = "change" if mode & 0o022 else "read"
    return (
        f"Other users of this machine may {verb} {path}, the key of the private network. To keep it to yourself: "
        f"chmod 600 {path}"
    )
