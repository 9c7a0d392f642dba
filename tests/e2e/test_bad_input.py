"""Bad input on the command line: a sentence that helps, an exit code other than 0, and never a stack trace."""

from __future__ import annotations

import json
import os
from collections.abc import Callable
from pathlib import Path

import pytest

from scripts.data import write_random
from scripts.workstation import Workstation
from tests.helpers.patience import PATIENCE

BAD_INPUT, NOT_FOUND, DAMAGED, NO_PERMISSION, NETWORK = 2, 3, 4, 5, 6
ABSENT = "ipfs://bafkreibm6jg3ux5qumhcn2b3flc3tyu6dmlb4xa7u5bf44yegnrjhc4yeq"


@pytest.fixture(scope="module")
def station(module_workstation: Callable[[], Workstation]) -> Workstation:
    """A workstation without a running node."""
    return module_workstation()


def _fails(station: Workstation, code: int, command: str, *args: str | Path) -> str:
    """Runs a command that must fail with `code`, and returns what it said, on one line."""
    done = station.run(command, *args, check=False, timeout=PATIENCE)
    assert done.returncode == code, done.stderr
    assert done.stdout == ""
    assert "Traceback" not in done.stderr
    return " ".join(done.stderr.split())


def test_no_such_file(station: Workstation, tmp_path: Path) -> None:
    """A file that does not exist is named."""
    assert "nowhere.dat" in _fails(station, BAD_INPUT, "kachery-cloud-store", tmp_path / "nowhere.dat")
    assert "nowhere.dat" in _fails(station, BAD_INPUT, "kachery-cloud-link", tmp_path / "nowhere.dat")


def test_directory_for_a_file(station: Workstation, tmp_path: Path) -> None:
    """A directory is not taken for a file; the message says how to store one."""
    assert "--recursive" in _fails(station, BAD_INPUT, "kachery-cloud-store", tmp_path)


def test_device(station: Workstation, tmp_path: Path) -> None:
    """Neither a file nor a directory."""
    fifo = tmp_path / "fifo"
    os.mkfifo(fifo)
    assert "fifo" in _fails(station, BAD_INPUT, "kachery-cloud-store", fifo)


@pytest.mark.skipif(os.geteuid() == 0, reason="root may read everything")
def test_no_permission(station: Workstation, tmp_path: Path) -> None:
    """A file that may not be read is named."""
    secret = write_random(tmp_path / "secret.dat", 10)
    secret.chmod(0)
    assert "secret.dat" in _fails(station, NO_PERMISSION, "kachery-cloud-store", secret)


@pytest.mark.parametrize("cid", ["bafynonsense", "Qm123", "bafkreiajr6u7obg3mpunezz2mwarr2sptwr3zaedia665vdayvw6mpn5g"])
def test_malformed_cid(station: Workstation, cid: str) -> None:
    """Text that is not a CID is shown."""
    assert cid in _fails(station, BAD_INPUT, "kachery-cloud-load", f"ipfs://{cid}")


def test_unknown_hash(station: Workstation) -> None:
    """A CID of a hash function that cannot be checked (murmur3 here) is refused before anybody is asked."""
    # CIDv1, raw, multihash code 0x22, 8 bytes
    message = _fails(station, BAD_INPUT, "kachery-cloud-load", "f01552208" + "00" * 8)
    assert message.startswith("Error: ")


def test_unknown_codec(station: Workstation) -> None:
    """A CID of something other than a file or directory (dag-cbor here) is refused before anybody is asked."""
    assert "dag-cbor" in _fails(station, BAD_INPUT, "kachery-cloud-load", "f01711220" + "00" * 32)


@pytest.mark.parametrize("uri", ["sha1://abc", "https://example.org/x", "/home/me/file", "nothing"])
def test_other_scheme(station: Workstation, uri: str) -> None:
    """A URI that is not one of ours is shown, with what is expected."""
    assert uri in _fails(station, BAD_INPUT, "kachery-cloud-load", uri)


def test_nobody_has_it(station: Workstation, workstation: Callable[..., Workstation]) -> None:
    """A CID that nobody has: says whom it asked."""
    other = workstation().start()
    message = _fails(station, NOT_FOUND, "kachery-cloud-load", ABSENT, "--peer", other.addr, "--timeout", "120")
    assert other.peer_id in message


def test_nobody_to_ask(station: Workstation) -> None:
    """A CID that is not here, and no peer is known: says so, instead of waiting in vain for as long as it may."""
    _fails(station, NOT_FOUND, "kachery-cloud-load", ABSENT, "--timeout", str(100 * PATIENCE))


def test_local_only(station: Workstation) -> None:
    """What is not here is not found when only local data may be used."""
    _fails(station, NOT_FOUND, "kachery-cloud-load", ABSENT, "--local-only")


@pytest.mark.parametrize("address", ["nonsense", "/ip4/999.0.0.1/tcp/4001", "/ip4/127.0.0.1/tcp/x", "127.0.0.1:4001"])
def test_address_that_does_not_parse(station: Workstation, address: str) -> None:
    """A peer address that is none is shown."""
    message = _fails(station, BAD_INPUT, "kachery-cloud-load", ABSENT, "--peer", address, "--timeout", "120")
    assert address in message


