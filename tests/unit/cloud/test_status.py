"""Status: what is asked of a node, what is said where none runs, and how the answers read."""

from __future__ import annotations

import contextlib
import json
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import Future
from pathlib import Path
from typing import Any

import pytest
import trio
from click.testing import CliRunner, Result
from hypothesis import given
from hypothesis import strategies as st

import kachery_cloud as kcl
from kachery_cloud.answers import Running
from kachery_cloud.commands import main as cli
from kachery_cloud.commands.status_text import MOST_LINES, status_lines
from kachery_cloud.local import close_repositories
from kachery_cloud.node import connection as background
from kachery_cloud.node.control_server import serve_control
from kachery_cloud.node.endpoint import ControlEndpoint, NodeGone
from kachery_cloud.node.limits import NodeTimes
from kachery_cloud.node.messages import NOTIFY_STORED, Method, Nothing, by_name
from kachery_cloud.node.status_messages import STATUS
from kachery_cloud.privacy import sentence
from kachery_p2p.dag.cid import CID, RAW
from kachery_p2p.dag.hashes import sha256_multihash
from kachery_p2p.errors import NodeError, SwarmKeyError
from kachery_p2p.json_shapes import WrongShape, from_json
from kachery_p2p.node.messages import StoredNote
from kachery_p2p.repo.keys import load_or_create_identity
from kachery_p2p.repo.locks import NodeLock
from kachery_p2p.repo.swarm_key import fingerprint, write_swarm_key
from tests.helpers.patience import PATIENCE
from tests.helpers.terminal_helpers import harmless

ME = "12D3KooWD3eckifWpRn9wQpMG9R9hX3sD158z7EqHWmweQAJU5SA"
PEER = "12D3KooWQYV9dGMFoRzNStwpXztXaBUjtPqi6aU76ZgUriHhKust"
ADDR = f"/ip4/192.168.1.20/tcp/4001/p2p/{ME}"
ELSEWHERE = "ipfs://bafkreifzjut3te2nhyekklss27nh3k72ysco7y32koao5eei66wof36n5e"

FOUND: dict[str, Any] = {
    "running": True,
    "peer_id": ME,
    "directory": "/home/ada/.kachery-cloud",
    "pid": 4711,
    "private_network": False,
    "addresses": [ADDR],
    "announced": [{"addr": ADDR, "why": "an address of this machine"}],
    "reachability": {
        "state": "public",
        "why": "2 peers reached us when asked to",
        "port_mapping": "UPnP: the router forwards port 4001 to us",
    },
    "not_announced": [],
    "relay": {
        "enabled": True,
        "relays": [
            {
                "relay": PEER,
                "addresses": [],
                "expires_in": 3000,
                "seconds_per_circuit": 120,
                "bytes_per_circuit": 1 << 17,
            }
        ],
        "failures": {ME: "it is full"},
        "serving": {
            **dict.fromkeys(("reserved", "refused", "circuits", "failed", "bytes"), 0),
            **{"reservations": 2, "open_circuits": 1},
        },
    },
    "hole_punches": {
        "succeeded": 2,
        "failed": 1,
        "last": [{"peer": PEER, "ok": True, "began": True, "attempts": 1, "rtt": 0.1, "why": "it dialled us"}],
    },
    "connected": [
        {"peer": PEER, "addr": "/ip4/192.168.1.21/tcp/4001", "direction": "out"},
        {"peer": PEER, "addr": "/ip4/192.168.1.22/tcp/4001", "direction": "in"},
        {"peer": PEER, "addr": "/ip4/192.168.1.23/tcp/4001", "direction": "in"},
    ],
    "unreachable_peers": {"/ip4/192.168.1.99/tcp/4001": "nobody answers there"},
    "sources": {
        "mdns": {"on": True, "peers": 3, "packets": {"sent": 9}},
        "lan-dht": {"on": True, "mode": "server", "last_error": {"text": "no peers yet", "at": 1}},
        "dht": {"on": False, "why": "setting `public`"},
    },
    "providing": {
        "strategy": "roots",
        "keys": 12345,
        "announced": 12000,
        "waiting": 345,
        "next_seconds": 11400,
        "last_error": "2 peers refused",
    },
    "finds": [{"cid": "bafyabc", "source": "mdns", "peer": PEER, "seconds": 0.123, "ago": 200}],
    "errors": [{"ago": 90000, "what": "The router did not answer."}],
    "pinning": {"services": {}, "counts": {}, "error": ""},
    "gateways": {},
    "swarm_key_fingerprint": None,
    "blocks_received": 0,
    "bytes_received": 0,
    "duplicate_blocks": 0,
    "duplicate_bytes": 0,
    "blocks_sent": 0,
    "bytes_sent": 5_000_000,
    "malformed": 0,
}


