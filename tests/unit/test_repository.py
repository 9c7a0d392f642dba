"""What the repository says of itself holds: its version, its pages and their links, its workflow, its changelog."""

from __future__ import annotations

import re
import subprocess
from pathlib import Path

import pytest

import kachery_cloud
import kachery_p2p
from kachery_cloud.commands import main as cli
from kachery_p2p.node.node import AGENT

ROOT = Path(__file__).resolve().parents[2]
_LINK = re.compile(r"\[[^\]]+\]\((?P<target>[^()\s]+)\)")
_FENCE = re.compile(r"^ *```.*?^ *```$", re.MULTILINE | re.DOTALL)
_HEADING = re.compile(r"^#+ +(.*)$", re.MULTILINE)


def text_of(name: str) -> str:
    return (ROOT / name).read_text(encoding="utf-8")


# --- the version ---------------------------------------------------------------------------------------------------


def test_one_place_says_the_version() -> None:
    """The packages, the command and what peers are told have the version of one line; pyproject.toml takes it, too."""
    version = kachery_p2p.__version__
    assert kachery_cloud.__version__ == version
    assert f"kachery-cloud/{version}" == AGENT
    from click.testing import CliRunner

    assert CliRunner().invoke(cli.cli, ["--version"], prog_name="kachery-cloud").output == f"kachery-cloud {version}\n"
    project = text_of("pyproject.toml")
    assert not re.search(r'^version = "', project, re.MULTILINE)
    assert 'version = { attr = "kachery_p2p.__version__" }' in project


def test_the_version_is_above_another_package_of_this_name() -> None:
    """Another package of this name stands at 0.4.10 on the index, and an upgrade must not replace ours by it."""
    assert tuple(int(part) for part in kachery_p2p.__version__.split(".")) >= (1, 0, 0)


def test_the_changelog_begins_with_this_version() -> None:
    """The newest version of the changelog is this one, below the mark where the next one is put in."""
    text = text_of("CHANGELOG.md")
    newest = re.search(r"^## (\S+)", text, re.MULTILINE)
    assert newest is not None
    assert newest[1] == kachery_p2p.__version__
    assert text.index("<!-- new versions begin here -->\n") < newest.start()


def test_fragments_of_the_changelog_have_a_kind() -> None:
    """Each file in changelog.d is named for one of the kinds that pyproject.toml knows."""
    kinds = re.findall(r'directory = "(\w+)", name', text_of("pyproject.toml"))
    assert kinds == ["added", "changed", "fixed", "security"]
    for path in (ROOT / "changelog.d").iterdir():
        assert path.name == "README.md" or re.fullmatch(rf"\+[\w-]+\.({'|'.join(kinds)})\.md", path.name), path.name


# --- pages ---------------------------------------------------------------------------------------------------------


def pages() -> list[Path]:
    """The Markdown files of the repository, without what is installed or built."""
    own = [ROOT, *(ROOT / name for name in ("changelog.d", "docs", "kachery_p2p/routing/dht", "scripts/peers"))]
    return [path for folder in own for path in sorted(folder.glob("*.md"))]


