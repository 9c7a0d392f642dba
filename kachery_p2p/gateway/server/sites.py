"""Pages of the program that runs a gateway, at paths of their own beside `/ipfs/` and `/ipns/`.

What others stored is on the same origin. So each document of a site says by its policy which scripts run in it: those
of the site, by host and path, and no others that lie here.
"""

from __future__ import annotations

import gzip
import hashlib
from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path

from kachery_p2p.gateway.server.pages import type_by_name
from kachery_p2p.gateway.server.ranges import matches
from kachery_p2p.gateway.server.replies import HttpReply

#: What stands for the place of a site's files in its policies.
PLACE = "{site}"
#: What is smaller goes out as it is: the packet is sent anyway.
_WORTH_PACKING = 1024


@dataclass(frozen=True)
class Site:
    """Some files that a gateway serves besides content.

    Attributes:
        path: below which they are, with a slash at both ends.
        files: where each is, by its path below that; `index.html` is what is shown at `path` itself.
        policies: the Content-Security-Policy of each document, with `{site}` for where the site's own files are.
        title: of the link to it on the page of the gateway.
        opens: the name of a file: a directory with it is shown by this site, at `path#ipfs://<cid>`.
        open_title: of the link to it on the page of that directory.
    """

    path: str
    files: Mapping[str, Path]
    policies: Mapping[str, str] = field(default_factory=dict)
    title: str = ""
    opens: str = ""
    open_title: str = ""


class _File:
    """A file as it is sent."""

    def __init__(self, data: bytes, name: str) -> None:
        self.data = data
        self.kind = type_by_name(name) or "application/octet-stream"
        # Weak (RFC 9110, section 8.8.1): the same for the packed bytes and the plain ones.
        self.etag = f'W/"{hashlib.sha256(data).hexdigest()[:32]}"'

    @cached_property
    def packed(self) -> bytes | None:
        """The same in gzip; None where that is not worth it."""
        if len(self.data) < _WORTH_PACKING or not self.kind.startswith(("text/", "application/json", "image/svg")):
            return None
        return gzip.compress(self.data, mtime=0)


class SiteFiles:
    """The files of a site, each read once, when it is first asked for. In threads."""

    def __init__(self, site: Site) -> None:
        self.site = site
        self._read: dict[str, _File] = {}

    def reply(self, name: str, host: str, headers: Mapping[str, str]) -> HttpReply | None:
        """The answer to a GET or HEAD of a file; None where there is none of that name.

        Args:
            name: the path below that of the site.
            host: by which the gateway was asked: name and port, perhaps empty.
            headers: of the request.
        """
        name = name or "index.html"
        if name not in self.site.files:
            return None
        file = self._read.get(name)
        if file is None:
            # Those who ask at the same time read it twice, and find the same.
            file = self._read[name] = _File(self.site.files[name].read_bytes(), name)
        found = {
            "content-type": file.kind,
            "etag": file.etag,
            # Asked for each time, and sent where it is another one.
            "cache-control": "no-cache",
            "vary": "Accept-Encoding",
            "referrer-policy": "no-referrer",
        }
        if name in self.site.policies:
            found["content-security-policy"] = self.site.policies[name].replace(PLACE, self._place(host))
        if matches(headers.get("if-none-match"), file.etag):
            return HttpReply(304, found)
        if "gzip" in headers.get("accept-encoding", "") and (packed := file.packed) is not None:
            return HttpReply(200, {**found, "content-encoding": "gzip"}, packed)
        return HttpReply(200, found, file.data)

    def _place(self, host: str) -> str:
        # Policies have no words for addresses of IPv6.
        return f"{host}{self.site.path}" if host and "[" not in host else "'self'"
