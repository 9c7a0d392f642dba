"""What scripts that were written for the older kachery-cloud (0.1 to 0.4) call, under the names that it has there.

These names work, `kcl.store_file_local` for one, but they are not listed: new programs have no need of them. Each says,
by a `DeprecationWarning`, what to write instead. `older_names.REPLACED` has those that cannot work any more.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import shutil
import tempfile
import warnings
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

from kachery_cloud.errors import FileMissing, InvalidArgument, InvalidName
from kachery_cloud.initialising import init
from kachery_cloud.load import load_file
from kachery_cloud.settings.config import load_config
from kachery_cloud.settings.config_file import write_private_text
from kachery_cloud.store import store_file, store_json, store_npy, store_pkl, store_text
from kachery_p2p.oserrors import explained
from kachery_p2p.ownfiles import read_own_file

if TYPE_CHECKING:
    import numpy as np

#: Characters of a value that was kept under a name.
MAX_MUTABLE = 1 << 20


def _instead(text: str) -> None:
    warnings.warn(f"This is of the older kachery-cloud. Use {text} instead.", DeprecationWarning, stacklevel=3)


def store_file_local(
    filename: str | os.PathLike[str], *, label: str | None = None, reference: bool | None = None
) -> str:
    """`store_file(filename, local=True)`; with `reference=True`, `link_file`. Gives an `ipfs://` URI.

    As it was, a `sha1://` URI of a file in the data directory does in place of a path.
    """
    if isinstance(filename, str) and filename.startswith("sha1://"):
        filename = load_file(filename, local_only=True)
    if reference:
        from kachery_cloud.store import link_file

        _instead("link_file(filename, local=True)")
        return link_file(filename, label=label, local=True)
    _instead("store_file(filename, local=True)")
    return store_file(filename, label=label, local=True)


def store_text_local(text: str, label: str | None = None) -> str:
    """`store_text(text, local=True)`."""
    _instead("store_text(text, local=True)")
    return store_text(text, label=label, local=True)


def store_json_local(
    x: Any,
    *,
    label: str | None = None,
    separators: tuple[str, str] | None = None,
    indent: int | str | None = None,
) -> str:
    """`store_json(x, local=True)`. How it is written down is fixed now, so that the URI is the same everywhere."""
    _instead("store_json(x, local=True)")
    return store_json(x, label=label, local=True, separators=separators, indent=indent)


def store_npy_local(array: np.ndarray[Any, Any], label: str | None = None) -> str:
    """`store_npy(array, local=True)`."""
    _instead("store_npy(array, local=True)")
    return store_npy(array, label=label, local=True)


def store_pkl_local(x: Any, label: str | None = None) -> str:
    """`store_pkl(x, local=True)`."""
    _instead("store_pkl(x, local=True)")
    return store_pkl(x, label=label, local=True)


def get_kachery_cloud_dir() -> str:
    """The data directory."""
    _instead("load_config().directory")
    return str(load_config().directory)


def get_client_id() -> str:
    """How other machines know this one: its peer ID, where it used to be a public key in hexadecimal digits."""
    _instead("init()['peer_id']")
    return init()["peer_id"]


@contextlib.contextmanager
def TemporaryDirectory(*, remove: bool = True, prefix: str = "tmp") -> Iterator[str]:
    """A folder for a while, in the place that the system has for such; `tempfile.TemporaryDirectory` does the same."""
    _instead("tempfile.TemporaryDirectory()")
    path = tempfile.mkdtemp(prefix=f"{prefix}_")
    try:
        yield path
    finally:
        if remove and os.environ.get("KACHERY_CLOUD_KEEP_TEMP_FILES") != "1":
            shutil.rmtree(path)


def sha1_of_dict(x: dict[str, Any]) -> str:
    """The SHA-1 of a dict as JSON with sorted keys, in hexadecimal digits, as it always was.

    Numbers that are whole are written without a point: 1.0 counts as 1.

    Raises:
        ValueError: there is a number in it that JSON does not have.
    """
    text = json.dumps(_whole(x), sort_keys=True, separators=(",", ":"), allow_nan=False)
    return hashlib.sha1(text.encode(), usedforsecurity=False).hexdigest()


def _whole(x: Any) -> Any:
    if isinstance(x, float):
        return int(x) if x.is_integer() else x
    if isinstance(x, dict):
        return {key: _whole(value) for key, value in x.items()}
    if isinstance(x, (list, tuple)):
        return [_whole(each) for each in x]
    return x


# --- values under a name, on this machine alone --------------------------------------------------------------------


def set_mutable_local(key: str, value: str) -> None:
    """Keep a text under a name on this machine: in `mutables/` of the data directory.

    Args:
        key: a name, or several with `/` between them.
        value: the text, of at most 1 Mi characters. It replaces what was there.

    Raises:
        InvalidName: it is no such name.
        InvalidArgument: it is no text, or too long.
        NoPermission, DiskFull: it cannot be written.
    """
    if not isinstance(value, str) or len(value) > MAX_MUTABLE:
        raise InvalidArgument(f"A mutable is a text of at most {MAX_MUTABLE:,} characters. Store what is larger.")
    write_private_text(_mutable(key), value)


def get_mutable_local(key: str, default_value: str | None = None) -> str | None:
    """The text under a name on this machine; `default_value` where there is none.

    Raises:
        InvalidName: it is no name.
        NoPermission: it cannot be read.
    """
    path = _mutable(key)
    try:
        with explained("reading", path):
            return read_own_file(path, 4 * MAX_MUTABLE).decode()
    except (FileNotFoundError, NotADirectoryError):
        return default_value


def delete_mutable_local(key: str) -> None:
    """Forget the text under a name on this machine.

    Raises:
        InvalidName: it is no name.
        FileMissing: there is none under it.
        NoPermission: it cannot be removed.
    """
    _delete(key, os.unlink, f"There is no mutable {key!r} on this machine.")


def delete_mutable_folder_local(key: str) -> None:
    """Forget all texts whose names begin with this one and a `/`.

    Raises:
        InvalidName: it is no name.
        FileMissing: there are none.
        NoPermission: they cannot be removed.
    """
    _delete(key, shutil.rmtree, f"There are no mutables in {key!r} on this machine.")


def _delete(key: str, delete: Callable[[Path], object], missing: str) -> None:
    path = _mutable(key)
    with explained("removing", path):
        try:
            delete(path)
        except (FileNotFoundError, NotADirectoryError):
            raise FileMissing(missing) from None


def _mutables() -> Path:
    return load_config().directory / "mutables"


def _mutable(key: str) -> Path:
    parts = key.split("/") if isinstance(key, str) else [""]
    if any(part in ("", ".", "..") or "\0" in part or len(part.encode()) > 255 for part in parts):
        raise InvalidName(f"{key!r} names no mutable: it is made of names with / between them, as in 'lab/latest'.")
    return _mutables().joinpath(*parts)
