"""Who has something: what is asked of a node, that its rows come as they are known, and how they read."""

from __future__ import annotations

import io
import json
import threading
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import anyio
import pytest
import trio
from click.testing import CliRunner, Result
from hypothesis import given
from hypothesis import strategies as st

import kachery_cloud as kcl
from kachery_cloud.commands import main as cli
from kachery_cloud.commands.whereis_text import row_lines
from kachery_cloud.local import close_repositories
from kachery_cloud.node import connection as background
from kachery_cloud.node.messages import WHEREIS, Method, Telling, by_name
from kachery_p2p.dag.cid import CID
from kachery_p2p.errors import ContentNotFound, NodeError
from kachery_p2p.json_shapes import from_json
from kachery_p2p.node.messages import Whereabouts, WhereisRequest
from tests.helpers.control_helpers import served
from tests.helpers.patience import PATIENCE
from tests.helpers.terminal_helpers import harmless

ME = "12D3KooWD3eckifWpRn9wQpMG9R9hX3sD158z7EqHWmweQAJU5SA"
PEER = "12D3KooWQYV9dGMFoRzNStwpXztXaBUjtPqi6aU76ZgUriHhKust"
ADDR = f"/ip4/192.168.1.20/tcp/4001/p2p/{ME}"
ELSEWHERE = "ipfs://bafkreifzjut3te2nhyekklss27nh3k72ysco7y32koao5eei66wof36n5e"


class StandIn:
    """A node that knows who has everything."""

    def __init__(self, rows: list[dict[str, Any]]) -> None:
        self.rows = rows
        self.asked: list[WhereisRequest] = []

    def whereis(self, request: WhereisRequest) -> Iterator[Whereabouts]:
        self.asked.append(request)
        yield from from_json(tuple[Whereabouts, ...], self.rows)


ROW: dict[str, Any] = {
    "peer": PEER,
    "addrs": ["/ip4/192.168.1.21/tcp/4001"],
    "source": "mdns",
    "seconds": 0.034,
    "connected": True,
    "round_trip_ms": 1.25,
    "has": True,
    "found_by": {"mdns": 0.034},
}
FAR = {"connected": False, "round_trip_ms": None, "has": None, "seconds": 12, "source": "dht", "found_by": {"dht": 12}}


