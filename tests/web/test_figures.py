"""The viewer of figures, in a browser: what is stored is drawn, with what the gateway gives and nothing else."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from scripts.workstation import Workstation
from tests.conftest import StartWorkstation
from tests.helpers.devtools import Browser, Page, axe_core
from tests.helpers.figure_pages import DRAWN, failure, open_figure

_STORE = """
import numpy as np
from pathlib import Path
LITE = "https://vega.github.io/schema/vega-lite/v6.json"
t = np.linspace(0, 10, 500)
rate = 5 + 3 * np.sin(t)
rate[20:40] = np.nan
line = {"$schema": LITE, "title": "Rates <b>of</b> cells", "mark": "line", "data": {"name": "rates"}, "encoding": {
    "x": {"field": "t", "type": "quantitative"}, "y": {"field": "rate", "type": "quantitative"}}}
z = np.random.default_rng(1).normal(size=(40, 60)).astype("f4")
many = np.random.default_rng(2).normal(size=(5000, 2))
np.save("long.npy", np.arange(2_000_000, dtype="<f8").reshape(-1, 4))
rows = {"$array": "long", "rows": [100_000, 100_050], "column": 2}
found = {
    "line": kcl.store_figure(line, data={"rates": {"t": t, "rate": rate}}),
    "heatmap": kcl.store_figure({"data": [{"type": "heatmap", "z": z},
        {"type": "scattergl", "mode": "markers", "y": z[0] * 3}], "layout": {"title": {"text": "A <i>map</i>"}}}),
    "cells": kcl.store_figure({"mark": "rect", "data": {"name": "image"}, "encoding": {
        "x": {"field": "column", "type": "ordinal"}, "y": {"field": "row", "type": "ordinal"},
        "color": {"field": "value", "type": "quantitative"}}}, data={"image": z[:5, :7]}),
    "canvas": kcl.store_figure({"mark": "point", "data": {"name": "many"}, "encoding": {
        "x": {"field": "a", "type": "quantitative"}, "y": {"field": "b", "type": "quantitative"}}},
        data={"many": {"a": many[:, 0], "b": many[:, 1]}}),
    "rows": kcl.store_figure({"data": [{"y": rows}]}, arrays={"long": Path("long.npy")}, title="Some rows"),
    "vega": kcl.store_figure({"$schema": "https://vega.github.io/schema/vega/v6.json", "width": 100, "height": 100,
        "data": [{"name": "t", "transform": [{"type": "formula", "as": "v", "expr": "datum.a * 2"}]}],
        "scales": [{"name": "y", "domain": {"data": "t", "field": "v"}, "range": "height"}],
        "marks": [{"type": "rect", "from": {"data": "t"}, "encode": {"enter": {
            "x": {"field": "a"}, "width": {"value": 2},
            "y": {"scale": "y", "field": "v"}, "y2": {"scale": "y", "value": 0}}}}]}, data={"t": {"a": [1, 2, 3]}}),
    "private": kcl.store_figure({"data": [{"y": np.arange(5.0) ** 2}]}, title="A secret", to="private"),
}
by_uri = kcl.store_npy(np.arange(7.0))
found["uris"] = kcl.store_json({"format": "kachery-figure", "version": 1, "kind": "plotly", "title": "By URI",
    "spec": {"data": [{"y": {"$array": "a"}}]}, "arrays": {"a": {"uri": by_uri}}})
