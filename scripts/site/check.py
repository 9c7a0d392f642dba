"""Checks that no page of the built site loads anything from elsewhere: `python -m scripts.site.check site`.

HTML and CSS are looked through for whatever a browser loads by itself. The scripts of the theme hold the addresses of
some services, which they use for features that are not switched on here: these are known by name, and anything new is
an error. Links that a reader may follow are no matter.
"""

from __future__ import annotations

import re
import sys
from html.parser import HTMLParser
from pathlib import Path

#: What a browser loads by itself: elements with the attribute that has the address.
_LOADED = {
    "audio": ("src",),
    "embed": ("src",),
    "iframe": ("src", "srcdoc"),
    "image": ("href", "xlink:href"),
    "img": ("src", "srcset"),
    "input": ("src",),
    "link": ("href", "imagesrcset"),
    "object": ("data",),
    "script": ("src",),
    "source": ("src", "srcset"),
    "track": ("src",),
    "use": ("href", "xlink:href"),
    "video": ("src", "poster"),
}
#: Relations of `<link>` that load nothing.
_FOLLOWED = {"canonical", "alternate", "next", "prev", "author", "license"}
_REMOTE = re.compile(r"(?i)(?:https?:)?//[a-z0-9\[]")
_CSS_REMOTE = re.compile(r"""(?i)(?:url\(\s*["']?|@import\s+["'])((?:https?:)?//[^"')\s]+)""")
_ADDRESS = re.compile(r"https?://[^\s\"'`<>\\)]+")

_COMMENT = re.compile(r"/\*.*?\*/|(?:^|(?<=[\s;{}]))//[^\n]*", re.DOTALL)

#: Addresses in the scripts of the theme, and why no page of ours loads them.
IN_SCRIPTS = {
    "https://api.github.com/": "asked for stars where `repo_url` is set, which it is not",
    "https://${": "the same, for other forges",
    "https://unpkg.com/mermaid@": "loaded where a page has a diagram of that kind; `check_html` refuses these",
    "https://unpkg.com/resize-observer-polyfill": "loaded by browsers of before 2020",
    "https://bit.ly/2s3ChXG": "in a warning to developers",
    "https://github.com/isaacs/node-glob/issues/": "in a comment",
}


def main(arguments: list[str]) -> int:
    """Prints what is wrong with the site in the folder that is named. Returns the exit code."""
    folder = Path(arguments[0] if arguments else "site")
    pages = sorted(folder.rglob("*.html"))
    if not pages:
        print(f"{folder} has no pages: build them first (./scripts/docs).", file=sys.stderr)
        return 2
    wrong = check_site(folder)
    print("\n".join(wrong) or f"{len(pages)} pages load nothing from elsewhere.")
    return 1 if wrong else 0


def check_site(folder: Path) -> list[str]:
    """What the files of a folder would load from elsewhere: a sentence each."""
    wrong: list[str] = []
    for path in sorted(folder.rglob("*")):
        check = {".html": check_html, ".css": check_css, ".js": check_script, ".svg": check_html}.get(path.suffix)
        if check is not None:
            text = path.read_text(encoding="utf-8")
            wrong += (f"{path.relative_to(folder)}: {each}" for each in check(text))
    return wrong


def check_html(text: str) -> list[str]:
    """What a page would load from elsewhere."""
    page = _Page()
    page.feed(text)
    page.close()
    return page.wrong


def check_css(text: str) -> list[str]:
    """What a style sheet would load from elsewhere."""
    return [f"the style sheet loads {match[1]}" for match in _CSS_REMOTE.finditer(text)]


def check_script(text: str) -> list[str]:
    """Addresses in a script, outside of its comments, that are not known."""
    found = dict.fromkeys(match[0] for match in _ADDRESS.finditer(_COMMENT.sub("", text)))
    return [f"the script has the address {each}" for each in found if not each.startswith(tuple(IN_SCRIPTS))]


class _Page(HTMLParser):
    """Reads a page and collects what is wrong with it."""

    def __init__(self) -> None:
        super().__init__()
        self.wrong: list[str] = []
        self._inside = ""

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        values = {name: value or "" for name, value in attrs}
        self._inside = tag if tag in ("script", "style") else self._inside
        self.wrong += check_css(values.get("style", ""))
        if "mermaid" in values.get("class", "").split():
            self.wrong.append("a diagram, for which the theme loads a script")
        if tag == "link" and set(values.get("rel", "").lower().split()) <= _FOLLOWED:
            return
        for name in _LOADED.get(tag, ()):
            value = values.get(name, "").strip()
            # In a set there are several addresses, each with a size.
            if _REMOTE.match(value) or (name.endswith("set") and _REMOTE.search(value)):
                self.wrong.append(f"<{tag}> loads {value}")

    def handle_endtag(self, tag: str) -> None:
        self._inside = "" if tag == self._inside else self._inside

    def handle_data(self, data: str) -> None:
        if self._inside == "style":
            self.wrong += check_css(data)
        elif self._inside == "script":
            self.wrong += check_script(data)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
