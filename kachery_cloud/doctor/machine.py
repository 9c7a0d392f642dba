"""The machine: Python and what is installed, open files, the clock."""

from __future__ import annotations

import datetime
import importlib.metadata
import platform
import re
import sys
from collections.abc import Iterable, Mapping, Sequence
from typing import TYPE_CHECKING

from kachery_cloud.doctor.findings import NOTHING, Finding, Report, found
from kachery_p2p.descriptors import RESERVE, WANTED
from kachery_p2p.text import span_text

if TYPE_CHECKING:
    from kachery_cloud.doctor.facts import Facts

#: When a Python gets no security fixes any more (PEP 619, 664, 693, 719, 745).
_PYTHON_ENDS = {(3, 10): "2026-10", (3, 11): "2027-10", (3, 12): "2028-10", (3, 13): "2029-10", (3, 14): "2030-10"}
#: Open files below which a node turns away peers of a small lab.
_FEW_FILES = 512
#: Seconds that a clock may be off: signed requests and certificates allow for so much.
CLOCK_TOLERANCE = 60.0

_REQUIREMENT = re.compile(r"([A-Za-z0-9][A-Za-z0-9._-]*)\s*(?:\[[^\]]*\])?\s*\(?([^;()]*)\)?\s*(?:;(.*))?")
_CLAUSE = re.compile(r"(==|>=|<=|!=|~=|<|>)\s*([0-9][0-9A-Za-z.+!-]*)")


# --- what is installed -----------------------------------------------------------------------------------------------


def check_python(facts: Facts) -> Report:
    """Whether Python and the libraries are what this was written for."""
    try:
        wanted = importlib.metadata.requires("kachery-cloud") or []
    except importlib.metadata.PackageNotFoundError:
        wanted = []
    installed: dict[str, str] = {}
    for name in {match[1] for each in wanted if (match := _REQUIREMENT.match(each))}:
        try:
            installed[name] = importlib.metadata.version(name)
        except importlib.metadata.PackageNotFoundError:
            continue
    today = datetime.datetime.fromtimestamp(facts.wall(), datetime.timezone.utc).strftime("%Y-%m")
    findings = [*judge_python(sys.version_info[:2], today), *judge_versions(wanted, installed)]
    return found(findings, f"Python {platform.python_version()} and {len(installed)} libraries fit")


def judge_python(version: tuple[int, int], month: str) -> list[Finding]:
    """What to say of a version of Python in a month such as "2026-11"."""
    ends = _PYTHON_ENDS.get(version)
    if ends is None or month <= ends:
        return []
    name = ".".join(map(str, version))
    return [
        Finding(
            f"Python {name} has had no security fixes since {ends}.",
            "A node is reached by strangers, and mistakes in Python and its TLS are found now and then.",
            "Make an environment with a newer Python, and install kachery-cloud there. The data directory stays.",
            grave=False,
        )
    ]


def judge_versions(wanted: Iterable[str], installed: Mapping[str, str]) -> list[Finding]:
    """Which libraries are missing, or of a version that is known not to work.

    Args:
        wanted: requirements as packages have them (PEP 508); those of extras and other Pythons are passed over.
        installed: versions by name.
    """
    findings: list[Finding] = []
    for text in wanted:
        match = _REQUIREMENT.match(text)
        if match is None or match[3]:  # only for an extra, or another Python
            continue
        name, clauses = match[1], _CLAUSE.findall(match[2])
        version = installed.get(name)
        if version is not None and all(_satisfies(version, *clause) for clause in clauses):
            continue
        is_there = "is missing" if version is None else f"is there in version {version}, which is known not to work"
        needed = ",".join("".join(clause) for clause in clauses) or "any version"
        findings.append(
            Finding(
                f"The library {name} {is_there}; {needed} is needed.",
                "Parts that use it fail, perhaps only when they are needed.",
                f"Install it into this environment: {sys.executable} -m pip install '{name}{needed}'"
                if clauses
                else f"Install it into this environment: {sys.executable} -m pip install {name}",
            )
        )
    return findings


