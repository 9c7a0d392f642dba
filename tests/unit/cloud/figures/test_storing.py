"""Storing a figure, and links to it: folders in the data directory, the same for the same figure. No network."""

from __future__ import annotations

import json
import os
import time
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from click.testing import CliRunner, Result

import kachery_cloud as kcl
from kachery_cloud.commands.main import cli
from kachery_cloud.errors import ContentNotFound, FormatError, InvalidArgument, InvalidURI, NodeError
from kachery_cloud.figures.document import ARRAY
from kachery_cloud.figures.viewer import viewer_files
from kachery_cloud.local import close_repositories

CHART = {"mark": "point", "data": {"name": "trials"}, "encoding": {"x": {"field": "a"}, "y": {"field": "b"}}}


@pytest.fixture(autouse=True)
def data(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Any:
    monkeypatch.setenv("KACHERY_CLOUD_DIR", str(tmp_path / "data"))
    yield tmp_path / "data"
    close_repositories()


def store(spec: Any, **more: Any) -> str:
    """Store a figure without a node; its URI."""
    return kcl.store_figure(spec, local=True, **more)


def names(uri: str, below: str = "") -> set[str]:
    """The files of a folder, by their paths."""
    found: set[str] = set()
    for entry in kcl.list_dir(uri, local_only=True):
        name = below + entry["name"]
        found |= names(entry["uri"], name + "/") if entry["kind"] == "directory" else {name}
    return found


def test_a_figure_is_a_folder() -> None:
    """Its document, and its arrays and tables beside it, each of which is loaded like anything else."""
    z = np.arange(6.0).reshape(2, 3)
    z[0, 0] = np.nan
    uri = store({"data": [{"type": "heatmap", "z": z}]}, title="Rates / of cells")
    document = kcl.load_json(kcl.join(uri, "figure.json"))
    ((name, entry),) = document["arrays"].items()
    assert document["spec"] == {"data": [{"type": "heatmap", "z": {ARRAY: name}}]}
    assert np.array_equal(kcl.load_npy(kcl.join(uri, entry["uri"])), z, equal_nan=True)
    (item,) = kcl.list()
    assert (item.uri.partition("?")[0], item.label) == (uri, "Rates of cells")
    assert os.listdir(Path(os.environ["KACHERY_CLOUD_DIR"]) / "tmp") == []


def test_the_same_figure_has_the_same_uri(tmp_path: Path) -> None:
    """However it is put together, and wherever its tables lie."""
    trials = tmp_path / "some trials.csv"
    trials.write_text("a,b\n1,2\n", encoding="utf-8")
    other = tmp_path / "other.csv"
    other.write_text("a,b\n1,2\n", encoding="utf-8")
    turned = dict(reversed(CHART.items()))
    found = {
        store(CHART, data={"trials": trials}),
        store(turned, data={"trials": other}),
        store(json.dumps(turned), data={"trials": other}),
    }
    assert len(found) == 1
    array = np.arange(4)
    assert store({"data": [{"y": array}]}) == store({"data": [{"y": array.copy()}]})
    assert store({"data": [{"y": array}]}) != store({"data": [{"y": array.astype(float)}]})
    assert trials.read_text("utf-8") == "a,b\n1,2\n"


def test_a_figure_that_is_not_for_everybody() -> None:
    """It is for whom the call says, with all that is in it, and with its viewer too."""
    uri = store({"data": [{"y": np.arange(7.5)}]}, to="private")
    alone = kcl.figure_link(uri, self_contained=True)
    assert {item.visibility for item in kcl.list()} == {("private",)}
    assert "index.html" in names(alone)


def test_links() -> None:
    """To the viewer of a gateway, without what the URI says for people; to a folder at any."""
    uri = store(CHART, data={"trials": [{"a": 1, "b": 2}]}, label="mine")
    cid = kcl.parse_uri(uri).cid
    for gateway in ("http://127.0.0.1:8090", "http://127.0.0.1:8090/"):
        assert kcl.figure_link(uri, gateway=gateway) == f"http://127.0.0.1:8090/figure/#ipfs://{cid}"
    inside = kcl.join(uri, "a b/figure.json")
    assert (
        kcl.figure_link(inside, gateway="https://x.example/g")
        == f"https://x.example/g/figure/#ipfs://{cid}/a%20b/figure.json"
    )
    alone = kcl.figure_link(uri, self_contained=True)
    there = kcl.figure_link(uri, self_contained=True, gateway="https://gateway.example.org")
    assert there == f"https://gateway.example.org/ipfs/{kcl.parse_uri(alone).cid}/"
    with pytest.raises(NodeError, match="kachery-cloud-node --gateway"):
        kcl.figure_link(uri)
    for wrong in ("127.0.0.1:8090", "ftp://x.example", "http://x.example?y"):
        with pytest.raises(InvalidURI, match="gateway"):
            kcl.figure_link(uri, gateway=wrong)
    with pytest.raises(InvalidURI):
        kcl.figure_link("https://example.org/x.json", gateway="http://127.0.0.1:8090")


def test_a_figure_brings_its_viewer(tmp_path: Path) -> None:
    """The folder has the viewer and all that the figure draws, also what it named by URIs; it is a figure itself."""
    array = kcl.store_npy(np.arange(5), local=True)
    table = kcl.store_text("a,b\n1,2\n", local=True)
    picture = kcl.store_bytes(b"\x89PNG\r\n\x1a\n", local=True)
    spec = {
        "layer": [
            {"mark": "point", "data": {"name": "trials"}},
            {"mark": "line", "data": {"url": table, "format": {"type": "csv"}}},
            {"mark": {"type": "image", "url": picture}},
            {"mark": {"type": "image", "url": "data:image/png;base64,AAAA"}},
        ]
    }
    uri = store(spec, data={"trials": {"a": np.ones(5)}, "cells": f"{array}"}, arrays={"b": array})
    alone = kcl.figure_link(uri, self_contained=True)
    document = kcl.load_json(kcl.join(alone, "figure.json"))
    assert "ipfs://" not in json.dumps(document)
    found = names(alone)
    assert found > {*viewer_files(), "figure.json"}
    layers = document["spec"]["layer"]
    assert kcl.load_text(kcl.join(alone, layers[1]["data"]["url"])) == "a,b\n1,2\n"
    assert layers[2]["mark"]["url"] in found
    assert layers[3]["mark"]["url"] == "data:image/png;base64,AAAA"
    assert kcl.load_npy(kcl.join(alone, document["arrays"]["b"]["uri"])).tolist() == [0, 1, 2, 3, 4]
    assert kcl.figure_link(alone, self_contained=True) == alone


def test_what_is_no_figure_brings_no_viewer() -> None:
    """A file, a folder, and a document whose files are nowhere are told apart from figures."""
    file = kcl.store_text("text", local=True)
    loose = kcl.store_json(
        {
            "format": "kachery-figure",
            "version": 1,
            "kind": "plotly",
            "spec": {"data": []},
            "arrays": {"a": {"uri": "arrays/a.npy"}},
        },
        local=True,
    )
    for uri in (file, loose):
        with pytest.raises(FormatError, match="figure"):
            kcl.figure_link(uri, self_contained=True)


def test_nothing_is_left_where_it_fails(data: Path, tmp_path: Path) -> None:
    """Neither a folder nor a figure."""
    with pytest.raises(InvalidArgument):
        store(CHART, data={"trials": 7})
    missing = tmp_path / "gone.csv"
    missing.write_text("a\n", encoding="utf-8")
    missing.chmod(0)
    if os.geteuid() != 0:
        with pytest.raises(kcl.errors.NoPermission):
            store(CHART, data={"trials": missing})
    assert kcl.list() == []
    with pytest.raises(ContentNotFound):
        kcl.load_bytes("ipfs://bafkreifzjut3te2nhyekklss27nh3k72ysco7y32koao5eei66wof36n5e", local_only=True)


def test_what_a_killed_process_left(data: Path) -> None:
    """The next figure that is stored takes it away, a day later, and nothing else."""
    kcl.store_text("makes the directory", local=True)
    for name, age in (("figure-old", 90_000), ("figure-new", 60), ("other", 90_000)):
        (data / "tmp" / name / "arrays").mkdir(parents=True)
        then = time.time() - age
        os.utime(data / "tmp" / name, (then, then))
    store({"data": []})
    assert sorted(os.listdir(data / "tmp")) == ["figure-new", "other"]


# --- the command -----------------------------------------------------------------------------------------------------


def run(*arguments: object) -> Result:
    return CliRunner().invoke(cli, ["figure", *map(str, arguments)])


def test_the_command(tmp_path: Path) -> None:
    """A file is stored: the URI on stdout, the link on stderr. Of a URI the link is printed."""
    (tmp_path / "chart.json").write_text(json.dumps(CHART), encoding="utf-8")
    (tmp_path / "trials.csv").write_text("a,b\n1,2\n", encoding="utf-8")
    done = run(tmp_path / "chart.json", "--data", f"trials={tmp_path / 'trials.csv'}", "--title", "Mine")
    assert done.exit_code == 0, done.output
    uri = done.stdout.strip()
    assert kcl.load_json(kcl.join(uri, "figure.json"))["title"] == "Mine"
    assert "kachery-cloud-node --gateway" in done.stderr
    link = f"http://127.0.0.1:8090/figure/#{uri.partition('?')[0]}"
    assert run(uri, "--gateway", "http://127.0.0.1:8090").stdout == f"{link}\n"
    found = json.loads(run(uri, "--gateway", "http://127.0.0.1:8090", "--json").stdout)
    assert found == {"uri": uri, "link": link}
    stored = run(tmp_path / "chart.json", "--data", f"trials={tmp_path / 'trials.csv'}", "--json", "--self-contained")
    found = json.loads(stored.stdout)
    assert "index.html" in names(found["link"])


@pytest.mark.parametrize(
    ("arguments", "code", "says"),
    [
        (["chart.json", "--data", "trials"], 2, "NAME=FILE"),
        (["chart.json", "--array", "a=x.npy", "--array", "a=y.npy"], 2, "twice"),
        (["ipfs://bafkreifzjut3te2nhyekklss27nh3k72ysco7y32koao5eei66wof36n5e", "--title", "x"], 2, "already"),
        (["ipfs://bafkreifzjut3te2nhyekklss27nh3k72ysco7y32koao5eei66wof36n5e"], 6, "kachery-cloud-node --gateway"),
        (["missing.json"], 2, "missing.json"),
        (["chart.json", "--data", "trials=missing.csv"], 2, "missing.csv"),
    ],
)
def test_mistakes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, arguments: list[str], code: int, says: str) -> None:
    """Each has its exit code, and a sentence."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / "chart.json").write_text(json.dumps(CHART), encoding="utf-8")
    done = run(*arguments)
    assert done.exit_code == code, done.output
    assert says in done.stderr
