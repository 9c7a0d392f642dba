"""What the path gateway shows: the type of a file, the page of a directory, the page of the gateway itself."""

from __future__ import annotations

import hashlib
import html
import mimetypes
import re
from base64 import b64encode
from collections.abc import Mapping, Sequence
from http import HTTPStatus
from json import loads
from pathlib import Path
from types import MappingProxyType
from typing import TypeAlias
from urllib.parse import quote

from kachery_p2p.dag.cid import CID, RAW
from kachery_p2p.dag.hamt import HamtEntry
from kachery_p2p.errors import InvalidCID, MalformedDag, UnsupportedCID
from kachery_p2p.gateway.server import ipld, limits
from kachery_p2p.gateway.server.paths import ContentPath, NamePath

#: Without the tables of this machine, so that every gateway says the same.
_TYPES = mimetypes.MimeTypes(filenames=())
for _type, _extensions in {
    "application/x-hdf5": (".h5", ".hdf5", ".nwb"),
    "application/octet-stream": (".npy", ".dat"),
    "application/zip": (".npz",),
    "application/wasm": (".wasm",),
    "application/yaml": (".yaml", ".yml"),
    "font/woff2": (".woff2",),
    "image/avif": (".avif",),
    "image/webp": (".webp",),
    "text/javascript": (".js", ".mjs"),
    "text/markdown": (".md",),
    "application/geo+json": (".geojson",),
}.items():
    for _extension in _extensions:
        _TYPES.add_type(_type, _extension)

_COMPRESSED = {"gzip": "application/gzip", "bzip2": "application/x-bzip2", "xz": "application/x-xz"}

#: How files without a name begin. None of these can carry a script.
_MAGIC = (
    (b"\x89PNG\r\n\x1a\n", "image/png"),
    (b"\xff\xd8\xff", "image/jpeg"),
    (b"GIF8", "image/gif"),
    (b"%PDF-", "application/pdf"),
    (b"\x1f\x8b", "application/gzip"),
    (b"PK\x03\x04", "application/zip"),
    (b"\x89HDF\r\n\x1a\n", "application/x-hdf5"),
)

_ACTIVE = ("text/html", "application/xhtml+xml", "image/svg+xml", "application/xml", "text/xml")
#: Documents run in an origin of their own: those of strangers share the name of this gateway, and nothing else.
_SANDBOX = "sandbox allow-downloads allow-forms allow-modals allow-popups allow-scripts"


def type_by_name(name: str) -> str | None:
    """The media type that the end of a name tells, or None."""
    kind, encoding = _TYPES.guess_type("file:///" + quote(name), strict=True)
    if encoding is not None:
        return _COMPRESSED.get(encoding, "application/octet-stream")
    return _with_charset(kind) if kind else None


def type_by_content(head: bytes, size: int, *, json: bool = False) -> str:
    """The media type of a file without a telling name, from its beginning: never one that could run a script.

    Args:
        head: its first `limits.SNIFF_BYTES` bytes, or all there are.
        size: of the whole file.
        json: it is asked for as JSON; then a longer one is believed by its first letter.
    """
    for magic, kind in _MAGIC:
        if head.startswith(magic):
            return kind
    if not head:
        return "application/octet-stream"
    try:
        text = head.decode("utf-8")
    except UnicodeDecodeError as error:
        if len(head) < limits.SNIFF_BYTES or error.start < len(head) - 4:
            return "application/octet-stream"
        text = head[: error.start].decode("utf-8")  # a letter was cut in two
    if any(c < " " and c not in "\t\n\r\f\x1b" for c in text):
        return "application/octet-stream"
    if text.lstrip()[:1] in ("{", "[") and (json if size > len(head) else _is_json(text)):
        return "application/json"
    return "text/plain; charset=utf-8"


def _is_json(text: str) -> bool:
    try:
        loads(text)
    except (ValueError, RecursionError):
        return False
    return True


def _with_charset(kind: str) -> str:
    # JSON is UTF-8 and has no such parameter (RFC 8259, section 11).
    return f"{kind}; charset=utf-8" if kind.startswith("text/") else kind


def content_headers(kind: str) -> dict[str, str]:
    """The headers that go with a media type."""
    active = kind.partition(";")[0] in _ACTIVE
    return {"content-type": kind, **({"content-security-policy": _SANDBOX} if active else {})}


def disposition(how: str, name: str) -> str:
    """Content-Disposition: `inline` or `attachment`, with a file name of any letters (RFC 6266)."""
    plain = "".join(c if " " <= c <= "~" and c not in '"\\%' else "_" for c in name)
    exact = "" if plain == name else f"; filename*=UTF-8''{quote(name, safe='')}"
    return f'{how}; filename="{plain}"{exact}'


# --- pages -----------------------------------------------------------------------------------------------------------

