"""Storing a figure: a folder of `figure.json` and the arrays and tables beside it."""

from __future__ import annotations

import contextlib
import shutil
import tempfile
import time
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from kachery_cloud.figures.document import DOCUMENT
from kachery_cloud.figures.making import Content, Figure, make_figure
from kachery_cloud.formats.values import write_npy
from kachery_cloud.local import repository
from kachery_cloud.store import store_dir
from kachery_p2p.oserrors import explained

if TYPE_CHECKING:
    from kachery_cloud.audiences import To
    from kachery_cloud.pinning import Pin, Wait
    from kachery_cloud.settings.config import Config

#: What a figure without a title is called in lists.
UNTITLED = "figure"
#: How folders begin that are there while a figure is stored; seconds after which one was left by a process that died.
_BEGINNING = "figure-"
_LEFT_OVER = 86_400.0


def store_figure(
    spec: Any,
    *,
    arrays: Mapping[str, Any] | None = None,
    data: Mapping[str, Any] | None = None,
    title: str | None = None,
    label: str | None = None,
    to: To | None = None,
    project: str | None = None,
    local: bool = False,
    pin: Pin = None,
    wait: Wait = None,
    timeout: float | None = None,
) -> str:
    """Store a figure with all that it draws, and return its URI, that of a folder. See it with `figure_link`.

    Arrays of numpy in it are stored as npy files beside it. The same figure has the same URI.

    Args:
        spec: a chart of Altair; a figure of Plotly; a specification of Vega-Lite, Vega or Plotly as a dict, as JSON
            text, or as the path (`pathlib.Path`) of a JSON file. It may hold arrays of numpy, dates, and NaN, which
            is a gap. It loads nothing from elsewhere but what `ipfs://` URIs name.
        arrays: more arrays by their names: arrays of numpy, paths of npy files, or URIs of such. In the specification
            `{"$array": NAME}` stands for one; `{"$array": NAME, "rows": [0, 1000]}` for some of its rows, of which no
            others are then loaded; with `"column": 3` for one column.
        data: tables by their names, for Vega-Lite and Vega, where `{"data": {"name": NAME}}` draws one: a DataFrame, a
            dict of columns, a list of rows, an array of one or two dimensions (`row`, `column` and `value` of each
            cell; of one `index` and `value`), the path of a csv, tsv, json or npy file, or a URI.
        title: for people. Without it, that of the specification.
        label: a note for people, appended to the URI; the title is what lists show without it.
        to: as for `store_file`.
        project: as for `store_file`.
        local: as for `store_file`.
        pin: as for `store_file`.
        wait: as for `store_file`.
        timeout: as for `store_file`.

    Raises:
        InvalidArgument: it is no figure, or it loads something from elsewhere.
        NotSerializable: it holds something that no figure can hold; says where.
        FormatError: it is more than a browser is given.
        KacheryError: as `store_dir`.

    Example:
        >>> uri = kcl.store_figure({"data": [{"type": "heatmap", "z": np.arange(12.0).reshape(3, 4)}]}, title="Rates")
    """
    from kachery_cloud.settings.config import load_config

    figure = make_figure(spec, arrays, data, title)
    with figure_folder(load_config(), figure) as folder:
        return store_dir(
            folder, label=label, to=to, project=project, local=local, follow=True, pin=pin, wait=wait, timeout=timeout
        )


@contextlib.contextmanager
def figure_folder(config: Config, figure: Figure) -> Iterator[Path]:
    """A folder with the files of a figure, removed afterwards; it has the name of the figure's title."""
    files: dict[str, Content] = {DOCUMENT: figure.document.encode(), **figure.files}
    with folder_of(config, figure.document.title or UNTITLED, files) as folder:
        yield folder


@contextlib.contextmanager
def folder_of(config: Config, name: str, files: Mapping[str, Content]) -> Iterator[Path]:
    """A folder of files, removed afterwards. Files of the user are symbolic links in it: they are not copied twice."""
    repo = repository(config)
    with explained("storing in", config.directory):
        _clean(repo.directory / "tmp")
        parent = Path(tempfile.mkdtemp(prefix=_BEGINNING, dir=repo.directory / "tmp"))
    try:
        folder = parent / _file_name(name)
        for path, content in files.items():
            with explained("storing in", config.directory):
                _write(folder / path, content)
        yield folder
    finally:
        shutil.rmtree(parent, ignore_errors=True)


def _clean(folder: Path) -> None:
    """Remove what processes left that were killed while they stored a figure."""
    for path in folder.glob(f"{_BEGINNING}*"):
        with contextlib.suppress(FileNotFoundError):
            if time.time() - path.lstat().st_mtime > _LEFT_OVER:
                shutil.rmtree(path, ignore_errors=True)


def _write(path: Path, content: Content) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    if isinstance(content, Path):
        path.symlink_to(content.absolute())
    elif isinstance(content, bytes):
        path.write_bytes(content)
    else:
        with open(path, "wb") as file:
            write_npy(file, content)


def _file_name(title: str) -> str:
    """A title as the name of a folder, which is what lists show."""
    name = " ".join("".join(" " if each in "/\\" or not each.isprintable() else each for each in title).split()).strip(
        "."
    )
    return name.encode()[:200].decode(errors="ignore") or UNTITLED
