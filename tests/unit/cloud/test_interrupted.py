"""What a command says after Ctrl-C of what it had done by then."""

from __future__ import annotations

import json
import os
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

import kachery_cloud as kcl
from kachery_cloud import inventory_removal
from kachery_p2p.node.messages import Copies
from tests.helpers.patience import PATIENCE
from tests.unit.cloud.test_cli import run

URI = "ipfs://bafkreiaossxdnwtp6a4zfjl73w67i4ulmcoq277g5maz7kprxg23kqgygu"


def test_gc_names_what_is_gone(monkeypatch: pytest.MonkeyPatch) -> None:
    """What `gc` has removed before it is interrupted is named, with --json, too."""

    def collect(removed: inventory_removal.RemovedItems, *_: Any, **__: Any) -> None:
        removed.append(inventory_removal.RemovedItem(URI, "a.nwb", 3_000_000, 0, "forced"))
        raise KeyboardInterrupt

    monkeypatch.setattr(inventory_removal, "collect", collect)
    result = run("gc", "--keep", "0")
    assert (result.exit_code, result.stdout) == (130, "Removed a.nwb: 3 MB (forced).\n")
    assert "What was named before is removed" in result.stderr
    result = run("gc", "--keep", "0", "--json")
    found = json.loads(result.stdout)
    assert (found["error"]["type"], [each["uri"] for each in found["removed"]]) == ("Interrupted", [URI])


def test_rm_names_what_is_gone(monkeypatch: pytest.MonkeyPatch) -> None:
    """The same of `rm`, of several."""
    done = inventory_removal.RemovedItem(URI, None, 3_000_000, 0, "forced")
    monkeypatch.setattr(inventory_removal, "remove", lambda uri, **_: done if uri == URI else _interrupt())
    result = run("rm", URI, "ipfs://other", "--json")
    assert result.exit_code == 130
    assert [each["uri"] for each in json.loads(result.stdout)["removed"]] == [URI]


def test_store_names_what_is_stored(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """With --json, where nothing is printed before the end, the URIs of what is stored are in the object."""
    from kachery_cloud import putting

    (tmp_path / "first").write_bytes(b"first")
    (tmp_path / "second").write_bytes(b"second")
    put_file = putting.put_file
    monkeypatch.setattr(
        putting, "put_file", lambda c, path, **more: put_file(c, path, **more) if "first" in path else _interrupt()
    )
    result = run("store", "--json", tmp_path / "first", tmp_path / "second")
    (found,) = json.loads(result.stdout)["stored"]
    assert result.exit_code == 130
    assert kcl.load_bytes(found["uri"], local_only=True) == b"first"


def test_verify_names_what_it_found(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """What was found before Ctrl-C is not lost: here the first of two files, while the second one is read."""
    for name in ("first", "second"):
        (tmp_path / name).write_bytes(os.urandom(3_000_000))
    copy = Path(kcl.load_file(kcl.store_file(tmp_path / "first", local=True), local_only=True))
    kcl.store_file(tmp_path / "second", local=True)
    copy.chmod(0o600)
    with open(copy, "r+b") as file:
        file.write(b"0" * 100)

    @contextmanager
    def bar(_: str) -> Iterator[Callable[[int, int], None]]:
        def update(done: int, _: int) -> None:
            if done > 3_000_000:
                raise KeyboardInterrupt

        yield update

    monkeypatch.setattr("kachery_cloud.upkeep.progress_bar", bar)
    result = run("verify")
    assert result.exit_code == 130
    assert "damaged: bafy" in result.stdout
    assert "What was found until then is named; the rest was not looked at." in result.stderr
    found = json.loads(run("verify", "--json").stdout)
    assert [each["what"] for each in found["problems"]] == ["damaged"]
    assert found["error"]["type"] == "Interrupted"


def test_gc_does_not_end_its_search_first(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Ctrl-C ends the search for other copies, which may take as long as its timeout. Nothing is removed."""
    from kachery_cloud.cancelling import check
    from kachery_cloud.node import connection

    class Searching:
        """Finds nobody until it is cancelled."""

        def copies(self, _: object) -> Copies:
            looking.release()
            end = time.monotonic() + PATIENCE
            while time.monotonic() < end:
                check()
                time.sleep(0.01)
            raise AssertionError("the search went on")

        def notify_removed(self, _: object) -> None:
            raise AssertionError("nothing was removed")

    looking = threading.Semaphore(0)
    uris = [kcl.store_text(f"text {number}" * 100, local=True) for number in range(3)]
    monkeypatch.setattr(connection, "get_connection", lambda _: Searching())
    result_of = inventory_removal.result_of

    def interrupted(future: Any) -> Any:
        for _ in uris:
            assert looking.acquire(timeout=PATIENCE)
        raise KeyboardInterrupt

    monkeypatch.setattr(inventory_removal, "result_of", interrupted)
    with pytest.raises(KeyboardInterrupt):
        kcl.gc(0, stored=True)
    monkeypatch.setattr(inventory_removal, "result_of", result_of)
    assert all(kcl.load_text(uri, local_only=True) for uri in uris)


def _interrupt() -> Any:
    raise KeyboardInterrupt
