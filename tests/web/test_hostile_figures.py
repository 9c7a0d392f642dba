"""Figures from strangers: nothing in them runs, loads anything, leads anywhere, or takes the place of the page.

They are stored as they are, not by `store_figure`, which would refuse most of them.
"""

from __future__ import annotations

import json
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from scripts.workstation import Workstation
from tests.conftest import StartWorkstation
from tests.helpers.devtools import Browser, DevToolsError, Page
from tests.helpers.figure_pages import DRAWN, FAILED, failure


class Listener:
    """A server of somebody else on this machine, that writes down what it is asked."""

    def __init__(self) -> None:
        self.asked: list[str] = []
        noticed = self.asked

        class Handler(BaseHTTPRequestHandler):
            def do_GET(self) -> None:
                noticed.append(self.path)
                self.send_response(200)
                self.send_header("access-control-allow-origin", "*")
                self.end_headers()

            do_POST = do_OPTIONS = do_HEAD = do_GET

            def log_message(self, format: str, *args: object) -> None:
                """Nothing is printed."""

        self.server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.url = f"http://127.0.0.1:{self.server.server_port}"


@pytest.fixture(scope="module")
def listener() -> Iterator[Listener]:
    made = Listener()
    thread = threading.Thread(target=made.server.serve_forever, kwargs={"poll_interval": 0.01})
    thread.start()
    yield made
    made.server.shutdown()
    thread.join()
    made.server.server_close()


@pytest.fixture(scope="module")
def station(module_workstation: StartWorkstation) -> Workstation:
    return module_workstation().start("--gateway", "127.0.0.1:0")


@pytest.fixture(scope="module")
def browser(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Browser]:
    with Browser(tmp_path_factory.mktemp("browser") / "profile") as started:
        yield started


@pytest.fixture
def page(browser: Browser) -> Iterator[Page]:
    made = browser.page()
    yield made
    made.close()


LITE = "https://vega.github.io/schema/vega-lite/v6.json"
VEGA = "https://vega.github.io/schema/vega/v6.json"
ROWS = {"values": [{"a": 1, "b": 2}, {"a": 2, "b": 3}]}
#: What would show that something ran; `fetch` and `location` would be seen by the listener.
RUNS = "window.ran=1;fetch('URL/ran');location='URL/went'"
TAGS = (
    f'<img src=x onerror="{RUNS}"><script>{RUNS}</script><svg onload="{RUNS}"></svg>'
    "<iframe src='URL/frame'></iframe><a href=\"javascript:window.ran=1\">x</a><a href='URL/link'>y</a>"
    "<style>@import 'URL/style'</style><b style='background:url(URL/background)'>b</b>"
)


def lite(**more: Any) -> dict[str, Any]:
    """A chart of Vega-Lite."""
    encoding = {"x": {"field": "a", "type": "quantitative"}, "y": {"field": "b", "type": "quantitative"}}
    spec = {"$schema": LITE, "mark": "point", "data": ROWS, "encoding": encoding, "width": 200, "height": 200}
    return {"kind": "vega-lite", "spec": {**spec, **more}}


def plotly(trace: Any = None, **layout: Any) -> dict[str, Any]:
    """A figure of Plotly."""
    return {"kind": "plotly", "spec": {"data": [{"y": [1, 2, 3], **(trace or {})}], "layout": layout}}


def vega(**more: Any) -> dict[str, Any]:
    """A figure of Vega."""
    return {"kind": "vega", "spec": {"$schema": VEGA, "width": 50, "height": 50, "marks": [], **more}}


def signal(expression: str) -> dict[str, Any]:
    """A figure of Vega that computes something."""
    return vega(signals=[{"name": "s", "update": expression}])


