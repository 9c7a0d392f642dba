"""`ipfs://`, `kachery://` and `ipns://` for fsspec, and so for pandas, xarray, zarr, dask, polars, pyarrow.

    import pandas as pd

    table = pd.read_csv("ipfs://bafy.../notes/readme.txt", header=None)

fsspec finds it by its entry point (`fsspec.specs`). A path is `<CID>/<name>/...`, as plain text; a URI is
percent-encoded. `?provider=` and `?label=` of a URI are taken off: the providers of a CID are remembered, and asked by
every file system of this process. What a CID names never changes, so nothing can be written to a path: what is put at
the root is stored, and its URI is the answer.

A name that moves (`ipns://`) is resolved when its URI is made into a path. So all that is read through that path is of
one version, and what is opened by the name later is of the newest.
"""

from __future__ import annotations

import os
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar, NoReturn
from urllib.parse import unquote

from fsspec.asyn import AsyncFileSystem
from fsspec.callbacks import DEFAULT_CALLBACK
from fsspec.utils import stringify_path

from kachery_cloud.errors import (
    BrokenLink,
    DamagedFile,
    InvalidName,
    InvalidURI,
    IsADirectory,
    KacheryError,
    NoPermission,
    NotADirectory,
    NotAFile,
    PathNotFound,
)
from kachery_cloud.files_here import request_of
from kachery_cloud.local import BlockNotLocal, list_local, local_blocks, repository, resolve_here, resolve_local
from kachery_cloud.opening.asking import Steps, ask, run_async
from kachery_cloud.opening.decrypting import AnyContent, open_content
from kachery_cloud.opening.entries import Lately, info_of, kind_here, listed_as, side_by_side
from kachery_cloud.opening.extents import Range
from kachery_cloud.opening.file import KacheryFile
from kachery_cloud.opening.limits import (
    KNOWN_GROUPS,
    KNOWN_PATHS,
    KNOWN_PROVIDERS,
    OPEN_FILES,
    READ_AHEAD,
)
from kachery_cloud.placing import copy_into_place
from kachery_cloud.publishing import follow
from kachery_cloud.request import Request
from kachery_cloud.settings.config import load_config
from kachery_cloud.uri import AGE, format_uri, parse_name_uri, parse_uri
from kachery_p2p.dag.nodes import symlink_target

if TYPE_CHECKING:
    from kachery_cloud.audiences import To
    from kachery_p2p.dag.directory import HamtEntry

#: What a query begins with; any other "?" stands for a letter.
_PARAMETERS = ("label=", "provider=", "group=", "encryption=")
#: What the path of something that is to be decrypted begins with; as in a URI with notes.
_ENCRYPTED = f"encryption={AGE}@"