@pytest.fixture(autouse=True)
def data(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    monkeypatch.setenv("KACHERY_CLOUD_DIR", str(tmp_path / "data"))
    yield tmp_path / "data"
    close_repositories()


def run(*arguments: object) -> Result:
    return CliRunner().invoke(cli.cli, [str(each) for each in arguments])


@pytest.fixture
def node(monkeypatch: pytest.MonkeyPatch) -> StandIn:
    stand_in = StandIn([ROW])
    monkeypatch.setattr(background, "get_connection", lambda config: stand_in)
    return stand_in


def test_whereis_asks_with_the_hints_of_the_uri(node: StandIn) -> None:
    """The CID of the URI, its providers and the call's, and how long to search."""
    assert kcl.whereis(f"{ELSEWHERE}/a/b?provider={ADDR}&label=x", timeout=3, providers=["/ip4/192.0.2.1/tcp/1"]) == [
        ROW
    ]
    cid = CID.parse(ELSEWHERE.removeprefix("ipfs://"))
    assert node.asked == [WhereisRequest(cid, 3.0, (ADDR, "/ip4/192.0.2.1/tcp/1"))]
    assert run("whereis", ELSEWHERE).exit_code == 0
    assert node.asked[-1] == WhereisRequest(cid, 15.0)


def test_whereis_on_the_command_line(node: StandIn) -> None:
    """Who, whether it is sure, by which sources, how far; then the addresses. With --json an object a line."""
    node.rows = [
        {**ROW, "found_by": {"mdns": 0.034, "dht": 1.5}, "addrs": [*ROW["addrs"], "/ip4/203.0.113.5/tcp/4001"]},
        {**ROW, **FAR, "peer": ME, "addrs": [], "error": "Nobody answers."},
        {**ROW, "peer": "12D3other", "source": "connected", "found_by": {"connected": 0.034}, "has": False},
        {**ROW, "peer": "12D3silent", "has": None},
    ]
    assert run("whereis", ELSEWHERE).stdout.splitlines() == [
        f"{PEER}: has it; found by mDNS after 0.03 s, the DHT after 1.50 s; connected, 1.2 ms away",
        "    /ip4/192.168.1.21/tcp/4001",
        "    /ip4/203.0.113.5/tcp/4001",
        f"{ME}: is said to have it; found by the DHT after 12 s; not connected; could not be asked: Nobody answers.",
    ]
    assert [json.loads(line) for line in run("whereis", ELSEWHERE, "--json").stdout.splitlines()] == node.rows


@pytest.mark.parametrize(
    "rows",
    [[], [{**ROW, "has": False}], [{**ROW, "has": None, "found_by": {"connected": 0.034}, "source": "connected"}]],
)
def test_whereis_finds_nobody(node: StandIn, rows: list[dict[str, Any]]) -> None:
    """Exit code 3, also when those who were asked do not have it, or do not answer and nobody says they have it."""
    node.rows = rows
    result = run("whereis", ELSEWHERE)
    assert (result.exit_code, result.stdout) == (3, "")
    assert "Nobody is found" in result.stderr
    expected = {0: "", 1: f" {sum(r['has'] is False for r in rows)} of the peers asked do not have it, "}[len(rows)]
    assert f"{ELSEWHERE}.{expected}" in result.stderr
    lines = run("whereis", ELSEWHERE, "--json").stdout.splitlines()
    assert json.loads(lines[-1])["error"]["type"] == ContentNotFound.__name__
    assert kcl.whereis(ELSEWHERE) == rows


def test_whereis_says_what_is_here(node: StandIn, data: Path, tmp_path: Path) -> None:
    """First of all, with its path; being here alone is enough for success."""
    node.rows = []
    uri = kcl.store_text("here", local=True)
    (tmp_path / "folder").mkdir(mode=0o700)
    (tmp_path / "folder" / "a").write_text("a")
    folder = kcl.store_dir(tmp_path / "folder", local=True)
    (row,) = kcl.whereis(uri)
    assert (row["source"], row["has"], row["path"]) == ("here", True, kcl.load_file(uri, local_only=True))
    result = run("whereis", uri)
    assert (result.exit_code, result.stdout) == (0, f"here: {row['path']}\n")
    assert result.stderr == "Nobody else is found to have it.\n"
    assert run("whereis", uri, "--json").stderr == ""
    (row,) = kcl.whereis(folder)
    assert (row["source"], row["path"]) == ("here", None)
    node.rows = [ROW]
    assert kcl.whereis(uri)[1:] == [ROW]


@pytest.mark.parametrize(
    ("arguments", "kind"),
    [
        (["whereis", "sha1://abc"], "InvalidURI"),
        (["whereis", ELSEWHERE, "--timeout", "0"], "ConfigError"),
        (["whereis", ELSEWHERE, "--peer", "localhost"], "InvalidAddress"),
    ],
)
def test_mistakes_of_whereis(node: StandIn, arguments: list[str], kind: str) -> None:
    """They are told before anybody is asked."""
    result = run(*arguments, "--json")
    assert result.exit_code == 2
    assert json.loads(result.stdout)["error"]["type"] == kind
    assert node.asked == []


# --- rows as they come -----------------------------------------------------------------------------------------------


class Searching:
    """A node in another process that finds one peer at once, and another when it is allowed to."""

    def __init__(self) -> None:
        self.go_on = trio.Event()
        self.cancelled = threading.Event()
        self.first = from_json(Whereabouts, ROW)
        self.second = replace(self.first, peer=ME, has=False)
        self.known_later = replace(self.first, found_by={**self.first.found_by, "dht": 1.5})

    async def whereis(self, request: WhereisRequest, telling: Telling) -> tuple[Whereabouts, ...]:
        telling.part(self.first)
        try:
            await self.go_on.wait()
        except trio.Cancelled:
            self.cancelled.set()
            raise
        telling.part(self.second)
        return (self.known_later, self.second)


@pytest.fixture
def searching(data: Path) -> Iterator[SimpleNamespace]:
    data.mkdir(mode=0o700)
    search = Searching()
    with served(data, by_name(Method(WHEREIS, search.whereis))) as token:
        yield SimpleNamespace(search=search, go_on=lambda: token.run_sync_soon(search.go_on.set))
        background.close_all()


def test_rows_come_before_the_search_is_over(searching: SimpleNamespace) -> None:
    """The first one comes while the node still searches. Each comes once, with what was known of it then."""
    rows = kcl.iter_whereis(ELSEWHERE)
    assert next(rows) == ROW
    searching.go_on()
    assert [row["peer"] for row in rows] == [ME]


def test_the_list_has_all_that_is_known_in_the_end(searching: SimpleNamespace) -> None:
    """One row a peer, with all that named it, the first one first."""
    searching.go_on()
    first, second = kcl.whereis(ELSEWHERE)
    assert first == {**ROW, "found_by": {"mdns": 0.034, "dht": 1.5}}
    assert (second["peer"], second["has"]) == (ME, False)


def test_the_node_stops_when_nobody_listens(searching: SimpleNamespace) -> None:
    """Who has seen enough leaves, and the search ends."""
    for row in kcl.iter_whereis(ELSEWHERE):
        assert row == ROW
        break
    assert searching.search.cancelled.wait(PATIENCE)


@pytest.mark.parametrize("backend", ["asyncio", "trio"])
def test_rows_for_event_loops(searching: SimpleNamespace, backend: str) -> None:
    """`async for` gives the same, and who leaves early ends the search."""

    async def work() -> None:
        rows = kcl.aio.iter_whereis(ELSEWHERE)
        assert await anext(rows) == ROW
        with anyio.move_on_after(0.01) as late:  # nothing more comes
            await anext(rows)
        assert late.cancelled_caught

    anyio.run(work, backend=backend)
    assert searching.search.cancelled.wait(PATIENCE)


def test_an_older_node_is_understood(node: StandIn) -> None:
    """It gives a row for each way to a peer, at the end. They are made one."""
    old = {key: value for key, value in ROW.items() if key != "found_by"}
    node.rows = [old, {**old, "source": "dht", "seconds": 1.5, "addrs": ["/ip4/203.0.113.5/tcp/4001"]}]
    (row,) = kcl.whereis(ELSEWHERE)
    assert row == {
        **ROW,
        "found_by": {"mdns": 0.034, "dht": 1.5},
        "addrs": [*ROW["addrs"], "/ip4/203.0.113.5/tcp/4001"],
    }
    assert [row["peer"] for row in kcl.iter_whereis(ELSEWHERE)] == [PEER]


def test_ctrl_c_leaves_what_was_found(node: StandIn, monkeypatch: pytest.MonkeyPatch) -> None:
    """The rows are there already, and how many is said; the code is that of an interruption."""

    def interrupted(request: WhereisRequest) -> Iterator[Whereabouts]:
        yield from_json(Whereabouts, ROW)
        raise KeyboardInterrupt

    monkeypatch.setattr(node, "whereis", interrupted)
    result = run("whereis", ELSEWHERE)
    assert (result.exit_code, result.stdout.splitlines()[0].partition(":")[0]) == (130, PEER)
    assert result.stderr == "Error: Interrupted. 1 peer was found to have it until then.\n"
    lines = run("whereis", ELSEWHERE, "--json").stdout.splitlines()
    assert [json.loads(line).get("peer") for line in lines] == [PEER, None]
    assert json.loads(lines[1])["error"]["type"] == "Interrupted"


class Terminal(io.StringIO):
    """Standard output that is a terminal."""

    def isatty(self) -> bool:
        return True


def test_what_names_a_peer_later_is_told_at_the_end(node: StandIn, monkeypatch: pytest.MonkeyPatch) -> None:
    """On a terminal its row is printed already, so there is a line more. Elsewhere, as with --json, each comes once."""
    node.rows = [ROW, {**ROW, "peer": ME}, {**ROW, "found_by": {"mdns": 0.034, "dht": 3.2}}]
    piped = [line for line in run("whereis", ELSEWHERE).stdout.splitlines() if not line.startswith(" ")]
    assert [line.partition(":")[0] for line in piped] == [PEER, ME]
    terminal = Terminal()
    with monkeypatch.context() as patch:
        patch.setattr("sys.stdout", terminal)
        with pytest.raises(SystemExit):
            cli.cli(["whereis", ELSEWHERE])
    assert terminal.getvalue().splitlines()[-1] == f"{PEER}: also found by the DHT after 3.20 s"
    lines = run("whereis", ELSEWHERE, "--json").stdout.splitlines()
    assert [json.loads(line)["peer"] for line in lines] == [PEER, ME]


def test_columns_for_a_terminal() -> None:
    """Peer, what it says, how far, and what named it, each at its place; then why not, and the addresses."""
    row = from_json(Whereabouts, ROW)
    silent = replace(row, **FAR, error="Nobody answers.", addrs=())
    assert row_lines(row, columns=True) == [
        f"{PEER}  yes      1.2 ms     mDNS",
        "    /ip4/192.168.1.21/tcp/4001",
    ]
    assert row_lines(silent, columns=True) == [
        f"{PEER}  said to             DHT",
        "    could not be asked: Nobody answers.",
    ]


# The slowness of a machine that does other things, too, is no news here.
@given(text=st.text(max_size=5), columns=st.booleans())
def test_no_row_is_too_strange_to_be_shown(text: str, columns: bool) -> None:
    """Whatever texts come, there are lines of printable characters, and no exception."""
    strange = {"peer": text, "addrs": [text], "source": text, "error": text, "found_by": {text: 1.0}}
    for has in (True, None):
        for line in row_lines(from_json(Whereabouts, {**ROW, **strange, "has": has}), columns=columns):
            assert harmless(line)


def test_an_older_node_is_not_asked_for_what_is_for_members(searching: SimpleNamespace) -> None:
    """It does not know who may hear of it, and would ask everybody. The error says what to do."""
    with pytest.raises(NodeError, match=r"of an older version.*Nobody was asked"):
        list(kcl.iter_whereis(f"{ELSEWHERE}?group={26 * 'a'}"))
