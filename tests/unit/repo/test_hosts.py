"""Several machines with one home: one is told from another, and one at a time uses a data directory."""

from __future__ import annotations

import errno
import json
import os
import socket
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from kachery_cloud.commands.status_text import status_lines
from kachery_cloud.node.connection import NodeConnection, ask_running_node
from kachery_cloud.node.endpoint import ControlEndpoint, NodeElsewhere, NodeGone, node_elsewhere, silent_holder
from kachery_cloud.node.limits import NodeTimes
from kachery_cloud.node.serve import serve_forever
from kachery_cloud.node.status_messages import STATUS
from kachery_cloud.settings.config import load_config
from kachery_cloud.upkeep import find_status, status
from kachery_p2p.errors import NodeError, RepoError
from kachery_p2p.pinning.outbox import OUTBOX_NAME, PinOutbox
from kachery_p2p.repo import hosts
from kachery_p2p.repo.hosts import (
    HOST_LOCK_NAME,
    MachineIdentity,
    claim,
    locks_are_local,
    network_file_system,
    this_host,
)
from kachery_p2p.repo.locks import NodeLock
from kachery_p2p.repo.newfile import NewFile
from kachery_p2p.repo.repo import Repo
from tests.helpers.patience import PATIENCE

pytestmark = pytest.mark.skipif(os.name != "posix", reason="the locks of POSIX systems")

LAB1 = MachineIdentity("lab1", "boot-1", "machine-1")
LAB2 = MachineIdentity("lab2", "boot-2", "machine-2")


def release_claims() -> None:
    """Give up all claims of this process."""
    while hosts._claims:
        os.close(hosts._claims.popitem()[1])


@pytest.fixture(autouse=True)
def _forget() -> Iterator[None]:
    yield
    release_claims()


