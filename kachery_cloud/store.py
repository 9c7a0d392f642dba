"""Storing: bytes go into the data directory and get a URI.

Everything here writes locally first. Unless `local=True`, the node of the data directory is then started or joined in
the background, without waiting for it, and serves what was stored for as long as this process lives (or for good,
where `kachery-cloud-node` runs). What pinning services are to keep is written down at once; see `pins`. `pin`, `wait`
and `timeout` mean the same everywhere: as for `store_file`.
"""

from __future__ import annotations

import contextlib
import io
import os
import re
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any, BinaryIO, cast

from kachery_cloud.arguments import check_flags, path_text
from kachery_cloud.errors import FileMissing, IsADirectory, NotADirectory, StoreTooLarge
from kachery_cloud.formats.values import check_array, json_bytes, text_bytes, write_npy
from kachery_cloud.local import repository
from kachery_cloud.pinning import make_plan, record_stored
from kachery_cloud.progress import progress_bar
from kachery_cloud.settings.config import load_config
from kachery_cloud.terminal import tell
from kachery_cloud.uri import check_label, format_uri
from kachery_p2p.oserrors import explained
from kachery_p2p.repo.newfile import NewFile

if TYPE_CHECKING:
    import numpy as np

    from kachery_cloud.pinning import Pin, Plan, Wait
    from kachery_cloud.settings.config import Config
    from kachery_p2p.dag.profiles import Profile
    from kachery_p2p.repo.repo import Repo, Stored

#: An array up to this size is written through memory; a larger one through a file, so that it is not held twice.
_IN_MEMORY = 8 << 20


def store_file(
    filename: str | os.PathLike[str],
    *,
    label: str | None = None,
    local: bool = False,
    cache_locally: bool = False,
    profile: str | Profile | None = None,
    verbose: bool = False,
    pin: Pin = None,
    wait: Wait = None,
    timeout: float | None = None,
) -> str:
    """Store a copy of a file and return its URI, `ipfs://<cid>`.

    The same bytes get the same URI on every machine. The copy lies in the data directory (`$KACHERY_CLOUD_DIR`); to
    share a large file without a copy use `link_file`.

    Args:
        filename: path of a regular file of any size.
        label: a note for people, appended to the URI as `?label=...`. In `list` it stands in place of the file's name.
        local: only store; do not start the node that serves it.
        cache_locally: accepted for older scripts; a stored file is always kept locally.
        profile: the rules by which the file becomes blocks: "unixfs-v1-2025" (the default), "unixfs-v0-2015",
            "random-16k" for data of which small parts are read here and there over the network, or a
            `kachery_p2p.dag.profiles.Profile`. Another profile gives another URI.
        verbose: say on stderr what is being done.
        pin: which pinning services are to keep it: the name of one, or several; True for the default ones; False for
            none. Without it, the default ones, if any are set up. It is written down before this returns, also with
            `local`, and carried out whenever a node runs here; see `pins`.
        wait: "pinned" to wait until these say that they have it, "verified" until a block came back from each.
        timeout: seconds to wait for them at most; without it there is no end to waiting.

    Raises:
        FileMissing, IsADirectory, NotAFile: there is no such file.
        NoPermission, DiskFull: it cannot be read, or the copy cannot be written.
        FileChanged: it changed while it was read.
        StoreTooLarge: the store would grow beyond the limit that you have set.
        PinTooLarge: it is more than may be sent to a service that was named.
        PinningError: with `wait`, as `wait_pinned`; it is stored then all the same.

    Example:
        >>> uri = kcl.store_file("/data/session.nwb", label="session.nwb")
        >>> uri
        'ipfs://bafybeih...?label=session.nwb'
    """
    config, plan = _prepare(label, local, pin, wait, timeout, verbose=verbose)
    stored = put_file(config, filename, profile=profile, verbose=verbose, plan=plan, label=label)
    return _finish(config, stored, label, local, plan, Path(filename).name)