#: What is drawn all the same, without what is hostile in it.
DRAWN_ALL_THE_SAME: dict[str, dict[str, Any]] = {
    "tags in texts": {
        **lite(
            title=TAGS,
            description=TAGS,
            encoding={
                "x": {"field": "a", "type": "nominal", "title": TAGS, "axis": {"labelExpr": json.dumps(TAGS)}},
                "tooltip": {"value": TAGS},
                "text": {"value": TAGS},
            },
            mark={"type": "text", "tooltip": True, "aria": True, "description": TAGS},
        ),
        "title": TAGS[:300],
    },
    "links on marks": lite(
        mark={"type": "bar", "href": "URL/href"}, encoding={"href": {"value": "javascript:window.ran=1"}}
    ),
    "pictures from elsewhere": lite(mark={"type": "image", "url": "URL/picture.png", "width": 20, "height": 20}),
    "pictures that are pages": lite(mark={"type": "image", "url": f"data:text/html,<script>{RUNS}</script>"}),
    "options of the embedder": lite(
        usermeta={
            "embedOptions": {"loader": {"baseURL": "URL/"}, "actions": True, "patch": "URL/patch", "defaultStyle": TAGS}
        }
    ),
    "fonts and colours": lite(
        config={
            "font": "x;background:url(URL/font)",
            "background": "url(URL/background)",
            "mark": {"color": "url(URL/mark)"},
        }
    ),
    "an input bound to the page": vega(
        signals=[{"name": "s", "value": TAGS, "bind": {"input": "text", "name": TAGS, "element": "body"}}]
    ),
    "tags of Plotly": {
        **plotly(
            {"name": TAGS, "text": [TAGS] * 3, "mode": "markers+text", "hovertemplate": TAGS, "customdata": [TAGS] * 3},
            title={"text": TAGS, "subtitle": {"text": TAGS}},
            xaxis={"title": {"text": TAGS}, "ticktext": [TAGS], "tickvals": [1]},
            annotations=[{"text": TAGS, "x": 1, "y": 2}, {"text": "<<a>a href='URL/nested'>n</a>", "x": 1, "y": 1}],
            meta=TAGS,
        ),
        "title": "<script>window.ran=1</script>",
    },
    "styles of Plotly": plotly(
        None,
        title={
            "text": "<span style='background:url(URL/span);fill:url(URL/fill)'>x</span>",
            "font": {"family": "url(URL/font)"},
        },
        paper_bgcolor="url(URL/paper)",
    ),
    "settings of Plotly": {
        "kind": "plotly",
        "spec": {
            "data": [{"y": [1, 2]}],
            "layout": {"template": {"layout": {"title": {"text": TAGS}}}},
            "config": {
                "plotlyServerURL": "URL/",
                "showLink": True,
                "showEditInChartStudio": True,
                "topojsonURL": "URL/",
            },
        },
    },
    "buttons of Plotly": plotly(
        None, updatemenus=[{"buttons": [{"label": TAGS, "method": "relayout", "args": [{"title.text": TAGS}]}]}]
    ),
    "names that all objects have": {
        "kind": "plotly",
        "spec": json.loads(
            '{"data": [{"y": [1, 2], "__proto__": {"ran": 1}}], "layout": {"constructor": {"prototype": {"ran": 1}}}}'
        ),
    },
}

