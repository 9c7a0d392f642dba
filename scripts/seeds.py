"""Checks the URIs that must hold for ever, through the public API, on local data: `python -m scripts.seeds`.

Runs under every version of Python and numpy that is to be checked (see versions.py), without libp2p installed.
"""

from __future__ import annotations

import json
import os
import sys
import tempfile
from pathlib import Path

import numpy as np

VECTORS = Path(__file__).resolve().parent.parent / "tests" / "vectors" / "seed_uris.json"


def main() -> int:
    """Stores what the vectors name and compares the URIs. Returns the exit code."""
    import kachery_cloud as kcl

    array = np.array([[1, 2, 3], [4, 5, 6]], dtype=np.int16)
    wanted: dict[str, str] = json.loads(VECTORS.read_text(encoding="utf-8"))
    with tempfile.TemporaryDirectory() as name:
        os.environ["KACHERY_CLOUD_DIR"] = str(Path(name) / "data")
        file = Path(name) / "file.txt"
        file.write_bytes(b"test-content\n")
        got = {
            "store_file of 'test-content\\n'": kcl.store_file(file, local=True),
            "store_text('example text')": kcl.store_text("example text", local=True),
            "store_json({'example': 'dict'})": kcl.store_json({"example": "dict"}, local=True),
            "store_npy(np.array([[1, 2, 3], [4, 5, 6]], dtype=np.int16))": kcl.store_npy(array, local=True),
            "store_pkl({'example': np.array([[1, 2, 3], [4, 5, 6]], dtype=np.int16)})": kcl.store_pkl(
                {"example": array}, local=True
            ),
        }
        wrong = [f"{what}\n  gives {uri}\n  not   {wanted[what]}" for what, uri in got.items() if uri != wanted[what]]
        loaded = kcl.load_pkl(list(got.values())[-1], local_only=True)
        if not np.array_equal(loaded["example"], array) or loaded["example"].dtype != array.dtype:
            wrong.append("load_pkl does not give back what store_pkl was given")
        if not np.array_equal(kcl.load_npy(list(got.values())[-2], local_only=True), array):
            wrong.append("load_npy does not give back what store_npy was given")
    wrong += [f"local work imported {module}" for module in ("libp2p", "trio") if module in sys.modules]
    print(
        "\n".join(wrong)
        or f"Python {sys.version.split()[0]}, numpy {np.__version__}: {len(got)} URIs as they should be"
    )
    return 1 if wrong else 0


if __name__ == "__main__":
    sys.exit(main())
