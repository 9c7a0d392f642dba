"""`ipfs://`, `kachery://` and `ipns://` as paths of universal_pathlib, which finds the class by its entry point.

    from upath import UPath

    text = (UPath("ipfs://bafy...") / "notes" / "readme.txt").read_text()

What a path does is done by `kachery_cloud.filesystem.KacheryFileSystem`.
"""

from __future__ import annotations

from fsspec import get_filesystem_class
from upath import UPath

# Before the first path is made, universal_pathlib looks among the classes that are loaded for the one whose paths these
# are; else it takes them for those of any file system, and says so.
for _protocol in ("ipfs", "kachery", "ipns"):
    get_filesystem_class(_protocol)


class KacheryPath(UPath):
    """A file or folder by its URI. It can be read, and nothing can be changed."""

    __slots__ = ()

    def as_uri(self) -> str:
        """Its URI, with what a URI has no room for encoded: what all functions of `kachery_cloud` take."""
        return self.fs.unstrip_protocol(self.path)