def link_file(
    filename: str | os.PathLike[str],
    *,
    label: str | None = None,
    local: bool = False,
    profile: str | Profile | None = None,
    verbose: bool = False,
    pin: Pin = None,
    wait: Wait = None,
    timeout: float | None = None,
) -> str:
    """Like `store_file`, but the file stays where it is and is served from there: no copy, no disk space.

    The file must stay unchanged for as long as it is to be served. If it changes, it is no longer served (its URI
    means the old bytes), and loading it here raises `DamagedFile`; link it again for a new URI.

    Example:
        >>> uri = kcl.link_file("/data/raw_200GB.bin")
    """
    config, plan = _prepare(label, local, pin, wait, timeout, verbose=verbose)
    stored = put_file(config, filename, linked=True, profile=profile, verbose=verbose, plan=plan, label=label)
    return _finish(config, stored, label, local, plan, Path(filename).name)


def store_dir(
    path: str | os.PathLike[str],
    *,
    label: str | None = None,
    local: bool = False,
    link: bool = False,
    profile: str | Profile | None = None,
    verbose: bool = False,
    pin: Pin = None,
    wait: Wait = None,
    timeout: float | None = None,
) -> str:
    """Store a folder with all that is in it. Its files can be loaded one by one; see `join`.

    Args:
        path: the folder.
        label: as for `store_file`.
        local: as for `store_file`.
        link: serve the files from where they lie instead of copying them.
        profile: as for `store_file`.
        verbose: as for `store_file`.
        pin: as for `store_file`.
        wait: as for `store_file`.
        timeout: as for `store_file`.

    Raises:
        FileMissing, NotADirectory: there is no such folder.
        InvalidName: a file name is not UTF-8; and what `store_file` raises.

    Example:
        >>> uri = kcl.store_dir("/data/experiment")
        >>> kcl.load_text(kcl.join(uri, "notes/readme.txt"))
    """
    config, plan = _prepare(label, local, pin, wait, timeout, verbose=verbose, link=link)
    stored = put_directory(config, path, link=link, profile=profile, verbose=verbose, plan=plan, label=label)
    return _finish(config, stored, label, local, plan, Path(path).name)


def store_text(
    text: str,
    *,
    label: str | None = None,
    local: bool = False,
    cache_locally: bool = False,
    pin: Pin = None,
    wait: Wait = None,
    timeout: float | None = None,
) -> str:
    """Store text as UTF-8 and return its URI.

    Raises:
        NotSerializable: not a str, or with half surrogates.

    Example:
        >>> kcl.store_text("example text")
        'ipfs://bafkreiaossxdnwtp6a4zfjl73w67i4ulmcoq277g5maz7kprxg23kqgygu'
    """
    return _bytes(text_bytes(text), label, local, pin, wait, timeout)


def store_json(
    value: Any,
    *,
    label: str | None = None,
    local: bool = False,
    cache_locally: bool = False,
    pin: Pin = None,
    wait: Wait = None,
    timeout: float | None = None,
) -> str:
    """Store a value as JSON with sorted keys and no blanks, and return its URI.

    Dicts, lists, text, numbers, booleans and None. Tuples become lists; keys that are numbers become text.

    Raises:
        NotSerializable: NaN or infinity, numpy values, bytes, sets, dates ...; says where in the value.

    Example:
        >>> kcl.store_json({"example": "dict"})
        'ipfs://bafkreig3edwqihmsm2o7kts6v4cpvtfs66olgonclogykndsu4v7ordox4'
    """
    return _bytes(json_bytes(value), label, local, pin, wait, timeout)


def store_npy(
    array: np.ndarray[Any, Any],
    *,
    label: str | None = None,
    local: bool = False,
    cache_locally: bool = False,
    pin: Pin = None,
    wait: Wait = None,
    timeout: float | None = None,
) -> str:
    """Store a numpy array as an npy file, as `numpy.save` writes it, and return its URI.

    Raises:
        NotSerializable: arrays of Python objects, masked arrays, and what is no array: paths, text, bytes, tables.

    Example:
        >>> uri = kcl.store_npy(np.array([[1, 2, 3], [4, 5, 6]], dtype=np.int16))
    """
    config, plan = _prepare(label, local, pin, wait, timeout)
    checked = check_array(array)
    stored = put_written(config, lambda file: write_npy(file, checked), label)
    return _finish(config, stored, label, local, plan)


