"""Storing without telling anybody: bytes go into the data directory, and nothing else is done.

`store` looks at what a call says, has this done, and lets others know.
"""

from __future__ import annotations

import contextlib
import os
import re
import weakref
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, BinaryIO, cast

from kachery_cloud.arguments import check_flags, path_text, read_piece, text_list
from kachery_cloud.errors import FileMissing, InvalidArgument, IsADirectory, NotADirectory
from kachery_cloud.local import repository
from kachery_cloud.progress import progress_bar
from kachery_cloud.spool import Spool, check_size
from kachery_cloud.terminal import tell

if TYPE_CHECKING:
    from kachery_cloud.encryption.recipients import Encrypt, Recipients
    from kachery_cloud.pinning import Plan
    from kachery_cloud.settings.config import Config
    from kachery_p2p.access.audience import Audience
    from kachery_p2p.dag.cid import CID
    from kachery_p2p.dag.profiles import Profile
    from kachery_p2p.repo.repo import Repo
    from kachery_p2p.repo.scanning import FolderOptions
    from kachery_p2p.repo.small import Stored
    from kachery_p2p.wire import Buffer

#: Bytes read at once from a file that is open.
_PIECE = 1 << 20


def put_file(
    config: Config,
    filename: str | os.PathLike[str],
    *,
    linked: bool = False,
    profile: str | Profile | None = None,
    verbose: bool = False,
    plan: Plan | None = None,
    label: str | None = None,
    audience: Audience | None = None,
    recipients: Recipients | None = None,
    rehash: bool = False,
) -> Stored:
    """Store or link one file in the repo, with a bar where it takes long."""
    path = checked_path(filename)
    repo = _asking(config)
    if recipients is not None and linked:
        raise _refuse_linked()
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
    if recipients is not None:
        from kachery_cloud.encryption.storing import store_file_encrypted

        def admit(done: int) -> None:
            _check_read(config, done, path, linked, plan)

        _say(verbose, f"Encrypting {path}")
        return store_file_encrypted(config, path, recipients, profile, admit, label, audience)
    doing = "Linking" if linked else "Storing"
    _say(verbose, f"{doing} {path}")
    with progress_bar(f"{doing} {path.name}") as update:

        def watch(done: int, total: int) -> None:
            _check_read(config, done, path, linked, plan)
            update(done, total)

        store = repo.link_file if linked else repo.store_file
        return store(path, profile=profile, progress=watch, label=label, rehash=rehash, audience=audience)


def folder_options(*, exclude: Sequence[str], **flags: bool) -> FolderOptions:
    """How a folder is to be stored, checked.

    Raises:
        InvalidArgument: something else was given.
    """
    from kachery_p2p.repo.scanning import FolderOptions

    check_flags(**flags)
    return FolderOptions(exclude=tuple(text_list(exclude, "exclude")), **flags)


def put_directory(
    config: Config,
    filename: str | os.PathLike[str],
    options: FolderOptions,
    *,
    profile: str | Profile | None = None,
    verbose: bool = False,
    plan: Plan | None = None,
    label: str | None = None,
    audience: Audience | None = None,
    recipients: Recipients | None = None,
) -> Stored:
    """Store a folder in the repo."""
    if recipients is not None and options.link:
        raise _refuse_linked()
    path = checked_path(filename)
    repo = _asking(config)
    if not os.path.lexists(path):
        raise FileMissing(f"There is no folder {path}.")
    if not os.path.isdir(path):
        raise NotADirectory(f"{path} is not a directory. Use store_file (kachery-cloud-store without --recursive).")
    _say(verbose, f"{'Linking' if options.link else 'Storing'} {path}")
    with progress_bar(f"Storing {path.name}") as update:

        def admit(size: int) -> None:
            _check_read(config, size, path, options.link, plan)

        def watch(done: int, total: int) -> None:
            admit(done)
            update(done, total)

        if recipients is not None:
            from kachery_cloud.encryption.storing import store_directory_encrypted

            return store_directory_encrypted(config, path, options, recipients, profile, admit, update, label, audience)
        return repo.store_directory(
            path, profile=profile, progress=watch, options=options, admit=admit, label=label, audience=audience
        )


