"""A notebook that shows what there is for notebooks, run in a real kernel.

Its cells are what somebody types. It loads from another workstation, which serves a recording; all of it is on this
machine. The outputs in the file are those of such a run.
"""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import nbclient
import nbformat
import numpy as np

from scripts.tour.names import Names
from scripts.workstation import RUN_SECONDS, Workstation
from tests.helpers.shells import on_screen

PAGE = Path(__file__).resolve().parents[2] / "docs" / "notebook.ipynb"
#: A cell with this tag shows a bar, which else only comes where something takes long.
_SLOW = "slow"
_BAR_AT_ONCE = "import kachery_cloud.progress; kachery_cloud.progress.DELAY = {}"
_BAR = re.compile(r"[^\r\n]*\d+%\|[^\r\n]*")
_STYLE = re.compile(r"<style scoped>.*?</style>\n?", re.DOTALL)
_COLOUR = re.compile(r"\x1b\[[0-9;]*m")


def play(text: str, folder: Path) -> str:
    """Run the cells of a notebook, and give the notebook with what they showed.

    Args:
        text: the notebook, as JSON.
        folder: an empty one, for two workstations.
    """
    notebook: Any = nbformat.reads(text, as_version=4)
    with Workstation(folder / "ada") as ada, Workstation(folder / "ben") as ben:
        ada.start()
        recording = folder / "recording.npy"
        samples, channels = np.arange(1 << 20, dtype="float32"), np.arange(16, dtype="float32")
        np.save(recording, samples[:, None] / 8 + channels)
        ada.call("say(kcl.link_file(args[0]))", recording)
        names = Names({str(ben.directory): "/home/ben/.kachery-cloud", str(ben.folder): "/home/ben"})
        names.show(ada.addr)
        client = nbclient.NotebookClient(nbformat.v4.new_notebook(), timeout=int(RUN_SECONDS), allow_errors=True)
        with client.setup_kernel(env=ben.env, cwd=str(ben.folder)):
            cells = [cell for cell in notebook.cells if cell.cell_type == "code"]
            for count, cell in enumerate(cells, 1):
                slow = _SLOW in cell.metadata.get("tags", ())
                if slow:
                    _run(client, _BAR_AT_ONCE.format(0))
                found = _joined(_run(client, names.real(cell.source)))
                cell.outputs = [_output(each, names, count) for each in found]
                cell.execution_count = count
                if slow:
                    _run(client, _BAR_AT_ONCE.format(0.5))
    return nbformat.writes(notebook) + "\n"


def _run(client: nbclient.NotebookClient, code: str) -> list[Any]:
    cell: Any = nbformat.v4.new_code_cell(code)
    client.nb.cells.append(cell)
    client.execute_cell(cell, len(client.nb.cells) - 1)
    return list(cell.outputs)


def _joined(outputs: list[Any]) -> list[Any]:
    """What was written to one stream without anything between, in one piece."""
    found: list[Any] = []
    for output in outputs:
        same = found and output.output_type == found[-1].output_type == "stream" and output.name == found[-1].name
        if same:
            found[-1].text += output.text
        else:
            found.append(nbformat.from_dict(output))
    return found


def _output(output: Any, names: Names, count: int) -> Any:
    """An output as it is kept: what a reader sees of it."""
    if output.output_type == "stream":
        bars = _BAR.findall(output.text)
        output.text = names.show(bars[-1].strip() + "\n" if bars else on_screen(output.text))
    elif output.output_type == "error":
        output.traceback = [names.show(_COLOUR.sub("", line)) for line in output.traceback]
        output.evalue = names.show(output.evalue)
    else:
        shown = {kind: output.data[kind] for kind in ("text/html", "text/plain") if kind in output.data}
        kind, value = next(iter(shown.items()))
        output.data = {kind: names.show(_STYLE.sub("", value))}
        if output.output_type == "execute_result":
            output.execution_count = count
    return output
