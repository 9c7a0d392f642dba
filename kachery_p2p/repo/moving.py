"""Moving a data directory to another disk, so that at each instant all of it is in one place or the other.

    1  `<directory>.moving` is written, beside the directory: where it goes
    2  on the same disk, the directory is renamed. To another disk everything is copied to `<target>.part`, synced, and
       compared with its hashes there; then `<target>.part` is renamed to `<target>`
    3  what is left of the directory is renamed to `<directory>.moved`, and its name becomes a link to the new place;
       where it was such a link already, that is changed
    4  what was copied is deleted in the old place, and then `<directory>.moving`

Until 3 the directory is used as before, and a move that goes on after an interruption copies what has changed. Whoever
finds `<directory>.moving` and no directory says how to go on: with the same command. Meanwhile no node runs, and nobody
stores or removes.
"""

from __future__ import annotations

import json
import os
import shutil
import sqlite3
import stat
from collections.abc import Iterator
from contextlib import ExitStack, closing, suppress
from pathlib import Path

from kachery_p2p.errors import DamagedRepo, DiskFull, FileExists, FileMissing, RepoBusy, RepoError
from kachery_p2p.oserrors import explained
from kachery_p2p.repo.checking import Problem
from kachery_p2p.repo.fileio import BINARY, CLOEXEC, Progress, read_bytes_at, sync_fd, sync_folder, write_at
from kachery_p2p.repo.hosts import HOST_LOCK_NAME
from kachery_p2p.repo.layout import beside, moving_from, moving_to
from kachery_p2p.repo.limits import MIB
from kachery_p2p.repo.locks import NODE_LOCK_NAME, NodeLock
from kachery_p2p.repo.placing import same_bytes
from kachery_p2p.repo.removal_lock import REMOVAL_LOCK_NAME, RemovalLock
from kachery_p2p.repo.repo import Repo
from kachery_p2p.repo.storing import free_bytes
from kachery_p2p.repo.wholefile import clear_left, write_whole

#: What belongs to the processes that use a directory, and not to what is in it.
_NOT_COPIED = {NODE_LOCK_NAME, REMOVAL_LOCK_NAME, HOST_LOCK_NAME, "node.json", "node.sock"}
#: In a copy until it has taken the place of the directory.
_MARK = "unfinished-move"


def move(directory: Path, target: Path, *, progress: Progress | None = None) -> list[Problem]:
    """Move a data directory. Its old name becomes a link to the new place.

    Args:
        directory: the data directory. None of its databases may be open in this process.
        target: where it is to be; missing, or an empty folder.
        progress: called with the bytes done and their total, where they are copied; each counts twice, once when it is
            written and once when it is read back.

    Returns:
        What is damaged, and was so before.

    Raises:
        RepoBusy: a node runs, or something is being stored.
        FileExists: something is at the target.
        FileMissing: there is no folder for it, or no data directory.
        DiskFull: there is no room for it there.
        DamagedRepo: what was copied is not what is there: one of the two disks is broken.
    """
    directory, target = Path(os.path.abspath(directory)), Path(os.path.abspath(target))
    note = beside(directory, ".moving")
    going = moving_to(directory)
    if not os.path.lexists(directory):
        if going is None:
            raise FileMissing(f"There is no data directory {directory}.")
        if going != target:
            raise RepoError(f"{directory} is being moved to {going}. Finish that first: kachery-cloud move {going}")
    else:
        real = directory.resolve()
        if directory.is_symlink() and real == target.resolve():
            _finish(directory, target, note)
            return []
        _check_target(directory, real, target)
    problems: list[Problem] = []
    with ExitStack() as locks:
        if os.path.lexists(directory):
            _hold(locks, directory)
            with explained("writing", note):
                real = directory.resolve()
                write_whole(note, json.dumps({"to": str(target), "from": str(real)}).encode("ascii"))
                os.chmod(note, 0o644)  # whoever shares the directory is told where it is, too
            if not _rename(real, target):
                problems = _copy_all(real, target, progress)
            if directory.is_symlink():
                _link(directory, target)
            elif os.path.lexists(directory):
                os.rename(directory, beside(directory, ".moved"))
        if not os.path.lexists(directory):
            _link(directory, target)
        _finish(directory, target, note)
    return problems


