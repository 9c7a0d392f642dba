"""Errors: what they derive from, and that they survive the way to another process."""

from __future__ import annotations

import copy
import errno
import importlib
import multiprocessing
import os
import pickle
import pkgutil
import re
import subprocess
import sys
import traceback
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType

import pytest
from click.testing import CliRunner

import kachery_cloud
import kachery_cloud as kcl
import kachery_cloud.errors
import kachery_p2p
import kachery_p2p.errors
from kachery_cloud.commands.main import cli
from kachery_cloud.errors import KacheryError
from kachery_p2p.errors import DiskFull, FileMissing, IsADirectory, NoPermission
from kachery_p2p.oserrors import explain

ROOT = str(Path(__file__).parents[3])
#: What another package imports where it is installed; they have no errors of their own.
PLUGINS = ("kachery_cloud.upaths",)


def every_error() -> Iterator[type[KacheryError]]:
    """Every class of error in both packages."""
    for package in (kachery_p2p, kachery_cloud):
        for module in pkgutil.walk_packages(package.__path__, package.__name__ + "."):
            if not module.name.endswith("__main__") and module.name not in PLUGINS:
                importlib.import_module(module.name)
    waiting = [KacheryError]
    while waiting:
        kind = waiting.pop()
        waiting += kind.__subclasses__()
        if kind.__module__.startswith("kachery_"):
            yield kind


@pytest.mark.parametrize("module", [kachery_p2p.errors, kachery_cloud.errors], ids=["node", "API"])
def test_every_public_error_is_reachable_and_documented(module: ModuleType) -> None:
    """Each class of error of the two modules is in their `__all__` and in `kachery_cloud`; its docstring says when it
    is raised, and the help of the commands has its exit code."""
    made = {name for name, kind in vars(module).items() if getattr(kind, "__module__", None) == module.__name__}
    kinds = {name for name in made if isinstance(getattr(module, name), type)}
    assert kinds
    assert kinds <= set(module.__all__) <= set(kcl.__all__)
    assert set(module.__all__) == {name for name in module.__all__ if issubclass(getattr(module, name), KacheryError)}
    codes = CliRunner().invoke(cli, ["--help"]).stdout.partition("Exit codes:")[2]
    for name in kinds:
        kind = getattr(kcl, name)
        assert kind is getattr(kachery_cloud.errors, name)
        doc = (kind.__dict__.get("__doc__") or "").strip()
        assert re.match(r"Raised (when|for) .*\.", doc, re.DOTALL), name
        assert re.search(rf"\b{kind.exit_code}  ", codes), name


def test_public_names_are_listed_without_repetition() -> None:
    """`__all__` has each name once, and `from kachery_cloud import *` brings all of them."""
    assert len(kcl.__all__) == len(set(kcl.__all__))
    code = "from kachery_cloud import *; import kachery_cloud; print(set(kachery_cloud.__all__) - set(globals()))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout == "set()\n"


def test_a_name_loads_no_more_than_it_needs() -> None:
    """The import itself brings errors alone, and neither typing nor re; a light name brings no heavy module."""
    code = (
        "import sys; sys.path.insert(0, sys.argv[1]); before = set(sys.modules)\n"
        "import kachery_cloud as kcl; kcl.DiskFull, kcl.__version__, dir(kcl)\n"
        "print(sorted(n for n in set(sys.modules) - before if n.startswith(('kachery_', 'typing', 're'))))\n"
        "kcl.parse_uri; print('kachery_cloud.load' in sys.modules, 'sqlite3' in sys.modules)\n"
    )
    # Without site-packages, whose start-up files may import anything.
    line = [sys.executable, "-I", "-S", "-c", code, ROOT]
    done = subprocess.run(line, capture_output=True, text=True, check=False)
    assert done.stderr == ""
    expected = ["kachery_cloud", "kachery_cloud.errors", "kachery_p2p", "kachery_p2p.errors", "kachery_p2p.text"]
    assert done.stdout == f"{expected}\nFalse False\n"


