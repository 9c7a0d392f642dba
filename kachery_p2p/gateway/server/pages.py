"""What the path gateway shows: the type of a file, the page of a directory, the page of the gateway itself."""

from __future__ import annotations

import hashlib
import html
import mimetypes
from collections.abc import Sequence
from json import loads
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

_STYLE = (
    "body{font:16px/1.5 system-ui,sans-serif;margin:2em auto;max-width:60em;padding:0 1em;color:#222;background:#fff}"
    "h1{font-size:1.2em;overflow-wrap:anywhere}table{border-collapse:collapse;width:100%}"
    "td,th{text-align:left;padding:.15em .8em .15em 0;overflow-wrap:anywhere}"
    "td.n{text-align:right;white-space:nowrap;font-variant-numeric:tabular-nums}code{overflow-wrap:anywhere}"
    "@media (prefers-color-scheme:dark){body{color:#ddd;background:#181818}a{color:#8bf}}"
)
#: Nothing on our own pages runs or is loaded, whatever the names in a directory are.
PAGE_HEADERS = {
    "content-type": "text/html; charset=utf-8",
    "content-security-policy": "default-src 'none'; style-src 'unsafe-inline'; base-uri 'none'; form-action 'none'",
}


def _page(title: str, body: str) -> bytes:
    return (
        f'<!doctype html>\n<html lang="en">\n<meta charset="utf-8">\n'
        f'<meta name="viewport" content="width=device-width">\n<title>{html.escape(title)}</title>\n'
        f"<style>{_STYLE}</style>\n{body}</html>\n"
    ).encode("utf-8", "replace")


def directory_page(path: ContentPath | NamePath, cid: CID, entries: Sequence[HamtEntry], count: int) -> bytes:
    """The page of a directory: relative links, and sizes as far as the directory tells them.

    `entries` are the first of `count`.
    """
    rows = []
    if path.names:
        rows.append('<tr><td><a href="../">..</a><td class="n">')
    for entry in entries:
        name = html.escape(entry.name)
        # What is not raw has nodes of its own, which the directory counts in.
        about = "" if entry.cid.codec == RAW else "about "
        size = "" if entry.tsize is None else f"{about}{entry.tsize:,}"
        rows.append(f'<tr><td>{_link(entry.name, name)}<td class="n">{size}')
    more = count - len(entries)
    note = f"<p>... and {more:,} more, which can be asked for by their names.\n" if more > 0 else ""
    number = f"{count:,} entr{'y' if count == 1 else 'ies'}"
    body = (
        f"<h1>Index of {html.escape(path.shown)}</h1>\n<p>{number}, <code>{cid}</code>, all of it as "
        '<a href="?format=tar">TAR</a> or <a href="?format=car">CAR</a>\n'
        f'<table>\n<tr><th>Name<th style="text-align:right">Bytes\n' + "\n".join(rows) + f"\n</table>\n{note}"
    )
    return _page(path.shown, body)


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


def welcome_page(agent: str, *, fetches: bool) -> bytes:
    """What this gateway is, for those who come by."""
    how = (
        "What this machine does not have is fetched from the network."
        if fetches
        else "Only what this machine has is served; nothing is fetched from the network."
    )
    body = (
        f"<h1>IPFS gateway</h1>\n<p>This is the gateway of a {html.escape(agent)} node. {how}\n"
        "<table>\n"
        "<tr><td><code>/ipfs/CID</code><td>a file, or the page of a directory\n"
        "<tr><td><code>/ipfs/CID/name</code><td>a file in a directory; byte ranges work\n"
        "<tr><td><code>/ipfs/CID?format=tar</code><td>a folder with all that is in it\n"
        "<tr><td><code>/ipfs/CID?format=raw</code><td>one block, to be checked by whoever asked\n"
        "<tr><td><code>/ipfs/CID?format=car</code><td>many blocks, the same\n"
        "</table>\n"
    )
    return _page("IPFS gateway", body)
