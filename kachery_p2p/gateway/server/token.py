"""The token with which a gateway gives its user what is not for everyone: `gateway-token` in the data directory.

It is 32 random bytes in base64url, made when it is first needed, in a file that its owner alone can read, also where
the data directory is shared. Whoever shows it (`Authorization: Bearer ...`, RFC 6750) is the user of this machine.
"""

from __future__ import annotations

import errno
import hmac
import os
import re
import secrets
from pathlib import Path

from kachery_p2p import private
from kachery_p2p.errors import KacheryError
from kachery_p2p.oserrors import explained
from kachery_p2p.ownfiles import read_own_file
from kachery_p2p.repo.wholefile import write_new

TOKEN_NAME = "gateway-token"
_TOKEN = re.compile(rb"[A-Za-z0-9_-]{43,128}")
#: Bytes of the file: a token, and what editors put behind it.
_MOST = 256


def gateway_token(directory: Path) -> str:
    """The token of a data directory, made where there is none.

    Raises:
        KacheryError: what is in its place is no token.
        NoPermission, DiskFull: it can be neither read nor made.
    """
    found = read_token(directory)
    return _make(directory) if found is None else found


def read_token(directory: Path) -> str | None:
    """The token of a data directory; None where there is none.

    Raises:
        KacheryError: what is in its place is no token.
        NoPermission: it may not be read.
    """
    path = directory / TOKEN_NAME
    try:
        with explained("reading the token of the gateway,", path):
            content = read_own_file(path, _MOST).strip()
            private.make_private(path)
    except KacheryError:
        if not os.path.lexists(path):
            return None
        raise
    if not _TOKEN.fullmatch(content):
        raise KacheryError(
            f"{path} does not hold the token of a gateway. Remove it: a new one is made when it is needed."
        )
    return content.decode("ascii")


def _make(directory: Path) -> str:
    path = directory / TOKEN_NAME
    token = secrets.token_urlsafe(32)
    with explained("writing the token of the gateway,", path):
        private.make_directory(directory)
        # Of two processes that make one, the first has made it for both.
        if write_new(path, f"{token}\n".encode("ascii"), secret=True):
            return token
        found = read_token(directory)
        if found is None:
            raise FileNotFoundError(errno.ENOENT, os.strerror(errno.ENOENT), str(path))  # removed at this moment
        return found


def is_bearer(header: str) -> bool:
    """Whether an Authorization header shows a token, right or wrong."""
    return header.strip().partition(" ")[0].lower() == "bearer"


def shows_token(header: str, token: str | None) -> bool | None:
    """Whether an Authorization header shows the token; None where it shows none at all.

    Another scheme than Bearer is for somebody else: a proxy in front may ask for a password and pass it on.
    """
    if not is_bearer(header):
        return None
    shown = header.strip().partition(" ")[2]
    # The same work where there is no token to compare with.
    expected = secrets.token_urlsafe(32) if token is None else token
    return hmac.compare_digest(shown.strip().encode("latin-1", "replace"), expected.encode("ascii"))
