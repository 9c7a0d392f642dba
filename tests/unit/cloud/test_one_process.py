"""A process that runs the node of its data directory: the node and what users call share what they have open."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

import kachery_cloud as kcl
from kachery_cloud.errors import ContentNotFound
from kachery_cloud.local import close_outboxes, close_repositories, outbox
from kachery_cloud.node.connection import close_all
from kachery_p2p.dag.cid import CID
from kachery_p2p.errors import RepoBusy
from kachery_p2p.pinning import PinOutbox
from kachery_p2p.repo.repo import Repo

ABSENT = "ipfs://bafkreiaossxdnwtp6a4zfjl73w67i4ulmcoq277g5maz7kprxg23kqgygu"


@pytest.fixture(autouse=True)
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    monkeypatch.setenv("KACHERY_CLOUD_DIR", str(tmp_path / "data"))
    monkeypatch.setenv("KACHERY_CLOUD_LISTEN", "/ip4/127.0.0.1/tcp/0")
    yield
    close_all()
    close_repositories()
    close_outboxes()


def count(monkeypatch: pytest.MonkeyPatch, owner: type, name: str) -> list[str]:
    """The names of the threads that call a method, from now on."""
    calls: list[str] = []
    method = getattr(owner, name)

    def counted(*args: Any, **kwargs: Any) -> Any:
        calls.append(threading.current_thread().name)
        return method(*args, **kwargs)

    monkeypatch.setattr(owner, name, counted)
    return calls


def test_one_repo_and_one_outbox_are_open(monkeypatch: pytest.MonkeyPatch) -> None:
    """Whoever came first: the node, or a function that stores."""
    repos = count(monkeypatch, Repo, "open")
    outboxes = count(monkeypatch, PinOutbox, "__init__")
    assert kcl.status(start=True)["running"]
    uri = kcl.store_text("something")
    assert kcl.load_text(uri) == "something"
    assert kcl.pins() == []
    assert (len(repos), len(outboxes)) == (1, 1)
    close_all()
    assert kcl.load_text(kcl.store_text("more", local=True)) == "more"
    assert kcl.status(start=True)["running"]
    assert (len(repos), len(outboxes)) == (1, 1)


def test_the_repo_of_a_running_node_stays_open() -> None:
    """Closing the repos of the process, and a repair that is refused, leave the node what it works with."""
    kcl.status(start=True)
    uri = kcl.store_text("something")
    close_repositories()
    with pytest.raises(RepoBusy, match="A node is running"):
        kcl.repair()
    assert kcl.load_text(uri) == "something"
    assert kcl.announce(uri, timeout=0.1)["copies"] == 0  # which the node looks up in the repo
    close_all()
    close_repositories()
    assert kcl.repair()["files"] == 1


def test_what_is_decided_here_is_a_change_for_the_node() -> None:
    """The node looks whether somebody has written to the outbox, and that may be its own process."""
    box = outbox(kcl.load_config())
    cid = CID.parse(ABSENT.removeprefix("ipfs://"))
    seen = [box.version()]
    box.add(cid, "lab")
    seen.append(box.version())
    assert box.remove(cid, "lab")
    seen.append(box.version())
    PinOutbox(box.path).add(cid, "lab")
    seen.append(box.version())
    assert len(set(seen)) == 4
    assert box.version() == seen[-1]
    (entry,) = box.list()
    box.update(entry, state="queued")  # as the worker does, which need not be told of it
    assert box.version() == seen[-1]


def test_a_cid_is_read_once(monkeypatch: pytest.MonkeyPatch) -> None:
    """From the text that a user typed to what the node asks its peers for it stays one object."""
    kcl.status(start=True)
    uri = kcl.store_text("something", local=True)
    parsed = count(monkeypatch, CID, "parse")
    with pytest.raises(ContentNotFound):
        kcl.load_file(ABSENT, timeout=0.1)
    assert len(parsed) == 1
    for ask in (kcl.load_file, kcl.load_file_info, lambda uri: kcl.announce(uri, timeout=0.1), kcl.pins):
        parsed.clear()
        ask(uri)
        assert len(parsed) == 1, ask
    parsed.clear()
    assert kcl.whereis(ABSENT, timeout=0.1) == []
    assert len(parsed) == 1
    parsed.clear()
    kcl.store_text("something else")
    assert parsed == []