@pytest.fixture
def data(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("KACHERY_CLOUD_DIR", str(tmp_path / "data"))
    (tmp_path / "data").mkdir(mode=0o700)
    return tmp_path / "data"


def on(host: MachineIdentity, monkeypatch: pytest.MonkeyPatch) -> None:
    """From now on this process is on that machine."""
    for module in ("kachery_p2p.repo.hosts", "kachery_cloud.node.endpoint"):
        monkeypatch.setattr(f"{module}.this_host", lambda: host)


def mounts(monkeypatch: pytest.MonkeyPatch, directory: Path, kind: str, options: str = "rw") -> Path:
    """The table of mounts says that a directory is on a file system of that kind."""
    device = directory.stat().st_dev
    number = f"{os.major(device)}:{os.minor(device)}"
    table = directory.parent / "mountinfo"
    table.write_text(
        "21 26 0:19 / /sys rw,nosuid shared:7 - sysfs sysfs rw\n"
        f"36 35 {number} / /home rw,noatime shared:1 master:2 - {kind} nas:/home {options}\n"
    )
    monkeypatch.setattr(hosts, "_MOUNTS", str(table))
    return table


def elsewhere(directory: Path, host: MachineIdentity, what: str) -> subprocess.Popen[str]:
    """A process on another machine that does something with the directory, and holds on to it until its input ends."""
    code = f"""
import sys
from pathlib import Path
from kachery_p2p.repo import hosts
from kachery_p2p.repo.locks import NodeLock
hosts.this_host = lambda: hosts.MachineIdentity(*{tuple(host)!r})
hosts._MOUNTS = {hosts._MOUNTS!r}
directory = Path({str(directory)!r})
{what}
print("ready", flush=True)
sys.stdin.read()
"""
    process = subprocess.Popen([sys.executable, "-c", code], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
    assert process.stdout is not None
    assert process.stdout.readline() == "ready\n"
    return process


def end(process: subprocess.Popen[str]) -> None:
    process.communicate(timeout=PATIENCE)


NODE = "lock = NodeLock(directory); assert lock.try_acquire()"
USER = "hosts.claim(directory)"


# --- which machine ---------------------------------------------------------------------------------------------------


def test_one_machine_is_told_from_another() -> None:
    """By its start where both say it; after a restart by name and number; copies of one image have other names."""
    assert LAB1.is_same(MachineIdentity("container", "boot-1", ""))
    assert LAB1.is_same(MachineIdentity("lab1", "boot-0", "machine-1"))
    assert LAB1.is_same(MachineIdentity("lab1", "", ""))
    assert not LAB1.is_same(MachineIdentity("lab2", "boot-2", "machine-1"))
    assert not LAB1.is_same(MachineIdentity("lab1", "boot-2", "machine-2"))
    assert not LAB1.is_same(MachineIdentity("lab2", "", ""))


def test_a_machine_that_tells_little(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """Without /proc and a machine number the name is left."""
    monkeypatch.setattr(hosts, "_BOOT_ID", str(tmp_path / "none"))
    monkeypatch.setattr(hosts, "_MACHINE_ID", str(tmp_path / "none"))
    this_host.cache_clear()
    try:
        assert this_host() == MachineIdentity(socket.gethostname())
    finally:
        this_host.cache_clear()


@pytest.mark.skipif(sys.platform != "linux" or os.geteuid() != 0, reason="needs root and namespaces of Linux")
def test_a_container_is_its_machine(data: Path) -> None:
    """Another host name in front of the same kernel is no other machine: locks and sockets reach there."""
    lock = NodeLock(data)
    assert lock.try_acquire()
    code = f"""
import socket
from pathlib import Path
from kachery_cloud.node.endpoint import node_elsewhere
from kachery_p2p.repo.hosts import this_host
socket.sethostname("container")
assert this_host().name == "container"
print(node_elsewhere(Path({str(data)!r})))
"""
    done = subprocess.run(
        ["unshare", "--uts", sys.executable, "-c", code], capture_output=True, text=True, timeout=PATIENCE, check=False
    )
    if "unshare" in done.stderr:
        pytest.skip(done.stderr)
    assert done.stdout == "None\n", done.stderr
    lock.release()


# --- the node of another machine -------------------------------------------------------------------------------------


def test_a_node_on_another_machine_is_named_at_once(data: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """By what needs a node, and by kachery-cloud-node: the machine, since when, and what can be done."""
    other = elsewhere(data, LAB1, NODE)
    on(LAB2, monkeypatch)
    ControlEndpoint(other.pid, "secret", str(data / "node.sock"), None, *LAB1, started=1_764_000_000.0).write(data)
    said = rf"The node of {data} runs on another machine: on lab1, since 20.*process {other.pid} .*KACHERY_CLOUD_DIR"
    patient = NodeTimes(establish=1e9, hand_over=1e9)
    with pytest.raises(NodeElsewhere, match=said):
        NodeConnection(load_config(), patient).status()
    with pytest.raises(NodeElsewhere, match=said):
        serve_forever(load_config(), times=patient)
    with pytest.raises(NodeElsewhere, match=said):
        ask_running_node(load_config(), STATUS)
    end(other)


def test_status_says_where_the_node_is(data: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Not that none is running."""
    other = elsewhere(data, LAB1, NODE)
    on(LAB2, monkeypatch)
    found = status()
    assert found["running"] is False
    assert (found["elsewhere"]["host"], found["elsewhere"]["pid"]) == ("lab1", other.pid)
    lines = "\n".join(status_lines(find_status()))
    assert "runs on another machine: on lab1" in lines
    assert "none is running" not in lines
    end(other)
    found = status()
    assert "elsewhere" not in found
    assert "none is running" in "\n".join(status_lines(find_status()))


def test_one_that_died_there_is_no_node(data: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """What it left behind names it, but nobody holds the lock: the place is free, and is taken."""
    end(elsewhere(data, LAB1, NODE))
    on(LAB2, monkeypatch)
    ControlEndpoint(1, "secret", str(data / "node.sock"), None, *LAB1, started=1_764_000_000.0).write(data)
    assert node_elsewhere(data) is None
    with pytest.raises(NodeGone):
        ask_running_node(load_config(), STATUS)
    lock = NodeLock(data)
    assert lock.try_acquire()
    holder = lock.holder()
    assert holder is not None
    assert (holder.pid, holder.host) == (os.getpid(), LAB2)
    lock.release()


def test_one_of_this_machine_that_is_starting_is_waited_for(data: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Although the node.json there is still the one that another machine left."""
    on(LAB2, monkeypatch)
    ControlEndpoint(1, "secret", str(data / "node.sock"), None, *LAB1, started=1_764_000_000.0).write(data)
    other = elsewhere(data, LAB2, NODE)
    assert node_elsewhere(data) is None
    end(other)


def test_who_holds_the_lock_and_is_silent_is_named(data: Path) -> None:
    """The process, and that it does not answer; not that it agreed to anything."""
    other = elsewhere(data, this_host(), NODE)
    assert f"Process {other.pid} holds the node lock of {data} but does not answer" in silent_holder(data)
    with pytest.raises(NodeError, match=f"Process {other.pid} holds the node lock"):
        serve_forever(load_config(), times=NodeTimes(hand_over=0.1))
    with pytest.raises(NodeError, match=f"Process {other.pid} holds the node lock"):
        ask_running_node(load_config(), STATUS)
    end(other)


@pytest.mark.parametrize("content", [b"", b"4711\n", b"{", b"[]", b'{"pid": "x"}', b"\xff", b"[" * 4096])
def test_a_lock_file_that_says_nothing(data: Path, content: bytes) -> None:
    """As an older version, or a full disk, leaves it: nobody is named, and the lock works."""
    lock = NodeLock(data)
    lock.path.write_bytes(content)
    assert lock.holder() is None
    assert "Another process" in silent_holder(data)
    assert not lock.is_held()
    assert lock.try_acquire()
    assert json.loads(lock.path.read_text())["pid"] == os.getpid()
    assert NodeLock(data).is_held()
    lock.release()
    assert not NodeLock(data).is_held()


# --- network file systems --------------------------------------------------------------------------------------------


@pytest.mark.skipif(sys.platform != "linux", reason="the table of mounts is Linux's")
def test_network_file_systems_are_known(data: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """By the table of mounts; so is whether locks reach other machines there."""
    assert network_file_system(Path("/proc")) is None
    for kind in ("nfs", "nfs4", "cifs", "fuse.sshfs"):
        mounts(monkeypatch, data, kind)
        assert network_file_system(data) == kind
        assert not locks_are_local(data)
    mounts(monkeypatch, data, "nfs", "rw,vers=3,local_lock=all")
    assert locks_are_local(data)
    for kind in ("ext4", "btrfs", "tmpfs", "overlay"):
        mounts(monkeypatch, data, kind)
        assert network_file_system(data) is None
    (data.parent / "mountinfo").write_bytes(b"\xff\n1 2 3\n")
    assert network_file_system(data) is None
    monkeypatch.setattr(hosts, "_MOUNTS", str(data / "none"))
    assert network_file_system(data) is None


def test_on_a_local_disk_nothing_is_claimed(data: Path) -> None:
    """There is one machine, and no file more."""
    claim(data)
    assert os.listdir(data) == []


@pytest.mark.skipif(sys.platform != "linux", reason="the table of mounts is Linux's")
class TestOneMachineAtATime:
    """SQLite's files cannot be used by two machines at once: the second one is refused, and told why."""

    @pytest.fixture(autouse=True)
    def _network(self, data: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        mounts(monkeypatch, data, "nfs4")
        monkeypatch.setattr(hosts, "_PAUSE", 0.01)

    def test_the_second_machine_is_refused(self, data: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        """By everything that opens a database, while any process of the first uses it; not afterwards."""
        first = elsewhere(data, LAB1, USER)
        also_first = elsewhere(data, LAB1, USER)
        on(LAB2, monkeypatch)
        said = rf"{data} is in use on lab1, since 20.*nfs4.*KACHERY_CLOUD_DIR"
        with pytest.raises(RepoError, match=said):
            Repo.open(data)
        with pytest.raises(RepoError, match=said):
            PinOutbox(data / OUTBOX_NAME).add("bafkreiaossxdnwtp6a4zfjl73w67i4ulmcoq277g5maz7kprxg23kqgygu", "lab")
        assert not (data / "catalog.sqlite").exists()
        end(first)
        with pytest.raises(RepoError, match=said):
            Repo.open(data)
        end(also_first)
        Repo.open(data).close()
        assert json.loads((data / HOST_LOCK_NAME).read_text())["name"] == "lab2"

    def test_processes_of_one_machine_share_it(self, data: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        """Any number of them, begun at once; and it comes back to the first machine when they are done."""
        end(elsewhere(data, LAB1, USER))
        on(LAB2, monkeypatch)
        others = [elsewhere(data, LAB2, USER) for _ in range(3)]
        claim(data)
        claim(data)
        with pytest.raises(AssertionError):
            elsewhere(data, LAB1, USER)
        for process in others:
            end(process)
        release_claims()
        end(elsewhere(data, LAB1, USER))

    def test_many_at_once(self, data: Path) -> None:
        """Processes of one machine that all find another's name there: each gets in."""
        end(elsewhere(data, LAB1, USER))
        code = f"""
from pathlib import Path
from kachery_p2p.repo import hosts
hosts.this_host = lambda: hosts.MachineIdentity(*{tuple(LAB2)!r})
hosts._MOUNTS = {hosts._MOUNTS!r}
hosts.claim(Path({str(data)!r}))
"""
        running = [subprocess.Popen([sys.executable, "-c", code]) for _ in range(6)]
        assert [process.wait(PATIENCE) for process in running] == [0] * 6

    def test_a_forked_child_keeps_it(self, data: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        """A daemon goes on using the directory after the process that it was forked from has ended."""
        what = """
import os
hosts.claim(directory)
reader, writer = os.pipe()
if os.fork():
    os.close(writer)
    os.read(reader, 1)
    os._exit(0)
os.close(writer)
os.close(reader)
"""
        other = elsewhere(data, LAB1, what)
        other.wait(PATIENCE)
        on(LAB2, monkeypatch)
        with pytest.raises(RepoError, match="in use on lab1"):
            claim(data)
        assert other.stdin is not None
        other.stdin.close()
        assert other.stdout is not None
        assert other.stdout.read() == ""
        claim(data)
        other.stdout.close()

    def test_locks_that_do_not_reach(self, data: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        """One machine works as ever; a second cannot know whether the first still does, so it is refused."""
        mounts(monkeypatch, data, "nfs", "rw,nolock")
        end(elsewhere(data, LAB1, USER))
        end(elsewhere(data, LAB1, USER))
        on(LAB2, monkeypatch)
        with pytest.raises(RepoError, match=rf"was used last on lab1.*do not reach.*remove {data}/host.lock"):
            claim(data)
        (data / HOST_LOCK_NAME).unlink()
        claim(data)

    def test_the_group_shares_it(self, data: Path) -> None:
        """In a directory that the group may write to, its members on this machine may take part."""
        data.chmod(0o2770)
        claim(data)
        assert (data / HOST_LOCK_NAME).stat().st_mode & 0o777 == 0o660


# --- file systems without locks --------------------------------------------------------------------------------------


@pytest.mark.parametrize("code", [errno.ENOLCK, errno.ENOSYS, errno.EOPNOTSUPP])
def test_no_locks(data: Path, monkeypatch: pytest.MonkeyPatch, code: int) -> None:
    """One clear sentence that names the directory and says what to do, from whatever needs a lock first."""
    import fcntl

    def refuse(fd: int, how: int) -> None:
        raise OSError(code, os.strerror(code))

    (data / "tmp").mkdir()
    monkeypatch.setattr(fcntl, "flock", refuse)
    said = rf"The file system of {data}.* has no file locks .*KACHERY_CLOUD_DIR.*nolock"
    with pytest.raises(RepoError, match=said):
        NodeLock(data).try_acquire()
    with pytest.raises(RepoError, match=said):
        NewFile(data / "tmp")
    with pytest.raises(RepoError, match=said):
        NodeConnection(load_config()).status()
    with pytest.raises(RepoError, match=said):
        serve_forever(load_config())