def _satisfies(version: str, operator: str, bound: str) -> bool:
    have, want = _numbers(version), _numbers(bound)
    length = max(len(have), len(want))
    have, want = (each + (0,) * (length - len(each)) for each in (have, want))
    if operator == "~=":
        parts = len(_numbers(bound)) - 1
        return have >= want and have[:parts] == want[:parts]
    return {
        "==": have == want,
        "!=": have != want,
        ">=": have >= want,
        "<=": have <= want,
        ">": have > want,
        "<": have < want,
    }[operator]


def _numbers(version: str) -> tuple[int, ...]:
    match = re.match(r"\d+(?:\.\d+)*", version)
    return tuple(int(part) for part in match[0].split(".")) if match else ()


# --- open files ------------------------------------------------------------------------------------------------------


def check_files(facts: Facts) -> Report:
    """Whether a node may open as many files as it needs."""
    try:
        import resource
    except ImportError:  # Windows, where sockets are no files
        return NOTHING
    hard = resource.getrlimit(resource.RLIMIT_NOFILE)[1]
    size = resource.getrlimit(resource.RLIMIT_FSIZE)[0]
    findings = [
        *judge_files(None if hard == resource.RLIM_INFINITY else hard),
        *judge_file_size(None if size == resource.RLIM_INFINITY else size),
    ]
    return found(findings, "enough files may be open")


def judge_files(hard: int | None) -> list[Finding]:
    """What to say of the most files that a process may have open; None for any number."""
    if hard is None or hard >= _FEW_FILES:
        return []
    left = max(0, hard - RESERVE)
    return [
        Finding(
            f"A process of this user may open {hard} files at most, of which about {left} are left for connections.",
            "Each connection of a peer is an open file: more peers than that are turned away, and databases may fail "
            "to open.",
            f"Raise the limit: `ulimit -n {WANTED}` before the node is started, LimitNOFILE={WANTED} in its systemd "
            f"unit, or `--ulimit nofile={WANTED}` for its container.",
            grave=hard <= RESERVE + 32,
        )
    ]


def judge_file_size(most: int | None) -> list[Finding]:
    """What to say of the most bytes that a file may have; None for any number."""
    if most is None or most >= 1 << 40:
        return []
    return [
        Finding(
            f"A process of this user may write files of {most:,} bytes at most.",
            "Larger files cannot be stored or loaded, and the catalog stops growing there.",
            "Raise the limit: `ulimit -f unlimited` before the node is started, or LimitFSIZE=infinity in its systemd "
            "unit.",
        )
    ]


# --- the clock -------------------------------------------------------------------------------------------------------


def judge_clock(readings: Sequence[tuple[str, float, float]]) -> list[Finding]:
    """What to say of the clock.

    Args:
        readings: of other clocks: whose, seconds that it is ahead of ours (negative: behind), and by how many seconds
            that may be wrong, for its answer was so long on the way.
    """
    beyond = [(whose, ahead) for whose, ahead, error in readings if abs(ahead) - error > CLOCK_TOLERANCE]
    agree = len(readings) - len(beyond)
    if not beyond:
        return []
    told = "; ".join(
        f"by {whose} it is {span_text(ahead)} {'slow' if ahead > 0 else 'fast'}" for whose, ahead in beyond[:4]
    )
    ours = len(beyond) > agree
    return [
        Finding(
            f"The clock of this machine is off: {told}."
            if ours
            else f"A clock does not agree with this machine: {told}.",
            "Certificates count as expired or not yet valid, signed requests are refused, and names that move and "
            "announcements expire at the wrong time.",
            "Set it right and keep it so: timedatectl set-ntp true (Linux), sntp -sS time.apple.com (macOS). In a "
            "virtual machine, set the clock of its host."
            if ours
            else "Others agree with this machine, so most likely that clock is wrong: tell who runs it.",
            grave=ours,
        )
    ]