def lines_of(more: dict[str, Any], **options: bool) -> list[str]:
    """The lines for `FOUND`, with some of it replaced."""
    return status_lines(from_json(Running, {**FOUND, **more}), **options)


def text_of(more: dict[str, Any], **options: bool) -> str:
    return "\n".join(lines_of(more, **options))


# --- how it reads ----------------------------------------------------------------------------------------------------


def test_the_status_of_a_node_reads_well() -> None:
    """Everything that matters, one subject after the other, in plain words."""
    assert lines_of({}) == [
        "Node:             running (process 4711), for /home/ada/.kachery-cloud",
        f"Peer ID:          {ME}",
        "Private network:  no",
        "Reachable:        yes: 2 peers reached us when asked to",
        "                  port mapping: UPnP: the router forwards port 4001 to us",
        f"Addresses:        {ADDR}: an address of this machine",
        f"Relays:           reached through {PEER}, for another 50 min",
        f"                  no place at {ME}: it is full",
        "                  relaying for others: reservations 2, open circuits 1, reserved 0, refused 0, circuits 0, "
        "failed 0, bytes 0",
        "Hole punches:     succeeded 2, failed 1",
        "Connections:      3 (1 made by this machine, 2 by others)",
        "Not reached:      /ip4/192.168.1.99/tcp/4001: nobody answers there",
        "Finds data by:    mdns: on, 3 peers",
        "                  lan-dht: on, server; last error: no peers yet",
        "                  dht: off (setting `public`)",
        "Announces:        the roots of what is stored or loaded: 12,345 CIDs, 12,000 announced, 345 waiting, "
        "goes on in 3 h 10 min; last error: 2 peers refused",
        f"Privacy:          {sentence('lan')}",
        f"Found lately:     3 min ago: bafyabc at {PEER} by mDNS in 0.12 s",
        "Last errors:      25 h 0 min ago: The router did not answer.",
    ]


def test_verbose_shows_every_peer_and_figure() -> None:
    """Each connection with its address, and the figures that have no line of their own."""
    text = text_of({}, verbose=True)
    for part in (
        f"from {PEER} at /ip4/192.168.1.22/tcp/4001",
        f"to {PEER} at /ip4/192.168.1.21/tcp/4001",
        "mdns: on, 3 peers; packets sent 9",
        f"{PEER}: it dialled us",
        "bytes sent 5,000,000",
    ):
        assert part in text
        assert part not in text_of({})


def test_announcing_in_several_networks() -> None:
    """Each has a line, with what is left to do there; times of day become times from now."""
    done = dict.fromkeys(("regions", "network_size", "lookups", "deliveries", "records", "failures"), 0)
    lan = {"ready": True, "keys": 5, "announced": 5, "waiting": 0, "overdue": 0, "last_error": "", "last_turn": None}
    wan = {**lan, "announced": 2, "waiting": 3, "overdue": 1, "last_error": "nobody answers", "next_turn": None}
    targets = {"lan-dht": {**lan, **done, "next_turn": time.time() + 7300}, "dht": {**wan, **done}}
    text = text_of({"finds": [], "errors": [], "providing": {"strategy": "all", "targets": targets}})
    assert "Announces:        all blocks\n" in text
    assert "in the LAN DHT: 5 CIDs, 5 announced, 0 waiting, 0 overdue, goes on in 2 h 1 min\n" in text
    assert "in the DHT: 5 CIDs, 2 announced, 3 waiting, 1 overdue; last error: nobody answers\n" in text