_COMMENT = re.compile(r"/\*.*?\*/", re.DOTALL)
_STYLE = " ".join(_COMMENT.sub("", Path(__file__).with_name("style.css").read_text(encoding="utf-8")).split())
#: Nothing on our own pages runs or is loaded, whatever the names in a directory are.
PAGE_HEADERS = {
    "content-type": "text/html; charset=utf-8",
    "content-security-policy": "default-src 'none'; style-src "
    f"'sha256-{b64encode(hashlib.sha256(_STYLE.encode()).digest()).decode()}'; base-uri 'none'; form-action 'none'",
    "referrer-policy": "no-referrer",
}
_SIGN = (
    '<svg viewBox="0 0 32 32" aria-hidden="true"><rect width="32" height="32" rx="8" fill="#00665b"/>'
    '<path d="M10 22V10m0 6h12m0 0-6-6m6 6-6 6" fill="none" stroke="#fff" stroke-width="2.6" stroke-linecap="round" '
    'stroke-linejoin="round"/></svg>'
)


def _page(title: str, body: str) -> bytes:
    return (
        f'<!doctype html>\n<html lang="en">\n<meta charset="utf-8">\n'
        f'<meta name="viewport" content="width=device-width, initial-scale=1">\n'
        f'<meta name="color-scheme" content="light dark">\n<title>{html.escape(title)}</title>\n'
        f"<style>{_STYLE}</style>\n"
        f'<header class="top"><div>{_SIGN}<a href="/">IPFS gateway</a></div></header>\n<main>\n{body}</main>\n</html>\n'
    ).encode("utf-8", "replace")


#: What an entry of a directory is: a folder or a file, as its block says; None where that is not here to be looked at.
Folder: TypeAlias = bool | None


def directory_page(
    path: ContentPath | NamePath,
    cid: CID,
    entries: Sequence[HamtEntry],
    count: int,
    folders: Mapping[CID, bool] = MappingProxyType({}),
    link: tuple[str, str] | None = None,
) -> bytes:
    """The page of a directory: relative links, and kinds and sizes as far as they can be told.

    Args:
        path: that was asked for.
        cid: of the directory.
        entries: the first of `count`.
        count: how many there are.
        folders: whether an entry is a folder, by its CID, of those of which it is known.
        link: to what shows this directory otherwise: its address, and what it is called.
    """
    rows = []
    if path.names:
        rows.append('<tr><td><a href="../">..</a><td class="kind">folder above<td class="number">')
    for entry in entries:
        # What is not raw has nodes of its own, which the directory counts in.
        about = "" if entry.cid.codec == RAW else "about "
        size = "" if entry.tsize is None else f"{about}{_size(entry.tsize)}"
        folder = False if entry.cid.codec == RAW else folders.get(entry.cid)
        name = html.escape(entry.name) + "/" * bool(folder)
        rows.append(
            f'<tr><td>{_link(entry.name, name)}<td class="kind muted">{_kind(entry.name, folder)}'
            f'<td class="number">{size}'
        )
    more = count - len(entries)
    note = f"<p>... and {more:,} more, which can be asked for by their names.\n" if more > 0 else ""
    number = f"{count:,} entr{'y' if count == 1 else 'ies'}"
    shown = "" if link is None else f'<p><a class="button" href="{html.escape(link[0])}">{html.escape(link[1])}</a>\n'
    body = (
        f"<h1>Index of {html.escape(path.shown)}</h1>\n{shown}<p>{number}, <code>{cid}</code>, all of it as "
        '<a href="?format=tar">TAR</a> or <a href="?format=car">CAR</a>\n'
        '<div class="frame"><table>\n<thead><tr><th scope="col">Name<th scope="col" class="kind">Kind'
        '<th scope="col" class="number">Size</thead>\n<tbody>\n' + "\n".join(rows) + f"\n</table></div>\n{note}"
    )
    return _page(path.shown, body)