def put_stream(
    config: Config,
    file: BinaryIO,
    *,
    profile: str | Profile | None = None,
    plan: Plan | None = None,
    label: str | None = None,
    audience: Audience | None = None,
    recipients: Recipients | None = None,
) -> Stored:
    """Store what an open file still has to give.

    Raises:
        InvalidArgument: it gives no bytes.
    """
    if recipients is not None:
        from kachery_cloud.encryption.storing import store_stream_encrypted

        _asking(config)

        def admit(done: int) -> None:
            check_size(config, done, "The data")
            if plan is not None:
                plan.check(config, done, "The data")

        return store_stream_encrypted(config, file, recipients, profile, admit, label, audience)

    def write(spool: BinaryIO) -> None:
        done = 0
        while piece := read_piece(file, _PIECE):
            spool.write(piece)
            done += len(piece)
            if plan is not None:
                plan.check(config, done, "The data")

    return put_written(config, write, label, audience, profile=profile)


def put_bytes(
    config: Config,
    data: Buffer,
    label: str | None = None,
    audience: Audience | None = None,
    recipients: Recipients | None = None,
) -> Stored:
    """Store some bytes in the repo."""
    check_size(config, len(data), "The value")
    if recipients is not None:
        return put_written(config, lambda file: file.write(data), label, audience, recipients)
    return _asking(config).store_value(data, label=label, audience=audience)


def put_written(
    config: Config,
    write: Callable[[BinaryIO], object],
    label: str | None = None,
    audience: Audience | None = None,
    recipients: Recipients | None = None,
    *,
    profile: str | Profile | None = None,
) -> Stored:
    """Store what `write` writes to a file.

    Small content goes through memory, large content through a temporary file of the data directory.
    """
    repo = _asking(config)
    if recipients is not None:
        from kachery_cloud.encryption.storing import store_written_encrypted

        return store_written_encrypted(config, write, recipients, profile, label, audience)
    with Spool(config) as spool:
        write(cast(BinaryIO, spool))
        return spool.store(repo, profile, label, audience)


class _Widening:
    """See `kachery_p2p.repo.access_interface.Widening`. What answers is imported where something is for some."""

    def __init__(self, config: Config, repo: Repo) -> None:
        self._config = config
        self._repo = weakref.ref(repo)

    def stays(self) -> bool:
        from kachery_cloud.widening import stays

        return stays(self._config)

    def ask(self, cid: CID, said: Audience | None, found: Callable[[], Mapping[bytes, Audience]]) -> None:
        from kachery_cloud.widening import check

        repo = self._repo()
        if repo is not None:
            check(self._config, repo, cid, said, found)


def _asking(config: Config) -> Repo:
    """The open repo, which asks before a store gives to more people what is here for some."""
    repo = repository(config)
    if repo.access.widening is None:
        repo.access.widening = _Widening(config, repo)
    return repo


# --- parts -------------------------------------------------------------------------------------------------------


def recipients_of(config: Config, encrypt: Encrypt, audience: Audience | None) -> Recipients | None:
    """Who can decrypt what is stored; None where it is not encrypted."""
    if encrypt is None or encrypt is False:
        return None
    from kachery_cloud.encryption.recipients import recipients_for

    return recipients_for(config, encrypt, audience)


def _refuse_linked() -> InvalidArgument:
    """The error for what is to be encrypted and linked."""
    return InvalidArgument(
        "A linked file is served from where it lies, as it is, so it cannot be encrypted. Store it (store_file, "
        "kachery-cloud-store --encrypt): that makes an encrypted copy."
    )


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


def _check_read(config: Config, done: int, path: Path, linked: bool, plan: Plan | None) -> None:
    """Hold the limits against what was read so far: the size that the system states may be too small (/proc, FUSE)."""
    if not linked:
        check_size(config, done, str(path))
    if plan is not None:
        plan.check(config, done, str(path))


def _say(verbose: bool, text: str) -> None:
    if verbose:
        tell(text)
