"""The checks of the doctor by themselves: what they say of what they are given, and how they are carried out."""

from __future__ import annotations

import datetime
import errno
import socket
import struct
from pathlib import Path

import pytest
import trio
from hypothesis import given
from hypothesis import strategies as st

from kachery_cloud.doctor.directory import check_file_system, judge_inodes, judge_room
from kachery_cloud.doctor.examine import CHECKS, Check, examine
from kachery_cloud.doctor.facts import Facts
from kachery_cloud.doctor.findings import Finding, Outcome, Report, found
from kachery_cloud.doctor.listeners import Wanted, judge_certificate, judge_port
from kachery_cloud.doctor.machine import judge_clock, judge_files, judge_python, judge_versions
from kachery_cloud.doctor.network import check_route, judge_dial
from kachery_cloud.doctor.node import judge_reachability, judge_sources
from kachery_cloud.doctor.owners import Owner, listening
from kachery_cloud.doctor.reading import read_all
from kachery_cloud.doctor.services import Answered, Service, ask_all, judge_answer
from kachery_cloud.doctor.text import is_well, lines, to_json
from kachery_p2p.http import HttpProblem
from kachery_p2p.node.status_messages import ReachabilityStatus, RelaySlot, RelayStatus, SourceStatus
from kachery_p2p.transport.addresses import parse_address
from kachery_p2p.units import GIB, MIB
from tests.helpers.certificates import self_signed


@pytest.fixture
def facts(tmp_path: Path) -> Facts:
    """Of a machine on which nothing is set."""
    return Facts(read_all({"KACHERY_CLOUD_DIR": str(tmp_path / "data")}))


# --- carrying them out ------------------------------------------------------------------------------------------------


async def test_checks_run_side_by_side_and_stop_nobody(facts: Facts, patient_clock: object) -> None:
    """One that fails, and one that hangs, say so; the others say what they found, all in the time of the slowest."""

    def raises(facts: Facts) -> Report:
        raise ZeroDivisionError("by nothing")

    async def hangs(facts: Facts) -> Report:
        await trio.sleep_forever()
        raise AssertionError

    async def slow(facts: Facts) -> Report:
        await trio.sleep(20)
        return Report("in the end")

    begun = trio.current_time()
    table = [Check("a", "A", raises), Check("b", "B", hangs), Check("c", "C", slow), Check("d", "D", slow)]
    outcomes = await examine(facts, table)
    assert trio.current_time() - begun == 30
    assert [each.name for each in outcomes] == ["a", "b", "c", "d"]
    assert [each.failed for each in outcomes] == ["by nothing", "it did not end within 30 seconds", "", ""]
    assert not is_well(outcomes)
    text = "\n".join(lines(outcomes))
    assert "A: by nothing." in text
    assert "2 checks failed" in text


def test_the_table() -> None:
    """Names are told apart, and each has a title and a bound."""
    assert len({check.name for check in CHECKS}) == len(CHECKS) >= 20
    assert all(check.title and check.seconds > 0 for check in CHECKS)


def test_what_is_said() -> None:
    """Advice is not counted as wrong; nothing that a terminal would obey, and no token, is shown."""
    advice = Finding("It is slow.", "It takes long.", "Wait.", grave=False)
    outcomes = [Outcome("a", "A", found([advice], "works")), Outcome("b", "B", Report("well"))]
    assert is_well(outcomes)
    assert next(iter(lines(outcomes))) == "Well: A (works); B (well)."
    wrong = Outcome("c", "C", found([Finding("Bad \x1b[31m.", "Why.", "Do.")], "works"))
    assert wrong.report.well == ""
    assert "\x1b" not in "\n".join(lines([wrong]))
    assert to_json([wrong])["ok"] is False


# --- the machine ------------------------------------------------------------------------------------------------------


@given(st.lists(st.floats(-50, 50), max_size=5))
def test_clocks_that_agree(ahead: list[float]) -> None:
    """Within a minute nothing is said."""
    assert judge_clock([("a", each, 0.6) for each in ahead]) == []