def store_pkl(
    value: Any,
    *,
    label: str | None = None,
    local: bool = False,
    cache_locally: bool = False,
    pin: Pin = None,
    wait: Wait = None,
    timeout: float | None = None,
) -> str:
    """Store a Python value as a pickle and return its URI. Equal values give equal bytes under every version.

    Only plain data is written (see `kachery_cloud.formats.pickling` for the list and the rules), so that those who
    load it run no code of yours: numbers, text, bytes, lists, tuples, dicts, sets, dates, Decimal, Fraction, UUID,
    numpy arrays and scalars.

    Raises:
        NotSerializable: a value of another type; names it and its place.

    Example:
        >>> uri = kcl.store_pkl({"example": np.array([[1, 2, 3], [4, 5, 6]], dtype=np.int16)})
    """
    from kachery_cloud.formats.pickling import dump_pickle

    config, plan = _prepare(label, local, pin, wait, timeout)
    stored = put_written(config, lambda file: dump_pickle(value, file), label)
    return _finish(config, stored, label, local, plan)


# --- the same without telling anybody ----------------------------------------------------------------------------


def put_file(
    config: Config,
    filename: str | os.PathLike[str],
    *,
    linked: bool = False,
    profile: str | Profile | None = None,
    verbose: bool = False,
    plan: Plan | None = None,
    label: str | None = None,
) -> Stored:
    """Store or link one file in the repo, with a bar where it takes long."""
    path = checked_path(filename)
    if os.path.isdir(path):
        raise IsADirectory(
            f"{path} is a directory. Use store_dir (kachery-cloud-store --recursive) to store it with all its files."
        )
    try:
        size = os.stat(path).st_size
    except OSError:
        pass  # the repo says better what is wrong with it
    else:
        if not linked:
            check_size(config, size, str(path))
        if plan is not None:
            plan.check(config, size, str(path))
    repo = repository(config)
    doing = "Linking" if linked else "Storing"
    _say(verbose, f"{doing} {path}")
    with progress_bar(f"{doing} {path.name}") as update:

        def watch(done: int, total: int) -> None:
            _check_read(config, done, path, linked, plan)
            update(done, total)

        store = repo.link_file if linked else repo.store_file
        return store(path, profile=profile, progress=watch, label=label)


def put_directory(
    config: Config,
    filename: str | os.PathLike[str],
    *,
    link: bool = False,
    profile: str | Profile | None = None,
    verbose: bool = False,
    plan: Plan | None = None,
    label: str | None = None,
) -> Stored:
    """Store a folder in the repo."""
    path = checked_path(filename)
    if not os.path.lexists(path):
        raise FileMissing(f"There is no folder {path}.")
    if not os.path.isdir(path):
        raise NotADirectory(f"{path} is not a directory. Use store_file (kachery-cloud-store without --recursive).")
    if config.max_store_bytes is not None and not link:
        check_size(config, _size_of_folder(path, config.max_store_bytes), str(path))
    most = plan.most if plan is not None else None
    if plan is not None and most is not None:
        plan.check(config, _size_of_folder(path, most), str(path))
    _say(verbose, f"{'Linking' if link else 'Storing'} {path}")
    with progress_bar(f"Storing {path.name}") as update:

        def watch(done: int, total: int) -> None:
            _check_read(config, done, path, link, plan)
            update(done, total)

        return repository(config).store_directory(path, profile=profile, progress=watch, link=link, label=label)


def put_bytes(config: Config, data: bytes, label: str | None = None) -> Stored:
    """Store some bytes in the repo."""
    check_size(config, len(data), "The value")
    return repository(config).store_value(data, label=label)


def put_written(config: Config, write: Callable[[BinaryIO], None], label: str | None = None) -> Stored:
    """Store what `write` writes to a file.

    Small content goes through memory, large content through a temporary file of the data directory.
    """
    repo = repository(config)
    with Spool(config) as spool:
        write(cast(BinaryIO, spool))
        return spool.store(repo, label)


