"""What a path leads to, in each form in which it can be asked for: file, page, block, CAR, TAR, dag-cbor and dag-json.

Follows https://specs.ipfs.tech/http-gateways/path-gateway/ and .../trustless-gateway/. A block of a codec other than
raw and dag-pb is given out as it is, in the form of its codec and in no other (IPIP-0524).
"""

from __future__ import annotations

import contextlib
from collections.abc import AsyncGenerator, Callable, Mapping, Sequence

from kachery_p2p.dag.cid import CID, DAG_PB, RAW
from kachery_p2p.dag.nodes import symlink_target
from kachery_p2p.dag.unixfs import DataType
from kachery_p2p.errors import MalformedDag, UnsupportedCID
from kachery_p2p.gateway.media_types import RAW_TYPE
from kachery_p2p.gateway.server import ipld
from kachery_p2p.gateway.server.cars import CarPieces, CarRequest
from kachery_p2p.gateway.server.content import Content, ResolvedPath
from kachery_p2p.gateway.server.pages import (
    PAGE_HEADERS,
    content_headers,
    directory_etag,
    directory_page,
    disposition,
    node_etag,
    node_page,
    type_by_content,
    type_by_name,
)
from kachery_p2p.gateway.server.paths import TAR_TYPE, PathRefusal
from kachery_p2p.gateway.server.ranges import Multipart
from kachery_p2p.gateway.server.replies import FOR_EVER, GENERATED, HttpReply, Pieces
from kachery_p2p.gateway.server.request import Request
from kachery_p2p.gateway.server.sites import Site
from kachery_p2p.gateway.server.tar import tar_pieces

_FOLDERS = (DataType.DIRECTORY, DataType.HAMT_SHARD)

#: Gives the bytes of a body from one offset to another.
Read = Callable[[int, int], Pieces]


async def answer_for(content: Content, request: Request, sites: Sequence[Site] = ()) -> HttpReply:
    """The answer to a GET or HEAD of a path. The page of a directory has a link to that of the `sites` which shows it.

    Raises:
        PathRefusal: it cannot be had in the form that is asked for, or its path cannot be followed.
        KacheryError: it cannot be read; see `Content`.
    """
    path = request.path
    if request.only_if_cached:
        content = content.only_here()
    try:
        assert request.target is not None, "where a name points is known by now"
        found = await content.find(*request.target)
    except MalformedDag as error:
        # "traversal of the requested content path was not possible due to an invalid or missing DAG node"
        raise PathRefusal(404, str(error), request.headers_found) from error
    request.found(found)
    form = request.wanted.format
    if form == "raw":
        return await _raw(request, found)
    if form == "car":
        return await _car(content, request, found)
    if form == "tar":
        return await _tar(content, request, found)
    if found.cid.codec in ipld.TYPES:
        return await _codec(content, request, found)
    if form not in (None, "json") and not request.wanted.lenient:
        raise _not_in_this_form(request, found)
    kind = found.kind
    if kind in _FOLDERS:
        return await _directory(content, request, found, sites)
    if kind is DataType.SYMLINK:
        target = symlink_target(found.block, found.cid).encode("utf-8", "replace")
        etag = f'"{found.cid}"'
        if request.has(etag):
            return request.not_modified(etag)
        headers = {**request.cached(etag), "content-type": "inode/symlink"}
        return await _ranged_block(request, headers, etag, target)
    return await _file(content, request, found, path.names[-1] if path.names else "")


def _not_in_this_form(request: Request, found: ResolvedPath) -> PathRefusal:
    return PathRefusal(
        406,
        f"{request.path.shown} has the codec 0x{found.cid.codec:x} and cannot be had as {request.wanted.format}: this "
        "gateway does not convert. Ask for the block itself with ?format=raw.",
        request.headers_found,
    )


# --- bodies, whole and in parts --------------------------------------------------------------------------------------


