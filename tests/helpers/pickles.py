"""Pickles as `store_pkl` writes them."""

from __future__ import annotations

import io
from typing import Any

from kachery_cloud.formats.pickling import dump_pickle


def canonical_pickle(value: Any) -> bytes:
    """The canonical pickle of `value` as bytes."""
    file = io.BytesIO()
    dump_pickle(value, file)
    return file.getvalue()