def test_clocks_that_do_not() -> None:
    """Where most others agree with each other against us, it is ours; where one is alone, it is that one's. How long an
    answer was on the way is allowed for."""
    (ours,) = judge_clock([("a", 7200.0, 1.0), ("b", 7190.0, 1.0), ("c", 0.0, 1.0)])
    assert ours.grave
    assert "2 hours slow" in ours.what
    (theirs,) = judge_clock([("a", -7200.0, 1.0), ("b", 0.0, 1.0), ("c", 1.0, 1.0)])
    assert not theirs.grave
    assert judge_clock([("a", 80.0, 30.0)]) == []


@pytest.mark.parametrize(
    ("ahead", "words"),
    [
        (7199.3, "2 hours slow"),
        (7200.0, "2 hours slow"),
        (7100.0, "118 minutes slow"),
        (-2 * 86400.0 + 0.5, "2 days fast"),
        (119.9, "2 minutes slow"),
        (-89.0, "89 seconds fast"),
    ],
)
def test_how_far_off_a_clock_is(ahead: float, words: str) -> None:
    """A reading arrives a moment after it was taken: a unit that is reached but for that moment is the right one."""
    (finding,) = judge_clock([("a", ahead, 0.1)])
    assert f"by a it is {words}." in finding.what


async def test_the_clock_of_a_service(facts: Facts) -> None:
    """Its `Date` is compared with our time, which is said to be a day behind."""
    import http.server
    import threading
    from dataclasses import replace

    class Handler(http.server.BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            self.send_response(204)
            self.end_headers()

        def log_message(self, format: str, *args: object) -> None:
            """Nothing."""

    server = http.server.HTTPServer(("127.0.0.1", 0), Handler)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    try:
        now = datetime.datetime.now().timestamp()
        behind = replace(facts, wall=lambda: now - 86400, monotonic=lambda: 0.0)
        (answer,) = await ask_all(behind, [Service("it", f"http://127.0.0.1:{server.server_port}/")])
    finally:
        server.shutdown()
        server.server_close()
    assert answer.ahead is not None
    assert 86000 < answer.ahead < 87500
    assert answer.error == 0.5


def test_python_and_libraries() -> None:
    """Too old a Python is advice; a library that is missing, or of a wrong version, is wrong; extras do not count."""
    assert judge_python((3, 13), "2026-11") == []
    assert "3.10" in judge_python((3, 10), "2026-11")[0].what
    wanted = ["trio>=0.27", "libp2p==0.8.1", "httpx[http2]>=0.27,<1", "pytest>=8; extra == 'test'", "hyper~=0.18.1"]
    good = {"trio": "0.31.0", "libp2p": "0.8.1", "httpx": "0.28.1", "hyper": "0.18.9"}
    assert judge_versions(wanted, good) == []
    (finding,) = judge_versions(wanted, {**good, "libp2p": "0.8.10"})
    assert "libp2p is there in version 0.8.10" in finding.what
    assert "pip install 'libp2p==0.8.1'" in finding.todo
    assert [each.what for each in judge_versions(wanted, {**good, "hyper": "0.19"})]
    assert "is missing" in judge_versions(["trio>=1"], {})[0].what


@pytest.mark.parametrize(("hard", "grave"), [(None, None), (4096, None), (300, False), (100, True)])
def test_open_files(hard: int | None, grave: bool | None) -> None:
    """Few are advice, very few are wrong."""
    assert [each.grave for each in judge_files(hard)] == ([] if grave is None else [grave])


# --- the data directory -----------------------------------------------------------------------------------------------


def test_room() -> None:
    """Plenty, little, none; and files that may still be made."""
    where = Path("/data")
    assert judge_room(where, 5 * GIB, 100 * GIB) == []
    assert [each.grave for each in judge_room(where, GIB // 2, 100 * GIB)] == [False]
    assert [each.grave for each in judge_room(where, MIB, 100 * GIB)] == [True]
    assert judge_inodes(where, 0, 0) == []
    assert judge_inodes(where, 500_000, 1_000_000) == []
    assert [each.grave for each in judge_inodes(where, 50, 1_000_000)] == [True]


def test_network_file_systems(facts: Facts) -> None:
    """One with locks is advice, one whose locks do not reach others is wrong."""
    (advice,) = check_file_system(facts, lambda path: "nfs4", lambda path: False).findings
    (wrong,) = check_file_system(facts, lambda path: "nfs", lambda path: True).findings
    assert (advice.grave, wrong.grave) == (False, True)
    assert check_file_system(facts, lambda path: None).findings == ()


# --- listening --------------------------------------------------------------------------------------------------------


def _row(address: str, port: int, state: str = "0A", uid: int = 33, inode: int = 77) -> str:
    return f"   0: {address}:{port:04X} 00000000:0000 {state} 00000000:00000000 00:00000000 00000000 {uid} 0 {inode} 1"


def test_who_listens() -> None:
    """Rows of /proc/net/tcp: those that are in the way, of either family, and no others."""
    local = struct.pack("=I", struct.unpack("!I", socket.inet_aton("127.0.0.1"))[0]).hex().upper()
    local = socket.inet_aton("127.0.0.1")[::-1].hex().upper() if struct.pack("=H", 1) == b"\x01\x00" else local
    table = "\n".join(["head", _row(local, 8095), _row("00000000", 9000, inode=78), _row(local, 8095, "01", inode=79)])
    assert list(listening(table, "127.0.0.1", 8095)) == [(77, 33)]
    assert list(listening(table, "0.0.0.0", 8095)) == [(77, 33)]
    assert list(listening(table, "192.168.1.1", 8095)) == []
    assert list(listening(table, "192.168.1.1", 9000)) == [(78, 33)]
    assert list(listening("head\n" + _row("0" * 32, 8095), "::1", 8095)) == [(77, 33)]


def test_ports() -> None:
    """Taken, of another machine, below 1024: what is told, and who has it."""
    place = Wanted("the pinning service", "0.0.0.0", 80, "--pinning-service")
    taken = judge_port(place, OSError(errno.EADDRINUSE, ""), Owner(12, "nginx", "www-data"))
    assert "by nginx (process 12 of the user www-data)" in taken.what
    assert "kill 12" in taken.todo
    assert "of the user mysql" in judge_port(place, OSError(errno.EADDRINUSE, ""), Owner(user="mysql")).what
    assert "by another program" in judge_port(place, OSError(errno.EADDRINUSE, ""), Owner()).what
    assert "CAP_NET_BIND_SERVICE" in judge_port(place, OSError(errno.EACCES, ""), Owner()).todo
    assert "does not have" in judge_port(place, OSError(errno.EADDRNOTAVAIL, ""), Owner()).what


def test_certificates(tmp_path: Path) -> None:
    """By a clock that is set by the test: before its time, in it, near its end, after it; and for which names."""
    from cryptography import x509

    path = self_signed(tmp_path, days=(0, 60))
    certificate = x509.load_pem_x509_certificates(path.read_bytes())[0]
    begins = certificate.not_valid_before_utc.timestamp()

    def said(days: float, *names: str) -> list[tuple[str, bool]]:
        return [(each.what, each.grave) for each in judge_certificate(path, certificate, names, begins + days * 86400)]

    assert said(1, "127.0.0.1") == []
    assert "not valid before" in said(-1)[0][0]
    assert [each[1] for each in said(50)] == [False]
    assert "expired on" in said(61)[0][0]
    assert "not for lab.example.org" in said(1, "127.0.0.1", "lab.example.org")[0][0]


# --- the network ------------------------------------------------------------------------------------------------------


def test_routes(facts: Facts) -> None:
    """None at all is wrong where public services are used; one of two families is enough."""
    assert [each.grave for each in check_route(facts, lambda family, host: False).findings] == [True]
    assert check_route(facts, lambda family, host: family == socket.AF_INET6).well


@pytest.mark.parametrize(
    ("error", "words"),
    [
        (OSError(errno.ECONNREFUSED, ""), "refused"),
        (OSError(errno.EHOSTUNREACH, "No route"), "no way from here"),
        (socket.gaierror(-2, "unknown"), "not known"),
        (TimeoutError(errno.ETIMEDOUT, ""), "does not answer"),
    ],
)
async def test_peers_that_do_not_answer(error: OSError, words: str) -> None:
    """Refused, no way, no such name, silence."""

    async def connects(address: object) -> OSError | None:
        return error

    async def plainly() -> str | None:
        raise AssertionError("not asked")

    said, todo = await judge_dial(parse_address("/dns4/lab.example.org/tcp/4001"), "why", True, connects, plainly)
    assert words in said
    assert todo


@pytest.mark.parametrize(
    ("keyed", "plain", "words"),
    [
        (False, "", "may be in a private network"),
        (True, None, "in no private network"),
        (True, "It has more than 5 bytes", "another swarm key"),
    ],
)
async def test_peers_that_do_not_speak_with_us(keyed: bool, plain: str | None, words: str) -> None:
    """Something listens there; by which keys it can be spoken to tells what is wrong, whatever it said."""

    async def connects(address: object) -> OSError | None:
        return None

    async def plainly() -> str | None:
        return plain

    address = parse_address("/ip4/192.0.2.1/tcp/4001")
    said, todo = await judge_dial(address, "It has more than 5 bytes.", keyed, connects, plainly)
    assert words in said
    assert "swarm.key" in said + todo


def _relay(*relays: RelaySlot) -> RelayStatus:
    return RelayStatus(True, relays, {}, None)


def test_what_a_node_says() -> None:
    """Not reachable: wrong, or with a relay, advice; a DHT without peers is wrong; multicast that fails, advice."""
    private = ReachabilityStatus("private", "three peers said so", "")
    assert [each.grave for each in judge_reachability(private, _relay()).findings] == [True]
    slot = RelaySlot("relay", (), 60, 0, 0)
    assert [each.grave for each in judge_reachability(private, _relay(slot)).findings] == [False]
    assert judge_reachability(ReachabilityStatus("public", "", ""), _relay()).well
    assert judge_reachability(ReachabilityStatus("unknown", "", ""), _relay()).findings == ()
    empty = {"dht": SourceStatus(True, figures={"peers": 0})}
    assert "no peers" in judge_sources(empty).findings[0].what
    assert "12 peers" in judge_sources({"dht": SourceStatus(True, figures={"peers": 12})}).well
    assert judge_sources({"dht": SourceStatus(False, "off")}).findings == ()
    held = {"interfaces": [{"name": "eth0", "problems": ["Port 5353 is held."]}]}
    assert [each.grave for each in judge_sources({"mdns": SourceStatus(True, figures=held)}).findings] == [False]


@pytest.mark.parametrize(
    ("answer", "words"),
    [
        (Answered(200), ""),
        (Answered(429), ""),
        (Answered(401), "refuses the token"),
        (Answered(403), "may not do this"),
        (Answered(404), "does not have what is asked for"),
        (Answered(302), "does not have what is asked for"),
        (Answered(500), "fails"),
        (Answered(problem=HttpProblem.SLOW), "does not answer in time"),
        (Answered(problem=HttpProblem.UNREACHABLE, words="refused"), "cannot be reached: refused"),
        (Answered(problem=HttpProblem.UNREACHABLE, words="certificate has expired"), "certificate of the service"),
        (Answered(problem=HttpProblem.UNREACHABLE, words="certificate: Hostname mismatch"), "Use the name"),
    ],
)
def test_services(answer: Answered, words: str) -> None:
    """What each answer comes to."""
    finding = judge_answer(Service("the service", "https://lab.example.org/pins", "token", "lost", "repair"), answer)
    assert (finding is None) == (not words)
    if finding is not None:
        assert words in f"{finding.what} {finding.todo}"