found["alone"] = kcl.figure_link(found["uris"], self_contained=True)
found["alone line"] = kcl.figure_link(found["line"], self_contained=True)
say(found)
"""

_TOKEN = """
import os
from pathlib import Path
from kachery_p2p.gateway.server.token import gateway_token
say(gateway_token(Path(os.environ["KACHERY_CLOUD_DIR"])))
"""


class Lab:
    """A workstation whose node serves a gateway, with figures in it."""

    def __init__(self, station: Workstation) -> None:
        self.station = station
        self.gateway: str = station.status()["gateway"]["url"]
        self.figures: dict[str, str] = station.call(_STORE)

    def link(self, name: str) -> str:
        """Where a figure is shown."""
        return f"{self.gateway}/figure/#{self.figures[name].partition('?')[0]}"

    def folder(self, name: str) -> str:
        """The page of what a URI names, as content."""
        return f"{self.gateway}/ipfs/{self.figures[name].partition('?')[0].removeprefix('ipfs://')}/"


@pytest.fixture(scope="module")
def lab(module_workstation: StartWorkstation) -> Lab:
    return Lab(module_workstation().start("--gateway", "127.0.0.1:0"))


@pytest.fixture(scope="module")
def browser(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Browser]:
    with Browser(tmp_path_factory.mktemp("browser") / "profile") as started:
        yield started


@pytest.fixture
def page(browser: Browser) -> Iterator[Page]:
    made = browser.page()
    yield made
    made.close()


#: What is to be seen in the frame: a number of marks of each figure.
_MARKS = {
    # One line; the gap cuts it in two.
    "line": "document.querySelector('.mark-line path').getAttribute('d').split('M').length - 1 === 2"
    " && document.querySelector('.mark-line path').getAttribute('d').split('L').length > 400",
    "heatmap": "document.querySelector('.heatmaplayer image').href.baseVal.length > 1000"
    " && document.querySelectorAll('.scatterlayer path.point').length === 60",
    "cells": "document.querySelectorAll('.mark-rect path').length >= 35",
    "canvas": "[...document.querySelector('canvas').getContext('2d').getImageData(50, 20, 200, 200).data]"
    ".filter(Boolean).length > 1000",
    "rows": "document.querySelector('.scatterlayer path.js-line').getAttribute('d').includes('L')",
    "vega": "document.querySelectorAll('.mark-rect path[d]').length === 3",
    "uris": "document.querySelector('.scatterlayer path.js-line').getAttribute('d').length > 20",
}


@pytest.mark.slow
@pytest.mark.parametrize("name", sorted(_MARKS))
def test_a_figure_is_drawn(lab: Lab, page: Page, name: str) -> None:
    """Marks are there, of arrays, tables and URIs; nothing violates a policy, and no other server is asked."""
    frame = open_figure(page, lab.link(name))
    frame.wait(_MARKS[name])
    assert page.complaints == frame.complaints == []
    loaded = [*page.requests, *frame.run("performance.getEntriesByType('resource').map(each => each.name)")]
    assert loaded
    assert [each for each in loaded if not each.startswith((f"{lab.gateway}/", "data:image/", "blob:"))] == []


@pytest.mark.slow
@pytest.mark.parametrize("name", ["alone", "alone line"])
def test_a_figure_brings_its_viewer(lab: Lab, page: Page, name: str) -> None:
    """A folder with the viewer and all data is a page that shows the figure, in an origin of its own."""
    frame = open_figure(page, lab.folder(name))
    frame.wait(_MARKS["line" if "line" in name else "uris"])
    assert page.complaints == []
    assert page.run("self.origin") == "null"
    assert [each for each in page.requests if not each.startswith((lab.folder(name), "data:", "blob:"))] == []


@pytest.mark.slow
def test_titles_are_text(lab: Lab, page: Page) -> None:
    """What a figure is called is shown as it is written, and is the name of the page and of its frame."""
    open_figure(page, lab.link("line"))
    assert page.text("h1") == "Rates <b>of</b> cells" or page.text("h1") == "Rates of cells"
    assert page.run("document.title").startswith(page.text("h1"))
    assert page.run("document.querySelector('iframe').title") == page.text("h1")


@pytest.mark.slow
def test_rows_are_loaded_by_ranges(lab: Lab, page: Page) -> None:
    """Of an array of 16 MB, of which fifty rows are drawn, some kilobytes are loaded."""
    frame = open_figure(page, lab.link("rows"))
    asked = [status for status, address in page.statuses if address.endswith("long.npy")]
    assert asked == [206, 206]
    sizes = page.run(
        "performance.getEntriesByType('resource').filter(each => each.name.endsWith('long.npy'))"
        ".map(each => each.encodedBodySize)"
    )
    assert sum(sizes) == 4096 + 50 * 4 * 8
    first = frame.run("document.getElementById('figure').data[0].y")
    assert list(first.values() if isinstance(first, dict) else first) == [
        4.0 * row + 2 for row in range(100_000, 100_050)
    ]


#: Arrays of all types that the viewer reads, with what it is to make of them.
_ARRAYS: dict[str, Any] = {
    "f2": np.array([0, 1, -2.5, 65504, 6e-8, np.inf, np.nan], "<f2"),
    "f4": np.array([0.5, -1e30, np.nan], "<f4"),
    "f8 big": np.array([0.1, 1e300], ">f8"),
    "i8": np.array([-(2**53), 2**53], "<i8"),
    "u8 big": np.array([2**63], ">u8"),
    "i1": np.array([-128, 127], "i1"),
    "u2 big": np.array([[1, 2], [65535, 4]], ">u2"),
    "bool": np.array([True, False]),
    "fortran": np.asfortranarray(np.arange(24).reshape(2, 3, 4)),
    "text": np.array(["a", "bücher", "\U0001f600"]),
    "text big": np.array(["ab", "c"], ">U3"),
    "bytes": np.array([b"ab", b"\xe9"]),
    "dates": np.array(["2026-01-02", "NaT"], "M8[D]"),
    "times": np.array(["2026-01-02T03:04:05.678901"], "M8[us]"),
    "months": np.array(["2026-03"], "M8[M]"),
    "empty": np.zeros((0, 3)),
    "scalar": np.array(7.5),
}


def _expected(array: np.ndarray[Any, Any]) -> Any:
    if array.dtype.kind == "M":
        return [None if np.isnat(each) else str(each.astype("M8[ms]")) for each in array]
    if array.dtype.kind == "S":
        return [each.decode("latin-1") for each in array.tolist()]
    if array.dtype.kind in "f":
        return json.loads(
            json.dumps(array.astype("f8").tolist()).replace("NaN", '"NaN"').replace("Infinity", '"Infinity"')
        )
    return array.tolist()


@pytest.mark.slow
def test_arrays_of_all_types(lab: Lab, page: Page, tmp_path: Path) -> None:
    """What numpy writes is read as numpy has it."""
    for number, array in enumerate(_ARRAYS.values()):
        np.save(tmp_path / f"{number}.npy", array)
    uri = lab.station.call(f"say(kcl.store_dir({str(tmp_path)!r}))").removeprefix("ipfs://").partition("?")[0]
    page.open(f"{lab.gateway}/figure/")
    read = """(async () => {
      const { Gateway } = await import('/figure/viewer/gateway.js')
      const gateway = new Gateway('/ipfs/')
      const plain = each => ArrayBuffer.isView(each) || Array.isArray(each) ? Array.from(each, plain)
        : typeof each === 'number' && !Number.isFinite(each) ? String(each) : each
      const found = []
      for (let number = 0; number < COUNT; number++) {
        const arrays = new Map([[`a${number}`, { uri: `ipfs://ROOT/${number}.npy` }]])
        found.push(plain(await gateway.array({ $array: `a${number}` }, arrays, '')))
      }
      const arrays = new Map([['a', { uri: `ipfs://ROOT/FORTRAN.npy` }]])
      found.push(plain(await gateway.array({ $array: 'a', rows: [1, 9] }, arrays, '')))
      return found
    })()"""
    fortran = list(_ARRAYS).index("fortran")
    script = read.replace("COUNT", str(len(_ARRAYS))).replace("ROOT", uri).replace("FORTRAN", str(fortran))
    found = page.run(script)
    assert dict(zip(_ARRAYS, found, strict=False)) == {name: _expected(array) for name, array in _ARRAYS.items()}
    assert found[-1] == _ARRAYS["fortran"][1:].tolist()


@pytest.mark.slow
def test_a_private_figure_is_shown_with_the_token(lab: Lab, page: Page) -> None:
    """Without it the page says what it says of what nobody has; with it the figure is drawn, and nothing is kept."""
    token = lab.station.call(_TOKEN)
    page.open(lab.link("private"))
    assert "not for everybody" in failure(page)
    page.type("#token", "wrong")
    page.click("#unlock button")
    page.wait("document.getElementById('reason').innerText.includes('401')")
    page.type("#token", token)
    page.click("#unlock button")
    page.wait(DRAWN)
    assert page.text("h1") == "A secret"
    page.frame("frame.html").wait("document.querySelector('.scatterlayer path.js-line')")
    assert page.run(
        "[document.cookie, localStorage.length, sessionStorage.length, document.getElementById('token').value]"
    ) == [
        "",
        0,
        0,
        "",
    ]
    page.open(f"{lab.gateway}/figure/?again#{lab.figures['private'].partition('?')[0]}")
    failure(page)


@pytest.mark.slow
@pytest.mark.parametrize("name", ["line", "heatmap"])
def test_a_figure_is_saved_as_a_picture(lab: Lab, page: Page, name: str) -> None:
    """As SVG and as PNG, under the name of the figure."""
    open_figure(page, lab.link(name))
    page.run(
        "URL.createObjectURL = blob => { window.saved = blob; return '#saved' };"
        " HTMLAnchorElement.prototype.click = function () { window.savedName = this.download }"
    )
    for kind, begins in (("svg", "<svg"), ("png", "\x89PNG")):
        page.click(f"#save-{kind}")
        page.wait(f"window.savedName?.endsWith('.{kind}')")
        head = page.run(
            "window.saved.slice(0, 4).arrayBuffer().then(all => String.fromCharCode(...new Uint8Array(all)))"
        )
        assert head == begins
        assert page.run("window.saved.size") > 1000


@pytest.mark.slow
@pytest.mark.parametrize(
    ("hash", "says"),
    [
        ("#https://example.org/figure.json", "not the URI"),
        ("#ipfs://bafkreiaossxdnwtp6a4zfjl73w67i4ulmcoq277g5maz7kprxg23kqgygu", "no figure at this address"),
        ("#ipfs://bafkreiaossxdnwtp6a4zfjl73w67i4ulmcoq277g5maz7kprxg23kqgygu/../../health", "not the URI"),
        ("#ipfs://bafkreiaossxdnwtp6a4zfjl73w67i4ulmcoq277g5maz7kprxg23kqgygu/%2e%2e/health", "not the URI"),
        ("#javascript:alert(1)", "not the URI"),
        ("#%", "not the URI"),
    ],
)
def test_addresses_that_are_no_figure(lab: Lab, page: Page, hash: str, says: str) -> None:
    """The page says so; nothing else is loaded."""
    page.open(f"{lab.gateway}/figure/{hash}")
    assert says in failure(page)
    assert page.complaints == []
    assert [each for each in page.requests if not each.startswith(f"{lab.gateway}/")] == []
    assert f"{lab.gateway}/health" not in page.requests


@pytest.mark.slow
def test_a_uri_is_typed(lab: Lab, page: Page) -> None:
    """Without an address the page asks for a URI, and shows it; going back leads back."""
    page.open(f"{lab.gateway}/figure/")
    page.wait("!document.getElementById('open').hidden")
    page.type("#uri", lab.figures["line"].partition("?")[0])
    page.press("Enter")
    page.wait(DRAWN)
    page.run("history.back()")
    page.wait("!document.getElementById('open').hidden")


@pytest.mark.slow
@pytest.mark.parametrize("name", ["light", "dark", "phone"])
def test_everybody_can_use_the_pages(lab: Lab, browser: Browser, name: str) -> None:
    """axe-core finds nothing in viewer, folder, front page and mistakes; none is wider than a phone."""
    axe = axe_core()
    width = 390 if name == "phone" else 1280
    addresses = [
        lab.link("line"),
        lab.link("heatmap"),
        f"{lab.gateway}/figure/",
        f"{lab.gateway}/figure/#ipfs://bafkreiaossxdnwtp6a4zfjl73w67i4ulmcoq277g5maz7kprxg23kqgygu",
        lab.folder("line"),
        f"{lab.gateway}/",
        f"{lab.gateway}/ipfs/nonsense",
    ]
    for address in addresses:
        page = browser.page(width, 800, dark=name == "dark")
        page.open(address)
        if "/figure/" in address:
            page.wait("document.documentElement.dataset.state !== 'loading' || !document.getElementById('open').hidden")
            if page.run("!document.getElementById('drawn').hidden"):
                frame = page.frame("frame.html")
                # The heading is that of the page around it.
                found = [each for each in frame.accessibility(axe) if not each.startswith("page-has-heading-one")]
                assert found == []
            if page.run("!document.getElementById('about').hidden"):
                page.click("#about summary")
        assert page.accessibility(axe) == [], address
        assert page.run("document.documentElement.scrollWidth") <= width
        page.close()