def test_addresses_that_are_kept_back_are_shown_on_request() -> None:
    """Each address with the reason why it is told to others, or is not."""
    kept = [{"addr": "/ip4/127.0.0.1/tcp/4001", "why": "only this machine can use it"}]
    found = {"not_announced": kept}
    assert "127.0.0.1" not in text_of(found)
    assert "Not told:         /ip4/127.0.0.1/tcp/4001: only this machine can use it" in text_of(found, verbose=True)


def test_long_lists_are_cut_short() -> None:
    """Without --verbose a screen is enough, and it says how many there are more."""
    many = {"unreachable_peers": {f"/ip4/10.0.0.{n}/tcp/1": "no" for n in range(100)}}
    lines = lines_of(many)
    assert len(lines) == len(lines_of({})) + MOST_LINES - 1
    assert f"... and {100 - MOST_LINES + 1} more (--verbose)" in "\n".join(lines)
    assert "10.0.0.99" in text_of(many, verbose=True)


def test_a_private_network_is_named() -> None:
    """Members can compare the fingerprint."""
    assert "yes (key 0123): only holders of the key" in text_of(
        {"private_network": True, "swarm_key_fingerprint": "0123"}
    )


def test_what_there_is_nothing_to_say_of_is_left_out() -> None:
    """A node that has just begun has few lines."""
    nothing = {
        "relay": {"enabled": False, "relays": [], "failures": {}, "serving": None},
        "hole_punches": {"succeeded": 0, "failed": 0, "last": []},
        "announced": [],
        "unreachable_peers": {},
        "sources": {"mdns": {"on": True}, "dht": {"on": False}},
        "providing": {"strategy": "off"},
        "finds": [],
        "errors": [],
    }
    text = text_of(nothing)
    assert "Hole punches:     none tried" in text
    assert f"Addresses:        {ADDR}" in text
    assert "Finds data by:    mdns: on\n                  dht: off\n" in text
    assert text.endswith(f"Announces:        nothing (setting `provide`)\nPrivacy:          {sentence('lan')}")
    for name in ("Relays", "Not reached", "Found lately", "Last errors", "Pins", "Gateway"):
        assert name not in text


def test_a_node_of_another_version() -> None:
    """What it says more is passed over. What it does not say, or says in another way, is an error that names it."""
    assert text_of({"moons": 2, "connected": [{**FOUND["connected"][0], "colour": "red"}]})
    with pytest.raises(WrongShape, match=r"its 'connected\[0\].direction' must be text"):
        text_of({"connected": [{**FOUND["connected"][0], "direction": 1}]})
    for key in ("peer_id", "sources", "bytes_sent"):
        less = {name: value for name, value in FOUND.items() if name != key}
        with pytest.raises(WrongShape, match=f"its '{key}' is missing"):
            from_json(Running, less)


_PLAIN = st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=5)
_FLAT = _PLAIN | st.lists(_PLAIN, max_size=2) | st.dictionaries(st.text(max_size=3), _PLAIN, max_size=3)
_FIGURES = st.dictionaries(st.sampled_from(["mode", "peers", "last_error", "why", "a figure"]), _FLAT, max_size=4)


def _strings(value: Any, text: str) -> Any:
    """The same with another text in the place of each."""
    if isinstance(value, dict):
        return {key: _strings(each, text) for key, each in value.items()}
    if isinstance(value, list):
        return [_strings(each, text) for each in value]
    return text if isinstance(value, str) else value


# The slowness of a machine that does other things, too, is no news here.
@given(text=st.text(max_size=5), figures=_FIGURES, verbose=st.booleans())
def test_no_answer_is_too_strange_to_be_shown(text: str, figures: dict[str, Any], verbose: bool) -> None:
    """Whatever texts and figures come, there are lines of printable characters, and no exception."""
    sources = {text: {**figures, "on": True}, "dht": {**figures, "why": text, "on": False}}
    with contextlib.suppress(WrongShape):  # of `why`
        for line in lines_of({**_strings(FOUND, text), "sources": sources}, verbose=verbose):
            assert harmless(line)