async def _ranged(request: Request, headers: Mapping[str, str], etag: str, size: int, read: Read) -> HttpReply:
    """A body of `size` bytes, or the parts of it that are asked for. `headers` have its media type."""
    ranges = request.ranges(size, etag)
    sent = {**headers, "accept-ranges": "bytes"}
    if not ranges:
        sent["content-length"] = str(size)
        pieces = read(0, size) if size else None
    elif len(ranges) == 1:
        ((start, end),) = ranges
        sent |= {"content-length": str(end - start), "content-range": f"bytes {start}-{end - 1}/{size}"}
        pieces = read(start, end)
    else:
        frame = Multipart(ranges, headers["content-type"], size)
        sent |= {"content-length": str(frame.length), "content-type": frame.content_type}
        pieces = _parts(frame, ranges, read)
    status = 206 if ranges else 200
    if pieces is None or request.head:
        return HttpReply(status, sent)
    return HttpReply(status, sent, await _begun(pieces))


async def _ranged_block(request: Request, headers: Mapping[str, str], etag: str, block: bytes) -> HttpReply:
    """The same of a block. All of one, which is asked for most, goes out at once."""

    async def read(start: int, end: int) -> AsyncGenerator[bytes, None]:
        yield block[start:end]

    if "range" in request.headers:
        return await _ranged(request, headers, etag, len(block), read)
    return HttpReply(200, {**headers, "accept-ranges": "bytes"}, block)


async def _parts(frame: Multipart, ranges: Sequence[tuple[int, int]], read: Read) -> Pieces:
    for head, (start, end) in zip(frame.heads, ranges, strict=True):
        async with contextlib.aclosing(read(start, end)) as pieces:
            yield head + await anext(pieces, b"")
            async for piece in pieces:
                yield piece
    yield frame.tail


async def _begun(pieces: Pieces) -> Pieces:
    """The same, with the first piece read: what is wrong at once is told by the status."""
    try:
        first = await anext(pieces, b"")
    except BaseException:
        await pieces.aclose()
        raise
    return _with_first(first, pieces)


async def _with_first(first: bytes, rest: Pieces) -> Pieces:
    async with contextlib.aclosing(rest):
        yield first
        async for piece in rest:
            yield piece


# --- blocks and CARs -------------------------------------------------------------------------------------------------


async def _raw(request: Request, found: ResolvedPath) -> HttpReply:
    etag = f'"{found.cid}.raw"'
    if request.has(etag):
        return request.not_modified(etag)
    headers = {**request.cached(etag), "content-type": RAW_TYPE, **request.attached(f"{found.cid}.bin")}
    return await _ranged_block(request, headers, etag, found.block)


async def _car(content: Content, request: Request, found: ResolvedPath) -> HttpReply:
    car = request.car()
    etag = car.etag(request.path.text, found.roots[0])
    if request.has(etag):
        return request.not_modified(etag)
    if not request.head:
        await _fetch_for_car(content, car, found)
    if car.part is not None and found.unixfs_kind in (DataType.FILE, DataType.RAW) and car.part[0] >= found.size > 0:
        raise PathRefusal(400, f"entity-bytes begins at {car.part[0]}, and the file has {found.size} bytes.")
    headers = {
        **request.cached(etag),
        "content-type": car.content_type,
        "accept-ranges": "none",
        **request.attached(f"{found.roots[0]}.car"),
    }
    return (
        HttpReply(200, headers)
        if request.head
        else HttpReply(200, headers, await _begun(_car_pieces(content, car, found)))
    )


async def _car_pieces(content: Content, car: CarRequest, found: ResolvedPath) -> Pieces:
    pieces = CarPieces(content, found, car)
    while piece := await content.in_thread(pieces.next):
        yield piece


async def _fetch_for_car(content: Content, car: CarRequest, found: ResolvedPath) -> None:
    """Bring all blocks of a CAR here, where that is allowed."""
    if not content.fetches or car.scope == "block":
        return
    if found.cid.codec in ipld.LINKED and car.scope == "all":
        await content.make_linked_local(found)
    elif found.unixfs_kind in _FOLDERS:
        await content.make_local(found.cid, "directory" if car.scope == "all" else "listing")
    elif found.unixfs_kind in (DataType.FILE, DataType.RAW):
        await content.make_local(found.cid, "file")


