"""What all tests share. No test touches the user's data directory or leaves loopback; nothing it starts outlives it."""

from __future__ import annotations

import os
import signal
import socket
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
from hypothesis import HealthCheck, settings

from scripts.peers import GoLibp2p, Helia, Kubo, missing, missing_go
from scripts.workstation import KEEP_TO_ITSELF, Workstation
from tests.helpers.clocks import PatientClock, Threads

if TYPE_CHECKING:
    from tests.helpers.openid import OpenIDProvider

# Tests hold on a busy machine: hypothesis must not take the time of an example. Those that share a fixture with all
# examples know it. A test that names checks of its own would bring the others back.
settings.register_profile(
    "patient", deadline=None, suppress_health_check=[HealthCheck.too_slow, HealthCheck.function_scoped_fixture]
)
settings.load_profile("patient")

StartKubo = Callable[..., Kubo]
StartHelia = Callable[..., Helia]
StartGoLibp2p = Callable[..., GoLibp2p]
StartWorkstation = Callable[..., Workstation]
StartOpenID = Callable[..., "OpenIDProvider"]


def pytest_configure() -> None:
    """A run that was started in the background ignores Ctrl-C, and so would all that it starts, also where a test sends
    it: what has a handler here has the default there."""
    if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
        signal.signal(signal.SIGINT, signal.default_int_handler)


@pytest.fixture(scope="session", autouse=True)
def _environment(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """Settings of the user do not reach the tests, and wider fixtures work in a temporary directory, too."""
    saved = {key: os.environ.pop(key) for key in list(os.environ) if key.startswith("KACHERY_CLOUD_")}
    base = tmp_path_factory.mktemp("kachery")
    os.environ.update(KEEP_TO_ITSELF)
    os.environ["KACHERY_CLOUD_DIR"] = str(base / "session")
    yield base
    for key in [key for key in os.environ if key.startswith("KACHERY_CLOUD_")]:
        del os.environ[key]
    os.environ.update(saved)


@pytest.fixture(autouse=True)
def _own_directory(_environment: Path) -> Iterator[None]:
    """Each test has a data directory of its own, and leaves the settings as it found them."""
    before = {key: value for key, value in os.environ.items() if key.startswith("KACHERY_CLOUD_")}
    _own_directory_number[0] += 1
    os.environ["KACHERY_CLOUD_DIR"] = str(_environment / f"test-{_own_directory_number[0]}")
    yield
    for key in [key for key in os.environ if key.startswith("KACHERY_CLOUD_")]:
        del os.environ[key]
    os.environ.update(before)


_own_directory_number = [0]


@pytest.fixture(scope="session")
def free_port() -> Callable[[], int]:
    """Gives TCP ports of 127.0.0.1 that nothing listens on."""

    def find() -> int:
        with socket.socket(socket.AF_INET, socket.SOCK_STREAM) as sock:
            sock.bind(("127.0.0.1", 0))
            return sock.getsockname()[1]

    return find


@pytest.fixture
def patient_clock(monkeypatch: pytest.MonkeyPatch) -> PatientClock:
    """Virtual time that jumps ahead when all wait, but not while a thread is at work: for real files and sockets."""
    threads = Threads()
    threads.watch(monkeypatch)
    return PatientClock(threads)


# --- workstations ----------------------------------------------------------------------------------------------------


def _workstations(folder: Path, stack: ExitStack) -> StartWorkstation:
    made: list[Workstation] = []

    def make(*, env: dict[str, str] | None = None) -> Workstation:
        made.append(stack.enter_context(Workstation(folder / f"workstation-{len(made)}", env=env)))
        return made[-1]

    return make


@pytest.fixture
def workstation(tmp_path: Path) -> Iterator[StartWorkstation]:
    """Makes workstations that live for one test; `.start()` runs a node there."""
    with ExitStack() as stack:
        yield _workstations(tmp_path, stack)


@pytest.fixture(scope="module")
def module_workstation(tmp_path_factory: pytest.TempPathFactory) -> Iterator[StartWorkstation]:
    """Makes workstations that live for the tests of one module."""
    with ExitStack() as stack:
        yield _workstations(tmp_path_factory.mktemp("workstations"), stack)


# --- real peers ------------------------------------------------------------------------------------------------------


@pytest.fixture(scope="session")
def _peers_present() -> None:
    """Real peers are needed: without them a test is skipped, but in CI it fails."""
    reason = missing()
    if reason is not None:
        if os.environ.get("CI"):
            pytest.fail(f"CI must test with real peers, but {reason}")
        pytest.skip(reason)


@pytest.fixture
def start_kubo(_peers_present: None) -> Iterator[StartKubo]:
    """Starts Kubo nodes (with the options of `scripts.peers.Kubo`) that live for one test."""
    with ExitStack() as stack:
        yield lambda **options: stack.enter_context(Kubo(**options))


@pytest.fixture
def start_helia(_peers_present: None) -> Iterator[StartHelia]:
    """Starts Helia nodes (with the options of `scripts.peers.Helia`) that live for one test."""
    with ExitStack() as stack:
        yield lambda **options: stack.enter_context(Helia(**options))


@pytest.fixture
def start_openid(_peers_present: None) -> Iterator[StartOpenID]:
    """Starts OpenID providers (with the arguments of `OpenIDProvider`) that live for one test."""
    from tests.helpers.openid import OpenIDProvider

    with ExitStack() as stack:
        yield lambda **options: stack.enter_context(OpenIDProvider(**options))


@pytest.fixture
def start_golibp2p() -> Iterator[StartGoLibp2p]:
    """Starts go-libp2p nodes (with the options of `scripts.peers.GoLibp2p`) that live for one test."""
    reason = missing_go()
    if reason is not None:
        if os.environ.get("CI"):
            pytest.fail(f"CI must test with real peers, but {reason}")
        pytest.skip(reason)
    with ExitStack() as stack:
        yield lambda **options: stack.enter_context(GoLibp2p(**options))


@pytest.fixture(scope="module")
def kubo(_peers_present: None) -> Iterator[Kubo]:
    """One Kubo node for the tests of a module. It keeps what one test brought, so tests use data of their own."""
    with Kubo(no_fsync=True) as node:  # the tests are not about its disk
        yield node


@pytest.fixture(scope="module")
def helia(_peers_present: None) -> Iterator[Helia]:
    """One Helia node for the tests of a module. It keeps what one test brought, so tests use data of their own."""
    with Helia(in_memory=True) as node:
        yield node
