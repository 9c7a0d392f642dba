"""The files of the viewer: libraries as they were published, bounds and colours that are the same in two places."""

from __future__ import annotations

import hashlib
import re
from pathlib import Path

from kachery_cloud.figures import limits
from kachery_cloud.figures.viewer import PATH, WEB, viewer_files, viewer_site
from kachery_p2p.gateway.server import pages

VENDOR = WEB / "figure" / "viewer" / "vendor"
#: Of `build/vega-interpreter.js` as npm's `vega-interpreter@2.3.2` has it.
INTERPRETER = "c0bdb735a63f9276f136e8d90d7fdf5d8e9df8031eb069048fc9975c876fd7f9"


def test_libraries_are_as_they_were_published() -> None:
    """Each file of others is listed with its source, its licence beside it, and has the hash that stands there."""
    rows = re.findall(r"^\| `([^`]+)` \|.*\| `([0-9a-f]{64})` \|$", (VENDOR / "VENDORED.md").read_text("utf-8"), re.M)
    found = {
        path.relative_to(VENDOR).as_posix(): hashlib.sha256(path.read_bytes()).hexdigest()
        for path in VENDOR.rglob("*")
        if path.is_file() and path.name != "VENDORED.md"
    }
    assert dict(rows) == found
    assert {path.parent.name for path in VENDOR.rglob("LICENSE")} == {
        each.name for each in VENDOR.iterdir() if each.is_dir()
    }


def test_the_interpreter_was_changed_in_one_word() -> None:
    """What is imported by a bare name, which browsers cannot find, is imported by a path; all else is as it was."""
    text = (VENDOR / "vega-interpreter" / "vega-interpreter.js").read_text("utf-8")
    assert hashlib.sha256(text.replace("'../../vega-util.js'", "'vega-util'", 1).encode()).hexdigest() == INTERPRETER


def test_bounds_are_the_same_on_both_sides() -> None:
    """What Python takes, the viewer shows."""
    text = (WEB / "figure" / "viewer" / "limits.js").read_text("utf-8")
    theirs = {
        name: eval(value.replace("_", ""), {"__builtins__": {}})  # numbers and '*' alone, as the pattern says
        for name, value in re.findall(r"^export const (\w+) = ([\d_* ]+)$", text, re.M)
    }
    assert theirs == {name: value for name, value in vars(limits).items() if name.startswith("MAX_")}


def properties(text: str) -> list[dict[str, str]]:
    """The custom properties of a style sheet: those for light pages, and those for dark ones."""
    blocks = re.findall(r":root\s*\{(.*?)\}", text, re.S)
    return [dict(re.findall(r"(--[\w-]+):\s*([^;]+);", block)) for block in blocks]


def test_the_gateway_has_the_colours_of_the_other_pages() -> None:
    """Each custom property of the gateway's style is one of the lab's, with the same value, in light and dark."""
    lab = properties((WEB / "style.css").read_text("utf-8"))
    gateway = properties(Path(pages.__file__).with_name("style.css").read_text("utf-8"))
    assert len(lab) == len(gateway) == 2
    for ours, theirs in zip(gateway, lab, strict=True):
        assert ours
        assert ours.items() <= theirs.items()


def test_nothing_is_named_that_lies_elsewhere() -> None:
    """The pages of the viewer name files of their own alone, and those are there."""
    files = viewer_files()
    for page, base in (("index.html", ""), ("viewer/frame.html", "viewer/")):
        text = files[page].read_text("utf-8")
        names = re.findall(r'(?:src|href)="(?!#)([^"]+)"', text)
        assert names
        assert {base + name for name in names} <= files.keys()
    for name, path in files.items():
        if name.endswith(".js") and "/vendor/" not in name:
            for found in re.findall(r"(?:import|from)\s*\(?'([^']+)'", path.read_text("utf-8")):
                assert found.startswith("./"), (name, found)
                assert "viewer/" + found.removeprefix("./") in files


def test_policies_allow_neither_inline_scripts_nor_eval() -> None:
    """No document of the viewer runs what is in it, or makes code of text; the one that draws loads nothing."""
    site = viewer_site()
    assert site.path == PATH
    assert site.policies.keys() == {name for name in site.files if name.endswith(".html")}
    for name, header in site.policies.items():
        text = site.files[name].read_text("utf-8")
        (meta,) = re.findall(r'http-equiv="Content-Security-Policy" content="([^"]+)"', text)
        for policy in (meta, header):
            rules = dict(rule.strip().split(" ", 1) for rule in policy.split(";"))
            assert rules["default-src"] == "'none'"
            assert rules["script-src"] in ("'self'", "{site}")
            assert "eval" not in policy
        assert not re.search(r"<script(?![^>]*\bsrc=)|\son\w+=|javascript:", text)
    frame = site.policies["viewer/frame.html"]
    assert "connect-src" not in frame
    assert "sandbox allow-scripts" in frame