async def _tar(content: Content, request: Request, found: ResolvedPath) -> HttpReply:
    if found.cid.codec not in (RAW, DAG_PB) or found.unixfs_kind is None:
        raise _not_in_this_form(request, found)
    etag = f'W/"{found.cid}.x-tar"'
    if request.has(etag):
        return request.not_modified(etag)
    headers = {
        **request.cached(etag),
        "content-type": TAR_TYPE,
        "accept-ranges": "none",
        **request.attached(f"{found.cid}.tar"),
    }
    if request.head:
        return HttpReply(200, headers)
    try:
        return HttpReply(200, headers, await _begun(tar_pieces(content, found)))
    except UnsupportedCID as error:  # an entry of the directory is of another codec
        raise PathRefusal(406, f"{error} There is a CAR of it with ?format=car.", request.headers_found) from error


async def _codec(content: Content, request: Request, found: ResolvedPath) -> HttpReply:
    """A block of dag-cbor, dag-json, cbor or json: as it is, or as a page for people."""
    form, codec = request.wanted.format, found.cid.codec
    if form is not None and ipld.CODECS.get(form) != codec and not request.wanted.lenient:
        raise _not_in_this_form(request, found)
    if form is None and codec in ipld.LINKED and request.wanted.html and not request.download:
        return await _codec_page(content, request, found)
    kind, end = ipld.TYPES[codec]
    etag = f'"{found.cid}.{kind.rpartition(".")[2].rpartition("/")[2]}"'
    if request.has(etag):
        return request.not_modified(etag)
    how = "inline" if end == "json" and not request.download else "attachment"
    headers = {
        **request.cached(etag),
        **content_headers(kind),
        "content-disposition": disposition(how, request.filename or f"{found.cid}.{end}"),
    }
    return await _ranged_block(request, headers, etag, found.block)


async def _codec_page(content: Content, request: Request, found: ResolvedPath) -> HttpReply:
    etag = node_etag(found.cid)
    if request.has(etag):
        return request.not_modified(etag, GENERATED)
    page = await content.in_thread(lambda: node_page(request.path, found.cid, found.block))
    return HttpReply(200, {**request.cached(etag, GENERATED), **PAGE_HEADERS}, page)


# --- files and directories -------------------------------------------------------------------------------------------


async def _directory(content: Content, request: Request, found: ResolvedPath, sites: Sequence[Site]) -> HttpReply:
    path = request.path
    if not path.slash:
        # Relative links of the page need it. The place is a path, so it cannot lead to another machine.
        query = f"?{request.query_text}" if request.query_text else ""
        return HttpReply.text(
            301,
            f"This is a directory: {path.shown}/",
            {"location": f"{path.text}/{query}", "cache-control": request.caching(FOR_EVER), **request.headers_found},
        )
    index = await content.entry(found, "index.html")
    if index is not None and index.unixfs_kind in (DataType.FILE, DataType.RAW):
        return await _file(content, request, index, "index.html", asked=found.cid)
    etag = directory_etag(found.cid)
    if request.has(etag):
        return request.not_modified(etag, GENERATED)
    entries, count = await content.entries(found)
    folders = await content.folders(entries)
    names = {entry.name for entry in entries}
    link = next(((f"{each.path}#ipfs://{found.cid}", each.open_title) for each in sites if each.opens in names), None)
    page = await content.in_thread(lambda: directory_page(path, found.cid, entries, count, folders, link))
    headers = {**request.cached(etag, GENERATED), **PAGE_HEADERS}
    if request.download:
        headers |= request.attached(f"{path.names[-1] if path.names else found.cid}.html")
    return HttpReply(200, headers, page)


async def _file(
    content: Content, request: Request, found: ResolvedPath, name: str, *, asked: CID | None = None
) -> HttpReply:
    """A file.

    Args:
        content: what reads it.
        request: what it is sent for.
        found: the file.
        name: what it is called, perhaps empty.
        asked: what was asked for, where the file is sent in its place.
    """
    etag = f'"{asked or found.cid}"'
    if request.has(etag):
        return request.not_modified(etag)
    name = request.filename or name
    kind = type_by_name(name)
    if kind is None:
        kind = type_by_content(await content.head(found), found.size, json=request.wanted.format == "json")
    headers = {**request.cached(etag), **content_headers(kind)}
    if name or request.download:
        how = "attachment" if request.download else "inline"
        headers["content-disposition"] = disposition(how, name or str(found.cid))
    return await _ranged(request, headers, etag, found.size, lambda start, end: content.pieces(found, start, end))