def _hold(locks: ExitStack, directory: Path) -> None:
    """Hold the locks of the directory."""
    node = NodeLock(directory)
    if not node.try_acquire():
        raise RepoBusy(
            f"A node is running in {directory}. Stop it, and all other programs that use the directory, and move it "
            "then."
        )
    locks.callback(node.release)
    locks.enter_context(RemovalLock(directory).removing())


def _check_target(directory: Path, real: Path, target: Path) -> None:
    for one, other in ((real, target), (target, real)):
        if one == other or one in other.parents:
            raise FileExists(f"{directory} cannot be moved to {target}: the one would be in the other.")
    with explained("looking at", target):
        if os.path.ismount(target):
            raise FileExists(f"{target} is the top of a disk. Name a folder in it: {target / directory.name}")
        if target.is_symlink() or (
            os.path.lexists(target)
            and not (target / _MARK).exists()
            and not (target.is_dir() and not any(target.iterdir()))
        ):
            raise FileExists(f"{target} exists already. Choose a folder that does not exist, or an empty one.")
        if not target.parent.is_dir():
            raise FileMissing(f"There is no folder {target.parent} to move it to.")


def _rename(real: Path, target: Path) -> bool:
    """Move it by its name alone; False where that is on another disk."""
    if not _same_disk(real, target.parent) or (target / _MARK).exists():
        return False
    with explained("moving", real):
        os.rename(real, target)
        sync_folder(target.parent)
        sync_folder(real.parent)
    return True


def _same_disk(one: Path, other: Path) -> bool:
    return os.stat(one).st_dev == os.lstat(other).st_dev


def _copy_all(real: Path, target: Path, progress: Progress | None) -> list[Problem]:
    part = beside(target, ".part")
    if (target / _MARK).exists():  # of a move that was interrupted; the directory may have been used since
        os.rename(target, part)
    files = list(_walk(real))
    total = sum(size for _, size in files)
    missing = sum(size for path, size in files if not _is_copied(real / path, part / path))
    room = free_bytes(target.parent)
    if room is not None and room < missing:
        raise DiskFull(f"{real} has {missing:,} bytes to move, and the disk of {target.parent} has {room:,} left.")

    def tell(done: int) -> None:
        if progress is not None:
            progress(min(done, 2 * total), max(2 * total, 1))

    with explained("copying to", part):
        part.mkdir(mode=stat.S_IMODE(real.stat().st_mode), exist_ok=True)
        (part / _MARK).touch()
        shutil.copystat(real, part)
        _give(real, part)
        _drop_others(part, {path for path, _ in files})
        done = 0
        names: dict[int, Path] = {}
        for path, size in files:
            _copy(real / path, part / path, names)
            done += size
            tell(done)
        for database in sorted(real.glob("*.sqlite")):
            _copy_database(database, part / database.name)
        for folder, _, _ in os.walk(part):
            sync_folder(folder)
    problems: list[Problem] = []
    with Repo.open(part) as repo:
        for problem in repo.maintenance.verify_copies(lambda now, _: tell(total + now)):
            relative = os.path.relpath(problem.path, part)
            if not relative.startswith("..") and os.path.exists(problem.path) and problem.what == "damaged":
                with open(problem.path, "rb") as copy:
                    if not same_bytes(copy.fileno(), real / relative):
                        os.unlink(problem.path)
                        raise DamagedRepo(
                            f"{problem.path} was copied and is not what {real / relative} is: one of the two disks is "
                            "broken. Nothing was removed. The same command goes on."
                        )
            problems.append(problem._replace(path=target / relative))
    for name in _NOT_COPIED:
        with suppress(FileNotFoundError):
            os.unlink(part / name)
    with explained("moving", part):
        if target.is_dir():
            os.rmdir(target)
        os.rename(part, target)
        sync_folder(target.parent)
    return problems


def _walk(top: Path) -> Iterator[tuple[Path, int]]:
    """The files that are copied as they are, by their paths in the directory, with the bytes they take."""
    for folder, _, names in os.walk(top):
        for name in names:
            path = Path(folder, name)
            status = os.lstat(path)
            at_top = folder == str(top)
            if at_top and (name in _NOT_COPIED or ".sqlite" in name or name == _MARK):
                continue
            if stat.S_ISREG(status.st_mode) and Path(folder) != top / "tmp":
                yield path.relative_to(top), min(status.st_size, getattr(status, "st_blocks", 1 << 40) * 512)


def _is_copied(source: Path, copy: Path) -> bool:
    try:
        one, other = os.lstat(source), os.lstat(copy)
    except FileNotFoundError:
        return False
    return (one.st_size, one.st_mtime_ns, one.st_mode) == (other.st_size, other.st_mtime_ns, other.st_mode)


