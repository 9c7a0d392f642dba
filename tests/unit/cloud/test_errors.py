"""Errors: what they derive from, and that they survive the way to another process."""

from __future__ import annotations

import copy
import errno
import importlib
import multiprocessing
import os
import pickle
import pkgutil
import traceback
from collections.abc import Iterator

import pytest

import kachery_cloud
import kachery_cloud as kcl
import kachery_p2p
from kachery_cloud.errors import KacheryError
from kachery_p2p.errors import DiskFull, FileMissing, IsADirectory, NoPermission
from kachery_p2p.oserrors import explain


def every_error() -> Iterator[type[KacheryError]]:
    """Every class of error in both packages."""
    for package in (kachery_p2p, kachery_cloud):
        for module in pkgutil.walk_packages(package.__path__, package.__name__ + "."):
            if not module.name.endswith("__main__"):
                importlib.import_module(module.name)
    waiting = [KacheryError]
    while waiting:
        kind = waiting.pop()
        waiting += kind.__subclasses__()
        if kind.__module__.startswith("kachery_"):
            yield kind


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
