"""What mkdocs calls while it builds the site, as mkdocs.yml says.

Pages that lie elsewhere in the repository become pages of the site, too, and so do notebooks, with the outputs that are
in them. Links in all pages are written for a reader of the repository. On the site, those to other pages lead there.
Source files are not part of it: links to them become the path of the file.
"""

from __future__ import annotations

import html
import json
import os
import posixpath
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from mkdocs.config.defaults import MkDocsConfig
from mkdocs.exceptions import PluginError
from mkdocs.structure.files import File, Files
from mkdocs.structure.pages import Page

from scripts.site.commands import commands_page

ROOT = Path(__file__).resolve().parents[2]
#: Pages of the site that are not in docs/, and where they are.
ELSEWHERE = {
    "changelog.md": "CHANGELOG.md",
    "contributing.md": "CONTRIBUTING.md",
    "dht.md": "kachery_p2p/routing/dht/README.md",
    "security.md": "SECURITY.md",
}
#: Notebooks, which are pages as well.
NOTEBOOKS = {"notebook.md": "docs/notebook.ipynb"}
#: The front page of the repository has the site's in its place.
_PAGES = {"README.md": "index.md", **{source: page for page, source in (*ELSEWHERE.items(), *NOTEBOOKS.items())}}
_LINK = re.compile(r"(?<!!)\[(?P<text>[^\]]+)\]\((?P<target>[^()\s]+)\)")
_FENCE = re.compile(r"^ *```.*?^ *```", re.MULTILINE | re.DOTALL)


def on_files(files: Files, config: MkDocsConfig) -> Files:
    """Adds the pages that are not in docs/, the notebooks, and the page that is made of the texts of the commands."""
    for page, source in ELSEWHERE.items():
        files.append(File.generated(config, page, abs_src_path=str(ROOT / source)))
    for page, source in NOTEBOOKS.items():
        files.append(File.generated(config, page, content=notebook_markdown(ROOT / source)))
    files.append(File.generated(config, "commands.md", content=commands_page()))
    return files


def on_page_markdown(markdown: str, page: Page, config: MkDocsConfig, files: Files) -> str:
    """Gives the text of a page with its links as they are on the site."""
    here = page.file.src_uri
    return for_site(markdown, ELSEWHERE.get(here, f"docs/{here}"))


def for_site(markdown: str, source: str) -> str:
    """The text of the page `source` (a path in the repository) with its links as they are on the site.

    Raises:
        PluginError: a link leads to a file that is not there.
    """
    parts: list[str] = []
    end = 0
    for fence in _FENCE.finditer(markdown):  # what is in a block of code is no link
        parts += (_LINK.sub(lambda match: _link(match, source), markdown[end : fence.start()]), fence[0])
        end = fence.end()
    return "".join((*parts, _LINK.sub(lambda match: _link(match, source), markdown[end:])))


def _link(match: re.Match[str], source: str) -> str:
    target, _, anchor = match["target"].partition("#")
    if not target or "://" in target:
        return match[0]
    path = posixpath.normpath(posixpath.join(posixpath.dirname(source), target))
    if not (ROOT / path).exists():
        raise PluginError(f"{source}: there is no {path}")
    page = _PAGES.get(path) or (path.removeprefix("docs/") if path.startswith("docs/") else None)
    if page is None or not page.endswith(".md"):
        return match["text"] if path in match["text"].replace("\\", "") else f"{match['text']} (`{path}`)"
    return f"[{match['text']}]({page}{'#' + anchor if anchor else ''})"


def on_pre_build(config: MkDocsConfig) -> None:
    """Builds from the root of the repository, wherever mkdocs was started."""
    os.chdir(ROOT)


# --- notebooks -----------------------------------------------------------------------------------------------------


def notebook_markdown(path: Path) -> str:
    """A notebook (nbformat 4) as Markdown, with the outputs that are in it."""
    parts: list[str] = []
    for cell in json.loads(path.read_text(encoding="utf-8"))["cells"]:
        source = _text(cell["source"])
        if cell["cell_type"] == "code":
            parts.append(_block("python", source))
            parts += (part for output in cell["outputs"] for part in _output(output))
        else:
            parts.append(source)
    return "\n\n".join(parts) + "\n"


def _output(output: dict[str, Any]) -> Iterator[str]:
    kind = output["output_type"]
    if kind == "stream":
        yield _block("text", _text(output["text"]))
    elif kind == "error":
        yield _block("text", "\n".join(output["traceback"]))
    elif "text/html" in output["data"]:
        # What follows a blank line would be Markdown again.
        lines = (line for line in _text(output["data"]["text/html"]).splitlines() if line.strip())
        yield '<div class="output">\n' + "\n".join(lines) + "\n</div>"
    else:
        yield _block("text", _text(output["data"]["text/plain"]))


def _block(language: str, text: str) -> str:
    if "```" in text:
        return f"<pre>{html.escape(text)}</pre>"
    return f"```{language}\n{text.rstrip()}\n```"


def _text(value: str | list[str]) -> str:
    return value if isinstance(value, str) else "".join(value)