# --- asking ----------------------------------------------------------------------------------------------------------


@pytest.fixture(autouse=True)
def data(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    monkeypatch.setenv("KACHERY_CLOUD_DIR", str(tmp_path / "data"))

    def start(config: Any) -> Any:
        raise AssertionError("a node was started")

    monkeypatch.setattr(background, "get_connection", start)
    yield tmp_path / "data"
    close_repositories()


@pytest.fixture
def answering(data: Path) -> Iterator[Callable[[Any], None]]:
    """Call it with what a node of another process shall answer to "status" from then on."""
    answers: list[Any] = []
    stops: list[Callable[[], None]] = []

    def start(answer: Any) -> None:
        answers[:] = [answer]
        data.mkdir(mode=0o700, exist_ok=True)
        ready: Future[None] = Future()

        async def status(request: Nothing, progress: Any) -> Any:
            if answers[0] is None:
                await trio.sleep_forever()
            return answers[0]

        async def notify_stored(request: StoredNote, progress: Any) -> None:
            await trio.sleep(0.01)  # it writes to a database
            answer["stored"] += [request.cid, *request.more]

        async def main() -> None:
            with trio.CancelScope() as scope:
                async with trio.open_nursery() as nursery:
                    methods = by_name(Method(STATUS, status), Method(NOTIFY_STORED, notify_stored))
                    await nursery.start(serve_control, data, methods)
                    token = trio.lowlevel.current_trio_token()
                    stops.append(lambda: token.run_sync_soon(scope.cancel))
                    ready.set_result(None)

        thread = threading.Thread(target=trio.run, args=(main,), daemon=True)
        thread.start()
        ready.result(PATIENCE)
        stops.append(lambda: thread.join(PATIENCE))

    yield start
    for stop in stops:
        stop()


def run(*arguments: object) -> Result:
    return CliRunner().invoke(cli.cli, [str(each) for each in arguments])


def test_no_node_is_started_to_ask_it(data: Path) -> None:
    """Where none runs that is the answer, with what is set; and nothing is made on the disk."""
    found = kcl.status()
    assert found["running"] is False
    assert found["directory"] == str(data)
    assert found["peer_id"] is None
    assert found["private_network"] is False
    assert found["settings"]["sources"] == {
        "mdns": False,
        "lan-dht": True,
        "known": True,
        "dht": False,
        "delegated": False,
        "gateways": False,
    }
    assert kcl.get_node_info() == found
    assert not data.exists()
    json.dumps(found)


def test_what_is_said_where_no_node_runs(data: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """How to start one, who this machine is, and what it would do."""
    result = run("status")
    assert result.exit_code == 0
    assert "none is running here; start one with: kachery-cloud-node" in result.stdout
    assert "made at the first start" in result.stdout
    peer = load_or_create_identity(data).peer_id
    monkeypatch.setenv("KACHERY_CLOUD_PUBLIC", "on")
    text = run("status").stdout
    assert peer in text
    assert "Finds data by:    lan-dht, known, dht, delegated" in text
    assert "Does not use:     mdns" in text
    assert json.loads(run("status", "--json").stdout)["peer_id"] == peer


def test_a_stale_file_is_not_a_node(data: Path) -> None:
    """node.json of a process that was killed: none runs."""
    data.mkdir(mode=0o700)
    ControlEndpoint(1, "0" * 32, str(data / "node.sock"), None).write(data)
    assert kcl.status()["running"] is False


def test_the_node_of_another_process_answers(answering: Callable[[Any], None]) -> None:
    """What it says is passed on, marked as running."""
    answering({**FOUND, "bytes_sent": 7})
    assert kcl.status() == {**FOUND, "bytes_sent": 7, "warnings": []}
    assert json.loads(run("status", "--json").stdout)["bytes_sent"] == 7
    assert ME in run("status").stdout


def test_a_node_that_hangs_is_an_error(answering: Callable[[Any], None]) -> None:
    """It is not waited for without end, and it is not taken for none."""
    answering(None)
    with pytest.raises(NodeError, match="does not answer within 0 s") as caught:
        background.ask_running_node(kcl.load_config(), STATUS, NodeTimes(answer=0.2))
    assert caught.value.exit_code == 6
    assert not isinstance(caught.value, NodeGone)


def test_a_key_that_came_after_the_start_is_pointed_out(data: Path, answering: Callable[[Any], None]) -> None:
    """A node in the public network beside a swarm.key is one that has to be started again."""
    answering({**FOUND, "private_network": False})
    assert kcl.status()["warnings"] == []
    write_swarm_key(data / "swarm.key", bytes(32))
    assert ["process 4711" in warning for warning in kcl.status()["warnings"]] == [True]
    answering({**FOUND, "private_network": True, "swarm_key_fingerprint": fingerprint(bytes(32))})
    assert kcl.status()["warnings"] == []
    answering({**FOUND, "private_network": True, "swarm_key_fingerprint": "another"})
    assert "start it again" in run("status").stdout


def test_the_key_of_the_network_is_shown_by_its_fingerprint(data: Path) -> None:
    """And what is wrong with it, in words; never the key."""
    key = bytes(range(32))
    write_swarm_key(data / "swarm.key", key)
    found = kcl.status()
    assert (found["private_network"], found["swarm_key_fingerprint"]) == (True, fingerprint(key))
    (data / "swarm.key").chmod(0o644)
    assert "chmod 600" in run("status").stdout
    (data / "swarm.key").write_text("damaged")
    found = kcl.status()
    assert found["private_network"] is True
    assert "Line 1" in found["errors"][0]["what"]
    assert "Line 1" in run("status").stdout


def test_a_short_script_tells_the_node_what_it_stored(data: Path, answering: Callable[[Any], None]) -> None:
    """All of it, however many and however soon the script ends: else nobody would learn of it for hours."""
    answer: dict[str, Any] = {"stored": []}
    answering(answer)
    lock = NodeLock(data)
    assert lock.try_acquire()
    cids = [CID(1, RAW, sha256_multihash(bytes([number]))) for number in range(100)]
    connection = background.NodeConnection(kcl.load_config())
    for cid in cids:
        connection.notify_stored(cid)
    connection.close()
    assert answer["stored"] == cids
    lock.release()


# --- keys ------------------------------------------------------------------------------------------------------------


def test_keygen_writes_a_key_and_says_what_to_do(data: Path) -> None:
    """The path on stdout, the next steps on stderr, and a second key is refused."""
    result = run("keygen-swarm")
    assert (result.exit_code, result.stdout) == (0, f"{data / 'swarm.key'}\n")
    assert kcl.status()["swarm_key_fingerprint"] in result.stderr
    assert "Kubo" in result.stderr
    assert "Restart" in result.stderr
    assert (data / "swarm.key").read_text().splitlines()[2] not in result.output
    before = (data / "swarm.key").read_bytes()
    result = run("keygen-swarm", "--json")
    assert result.exit_code == 5
    assert json.loads(result.stdout)["error"]["type"] == SwarmKeyError.__name__
    assert (data / "swarm.key").read_bytes() == before


def test_keygen_elsewhere(data: Path, tmp_path: Path) -> None:
    """To a file of one's own, or to a pipe; the data directory is not touched then."""
    result = run("keygen-swarm", "--out", tmp_path / "lab.key")
    assert (result.exit_code, result.stdout) == (0, f"{tmp_path / 'lab.key'}\n")
    assert str(data) in result.stderr
    result = run("keygen-swarm", "--stdout")
    assert result.stdout.splitlines()[:2] == ["/key/swarm/psk/1.0.0/", "/base16/"]
    assert len(result.stdout.splitlines()[2]) == 64
    assert result.stderr == ""
    found = json.loads(run("keygen-swarm", "--stdout", "--json").stdout)
    assert found["key"].startswith("/key/swarm/psk/1.0.0/\n/base16/\n")
    assert found["key"] != result.stdout
    assert not data.exists()
    assert run("keygen-swarm", "--stdout", "--out", tmp_path / "x").exit_code == 2
