"""What mkdocs calls while it builds the site, as mkdocs.yml says.

Pages that lie elsewhere in the repository become pages of the site, too. Links in all pages are written for a reader of
the repository. On the site, those to other pages lead there. Source files are not part of it: links to them become
the path of the file.
"""

from __future__ import annotations

import os
import posixpath
import re
from pathlib import Path

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
#: The front page of the repository has the site's in its place.
_PAGES = {"README.md": "index.md", **{source: page for page, source in ELSEWHERE.items()}}
_LINK = re.compile(r"(?<!!)\[(?P<text>[^\]]+)\]\((?P<target>[^()\s]+)\)")
_FENCE = re.compile(r"^ *```.*?^ *```", re.MULTILINE | re.DOTALL)


def on_files(files: Files, config: MkDocsConfig) -> Files:
    """Adds the pages that are not in docs/, and the one that is made of the texts of the commands."""
    for page, source in ELSEWHERE.items():
        files.append(File.generated(config, page, abs_src_path=str(ROOT / source)))
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
