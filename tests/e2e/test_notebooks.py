"""What a notebook shows: a real kernel runs the cells."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import nbclient
import nbformat
import pytest

from scripts.data import write_random
from scripts.workstation import Workstation
from tests.helpers.patience import PATIENCE

ABSENT = "ipfs://bafkreiaossxdnwtp6a4zfjl73w67i4ulmcoq277g5maz7kprxg23kqgygu"


class Notebook:
    """A kernel on a workstation."""

    def __init__(self, station: Workstation) -> None:
        self._notebook = nbformat.v4.new_notebook()
        self.client = nbclient.NotebookClient(self._notebook, timeout=PATIENCE, allow_errors=True)
        self.running = self.client.setup_kernel(env=station.env, cwd=str(station.folder))

    def run(self, code: str) -> list[dict[str, Any]]:
        """Run a cell; what it showed."""
        cell = nbformat.v4.new_code_cell(code)
        self._notebook.cells.append(cell)
        self.client.execute_cell(cell, len(self._notebook.cells) - 1)
        return list(cell.outputs)


@pytest.fixture(scope="module")
def notebook(module_workstation: Callable[..., Workstation]) -> Iterator[Notebook]:
    made = Notebook(module_workstation())
    with made.running:
        assert not made.run("import kachery_cloud as kcl")
        yield made


def test_values_come_and_go(notebook: Notebook) -> None:
    """Store and load, in a cell, and awaited in one; a notebook runs its own event loop. Once it is said who may learn
    what is stored."""
    said, shown = notebook.run("uri = kcl.store_json({'a': [1, 2]})\nkcl.load_json(uri), await kcl.aio.load_json(uri)")
    assert "announces" in said["text"]
    assert shown["data"]["text/plain"] == "({'a': [1, 2]}, {'a': [1, 2]})"


@pytest.mark.parametrize("call", [f"kcl.load_text({ABSENT!r}, local_only=True)", "kcl.load_text('nonsense')"])
@pytest.mark.parametrize("awaited", [False, True])
def test_an_error_is_a_sentence(notebook: Notebook, call: str, awaited: bool) -> None:
    """And the line of the cell that it is about. No stack trace of ours."""
    if awaited:
        call = "await " + call.replace("kcl.", "kcl.aio.")
    (shown,) = notebook.run(f"count = 1\n{call}")
    assert shown["output_type"] == "error"
    sentence, line = shown["traceback"]
    assert sentence.startswith(f"{shown['ename']}: ")
    assert line == f"(line 2: {call})"


def test_an_error_of_the_network_is_a_sentence(notebook: Notebook) -> None:
    """It was raised in the thread of the node, and passed on."""
    (shown,) = notebook.run(f"kcl.load_text({ABSENT!r}, timeout=1)")
    assert shown["ename"] == "ContentNotFound"
    assert len(shown["traceback"]) == 2


def test_bugs_show_their_stack_trace(notebook: Notebook) -> None:
    """What is no error of ours is shown as notebooks show it."""
    (shown,) = notebook.run("kcl.store_json()")
    assert shown["ename"] == "TypeError"
    assert "Traceback" in "".join(shown["traceback"])


def test_a_bar_needs_no_widgets(notebook: Notebook, module_workstation: Callable[..., Workstation]) -> None:
    """Work that takes long has a bar, and nothing is said of packages that are missing."""
    other = module_workstation().start()
    source = write_random(other.folder / "source.dat", 5_000_000, seed=3)
    uri = other.call("say(kcl.store_file(args[0]))", source)
    shown = notebook.run(
        "import kachery_cloud.progress\n"
        "kachery_cloud.progress.DELAY = 0\n"
        f"path = kcl.load_file({uri!r}, providers=[{other.addr!r}])"
    )
    texts = "".join(str(each) for each in shown)
    assert "Warning" not in texts
    assert "IProgress" not in texts
    assert all(each["output_type"] != "error" for each in shown)


def test_what_completion_offers(notebook: Notebook) -> None:
    """Names for users alone."""
    (shown,) = notebook.run("sorted(set(dir(kcl)) - set(kcl.__all__))")
    assert shown["data"]["text/plain"] == "['list', 'open']"  # which a star does not import