def _drop_others(part: Path, wanted: set[Path]) -> None:
    """Delete what an interrupted move has copied and is not there any more."""
    for folder, _, names in os.walk(part):
        for name in names:
            path = Path(folder, name)
            if path.relative_to(part) not in wanted and name != _MARK:
                os.unlink(path)


def _copy(source: Path, copy: Path, names: dict[int, Path]) -> None:
    """Copy one file, with its mode and time; its time comes last, so that half a copy is not taken for a whole one."""
    status = os.lstat(source)
    if not _is_copied(source, copy):
        _make_folders(source.parent, copy.parent)
        with suppress(FileNotFoundError):
            os.unlink(copy)
        twin = names.get(status.st_ino)
        if twin is not None:
            os.link(twin, copy)
            return
        with open(source, "rb", buffering=0) as old, open(copy, "xb", buffering=0) as new:
            _copy_data(old.fileno(), new.fileno(), status.st_size)
            os.fchmod(new.fileno(), stat.S_IMODE(status.st_mode))
            _give(source, copy)
            sync_fd(new.fileno())
            os.utime(new.fileno(), ns=(status.st_atime_ns, status.st_mtime_ns))
    if status.st_nlink > 1:
        names[status.st_ino] = copy


def _copy_data(old: int, new: int, size: int) -> None:
    """Copy the bytes of a file, and leave its holes holes."""
    at = 0
    while at < size:
        try:
            start = os.lseek(old, at, os.SEEK_DATA) if hasattr(os, "SEEK_DATA") else at
            end = os.lseek(old, start, os.SEEK_HOLE) if hasattr(os, "SEEK_HOLE") else size
        except OSError:
            break  # no data from there to the end
        while start < end:
            data = read_bytes_at(old, min(8 * MIB, end - start), start)
            if not data:
                break
            write_at(new, data, start)
            start += len(data)
        at = max(end, at + 1)
    os.ftruncate(new, size)


def _make_folders(source: Path, copy: Path) -> None:
    if copy.is_dir():
        return
    _make_folders(source.parent, copy.parent)
    copy.mkdir(mode=0o700, exist_ok=True)
    os.chmod(copy, stat.S_IMODE(source.stat().st_mode))
    _give(source, copy)


def _give(source: Path, copy: Path) -> None:
    """Give a copy the owner that the other has, where that is allowed."""
    status = os.stat(source)
    with suppress(PermissionError):
        os.chown(copy, status.st_uid, status.st_gid)


def _copy_database(source: Path, copy: Path) -> None:
    """Copy a database as it is at one instant, also when another program has it open."""
    for name in ("", "-wal", "-shm"):
        with suppress(FileNotFoundError):
            os.unlink(copy.with_name(copy.name + name))
    status = os.stat(source)
    fd = os.open(copy, os.O_CREAT | os.O_EXCL | os.O_WRONLY | CLOEXEC | BINARY, 0o600)
    os.close(fd)
    try:
        with closing(sqlite3.connect(source)) as old, closing(sqlite3.connect(copy)) as new:
            old.backup(new)
    except sqlite3.Error as error:
        raise DamagedRepo(
            f"{source} cannot be copied ({error}). Bring it in order first with: kachery-cloud repair"
        ) from error
    os.chmod(copy, stat.S_IMODE(status.st_mode))
    _give(source, copy)
    with open(copy, "rb") as file:
        sync_fd(file.fileno())


def _link(directory: Path, target: Path) -> None:
    """Make the old name a link to the new place, in one step."""
    link = beside(directory, ".link")
    with explained("linking", directory):
        with suppress(FileNotFoundError):
            os.unlink(link)
        os.symlink(target, link, target_is_directory=True)
        os.replace(link, directory)
        sync_folder(directory.parent)


def _finish(directory: Path, target: Path, note: Path) -> None:
    """Delete what is left of the old place."""
    with explained("removing what was moved from", directory):
        with suppress(FileNotFoundError):
            os.unlink(target / _MARK)
        for old in (beside(directory, ".moved"), moving_from(directory)):
            if old is not None and os.path.lexists(old) and old.resolve() not in (target.resolve(), directory):
                shutil.rmtree(old)
        with suppress(FileNotFoundError):
            os.unlink(note)
        clear_left(note, older=0.0)  # of one that was killed
        sync_folder(note.parent)