def anchors(page: Path) -> set[str]:
    """The anchors of a page's headings, as forges and the site make them. Those of the reference are names."""
    text = _FENCE.sub("", page.read_text(encoding="utf-8"))
    return {re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-") for heading in _HEADING.findall(text)}


@pytest.mark.parametrize("page", pages(), ids=lambda page: str(page.relative_to(ROOT)))
def test_links_lead_somewhere(page: Path) -> None:
    """Each link to a file of the repository leads to one that is there, and to a heading that it has."""
    for link in _LINK.finditer(_FENCE.sub("", page.read_text(encoding="utf-8"))):
        name, _, anchor = link["target"].partition("#")
        if "://" in name:
            continue
        target = (page.parent / name).resolve() if name else page
        assert target.exists(), link[0]
        assert not anchor or anchor in anchors(target), link[0]


def test_the_design_names_what_is_there() -> None:
    """Each file that docs/design.md names exists, and each function that it names behind a file is defined there."""
    files = [
        path.relative_to(ROOT).as_posix()
        for folder in ("kachery_p2p", "kachery_cloud", "scripts", "tests")
        for path in (ROOT / folder).rglob("*.py")
    ]
    for name, functions in re.findall(r"`([\w/]+\.py)(?::([\w.]+))?`", text_of("docs/design.md")):
        found = [file for file in files if f"/{file}".endswith(f"/{name}")]
        assert found, f"there is no {name}"
        for function in functions.split(".") if functions else ():
            pattern = re.compile(rf"\b(def|class) {function}\b|^{function}\b", re.MULTILINE)
            assert any(pattern.search(text_of(file)) for file in found), f"{name} has no {function}"


def test_the_design_names_each_module_that_stands_by_itself() -> None:
    """The tree of packages has each package of both, and each module beside those of kachery_p2p."""
    page = text_of("docs/design.md")
    tree = page[page.index("```text\nkachery_cloud/") :].partition("\n```\n")[0]
    packages = {
        path.parent.name for top in ("kachery_p2p", "kachery_cloud") for path in ROOT.glob(f"{top}/*/__init__.py")
    }
    modules = {path.stem for path in ROOT.glob("kachery_p2p/*.py")} - {"__init__"}
    assert [name for name in sorted(packages) if f"  {name}/" not in tree] == []
    assert sorted(modules - set(re.findall(r"\w+", tree.partition("\n  dag/")[2]))) == []


def test_the_formats_have_every_file_of_a_data_directory() -> None:
    """docs/formats.md says of each file and folder that a module has a name for what it is."""
    page = text_of("docs/formats.md")
    found: set[str] = set()
    for top in ("kachery_p2p", "kachery_cloud"):
        for path in sorted((ROOT / top).rglob("*.py")):
            text = path.read_text(encoding="utf-8")
            found.update(re.findall(r'^(?:\w+_NAME|FOLDER) = "([\w.-]+)"$', text, re.MULTILINE))
    elsewhere = {".kacheryignore", ".kachery-cloud-part", "kachery-cloud"}  # in folders of the user, in the keyring
    assert len(found) > 20
    assert {name for name in found if not re.search(rf"`{re.escape(name)}[`/]", page)} == elsewhere


def test_the_readme_leads_to_every_page() -> None:
    """A page that nobody is led to is read by nobody."""
    page = text_of("README.md")
    assert [path.name for path in (ROOT / "docs").glob("*.md") if f"docs/{path.name}" not in page] == ["index.md"]


def test_the_reference_has_every_public_name() -> None:
    """docs/api.md lists each name of the package once, and no other."""
    listed = re.findall(r"^::: kachery_cloud\.(\w+)$", text_of("docs/api.md"), re.MULTILINE)
    public = {*kachery_cloud.__all__, *kachery_cloud._NOT_FOR_STAR} - {"__version__"}
    assert sorted(listed) == sorted(public)


def test_the_readme_is_one_screen() -> None:
    """A newcomer sees what it is, how to install it and how to share a file without scrolling far."""
    lines = text_of("README.md").splitlines()
    assert len(lines) <= 70
    assert any("getting-started.md#share-with-a-colleague" in line for line in lines)


# --- what runs elsewhere -------------------------------------------------------------------------------------------


def test_the_workflow_runs_what_runs_everywhere() -> None:
    """The workflow calls .ci/run, may only read the repository, and names the version of each action that it uses."""
    text = text_of(".github/workflows/ci.yml")
    assert ".ci/run" in text
    assert re.search(r"^permissions:\n  contents: read\n\n", text, re.MULTILINE)
    used = re.findall(r"uses: (\S+)", text)
    assert used
    assert all(re.fullmatch(r"[\w-]+/[\w-]+@v\d+\.\d+\.\d+", each) for each in used), used


def test_no_file_names_a_registry() -> None:
    """Where packages come from is up to the settings of whoever installs: nothing here names an index."""
    names = [
        "packaging/Containerfile",
        "pyproject.toml",
        "mkdocs.yml",
        ".pre-commit-config.yaml",
        ".github/workflows/ci.yml",
    ]
    names += [f"scripts/{name}" for name in ("docs", "lib.sh", "quickstart", "release", "test")]
    for name in names:
        assert not re.search(r"--(extra-)?index-url|pypi\.|PIP_INDEX", text_of(name)), name


@pytest.mark.parametrize("name", ["docs", "lib.sh", "quickstart", "release", "test"])
def test_scripts_can_be_read_by_bash(name: str) -> None:
    """Each script is whole."""
    subprocess.run(["bash", "-n", f"scripts/{name}"], cwd=ROOT, check=True)
