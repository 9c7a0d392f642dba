"""Shells complete the commands: real ones, on a pseudo-terminal, with the script of `kachery-cloud completion`."""

from __future__ import annotations

import os
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from scripts.workstation import Workstation
from tests.helpers.shells import COMPLETING, Shell, shell_missing

#: How each is told to complete, as `kachery-cloud completion --help` says.
SET_UP = {
    "bash": 'eval "$(kachery-cloud completion bash)"',
    "zsh": 'eval "$(kachery-cloud completion zsh)"',
    "fish": "kachery-cloud completion fish | source",
}


@pytest.fixture
def station(workstation: Callable[..., Workstation]) -> Workstation:
    made = workstation()
    made.env |= {
        "PATH": os.pathsep.join((str(Path(sys.executable).parent), os.environ["PATH"])),
        "HOME": str(made.folder),
    }
    made.env.pop("EDITOR", None)  # zsh takes it for the keys that are wanted
    made.env.pop("VISUAL", None)
    return made


@pytest.fixture(params=[pytest.param(name, marks=shell_missing(name) if name != "bash" else ()) for name in COMPLETING])
def shell(request: pytest.FixtureRequest, station: Workstation) -> Iterator[Shell]:
    with Shell(request.param, station.folder, station.env) as typed:
        typed.source(SET_UP[request.param])
        yield typed


def test_a_shell_completes_the_commands(shell: Shell, station: Workstation) -> None:
    """Subcommands, options and their values, files and folders; URIs of what is here by their beginning, and by their
    label, in a form that the shell takes as it stands."""
    code = "say([kcl.parse_uri(kcl.store_text(t, label=t, local=True)).pasteable for t in args])"
    first, second = station.call(code, "session1.nwb", "mouse brain.nii.gz")
    (station.folder / "recording.dat").write_text("x")
    (station.folder / "subfolder").mkdir()
    for typed, expected in (
        ("kachery-cloud whe", "kachery-cloud whereis"),
        ("kachery-cloud pins serv", "kachery-cloud pins service"),
        ("kachery-cloud-store --prof", "kachery-cloud-store --profile"),
        ("kachery-cloud list --sort si", "kachery-cloud list --sort size"),
        ("kachery-cloud list --sort=si", "kachery-cloud list --sort=size"),
        ("kachery-cloud settings KACHERY_CLOUD_MD", "kachery-cloud settings KACHERY_CLOUD_MDNS"),
        ("kachery-cloud-store rec", "kachery-cloud-store recording.dat"),
        ("kachery-cloud diff x subf", "kachery-cloud diff x subfolder"),
        ("kachery-cloud load ipfs://label=ses", f"kachery-cloud load {first}"),
        ("kachery-cloud-load ses", f"kachery-cloud-load {first}"),
        ("kachery-cloud-whereis mou", f"kachery-cloud-whereis {second}"),
        ("kachery-cloud rm ipfs://label=mo", f"kachery-cloud rm {second}"),
        (f"kachery-cloud cat {first[:-20]}", f"kachery-cloud cat {first}"),
        ("kachery-cloud load unheard", "kachery-cloud load unheard"),
    ):
        line, shown = shell.complete(typed)
        assert line.rstrip("/") == expected, shown


def test_a_shell_shows_what_there_is(shell: Shell, station: Workstation) -> None:
    """Where more than one fits, what they have in common is written, and they can be seen."""
    code = "say([kcl.parse_uri(kcl.store_text(t, label=t, local=True)).pasteable for t in args])"
    found = station.call(code, "session1.nwb", "session2.nwb")
    line, _ = shell.complete("kachery-cloud load ipfs://label=se")
    assert line == "kachery-cloud load ipfs://label=session"
    line, shown = shell.complete("kachery-cloud load ipfs://label=session\t")
    assert all(uri.partition("label=")[2][:20] in shown for uri in found)