#: Those that are not made of a sentence.
MADE_OF = {"NotHere": ("bafkreibm6jg3ux5qumhcn2b3flc3tyu6dmlb4xa7u5bf44yegnrjhc4yeq",)}


def test_every_error_is_pickled_and_copied() -> None:
    """Of every class: another object of the same class, with the same text, arguments, numbers and notes."""
    kinds = sorted(set(every_error()), key=lambda kind: kind.__name__)
    assert len(kinds) > 40
    for kind in kinds:
        error = kind(*MADE_OF.get(kind.__name__, ("A sentence.",)))
        if isinstance(error, OSError):
            error.errno = errno.EROFS
        error.__dict__["note"] = "kept"
        for again in (pickle.loads(pickle.dumps(error)), copy.copy(error), copy.deepcopy(error)):
            assert (type(again), str(again), again.args) == (kind, str(error), error.args), kind
            assert again.exit_code == error.exit_code
            assert again.__dict__ == error.__dict__
            assert not isinstance(again, OSError) or again.errno == errno.EROFS


def fail() -> None:
    raise DiskFull("There is no room.")


def test_an_error_crosses_to_another_process() -> None:
    """As multiprocessing and joblib hand it over."""
    with multiprocessing.get_context("spawn").Pool(1) as pool, pytest.raises(DiskFull, match="no room") as caught:
        pool.apply(fail)
    assert caught.value.errno == errno.ENOSPC


@pytest.mark.parametrize(
    ("kind", "base", "number"),
    [
        (kcl.FileMissing, FileNotFoundError, errno.ENOENT),
        (kcl.PathNotFound, FileNotFoundError, errno.ENOENT),
        (kcl.BrokenLink, FileNotFoundError, errno.ENOENT),
        (kcl.FileExists, FileExistsError, errno.EEXIST),
        (kcl.NoPermission, PermissionError, errno.EACCES),
        (kcl.DiskFull, OSError, errno.ENOSPC),
        (kcl.IsADirectory, IsADirectoryError, errno.EISDIR),
        (kcl.NotADirectory, NotADirectoryError, errno.ENOTDIR),
        (kcl.AddressInUse, OSError, errno.EADDRINUSE),
    ],
)
def test_what_the_system_knows_is_an_error_of_the_system(
    kind: type[KacheryError], base: type[OSError], number: int
) -> None:
    """Whoever catches FileNotFoundError, or looks at the number of an OSError, is served; the text is the sentence."""
    with pytest.raises(base) as caught:
        raise kind("A sentence.")
    assert isinstance(caught.value, KacheryError)
    assert (caught.value.errno, caught.value.strerror) == (number, os.strerror(number))
    assert str(caught.value) == "A sentence."
    assert traceback.format_exception_only(caught.value)[-1].endswith(f"{kind.__name__}: A sentence.\n")


@pytest.mark.parametrize(
    ("number", "kind"),
    [
        (errno.ENOSPC, DiskFull),
        (errno.EDQUOT, DiskFull),
        (errno.EFBIG, DiskFull),
        (errno.EACCES, NoPermission),
        (errno.EROFS, NoPermission),
        (errno.ENOENT, FileMissing),
        (errno.ENOTDIR, FileMissing),
    ],
)
def test_the_number_of_the_system_is_kept(number: int, kind: type[KacheryError]) -> None:
    """What the operating system said is named, and its number stays."""
    error = explain(OSError(number, os.strerror(number)), "writing", "/x")
    assert type(error) is kind
    assert isinstance(error, OSError)
    assert (error.errno, error.strerror) == (number, os.strerror(number))
    assert "/x" in str(error)


def test_long_texts_are_cut() -> None:
    """An error does not fill the screen with what was given by mistake; its two ends are told."""
    text = str(IsADirectory("begin" + "x" * 100_000 + "end"))
    assert len(text) < 5_000
    assert (text[:5], text[-3:]) == ("begin", "end")
