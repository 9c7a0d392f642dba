"""What is wrong with the settings, as `reading` has found it."""

from __future__ import annotations

from typing import TYPE_CHECKING

from kachery_cloud.doctor.findings import Report, found

if TYPE_CHECKING:
    from kachery_cloud.doctor.facts import Facts


def check_settings(facts: Facts) -> Report:
    """Whether `config.json` and the variables say what can be done."""
    count = facts.settings.count
    return found(facts.settings.findings, f"{count} settings are set" if count != 1 else "one setting is set")