#: What cannot be shown; and a part of what is said of it.
REFUSED: dict[str, tuple[dict[str, Any], str]] = {
    "a table from elsewhere": (lite(data={"url": "URL/table.json"}), "cannot be drawn"),
    "a file of the machine": (lite(data={"url": "file:///etc/passwd"}), "cannot be drawn"),
    "the gateway's own pages": (lite(data={"url": "/health"}), "cannot be drawn"),
    "a picture from elsewhere": (plotly(None, images=[{"source": "URL/picture.png"}]), "URL/picture.png"),
    "an array from elsewhere": ({**plotly({"y": {"$array": "a"}}), "arrays": {"a": {"uri": "URL/a.npy"}}}, "URL/a.npy"),
    "a named table from elsewhere": ({**lite(), "data": {"t": {"uri": "URL/t.csv", "type": "csv"}}}, "URL/t.csv"),
    "a way out of its folder": ({**lite(), "data": {"t": {"uri": "../../health", "type": "json"}}}, "health"),
    "code in an expression": (signal("constructor.constructor('window.ran=1')()"), "cannot be drawn"),
    "code by another way": (signal("(function(){window.ran=1})()"), "cannot be drawn"),
    "the window": (signal("window.ran = 1"), "cannot be drawn"),
    "a property that is none": (signal("{'__proto__': 1}['constructor']('window.ran=1')"), "cannot be drawn"),
    "numbers without end": (lite(data={"sequence": {"start": 0, "stop": 1e12, "as": "a"}}), "sequence"),
    "numbers computed without end": (
        vega(data=[{"name": "x", "transform": [{"type": "sequence", "start": 0, "stop": {"signal": "1e12"}}]}]),
        "sequence",
    ),
    "a list of nothing": ({"kind": "plotly", "spec": {"data": "nonsense"}}, "cannot be drawn"),
    "a kind that is not drawn": (plotly({"type": "scatter3d"}), "scatter3d"),
    "a kind that all objects have": (plotly({"type": "constructor"}), "constructor"),
    "an array that is not there": (plotly({"y": {"$array": "__proto__"}}), "does not have"),
    "another kind": ({"kind": "html", "spec": {}}, "kind"),
}


def stored(station: Workstation, figure: dict[str, Any], listener: Listener, files: Path | None = None) -> str:
    """The address at which a figure is shown, that was stored as it is."""
    text = json.dumps({"format": "kachery-figure", "version": 1, **figure}).replace("URL", listener.url)
    if files is None:
        uri = station.call("say(kcl.store_text(args[0]))", text)
    else:
        (files / "figure.json").write_text(text, encoding="utf-8")
        uri = station.call("say(kcl.store_dir(args[0]))", str(files))
    return f"{station.status()['gateway']['url']}/figure/#{uri.partition('?')[0]}"


def nothing_happened(page: Page, listener: Listener) -> None:
    """See that nothing of a figure ran, was loaded, or is a link; neither in the page nor in the frame."""
    assert page.run("location.pathname") == "/figure/"
    assert listener.asked == []
    places = [page]
    try:
        places.append(page.frame("frame.html"))
    except DevToolsError:
        assert page.run(FAILED)
    for place in places:
        assert place.run("typeof window.ran === 'undefined' && typeof ({}).ran === 'undefined'")
        assert place.run(
            "[...document.querySelectorAll('script')].every(each => each.src.startsWith(new URL('/figure/viewer/', document.baseURI)))"
        )
        ours = "/figure/viewer/logo.svg"
        assert place.run(f"[...document.querySelectorAll('img')].every(each => each.src.endsWith('{ours}'))")
        assert place.run(
            "[...document.querySelectorAll('svg a, #figure a')].every(each => "
            "!each.getAttribute('href') && !each.getAttribute('xlink:href'))"
        )
        others = '#figure ~ *, iframe:not([src$="frame.html"]), object, embed, form[action], style:not(:empty), base'
        assert place.run(f"document.querySelectorAll({json.dumps(others)}).length") == 0


@pytest.mark.slow
@pytest.mark.parametrize("name", sorted(DRAWN_ALL_THE_SAME))
def test_what_is_hostile_in_a_figure_is_left_out(
    station: Workstation, page: Page, listener: Listener, name: str
) -> None:
    """The figure is drawn; what would have run is text, what would have led away is no link. A click changes nothing."""
    page.open(stored(station, DRAWN_ALL_THE_SAME[name], listener))
    page.wait(f"{DRAWN} || {FAILED}")
    assert page.run(DRAWN), failure(page)
    frame = page.frame("frame.html")
    frame.wait("document.querySelector('#figure svg, #figure canvas')")
    frame.run(
        "document.querySelectorAll('#figure path, #figure text, #figure rect, #figure image').forEach(each =>"
        " ['mousemove', 'mousedown', 'mouseup', 'click'].forEach(kind =>"
        " each.dispatchEvent(new MouseEvent(kind, { bubbles: true, clientX: 60, clientY: 60 }))))"
    )
    page.click("#place iframe")
    nothing_happened(page, listener)


