"""Where the node of a directory listens: node.json, and a socket that nobody else can reach at any moment."""

from __future__ import annotations

import json
import os
import shutil
import stat
import subprocess
import sys
import tempfile
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from kachery_cloud.node.control_client import ControlClient
from kachery_cloud.node.endpoint import ControlEndpoint, NodeGone, listen_unix, remove_socket
from kachery_p2p.errors import NodeError
from kachery_p2p.repo.hosts import Holder, this_host
from tests.helpers.control_helpers import Server, ask, is_served
from tests.helpers.patience import PATIENCE

pytestmark = pytest.mark.skipif(os.name != "posix", reason="Unix sockets and file modes are POSIX")


def mode(path: str | Path) -> int:
    return stat.S_IMODE(os.lstat(path).st_mode)


@pytest.fixture
def data(tmp_path: Path) -> Path:
    (tmp_path / "data").mkdir(mode=0o700)
    return tmp_path / "data"


@pytest.fixture
def temporary(monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """The temporary directory of the system, for one test. Its path is short, as that of a real one."""
    folder = Path(tempfile.mkdtemp(prefix="k-", dir="/tmp"))
    monkeypatch.setattr(tempfile, "tempdir", str(folder))
    yield folder
    shutil.rmtree(folder)


@pytest.fixture
def long(tmp_path: Path) -> Path:
    (tmp_path / ("d" * 120)).mkdir(mode=0o700)
    return tmp_path / ("d" * 120)


def test_the_umask_is_left_alone(data: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """It belongs to the whole process: what other threads make meanwhile would come out with our modes."""

    def umask(mask: int) -> int:
        raise AssertionError("the umask was changed")

    monkeypatch.setattr(os, "umask", umask)
    server = Server(data)
    assert is_served(data)
    server.stop()


@pytest.mark.parametrize("mask", [0o000, 0o022, 0o077])
def test_the_socket_is_never_within_reach_of_others(data: Path, mask: int) -> None:
    """While it has a wider mode, it lies in a folder that nobody else may enter."""
    code = """
import os, sys, json
from pathlib import Path
from kachery_cloud.node import endpoint
os.umask(int(sys.argv[2]))
seen, bind = [], endpoint.socket.socket.bind
class Socket(endpoint.socket.socket):
    def bind(self, path):
        super().bind(path)
        seen.append(os.stat(os.path.dirname(path)).st_mode & 0o777)
endpoint.socket.socket = Socket
sock, path = endpoint.listen_unix(Path(sys.argv[1]))
print(json.dumps([seen, os.stat(path).st_mode & 0o777, sorted(os.listdir(sys.argv[1]))]))
"""
    done = subprocess.run(
        [sys.executable, "-c", code, str(data), str(mask)], capture_output=True, text=True, check=True, timeout=PATIENCE
    )
    assert json.loads(done.stdout) == [[0o700], 0o600, ["node.sock"]]


def test_a_directory_of_a_group_shares_its_node(data: Path) -> None:
    """Where the group may write to the directory, it may use the socket and read node.json; nobody else may."""
    data.chmod(0o2770)
    server = Server(data)
    endpoint = ControlEndpoint.read(data)
    assert endpoint.path is not None
    assert (mode(endpoint.path), mode(data / "node.json")) == (0o660, 0o660)
    assert os.stat(endpoint.path).st_gid == os.stat(data / "node.json").st_gid == data.stat().st_gid
    assert is_served(data)
    server.stop()


@pytest.mark.skipif(not hasattr(os, "geteuid") or os.geteuid() != 0, reason="only root can be of any group")
def test_another_group_gets_nothing(data: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Where the files cannot be given to the group of the directory, they are the owner's alone."""
    os.chown(data, -1, os.getegid() + 1)
    data.chmod(0o770)

    def chown(path: Any, uid: int, gid: int) -> None:
        raise PermissionError(1, "Operation not permitted")

    monkeypatch.setattr(os, "chown", chown)
    server = Server(data)
    endpoint = ControlEndpoint.read(data)
    assert endpoint.path is not None
    assert (mode(endpoint.path), mode(data / "node.json")) == (0o600, 0o600)
    server.stop()


@pytest.mark.skipif(not hasattr(os, "geteuid") or os.geteuid() != 0, reason="only root can be another user")
def test_another_user_does_not_get_in(data: Path) -> None:
    """Neither to the socket nor to node.json, even where the directory can be entered."""
    data.chmod(0o755)
    for folder in data.parents[:-1]:
        folder.chmod(folder.stat().st_mode | 0o011)
    server = Server(data)
    endpoint = ControlEndpoint.read(data)
    code = """
import os, socket, sys
os.setgroups([]); os.setgid(65534); os.setuid(65534)
for attempt in (lambda: socket.socket(socket.AF_UNIX).connect(sys.argv[1]), lambda: open(sys.argv[2]).read()):
    try:
        attempt()
        print("got in")
    except PermissionError:
        print("kept out")
"""
    done = subprocess.run(
        [sys.executable, "-c", code, str(endpoint.path), str(data / "node.json")],
        capture_output=True, text=True, check=True, timeout=PATIENCE,
    )  # fmt: skip
    server.stop()
    assert done.stdout.split("\n") == ["kept out", "kept out", ""]


# --- what is left over -----------------------------------------------------------------------------------------------


def test_what_killed_nodes_left_is_replaced(data: Path) -> None:
    """A socket that nobody serves, a folder in which one was being made, half of a node.json."""
    sock, path = listen_unix(data) or pytest.fail("there is no socket")
    sock.close()
    (data / ".n-12345678").mkdir()
    (data / ".n-12345678" / "s").touch()
    (data / ".node.json.xyz").write_text("{")
    server = Server(data)
    assert ControlEndpoint.read(data).path == path
    assert is_served(data)
    assert sorted(os.listdir(data)) == ["node.json", "node.sock"]
    server.stop()
    assert os.listdir(data) == []


def test_a_long_name_leaves_nothing_in_the_temporary_directory(long: Path, temporary: Path) -> None:
    """The socket is in a folder for this user alone, and gone with the node; one that a killed node left is reused."""
    server = Server(long)
    endpoint = ControlEndpoint.read(long)
    assert endpoint.path is not None
    (place,) = temporary.iterdir()
    assert Path(endpoint.path).parent == place
    assert (mode(place), mode(endpoint.path)) == (0o700, 0o600)
    assert is_served(long)
    server.stop()
    assert list(temporary.iterdir()) == []

    path = ""
    for _ in range(3):  # as after kill -9: nothing is removed
        sock, path = listen_unix(long) or pytest.fail("there is no socket")
        sock.close()
    assert [str(each) for each in place.iterdir()] == [path]
    server = Server(long)
    assert is_served(long)
    server.stop()
    assert list(temporary.iterdir()) == []


def test_two_long_names_do_not_meet(tmp_path: Path, temporary: Path) -> None:
    """Each directory has a socket of its own, and one that leaves takes away only its own."""
    folders = [tmp_path / (letter * 120) for letter in "ab"]
    servers = []
    for folder in folders:
        folder.mkdir(mode=0o700)
        servers.append(Server(folder))
    servers[0].stop()
    assert is_served(folders[1])
    servers[1].stop()
    assert list(temporary.iterdir()) == []


def _link(place: Path, elsewhere: Path) -> None:
    place.symlink_to(elsewhere)


def _file(place: Path, elsewhere: Path) -> None:
    place.touch()


def _of_another(place: Path, elsewhere: Path) -> None:
    place.mkdir()
    if os.geteuid() != 0:
        pytest.skip("only root can be another user")
    os.chown(place, 12345, 12345)


@pytest.mark.parametrize("taken", [_link, _file, _of_another])
def test_a_name_that_somebody_took_is_not_used(long: Path, temporary: Path, tmp_path: Path, taken: Any) -> None:
    """In the temporary directory anybody may make anything. Then the node listens on loopback."""
    (tmp_path / "elsewhere").mkdir()
    taken(temporary / f"kachery-{os.geteuid()}", tmp_path / "elsewhere")
    server = Server(long)
    endpoint = ControlEndpoint.read(long)
    assert endpoint.path is None
    assert endpoint.port
    assert is_served(long)
    assert list((tmp_path / "elsewhere").iterdir()) == []
    server.stop()


def test_a_wide_place_is_made_private(long: Path, temporary: Path) -> None:
    """One of our own that became wider, by a hand or by a backup, is narrowed."""
    place = temporary / f"kachery-{os.geteuid()}"
    place.mkdir(mode=0o777)
    place.chmod(0o777)
    sock, path = listen_unix(long) or pytest.fail("there is no socket")
    assert mode(place) == 0o700
    sock.close()
    remove_socket(path)


# --- node.json -------------------------------------------------------------------------------------------------------

GOOD = {"pid": 1, "secret": "s", "path": "/x", "port": None}


@pytest.mark.parametrize(
    "content",
    [
        b"",
        b"{",
        b"[" * 100_000,
        b"null",
        b"\xff",
        b"x" * 20_000,
        json.dumps({**GOOD, "pid": "1"}).encode(),
        json.dumps({**GOOD, "pid": True}).encode(),
        json.dumps({**GOOD, "secret": None}).encode(),
        json.dumps({**GOOD, "path": 7}).encode(),
        json.dumps({**GOOD, "path": "a\0b"}).encode(),
        json.dumps({**GOOD, "path": None}).encode(),
        json.dumps({**GOOD, "port": 1}).encode(),
        json.dumps({**GOOD, "path": None, "port": 70_000}).encode(),
        json.dumps({**GOOD, "host": ["x"]}).encode(),
        json.dumps({**GOOD, "started": "now"}).encode(),
    ],
)
def test_a_node_json_that_says_nothing(data: Path, content: bytes) -> None:
    """It counts as none: whoever needs a node goes on looking for one."""
    (data / "node.json").write_bytes(content)
    with pytest.raises(NodeGone, match=r"node\.json"):
        ControlEndpoint.read(data)


@pytest.mark.parametrize("make", [os.mkfifo, os.mkdir, lambda path: os.symlink("/dev/zero", path)])
def test_what_is_no_file_does_not_hang(data: Path, make: Any) -> None:
    """A named pipe, a folder and a device in its place are looked at, not waited for."""
    make(data / "node.json")
    with pytest.raises(NodeGone, match=r"node\.json"):
        ControlEndpoint.read(data)


def test_node_json_names_the_machine(data: Path) -> None:
    """Its name, its start, and since when the node runs."""
    server = Server(data)
    endpoint = ControlEndpoint.read(data)
    server.stop()
    assert endpoint.started > 1_700_000_000
    assert endpoint.holder == Holder(os.getpid(), this_host(), endpoint.started)
    assert endpoint.holder is not None
    assert not endpoint.holder.is_elsewhere


# --- the other side is not what it seems -----------------------------------------------------------------------------


@pytest.fixture
def impostor(data: Path) -> Iterator[Any]:
    """Something that listens in the node's place and answers with the given lines."""
    threads: list[threading.Thread] = []

    def start(*lines: bytes) -> None:
        sock, path = listen_unix(data) or pytest.fail("there is no socket")

        def serve() -> None:
            with sock, sock.accept()[0] as client:
                client.settimeout(PATIENCE)
                for line in lines:
                    client.recv(65536)
                    client.sendall(line)

        ControlEndpoint.of_this_process(path, None).write(data)
        threads.append(threading.Thread(target=serve, daemon=True))
        threads[0].start()

    yield start
    for thread in threads:
        thread.join(PATIENCE)


@pytest.mark.parametrize(
    "greeting", [b"", b"\n", b"[]\n", b"[" * 200_000 + b"\n", b"\xff\n", b'{"ok": true, "ok": true}\n', b"x" * 100]
)
def test_a_greeting_that_is_none(data: Path, impostor: Any, greeting: bytes) -> None:
    """Nobody answers there, then: no crash, no waiting."""
    impostor(greeting)
    with pytest.raises(NodeError):
        ControlClient(ControlEndpoint.read(data), on_gone=lambda client: None)


@pytest.mark.parametrize(
    "answer",
    [
        b"",
        b"nonsense\n",
        b"[1]\n",
        b"[" * 200_000 + b"\n",
        b'{"id": 1, "progress": 5}\n',
        b'{"id": 1, "progress": ["a", {}]}\n',
        b'{"id": [1], "result": 1}\n',
        b'{"id": 1, "error": 5}\n',
        b'{"id": 1, "error": {"type": ["x"]}}\n',
    ],
)
def test_an_answer_that_is_none(data: Path, impostor: Any, answer: bytes) -> None:
    """Whoever waits for one is told that the node has gone, or failed."""
    impostor(b'{"ok": true, "pid": 1}\n', answer)
    client = ControlClient(ControlEndpoint.read(data), on_gone=lambda client: None)
    with pytest.raises(NodeError):
        ask(client, "echo", {}, lambda done, total: None)
    client.close()