def _size(size: int) -> str:
    """A size for people; the exact one is there for programs."""
    if size < 1000:
        return f"{size} bytes"
    at = min(len(_UNITS), (len(str(size)) - 1) // 3)
    return (
        f'<data value="{size}">{size / 1000**at:.3g} {_UNITS[at - 1]}</data>'
        if size < 1000 ** (at + 1)
        else f"{size:,}"
    )


_UNITS = ("kB", "MB", "GB", "TB", "PB")
#: What kinds of files are called, by the ends of their names, or by their media types.
_KINDS = {
    ".npy": "NumPy array",
    ".npz": "NumPy arrays",
    ".nwb": "NWB recording",
    ".h5": "HDF5 file",
    ".hdf5": "HDF5 file",
    ".zarr": "Zarr store",
    ".parquet": "Parquet table",
    ".mat": "MATLAB file",
    ".ipynb": "notebook",
    ".py": "Python program",
    ".csv": "CSV table",
    ".tsv": "TSV table",
    ".json": "JSON",
    ".geojson": "GeoJSON",
    ".pdf": "PDF",
    ".zip": "ZIP archive",
    ".tar": "TAR archive",
    ".gz": "compressed (gzip)",
    ".md": "Markdown text",
    ".html": "web page",
    ".js": "script",
    ".css": "style sheet",
}
_FAMILIES = {"image": "picture", "video": "video", "audio": "sound", "text": "text", "font": "font"}


def _kind(name: str, folder: Folder) -> str:
    end = "." + name.rpartition(".")[2].lower() if "." in name else ""
    if folder:
        return f"folder ({_KINDS[end]})" if end in _KINDS else "folder"
    if end in _KINDS:
        return _KINDS[end]
    family = (type_by_name(name) or "").partition("/")[0]
    return _FAMILIES.get(family, "file" if folder is False else "")


def _link(name: str, shown: str) -> str:
    """A link to an entry; none for names that would lead out of the directory, or that no path can have."""
    if name in ("", ".", "..") or "/" in name or "\0" in name:
        return shown
    # './' so that a name with a colon is not taken for a scheme.
    return f'<a href="./{quote(name, safe="")}">{shown}</a>'


#: Changes with the looks of the page, so that no cache shows an old one.
_PAGE_VERSION = hashlib.sha256(
    directory_page(ContentPath(CID(1, RAW, b"\0\0"), ("a",), True), CID(1, RAW, b"\0\0"), [], 0)
).hexdigest()[:8]


def directory_etag(cid: CID) -> str:
    """The ETag of the page of a directory."""
    return f'"DirIndex-{_PAGE_VERSION}_CID-{cid}"'


def node_etag(cid: CID) -> str:
    """The ETag of the page of a dag-cbor or dag-json block."""
    return f'"DagIndex-{_NODE_PAGE_VERSION}_CID-{cid}"'


def node_page(path: ContentPath | NamePath, cid: CID, block: bytes) -> bytes:
    """The page of a dag-cbor or dag-json block: what is in it, and links to where its links lead."""
    kind, _ = ipld.TYPES[cid.codec]
    form = next(name for name, codec in ipld.CODECS.items() if codec == cid.codec)
    try:
        lines, more = ipld.outline(ipld.decode(cid, block), _node_link, html.escape)
        shown = f"<pre>{chr(10).join(lines)}</pre>\n" + ("<p>... and more\n" if more else "")
    except MalformedDag as error:
        shown = f"<p>It cannot be shown. {html.escape(str(error))}\n"
    body = (
        f"<h1>{html.escape(path.shown)}</h1>\n<p>{len(block):,} bytes of {kind}, <code>{cid}</code>, "
        f'<a href="/ipfs/{cid}?format={form}">as it is</a> or <a href="/ipfs/{cid}?format=raw">as a raw block</a>\n'
        f"{shown}"
    )
    return _page(path.shown, body)


def _node_link(link: ipld.Link) -> str:
    try:
        cid = link.cid
    except (InvalidCID, UnsupportedCID):
        return f"a link that cannot be followed here, {link.binary[:100].hex()}"
    return f'<a href="/ipfs/{cid}">{cid}</a>'


_NODE_PAGE_VERSION = hashlib.sha256(
    node_page(ContentPath(CID(1, ipld.DAG_JSON, b"\0\0"), ("a",), True), CID(1, ipld.DAG_JSON, b"\0\0"), b"{}")
).hexdigest()[:8]


def welcome_page(agent: str, *, fetches: bool, links: Sequence[tuple[str, str]] = ()) -> bytes:
    """What this gateway is, for those who come by; with links to what else is here: address, and what it is called."""
    how = (
        "What this machine does not have is fetched from the network."
        if fetches
        else "Only what this machine has is served; nothing is fetched from the network."
    )
    others = "".join(f'<p><a href="{html.escape(to)}">{html.escape(title)}</a>\n' for to, title in links)
    body = (
        f"<h1>IPFS gateway</h1>\n<p>This is the gateway of a {html.escape(agent)} node. {how}\n"
        '<div class="frame"><table>\n<thead><tr><th scope="col">Address<th scope="col">What it gives</thead>\n<tbody>\n'
        "<tr><td><code>/ipfs/CID</code><td>a file, or the page of a directory\n"
        "<tr><td><code>/ipfs/CID/name</code><td>a file in a directory; byte ranges work\n"
        "<tr><td><code>/ipfs/CID?format=tar</code><td>a folder with all that is in it\n"
        "<tr><td><code>/ipfs/CID?format=raw</code><td>one block, to be checked by whoever asked\n"
        "<tr><td><code>/ipfs/CID?format=car</code><td>many blocks, the same\n"
        f"</table></div>\n{others}"
    )
    return _page("IPFS gateway", body)


def error_page(status: int, message: str) -> bytes:
    """That something cannot be had, for those who look at it in a browser."""
    reason = HTTPStatus(status).phrase
    body = f'<h1>{reason}</h1>\n<p class="notice">{html.escape(message)}\n<p class="muted">HTTP status {status}\n'
    return _page(reason, body)