class KacheryFileSystem(AsyncFileSystem):
    """Files and folders by their URI, for fsspec. Reads fetch the blocks that they touch; nothing can be changed.

    Args:
        providers: multiaddrs of peers to ask, for all that is read through it.
        timeout: seconds without any progress after which a read is given up; the setting (60) where None.
        local_only: do not use the network.
        groups: the IDs of groups, where all that is read through it is for their members alone.
        read_ahead: bytes that an open file fetches ahead at most.
        storage_options: those of fsspec: `asynchronous`, `loop`, `batch_size` and so on.

    Raises:
        KacheryError: what `kachery_cloud.load_file` raises. A path that a folder does not have is `PathNotFound`, a
            FileNotFoundError; what is there but cannot be had now is `ContentNotFound`, which is none.

    Example:
        >>> import fsspec
        >>> fs = fsspec.filesystem("ipfs")
        >>> fs.ls(uri, detail=False)
        ['bafy.../notes', 'bafy.../session.nwb']
    """

    protocol = ("ipfs", "kachery", "ipns")
    root_marker = ""
    async_impl = True
    _providers_of: ClassVar[Lately[tuple[str, ...]]] = Lately(KNOWN_PROVIDERS)
    _groups_of: ClassVar[Lately[tuple[str, ...]]] = Lately(KNOWN_GROUPS)
    #: The keys of links. A path has none: paths are listed, logged and kept.
    _keys_of: ClassVar[Lately[str]] = Lately(KNOWN_PROVIDERS)

    def __init__(
        self,
        *,
        providers: Sequence[str] = (),
        timeout: float | None = None,
        local_only: bool = False,
        read_ahead: int = READ_AHEAD,
        groups: Sequence[str] = (),
        **storage_options: Any,
    ) -> None:
        super().__init__(**storage_options)
        self.providers = (providers,) if isinstance(providers, str) else tuple(providers)
        self.groups = (groups,) if isinstance(groups, str) else tuple(groups)
        self.timeout = timeout
        self.local_only = local_only
        self.read_ahead = read_ahead
        self._infos: Lately[dict[str, Any]] = Lately(KNOWN_PATHS)
        self._files: Lately[AnyContent] = Lately(OPEN_FILES)

    # --- paths

    @classmethod
    def _strip_protocol(cls, path: Any) -> Any:
        if isinstance(path, (list, tuple, set)):
            return [cls._strip_protocol(each) for each in path]
        text = _resolved(str(stringify_path(path)))
        rest = _without_scheme(text)
        if rest is None:
            if "://" in text:
                parse_uri(text)  # which says what is wrong with it
            return text.removeprefix("/ipfs/").strip("/")
        if not rest.strip("/"):
            return ""
        before, _, query = rest.partition("?")
        if "/" in before.rstrip("/") and query and not query.startswith(_PARAMETERS):
            # A pattern, in which "?" is any letter: `ipfs://CID/day?.csv`.
            head, _, pattern = rest.partition("/")
            uri = parse_uri("ipfs://" + head)
            names: Sequence[str] = [unquote(name) for name in pattern.split("/") if name]
        else:
            uri = parse_uri("ipfs://" + rest)
            names = uri.path
        if uri.providers:
            cls._providers_of.put(uri.cid, uri.providers)
        if uri.groups:
            cls._groups_of.put(uri.cid, uri.groups)
        if uri.key:
            cls._keys_of.put(uri.cid, uri.key)
        # What is encrypted and what it decrypts to are two things, so they have two paths.
        return "/".join((_ENCRYPTED + uri.cid if uri.encryption else uri.cid, *names))

    def unstrip_protocol(self, name: str) -> str:
        """The URI of a path."""
        if _without_scheme(name) is not None:
            return name
        root, *names = self._strip_protocol(name).split("/")
        return self._uri_of(root, names) if root else "ipfs://"

    def _uri_of(self, root: str, names: Sequence[str]) -> str:
        cid = root.removeprefix(_ENCRYPTED)
        encryption = AGE if cid != root else None
        return format_uri(cid, names, groups=self._groups_for(cid), encryption=encryption)

    @staticmethod
    def _get_kwargs_from_urls(path: str) -> dict[str, Any]:
        """The providers and groups that a URI names, for those who read through a file system made for it."""
        try:
            said = parse_name_uri(path) or parse_uri("ipfs://" + (_without_scheme(path) or ""))
        except KacheryError:
            return {}  # whoever reads it is told
        options = {"providers": said.providers, "groups": said.groups}
        return {name: value for name, value in options.items() if value}

    def _groups_for(self, cid: str) -> tuple[str, ...]:
        """The groups that a root is for, as far as a URI or whoever made this said so."""
        return tuple(dict.fromkeys((*self.groups, *(self._groups_of.get(cid) or ()))))

    def _request(self, path: str) -> Request:
        root, *names = self._strip_protocol(path).split("/")
        if not root:
            raise InvalidURI("ipfs:// alone has no list of what is in it. Name a file or folder: ipfs://CID.")
        cid = root.removeprefix(_ENCRYPTED)
        key = self._keys_of.get(cid) if cid != root else None
        providers = (*self.providers, *(self._providers_of.get(cid) or ()))
        return request_of(
            self._uri_of(root, names) + (f"#key={key}" if key else ""),
            local_only=self.local_only,
            providers=list(dict.fromkeys(providers)),
            timeout=self.timeout,
        )

    # --- what is there

    async def _info(self, path: str, **kwargs: Any) -> dict[str, Any]:
        path = self._strip_protocol(path)
        if not path:
            return {"name": "", "size": None, "type": "directory"}
        known = self._infos.get(path)
        if known is None:
            try:
                known = await run_async(self._look_at(path))
            except NotADirectory as error:
                raise PathNotFound(str(error)) from error  # there is nothing at that path
            self._infos.put(path, known)
        return dict(known)

    def _look_at(self, path: str) -> Steps[dict[str, Any]]:
        """What a path leads to, also through links."""
        request = self._request(path)
        repo = repository(request.config)
        destination = None
        try:
            cid, _, _, destination = resolve_here(repo, request.uri)
            kind = kind_here(request, cid)
        except BlockNotLocal as error:
            request.need_network(error)
            cid = kind = None
        if cid is None or kind is None:
            if cid is not None:
                request.need_network(BlockNotLocal(str(cid)))
            try:
                result = yield from ask(request, "info")
            except NotAFile:
                if cid is None:
                    raise
                return info_of(path, cid, ("link", 0))
            cid, kind = result.cid, ("directory" if result.size is None else "file", result.size)
            destination = result.destination
        if request.uri.encryption and kind[0] == "file":
            content = yield from open_content(request, 0)
            content.close()
            kind = "file", content.size
        return info_of(path, cid, kind, destination)

    def _look_at_link(self, path: str) -> Steps[dict[str, Any]]:
        """The same of a link that leads nowhere: where it points."""
        request = self._request(path)
        repo = repository(request.config)
        try:
            cid = resolve_here(repo, request.uri, follow=False).cid
            (block,) = local_blocks(repo, [cid])
            destination = symlink_target(block, cid)
        except BlockNotLocal as error:
            request.need_network(error)
            result = yield from ask(request, "info", follow=False)
            cid, destination = result.cid, result.destination
        return info_of(path, cid, ("link", 0), destination)

    def _look_at_entry(self, path: str) -> Steps[dict[str, Any]]:
        """What an entry of a folder is."""
        try:
            return (yield from self._look_at(path))
        except BrokenLink:
            return (yield from self._look_at_link(path))

    async def _ls(self, path: str, detail: bool = True, **kwargs: Any) -> list[Any]:
        path = self._strip_protocol(path)
        try:
            entries = await run_async(self._entries(path))
        except NotADirectory:
            return [await self._info(path)] if detail else [path]
        names = [f"{path}/{entry.name}" for entry in entries]
        if not detail:
            return names
        found = await run_async(self._kinds(path, entries))
        for name, info in zip(names, found, strict=True):
            if info["type"] != "link":
                self._infos.put(name, info)
        return [listed_as(each) for each in found]

    def _entries(self, path: str) -> Steps[list[HamtEntry]]:
        request = self._request(path)
        repo = repository(request.config)
        try:
            return list_local(repo, resolve_local(repo, request.uri))
        except BlockNotLocal as error:
            request.need_network(error)
        yield from ask(request, "listing")
        return list_local(repo, resolve_local(repo, request.uri))

    def _kinds(self, path: str, entries: Sequence[HamtEntry]) -> Steps[list[dict[str, Any]]]:
        """What the entries of a folder are. A raw block says it by its CID; others are looked at, many side by side."""
        from kachery_p2p.dag.cid import RAW

        found: list[dict[str, Any] | None] = []
        waiting: list[tuple[int, Steps[dict[str, Any]]]] = []
        for place, entry in enumerate(entries):
            name = f"{path}/{entry.name}"
            if entry.cid.codec == RAW and entry.tsize is not None and not path.startswith(_ENCRYPTED):
                found.append(info_of(name, entry.cid, ("file", entry.tsize)))
            else:
                found.append(self._infos.get(name))
                if found[-1] is None:
                    waiting.append((place, self._look_at_entry(name)))
        yield from side_by_side(waiting, found)
        return [each for each in found if each is not None]

    # --- bytes

    async def _cat_file(self, path: str, start: int | None = None, end: int | None = None, **kwargs: Any) -> bytes:
        path = self._strip_protocol(path)
        if start is None and end is None:
            return await run_async(self._all_of(path))
        (data,) = await run_async(self._some_of(path, [(start, end)]))
        return data

    def _all_of(self, path: str) -> Steps[bytes]:
        """All bytes of a file, which is loaded as every other."""
        request = self._request(path)
        if request.uri.encryption:
            content = yield from open_content(request, self.read_ahead)
            try:
                return (yield from content.read(0, content.size))
            finally:
                content.close()
        found = request.local()
        if found is not None:
            with found.open() as file:
                return file.read()
        result = yield from ask(request, "file")
        assert result.path is not None, "a file that was loaded has a path"
        return Path(result.path).read_bytes()

    def _some_of(self, path: str, slices: Sequence[tuple[int | None, int | None]]) -> Steps[list[bytes]]:
        """Some bytes of a file, of which only these are fetched."""
        content = self._files.get(path)
        if content is None:
            content = yield from open_content(self._request(path), self.read_ahead)
            self._files.put(path, content)
        ranges: list[Range] = []
        for each in slices:
            start, end, _ = slice(*each).indices(content.size)
            ranges.append((start, max(start, end)))
        try:
            return (yield from content.read_many(ranges))
        except DamagedFile:
            self._files.drop(path)  # the next read looks for it anew
            raise

    async def _cat_ranges(
        self,
        paths: list[str],
        starts: int | Iterable[int | None] | None,
        ends: int | Iterable[int | None] | None,
        max_gap: int | None = None,
        batch_size: int | None = None,
        on_error: str = "return",
        **kwargs: Any,
    ) -> list[Any]:
        """Ranges of one or more files, those of one file together. What lies in one block comes once."""
        import asyncio

        if not isinstance(paths, list):
            raise TypeError("paths is a list.")
        firsts = list(starts) if isinstance(starts, Iterable) else [starts] * len(paths)
        lasts = list(ends) if isinstance(ends, Iterable) else [ends] * len(paths)
        if not len(firsts) == len(lasts) == len(paths):
            raise ValueError("paths, starts and ends have one length.")
        places: dict[str, list[int]] = {}
        for place, path in enumerate(self._strip_protocol(paths)):
            places.setdefault(path, []).append(place)
        result: list[Any] = [None] * len(paths)

        async def read(path: str, of: list[int]) -> None:
            try:
                if all(firsts[i] is None and lasts[i] is None for i in of):
                    data = [await run_async(self._all_of(path))] * len(of)
                else:
                    data = await run_async(self._some_of(path, [(firsts[i], lasts[i]) for i in of]))
            except Exception as error:
                if on_error != "return":
                    raise
                data = [error] * len(of)
            for place, each in zip(of, data, strict=True):
                result[place] = each

        await asyncio.gather(*(read(path, of) for path, of in places.items()))
        return result

    def _open(
        self,
        path: str,
        mode: str = "rb",
        block_size: int | None = None,
        autocommit: bool = True,
        cache_options: dict[str, Any] | None = None,
        **kwargs: Any,
    ) -> Any:  # fsspec names a class of its own, and takes every open file
        if mode != "rb":
            _refuse(f"open {path} to write to it")
        request = self._request(path)
        return KacheryFile(
            request.uri.source + (f"#key={request.uri.key}" if request.uri.key else ""),
            local_only=self.local_only,
            providers=request.providers,
            timeout=self.timeout,
            read_ahead=self.read_ahead,
        )

    async def _get(
        self,
        rpath: Any,
        lpath: Any,
        recursive: bool = False,
        callback: Any = DEFAULT_CALLBACK,
        maxdepth: int | None = None,
        **kwargs: Any,
    ) -> Any:
        """Make copies; with `recursive` of folders, with the links in them that stay in their folder."""
        kwargs["links"] = recursive
        return await super()._get(rpath, lpath, recursive=recursive, callback=callback, maxdepth=maxdepth, **kwargs)

    async def _get_file(
        self, rpath: str, lpath: str, callback: Any = DEFAULT_CALLBACK, links: bool = False, **kwargs: Any
    ) -> None:
        import asyncio

        try:
            info = await self._info(rpath)
        except BrokenLink:
            if not links:
                raise
            info = await run_async(self._look_at_link(rpath))
        target = info.get("destination")
        if target is not None and (links or info["type"] == "link"):
            stays = not target.startswith("/") and ".." not in target.split("/")
            if stays:
                await asyncio.to_thread(os.symlink, target, lpath)
                return
            if info["type"] != "file":
                # Where in the folder that is loaded it is, and so what is outside of it, is not known here.
                raise InvalidName(
                    f"{rpath} is a symbolic link to {target!r}, which is not made here. Load the folder with "
                    "kachery_cloud.load_dir, which makes the links that stay in it."
                )
        if info["type"] == "directory":
            await asyncio.to_thread(os.makedirs, lpath, exist_ok=True)
            return
        path = await run_async(self._whole(rpath))
        size = await asyncio.to_thread(_copy, path, lpath)
        callback.set_size(size)
        callback.absolute_update(size)

    def _whole(self, path: str) -> Steps[Path]:
        """Where a file is, after it was loaded."""
        request = self._request(path)
        found = request.local(needs_path=True)
        if found is None or found.path is None:
            result = yield from ask(request, "file")
            assert result.path is not None, "a file that was loaded has a path"
            if not request.uri.encryption:
                return Path(result.path)
        return request.file()  # it is here, so this waits for nothing; what is encrypted is decrypted

    def ukey(self, path: str) -> str:
        """The CID of what is at a path: it changes with the bytes, and never without."""
        return self.info(path)["cid"]

    # --- storing

    async def _put_file(
        self, lpath: str, rpath: str, mode: str = "overwrite", *, to: To | None = None, **kwargs: Any
    ) -> str:
        """Store a file. Returns its URI, which follows from its bytes, so `rpath` is the root: "ipfs://".

        `to` is that of `kachery_cloud.store_file`: who may load it.
        """
        import asyncio

        from kachery_cloud.store import store_file

        self._check_root(rpath, lpath)
        return await asyncio.to_thread(store_file, lpath, to=to)

    async def _put(
        self,
        lpath: Any,
        rpath: Any,
        recursive: bool = False,
        callback: Any = DEFAULT_CALLBACK,
        batch_size: int | None = None,
        maxdepth: int | None = None,
        *,
        to: To | None = None,
        **kwargs: Any,
    ) -> Any:
        """Store a file, or with `recursive` a folder, and return its URI; of a list, a list of them.

        `to` is that of `kachery_cloud.store_file`: who may load it.
        """
        import asyncio

        from kachery_cloud.store import store_dir

        if isinstance(lpath, (list, tuple)):
            targets = rpath if isinstance(rpath, (list, tuple)) else [rpath] * len(lpath)
            pairs = zip(lpath, targets, strict=True)
            return [await self._put(each, target, recursive=recursive, to=to) for each, target in pairs]
        source = os.fspath(lpath)
        self._check_root(rpath, source)
        if await asyncio.to_thread(os.path.isdir, source):
            if not recursive:
                raise IsADirectory(f"{source} is a folder. Say recursive=True to store all that is in it.")
            return await asyncio.to_thread(store_dir, source, to=to)
        return await self._put_file(source, rpath, to=to)

    async def _pipe_file(
        self, path: str, value: bytes, mode: str = "overwrite", *, to: To | None = None, **kwargs: Any
    ) -> str:
        """Store bytes. Returns their URI, which follows from them, so `path` is the root: "ipfs://".

        `to` is that of `kachery_cloud.store_file`: who may load it.
        """
        import asyncio

        from kachery_cloud.store import store_bytes

        self._check_root(path, "the bytes")
        return await asyncio.to_thread(store_bytes, value, to=to)

    def _check_root(self, path: Any, what: str) -> None:
        if self._strip_protocol(path):
            _refuse(f"put {what} at {path}")

    async def _rm_file(self, path: str, **kwargs: Any) -> NoReturn:
        _refuse(f"remove {path}")

    async def _rm(
        self,
        path: Any,
        recursive: bool = False,
        batch_size: int | None = None,
        maxdepth: int | None = None,
        **kwargs: Any,
    ) -> NoReturn:
        _refuse(f"remove {path}")

    async def _cp_file(self, path1: str, path2: str, **kwargs: Any) -> None:
        _refuse(f"copy {path1} to {path2}")

    async def _mkdir(self, path: str, create_parents: bool = True, **kwargs: Any) -> None:
        _refuse(f"make a folder at {path}")

    async def _makedirs(self, path: str, exist_ok: bool = False) -> None:
        _refuse(f"make a folder at {path}")


def _resolved(text: str) -> str:
    """The text, with what a name points to now in the place of the name."""
    if text[:7].lower() != "ipns://":
        return text
    end = min((at for at in (text.find("/", 7), text.find("?", 7)) if at >= 0), default=len(text))
    named = parse_name_uri(text[:end])
    assert named is not None, "it begins like one"
    return follow(load_config(), named).locator + text[end:]


def _without_scheme(text: str) -> str | None:
    """What stands behind `ipfs://` or `kachery://`; None where neither does."""
    for scheme in ("ipfs", "kachery"):
        if text[: len(scheme) + 3].lower() == f"{scheme}://":
            return text[len(scheme) + 3 :]
        if text.startswith(f"{scheme}::"):
            return text[len(scheme) + 2 :]
    return None


def _copy(source: Path, target: str) -> int:
    copy_into_place(source, Path(os.path.abspath(target)), replace=True)
    return source.stat().st_size


def _refuse(what: str) -> NoReturn:
    raise NoPermission(
        f"It is not possible to {what}: an ipfs:// URI names bytes by their hash, so what it names never changes. "
        "Write files of your own, and store them: with kachery_cloud.store_file or store_dir, or with "
        "fs.put(FILE, 'ipfs://'), which returns the URI."
    )
