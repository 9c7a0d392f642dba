"""The files of groups: private, whole after every crash, and changed by one process at a time."""

from __future__ import annotations

import os
import signal
import stat
import subprocess
import sys
import threading
from pathlib import Path

from kachery_p2p.membership.groups import Groups
from kachery_p2p.membership.store import GroupStore, KeptGroup
from kachery_p2p.transport.compat import Keys

_CHANGES = """
import sys
from pathlib import Path
from kachery_p2p.membership.groups import Groups
from kachery_p2p.membership.lists import Role
from kachery_p2p.transport.compat import Keys

groups = Groups(Path(sys.argv[1]), Keys.from_seed(bytes(32)))
group = groups.held()[0].group
print("ready", flush=True)
count = int(sys.argv[2])
while count:
    groups.invite(group, Role.READER, [])
    print("done", flush=True)
    count -= 1
"""


def change(folder: Path, count: int) -> subprocess.Popen[str]:
    return subprocess.Popen(
        [sys.executable, "-c", _CHANGES, str(folder), str(count)], stdout=subprocess.PIPE, text=True
    )


def test_killed_at_any_moment(tmp_path: Path) -> None:
    """What was said to be done is there, whole, and nothing else is left that stays."""
    keys = Keys.from_seed(bytes(32))
    groups = Groups(tmp_path, keys)
    group = groups.create("lab").group
    done = 0
    for pause in range(6):
        with change(tmp_path, 100_000) as process:
            assert process.stdout is not None
            assert process.stdout.readline() == "ready\n"
            for _ in range(pause):
                process.stdout.readline()
            process.send_signal(signal.SIGKILL)
            done += pause + len(process.stdout.read().splitlines())
        groups.reload()
        kept = groups.find(group).kept.invitations
        assert groups.problems == {}
        assert done <= len(kept) <= done + 1
        done = len(kept)
    groups.create("other")
    assert {path.name for path in tmp_path.glob("groups/.*")} <= {".lock"}


def test_several_processes(tmp_path: Path) -> None:
    """Nothing that one has written is undone by another, nor by threads of one."""
    groups = Groups(tmp_path, Keys.from_seed(bytes(32)))
    group = groups.create("lab").group
    processes = [change(tmp_path, 20) for _ in range(3)]
    threads = [threading.Thread(target=_invite, args=(groups, group, 10)) for _ in range(3)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    for process in processes:
        process.communicate()
        assert process.returncode == 0
    groups.reload()
    assert len(groups.find(group).kept.invitations) == 90


def _invite(groups: Groups, group: str, count: int) -> None:
    from kachery_p2p.membership.lists import Role

    for _ in range(count):
        groups.invite(group, Role.READER, [])


def test_modes(tmp_path: Path) -> None:
    """Its owner's alone, whatever the umask says, and in a shared directory, too."""
    tmp_path.joinpath("shared").mkdir()
    tmp_path.joinpath("shared").chmod(0o2770)
    before = os.umask(0)
    try:
        for folder in (tmp_path / "own", tmp_path / "shared"):
            groups = Groups(folder, Keys.from_seed(bytes(32)))
            groups.create("lab")
            groups.save_addresses()
            for path in (folder / "groups").iterdir():
                assert stat.S_IMODE(path.stat().st_mode) == 0o600, path
            assert stat.S_IMODE((folder / "groups").stat().st_mode) & 0o777 == 0o700
    finally:
        os.umask(before)


def test_nothing_is_made_to_look(tmp_path: Path) -> None:
    """A machine in no group has no file of any."""
    store = GroupStore(tmp_path)
    assert (store.names(), store.stamps(), store.read("a" * 26)) == ([], frozenset(), None)
    groups = Groups(tmp_path, Keys.from_seed(bytes(32)))
    groups.save_addresses()
    groups.reload()
    assert list(tmp_path.iterdir()) == []


def test_written_and_read(tmp_path: Path) -> None:
    """What newer versions add is passed over."""
    store = GroupStore(tmp_path)
    with store.lock():
        store.write("a" * 25 + "q", KeptGroup(("AA==",)))
    path = store.folder / f"{'a' * 25}q.json"
    path.write_text(path.read_text()[:-1] + ',"later":1}')
    assert store.read("a" * 25 + "q") == KeptGroup(("AA==",))
    with store.lock():
        store.remove("a" * 25 + "q")
    assert store.read("a" * 25 + "q") is None
