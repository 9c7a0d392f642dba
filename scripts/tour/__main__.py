"""Plays the sessions of the documentation again and writes them anew: `python -m scripts.tour`."""

from __future__ import annotations

import sys
import tempfile
from pathlib import Path

from scripts.tour import notebook, terminal


def main() -> int:
    """Writes both pages. Returns the exit code."""
    with tempfile.TemporaryDirectory(prefix="kachery-tour-") as name:
        for what, play in ((terminal.PAGE, terminal.play), (notebook.PAGE, notebook.play)):
            folder = Path(name) / what.stem
            folder.mkdir()
            before = what.read_text(encoding="utf-8")
            after = play(before, folder)
            what.write_text(after, encoding="utf-8")
            print(f"{what}: {'as it was' if after == before else 'written anew'}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
