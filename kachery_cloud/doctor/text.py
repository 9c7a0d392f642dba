"""For people: what works in a line, then each problem."""

from __future__ import annotations

import textwrap
from collections.abc import Iterator, Sequence
from typing import Any

from kachery_cloud.doctor.findings import Finding, Outcome
from kachery_p2p.text import printable, redacted

_WIDTH = 100


def is_well(outcomes: Sequence[Outcome]) -> bool:
    """Whether nothing is wrong: advice is not counted; a check that could not be carried out is."""
    return not any(each.failed or any(finding.grave for finding in each.report.findings) for each in outcomes)


def lines(outcomes: Sequence[Outcome]) -> Iterator[str]:
    """All of it, line by line."""
    well = [f"{each.title} ({each.report.well})" for each in outcomes if each.report.well]
    if well:
        yield from _wrapped(f"Well: {'; '.join(well)}.", "      ")
    grave = [(each.title, finding) for each in outcomes for finding in each.report.findings if finding.grave]
    advice = [(each.title, finding) for each in outcomes for finding in each.report.findings if not finding.grave]
    failed = [each for each in outcomes if each.failed]
    for heading, entries in (("What is wrong", grave), ("What could be better", advice)):
        if entries:
            yield ""
            yield f"{heading}:"
        for number, (title, finding) in enumerate(entries, 1):
            yield from _problem(number, title, finding)
    if failed:
        yield ""
        yield "What could not be looked at:"
        for each in failed:
            yield from _wrapped(f"  {each.title}: {_clean(each.failed)}.", "    ")
    yield ""
    if is_well(outcomes):
        yield "Nothing is wrong."
    else:
        yield f"{_count(len(grave), 'problem')}." + (f" {_count(len(failed), 'check')} failed." if failed else "")


def to_json(outcomes: Sequence[Outcome]) -> dict[str, Any]:
    """The same for programs."""
    return {
        "ok": is_well(outcomes),
        "checks": [
            {
                "name": each.name,
                "title": each.title,
                "well": _clean(each.report.well),
                "failed": _clean(each.failed),
                "findings": [
                    {
                        "what": _clean(finding.what),
                        "why": _clean(finding.why),
                        "todo": _clean(finding.todo),
                        "grave": finding.grave,
                    }
                    for finding in each.report.findings
                ],
            }
            for each in outcomes
        ],
    }


def _problem(number: int, title: str, finding: Finding) -> Iterator[str]:
    yield from _wrapped(f"{number:3}. {title}: {_clean(finding.what)}", "     ")
    yield from _wrapped(f"     Why it matters: {_clean(finding.why)}", "       ")
    yield from _wrapped(f"     What to do: {_clean(finding.todo)}", "       ")


def _wrapped(text: str, indent: str) -> list[str]:
    return textwrap.wrap(text, _WIDTH, subsequent_indent=indent, break_long_words=False, break_on_hyphens=False)


def _clean(text: str) -> str:
    """Without what a terminal would obey, and without secrets: files and services say what they like."""
    return redacted(printable(text))


def _count(number: int, noun: str) -> str:
    return f"{number} {noun}{'' if number == 1 else 's'}"
