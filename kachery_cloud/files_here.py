"""Files of this machine in the place of a URI: paths, and the `sha1://` URIs of the older kachery-cloud.

`load_file` and its siblings take them, so that a program works with a file that is here as with one that is elsewhere.
What is a URI does not depend on what lies in the working directory: a text with a scheme, one that begins with `/ipfs/`
or `/ipns/`, and one whose first part is a CID (a file of such a name is meant by `./NAME`, or by a `pathlib.Path`). Any
other text is a path, where there is such a file. A `pathlib.Path` is always a path.
"""

from __future__ import annotations

import errno
import os
import re
import stat
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from kachery_cloud.arguments import check_flags, path_text
from kachery_cloud.errors import FileMissing, InvalidCID, InvalidURI, NotAFile
from kachery_cloud.local import LocalFile
from kachery_cloud.request import Request
from kachery_cloud.settings.config import load_config
from kachery_cloud.uri import EXPECTED, ContentURI, begins_with_cid, check_peer_addresses, parse_uri
from kachery_p2p.oserrors import explained
from kachery_p2p.ownfiles import describe
from kachery_p2p.text import shown

_SCHEME = re.compile(r"[A-Za-z][A-Za-z0-9+.\-]*://|/ipfs/|(?i:/ipns/)")
#: Nearly a URI: what is wrong with it says `parse_uri`.
_NEARLY = re.compile(r"ip[fn]s[:/]", re.IGNORECASE)
#: In a path, and in no CID.
_OF_PATHS = "/\\.~"
_MISSING = (errno.ENOENT, errno.ENOTDIR, errno.ENAMETOOLONG, errno.ELOOP, errno.EINVAL)


@dataclass(frozen=True)
class FileHere(ContentURI):
    """A file of this machine, named in another way than by its CID.

    Attributes:
        cid: what it was named by: a path, or a hash.
        label: as in the URI; None for a path.
        file: where it is.
        given: as it is shown to people.
        again: what names it in another process, too.
        is_path: it was named by its path, so its name is the user's own.
    """

    file: Path = Path()
    given: str = ""
    again: str = ""
    is_path: bool = True

    def __str__(self) -> str:
        return self.again

    @property
    def locator(self) -> str:
        """What it was named by, without notes."""
        return self.given

    @property
    def pasteable(self) -> str:
        """The same."""
        return self.again

    @property
    def name(self) -> str:
        """What it is called."""
        return self.file.name if self.is_path else self.label or ""

    @property
    def file_name(self) -> str:
        """The name for a copy in a folder of the user's."""
        return self.file.name if self.is_path else super().file_name


class HereRequest(Request):
    """A call that loads what is a file of this machine: nobody is asked for anything."""

    def __init__(
        self,
        found: FileHere,
        *,
        local_only: bool = False,
        verbose: bool = False,
        providers: Sequence[str] = (),
        timeout: float | None = None,
    ) -> None:
        check_flags(local_only=local_only, verbose=verbose)
        self._take_options(local_only=local_only, verbose=verbose, timeout=timeout)
        self.uri = self.found = found
        self.providers = check_peer_addresses(providers, "a provider")

    def local(self, *, needs_path: bool = False) -> LocalFile:
        """The file."""
        return LocalFile(self.found.file)

    def file_name(self) -> str:
        """The name for a copy in a folder."""
        return self.found.file_name

    def named(self, path: Path) -> str:
        """The path as it was given: the file is not ours to give names to."""
        return self.found.given if self.found.is_path else str(path)

    def info(self) -> dict[str, Any]:
        """See `kachery_cloud.load.load_file_info`."""
        return {
            "uri": str(self.found),
            "cid": None,
            "kind": "file",
            "size": self.local().size,
            "dag_size": None,
            "destination": None,
            "label": self.found.label,
            "sources": {},
            "local": True,
            "path": str(self.found.file),
            "shared": None,
        }


def request_for(uri: str | os.PathLike[str], **how: Any) -> Request:
    """The request for a file that is named by a URI, or by its path on this machine.

    Args:
        uri: what names it.
        how: as for `Request`.

    Raises:
        FileMissing: it is a path, and there is no such file.
        NotAFile: something else is there.
        InvalidURI, InvalidCID: it is neither a path nor a URI.
        ContentNotFound, DamagedFile: it is a `sha1://` URI of a file that is not here, or not what it was.
    """
    found = file_here(uri)
    return request_of(uri, **how) if found is None else HereRequest(found, **how)  # type: ignore[arg-type]


def request_of(uri: str, **how: Any) -> Request:
    """The request for what a URI names; another kind where that is encrypted, whose code is read only then.

    Args:
        uri: of a file or directory.
        how: as for `Request`.

    Raises:
        InvalidURI, InvalidCID ...: as `Request` does.
    """
    if isinstance(uri, str) and ("encryption=" in uri or "#" in uri):
        from kachery_cloud.encrypted_request import EncryptedRequest

        return EncryptedRequest(uri, **how)
    return Request(uri, **how)


def file_here(uri: str | os.PathLike[str]) -> FileHere | None:
    """The file of this machine that is meant; None where the text is a URI, or nothing that makes sense.

    Raises:
        KacheryError: see `request_for`.
    """
    if isinstance(uri, os.PathLike):
        text = path_text(uri, "The path")
        found = _at(text, text)
        if found is None:
            raise FileMissing(f"There is no file {text} on this machine.")
        return found
    if not isinstance(uri, str) or uri.startswith("ipfs://") or not uri.strip():
        return None
    text = uri.strip()
    if text[:7].lower() == "sha1://":
        from kachery_cloud.older_sha1 import find_sha1

        older = find_sha1(load_config().directory, text)
        return FileHere(
            older.digest, label=older.label, file=older.path, given=older.locator, again=older.uri, is_path=False
        )
    if _SCHEME.match(text) or begins_with_cid(text):
        return None
    found = _at(uri, os.path.expanduser(uri))
    if found is not None:
        return found
    quoted = shown(text, 300)
    try:
        parse_uri(text)
    except (InvalidURI, InvalidCID) as error:
        if any(each in text for each in _OF_PATHS) and not _NEARLY.match(text):
            raise FileMissing(
                f"{quoted} is neither a file on this machine nor a URI: there is no such file here. {EXPECTED}, or the "
                "path of a file."
            ) from None
        raise type(error)(f"{error} Nor is there a file of that name in {os.getcwd()}.") from None
    return None


def _at(given: str, path: str) -> FileHere | None:
    """The file at a path; None where there is none.

    Raises:
        NotAFile: something else is there.
        NoPermission: it cannot be looked at.
    """
    with explained("looking at", path):
        try:
            mode = os.stat(path).st_mode
        except ValueError:  # a NUL
            return None
        except OSError as error:
            if error.errno in _MISSING:
                return None
            raise
    if not stat.S_ISREG(mode):
        more = ""
        if stat.S_ISDIR(mode):
            more = " It is on this machine already; to share it, store it with store_dir (kachery-cloud-store -r)."
        raise NotAFile(f"{path} is {describe(mode)}, not a file.{more}")
    return FileHere(path, file=Path(path), given=path, again=os.path.abspath(path))