def test_address_that_does_not_answer(station: Workstation, free_port: Callable[[], int]) -> None:
    """A peer address where nobody listens is shown, with the reason, well before the time-out."""
    address = f"/ip4/127.0.0.1/tcp/{free_port()}/p2p/12D3KooWGRUaJ8PXaYGPnmJXgwGHNaBQgbW6sVfLoZgvqEJXVw4m"
    args = (ABSENT, "--peer", address, "--timeout", str(100 * PATIENCE))
    done = station.run("kachery-cloud-load", *args, check=False, timeout=PATIENCE)
    assert done.returncode in (NOT_FOUND, NETWORK), done.stderr
    assert "Traceback" not in done.stderr
    assert address.split("/p2p/")[0] in done.stderr


def test_damaged_local_copy(workstation: Callable[..., Workstation], tmp_path: Path) -> None:
    """A local copy that changed on disk is not given out as if it were right; verify names it."""
    station = workstation()
    source = write_random(tmp_path / "source.dat", 3_000_000, seed=1)
    uri = station.run("kachery-cloud-store", source).stdout.strip()
    path = Path(station.run("kachery-cloud-load", uri).stdout.strip())
    path.chmod(0o644)
    with open(path, "r+b") as file:
        file.seek(2_000_000)
        file.write(b"changed!")
    found = station.run("kachery-cloud", "verify", check=False)
    assert found.returncode == DAMAGED
    assert str(path) in found.stdout
    assert str(path) in _fails(station, DAMAGED, "kachery-cloud-load", uri, "--local-only")


def test_damaged_copy_is_mended_from_a_peer(workstation: Callable[..., Workstation], tmp_path: Path) -> None:
    """With a peer at hand, a damaged copy is loaded anew."""
    first, second = workstation().start(), workstation()
    source = write_random(tmp_path / "source.dat", 3_000_000, seed=2)
    uri = first.run("kachery-cloud-store", source).stdout.strip()
    path = Path(second.run("kachery-cloud-load", uri, "--peer", first.addr).stdout.strip())
    path.chmod(0o644)
    path.write_bytes(b"short")
    again = Path(second.run("kachery-cloud-load", uri, "--peer", first.addr).stdout.strip())
    assert again.read_bytes() == source.read_bytes()


def test_changed_linked_file_is_not_served(workstation: Callable[..., Workstation], tmp_path: Path) -> None:
    """A linked file that changed is no longer served: the other side is told that nobody has it."""
    first, second = workstation().start(), workstation()
    source = write_random(tmp_path / "source.dat", 3_000_000, seed=3)
    uri = first.run("kachery-cloud-link", source).stdout.strip()
    with open(source, "r+b") as file:
        file.write(b"changed!")
    _fails(second, NOT_FOUND, "kachery-cloud-load", uri, "--peer", first.addr, "--timeout", "120")


@pytest.mark.parametrize(
    ("code", "error"),
    [
        ("import numpy as np; kcl.store_npy(np.array([{}, None], dtype=object), local=True)", "NotSerializable"),
        ("kcl.store_json({'a': [1.0, float('nan')]}, local=True)", "NotSerializable"),
        ("kcl.store_pkl({'f': print}, local=True)", "NotSerializable"),
        ("kcl.load_pkl(kcl.store_file(args[0], local=True))", "UnsafePickle"),
        ("kcl.load_npy(kcl.store_text('no array', local=True))", "FormatError"),
        ("kcl.load_json(kcl.store_text('{no json', local=True))", "FormatError"),
    ],
)
def test_values(station: Workstation, tmp_path: Path, code: str, error: str) -> None:
    """Values that a format cannot hold, and files that are not what they are taken for, raise named errors."""
    hostile = tmp_path / "hostile.pkl"
    hostile.write_bytes(b"\x80\x02cos\nsystem\n(S'touch owned'\ntR.")
    wrapped = "\n".join(
        [
            "try:",
            f"    {code}",
            "except kcl.KacheryError as e:",
            "    say([type(e).__name__, str(e)])",
        ]
    )
    name, message = station.call(wrapped, hostile)
    assert name == error
    assert message
    assert not (station.folder / "owned").exists()


def test_full_disk(workstation: Callable[..., Workstation], tmp_path: Path) -> None:
    """No room: a sentence, exit code 5, nothing half-stored, and the directory works on."""
    station = workstation()
    source = write_random(tmp_path / "source.dat", 4_000_000, seed=4)
    # A limit on the size of files is the one full disk that any user can make; Python ignores the signal.
    code = """
import resource
resource.setrlimit(resource.RLIMIT_FSIZE, (1_000_000, resource.RLIM_INFINITY))
try:
    kcl.store_file(args[0], local=True)
except kcl.KacheryError as e:
    say([type(e).__name__, str(e), e.exit_code])
"""
    name, message, exit_code = station.call(code, source)
    assert (name, exit_code) == ("DiskFull", NO_PERMISSION)
    assert message
    assert [path for path in (station.directory / "ipfs").rglob("*") if path.is_file()] == []
    assert station.run("kachery-cloud-store", source).returncode == 0


def test_json_errors(station: Workstation, tmp_path: Path) -> None:
    """With --json an error is an object, too."""
    done = station.run("kachery-cloud-store", tmp_path / "nowhere.dat", "--json", check=False)
    assert done.returncode == BAD_INPUT
    assert json.loads(done.stdout)["error"]["type"] == "FileMissing"
