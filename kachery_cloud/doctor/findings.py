"""What a check says."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field


@dataclass(frozen=True)
class Finding:
    """Something that is wrong. Each part is one or two sentences for people.

    Attributes:
        what: is wrong, with what.
        why: it matters.
        todo: what to do about it.
        grave: whether something does not work; else it works, but not as it could, or not for long.
    """

    what: str
    why: str
    todo: str
    grave: bool = True


@dataclass(frozen=True)
class Report:
    """What came of a check.

    Attributes:
        well: what works, in a few words; empty where there was nothing to look at.
        findings: what does not.
    """

    well: str = ""
    findings: tuple[Finding, ...] = ()


@dataclass(frozen=True)
class Outcome:
    """The report of one check of the table.

    Attributes:
        name: of the check, for programs.
        title: what it is about, for people.
        failed: why the check itself could not be carried out; empty where it was.
    """

    name: str
    title: str
    report: Report = field(default_factory=Report)
    failed: str = ""


#: There was nothing to look at.
NOTHING = Report()


def found(findings: Sequence[Finding], well: str = "") -> Report:
    """A report of some findings; with grave ones, nothing is said to be well."""
    return Report("" if any(each.grave for each in findings) else well, tuple(findings))
