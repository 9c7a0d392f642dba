"""The table of all settings in the documentation, between two markers, made from `kachery_cloud.settings.config`.

python -m scripts.settings_table            exit code 1 when a table is out of date
python -m scripts.settings_table --write    write it anew
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

from kachery_cloud.settings.config import SETTINGS

ROOT = Path(__file__).resolve().parents[1]
#: Where the markers may stand.
PAGES = ("README.md", "docs/settings.md")
BEGIN = "<!-- settings: begin (written by python -m scripts.settings_table --write) -->\n"
END = "<!-- settings: end -->"


def table() -> str:
    """The settings as a table of Markdown, in the order of `Config`."""
    rows: list[tuple[str, ...]] = [("environment variable", "`config.json` key", "meaning", "takes", "default")]
    for setting in SETTINGS.values():
        key = f"`{setting.key}`" if setting.key else ""
        rows.append((f"`{setting.variable}`", key, setting.meaning, setting.parser.takes, setting.default_text))
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    rows.insert(1, tuple("-" * width for width in widths))
    lines = (" | ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)) for row in rows)
    return "".join(f"| {line} |\n" for line in lines)


def with_table(page: str) -> str | None:
    """The text of a page with the table as it should be; None where the page has no markers for one.

    Raises:
        ValueError: the second marker is missing.
    """
    before, begin, rest = page.partition(BEGIN)
    if not begin:
        return None
    _, end, after = rest.partition(END)
    if not end:
        raise ValueError(f"the marker {END!r} is missing")
    return f"{before}{begin}\n{table()}\n{end}{after}"


def out_of_date(root: Path) -> dict[Path, str]:
    """The pages whose table is not as it should be, and the text that they should have.

    Raises:
        ValueError: no page has the markers, or one of them has half of them.
    """
    found: dict[Path, str] = {}
    pages = 0
    for path in (root / name for name in PAGES):
        text = path.read_text(encoding="utf-8") if path.exists() else ""
        should = with_table(text)
        pages += should is not None
        if should is not None and should != text:
            found[path] = should
    if not pages:
        raise ValueError(f"none of {', '.join(PAGES)} has the marker {BEGIN.strip()!r}")
    return found


def main(arguments: list[str]) -> int:
    """Say which pages have an old table, or write it there; returns the exit code."""
    parser = argparse.ArgumentParser(prog="python -m scripts.settings_table", description="The table of the settings.")
    parser.add_argument("--write", action="store_true", help="write the table where it is out of date")
    write = parser.parse_args(arguments).write
    found = out_of_date(ROOT)
    for path, text in found.items():
        print(f"{path.relative_to(ROOT)}: {'written' if write else 'out of date'}")
        if write:
            path.write_text(text, encoding="utf-8")
    return 1 if found and not write else 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