class Spool:
    """A writable file that stays in memory while it is small and moves to the data directory when it grows."""

    def __init__(self, config: Config) -> None:
        self._config = config
        self._memory = io.BytesIO()
        self._new: NewFile | None = None
        self._file: BinaryIO | None = None
        self._size = 0

    def write(self, data: Any) -> int:
        view = memoryview(data).cast("B")
        self._size += len(view)
        check_size(self._config, self._size, "The value")
        if self._file is None and self._size > _IN_MEMORY:
            self._file = self._to_disk()
        if self._file is None:
            return self._memory.write(view)
        with explained("storing in", self._config.directory):
            return self._file.write(view)

    def _to_disk(self) -> BinaryIO:
        with explained("storing in", self._config.directory):
            # Locked while this process lives, so that a later process knows a left-over when it sees one.
            self._new = NewFile(self._config.directory / "tmp")
            file = os.fdopen(os.dup(self._new.fd), "wb")
            file.write(self._memory.getbuffer())
        self._memory = io.BytesIO()
        return file

    def store(self, repo: Repo, label: str | None = None) -> Stored:
        if self._new is None or self._file is None:
            return repo.store_value(self._memory.getbuffer(), label=label)
        with explained("storing in", self._config.directory):
            self._file.close()
        with progress_bar("Storing") as update:
            return repo.store_new(self._new, progress=update, label=label)

    def __enter__(self) -> Spool:
        return self

    def __exit__(self, *exc: object) -> None:
        if self._file is not None:
            with contextlib.suppress(OSError):  # what it still held is of no use now
                self._file.close()
        if self._new is not None:
            self._new.__exit__(*exc)


# --- parts -------------------------------------------------------------------------------------------------------


def checked_path(filename: str | os.PathLike[str]) -> Path:
    """A path the user gave. `~` is the home directory."""
    path = Path(text := path_text(filename, "The path"))
    if re.match(r"[A-Za-z][A-Za-z0-9+.\-]+://", text) and not os.path.lexists(path):
        raise FileMissing(
            f"{text} is a URI, not a path on this machine. What it names is loaded with load_file (kachery-cloud-load)."
        )
    if text.startswith("~") and not os.path.lexists(path):
        with contextlib.suppress(RuntimeError):  # no such user: the path is reported as it was given
            path = path.expanduser()
    return path


def check_size(config: Config, size: int, what: str) -> None:
    """Hold a size against the limit that the user set.

    Raises:
        StoreTooLarge: it is more.
    """
    limit = config.max_store_bytes
    if limit is not None and size > limit:
        raise StoreTooLarge(
            f"{what} is larger than the limit of {limit:,} bytes that is set for one store "
            f"(KACHERY_CLOUD_MAX_STORE_BYTES, or max_store_bytes in config.json). Raise the limit to store it."
        )


def _check_read(config: Config, done: int, path: Path, linked: bool, plan: Plan | None) -> None:
    """Hold the limits against what was read so far: the size that the system states may be too small (/proc, FUSE)."""
    if not linked:
        check_size(config, done, str(path))
    if plan is not None:
        plan.check(config, done, str(path))


def _size_of_folder(path: Path, enough: int) -> int:
    """Bytes of the files in a folder; stops counting beyond `enough`."""
    total = 0
    for folder, _, names in os.walk(path):
        for name in names:
            with contextlib.suppress(OSError):  # the store itself says what is wrong with it
                total += os.lstat(os.path.join(folder, name)).st_size
        if total > enough:
            break
    return total


def _prepare(
    label: str | None, local: bool, pin: Pin, wait: Wait, timeout: float | None, **flags: bool
) -> tuple[Config, Plan]:
    """Look at what a call says before anything is stored."""
    check_flags(local=local, **flags)
    check_label(label)
    config = load_config()
    return config, make_plan(config, pin, wait, timeout, local)


def _bytes(data: bytes, label: str | None, local: bool, pin: Pin, wait: Wait, timeout: float | None) -> str:
    config, plan = _prepare(label, local, pin, wait, timeout)
    return _finish(config, put_bytes(config, data, label), label, local, plan)


def _finish(config: Config, stored: Stored, label: str | None, local: bool, plan: Plan, name: str = "") -> str:
    """Write down what is to be pinned, have the node serve what was stored, and wait if that was asked for."""
    recorded = record_stored(config, plan, stored, label or name)
    if not local:
        from kachery_cloud.node.connection import announce_in_background

        announce_in_background(config, stored.cid, pins_changed=bool(recorded))
    if plan.wait:
        plan.wait_for(config, stored.cid)
    return format_uri(str(stored.cid), label=label)


def _say(verbose: bool, text: str) -> None:
    if verbose:
        tell(text)
