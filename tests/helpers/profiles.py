"""Profiles of other sizes than those that have names: small chunks and narrow nodes make deep trees of little data."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

from kachery_p2p.dag.profiles import Profile, profile


def custom_profile(base: str | Profile | None = None, **changes: Any) -> Profile:
    """A profile like `base` (the default one when not given), but for these parameters."""
    return replace(profile(base), name="custom", **changes)