@pytest.mark.slow
@pytest.mark.parametrize("name", sorted(REFUSED))
def test_figures_that_are_refused(station: Workstation, page: Page, listener: Listener, name: str) -> None:
    """The page says that it cannot be shown, as text, and nothing has happened."""
    figure, says = REFUSED[name]
    page.open(stored(station, figure, listener))
    assert says.replace("URL", listener.url) in failure(page)
    nothing_happened(page, listener)


def npy(header: str, data: bytes = b"") -> bytes:
    """An npy file with any header."""
    text = header.encode("latin-1") + b"\n"
    return b"\x93NUMPY\x01\x00" + len(text).to_bytes(2, "little") + text + data


#: Files that are no arrays that can be drawn.
BAD_ARRAYS = {
    "claims terabytes": npy("{'descr': '<f8', 'fortran_order': False, 'shape': (1000000, 1000000), }"),
    "claims more than numbers can say": npy(
        "{'descr': '<f8', 'fortran_order': False, 'shape': (99999999999999999999,), }"
    ),
    "is shorter than it says": npy("{'descr': '<f8', 'fortran_order': False, 'shape': (1000,), }", bytes(100)),
    "has a pickle in it": npy("{'descr': '|O', 'fortran_order': False, 'shape': (1,), }", bytes(100)),
    "has many dimensions": npy("{'descr': '<f8', 'fortran_order': False, 'shape': (1, 1, 1, 1, 1), }", bytes(8)),
    "has a header without end": b"\x93NUMPY\x02\x00\xff\xff\xff\xff",
    "has half a header": b"\x93NUMPY\x01\x00\xff\x0fabc",
    "is a page": b"<script>window.ran=1</script>",
    "is empty": b"",
}


@pytest.mark.slow
@pytest.mark.parametrize("name", sorted(BAD_ARRAYS))
def test_arrays_that_lie(station: Workstation, page: Page, listener: Listener, name: str, tmp_path: Path) -> None:
    """They are said to be none, before memory is set aside for what they claim."""
    (tmp_path / "a.npy").write_bytes(BAD_ARRAYS[name])
    page.open(
        stored(station, {**plotly({"y": {"$array": "a"}}), "arrays": {"a": {"uri": "a.npy"}}}, listener, tmp_path)
    )
    assert "array a cannot be" in failure(page)
    nothing_happened(page, listener)


@pytest.mark.slow
def test_a_figure_reaches_no_token(station: Workstation, page: Page, listener: Listener, tmp_path: Path) -> None:
    """The frame has no origin: it reads neither the page around it nor anything by the gateway, and loads nothing."""
    np.save(tmp_path / "a.npy", np.arange(3.0))
    page.open(
        stored(station, {**plotly({"y": {"$array": "a"}}), "arrays": {"a": {"uri": "a.npy"}}}, listener, tmp_path)
    )
    page.wait(DRAWN)
    frame = page.frame("frame.html")
    assert frame.run("self.origin") == "null"
    gateway = page.run("location.origin")
    for address in (f"{gateway}/health", f"{listener.url}/x"):
        assert frame.run(f"fetch({json.dumps(address)}).then(() => 'read', () => 'refused')") == "refused"
    with pytest.raises(DevToolsError):
        frame.run("parent.document.title")
    # Later, for what the tools of developers run themselves is let through.
    tried = "new Promise(done => setTimeout(() => { try { done(%s) } catch (error) { done(error.name) } }))"
    assert frame.run(tried % "eval('1')") == page.run(tried % "new Function('return 1')()") == "EvalError"
    assert listener.asked == []
