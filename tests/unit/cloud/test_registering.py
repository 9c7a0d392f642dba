"""Registering with a lab's node: what is kept of it and what is not, what is asked again, and keys of issuers."""

from __future__ import annotations

import json
import stat
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from kachery_cloud.errors import ConfigError, ProofRefused, SignInError
from kachery_cloud.ownership import registering
from kachery_cloud.ownership.archive import (
    ISSUERS_NAME,
    MAX_KEYS,
    MAX_SET,
    KeySet,
    believed,
    public_keys,
    read_key_set,
    read_time,
    remember,
)
from kachery_cloud.ownership.claims import Malformed
from kachery_cloud.ownership.kept import Kept, forget_proof, keep_proof, own_proof, read_kept
from kachery_cloud.ownership.lab_api import LabAPI, Refused, Unreachable, in_the_clear, node_url
from kachery_cloud.ownership.labs import LABS_NAME, Lab, keep_lab, known_labs
from kachery_cloud.ownership.registering import check_label, default_label, forget, register
from kachery_cloud.settings.config import Config, load_config, write_setting
from kachery_cloud.settings.pin_tokens import find_token
from kachery_cloud.utc import time_text
from kachery_p2p.repo.keys import new_identity
from tests.helpers.proofs import CLIENT, GOT, ISSUER, RSA, STRANGER, good, issuers

ME = new_identity()
NODE = new_identity().peer_id
URL = "https://lab.example.org"
PUBLIC = f"/ip4/192.0.2.7/tcp/4001/p2p/{NODE}"
ABOUT = {
    "name": "Lab of Neural Circuits",
    "peer_id": NODE,
    "sign_in": "invitation",
    "addresses": [
        PUBLIC,
        f"/ip4/127.0.0.1/tcp/4001/p2p/{NODE}",
        f"/ip4/192.0.2.8/tcp/4001/p2p/{ME.peer_id}",
        "nonsense",
        5,
    ],
}
DONE = {"state": "registered", "owner": {"name": "Ada", "email": "ada@example.org"}, "token": "t0ken", "proof": None}
BEGUN = {"id": "r1", "secret": "s3cret", "url": f"{URL}/register/r1", "code": "AAAA-BBBB", "expires": "..."}


class Front:
    """Notes what was shown and said."""

    def __init__(self) -> None:
        self.shown: list[tuple[str, str, str]] = []
        self.said: list[str] = []

    def show_registration(self, url: str, code: str, node: str) -> None:
        self.shown.append((url, code, node))

    def say(self, text: str) -> None:
        self.said.append(text)


class Node:
    """A lab's node that answers what the test says, in the place of the requests of `LabAPI`: what a real one does is
    in `e2e/test_registering.py`."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.asked: list[tuple[str, str, Any]] = []
        self.answers: dict[tuple[str, str], Any] = {
            ("GET", ""): ABOUT,
            ("POST", "/registrations"): BEGUN,
            ("GET", "/registrations/r1"): DONE,
            ("GET", "/me"): {},
            ("DELETE", f"/clients/{ME.peer_id}"): {},
        }

        def ask(api: LabAPI, method: str, path: str, body: bytes = b"", headers: Any = None) -> Any:
            self.asked.append((method, path, json.loads(body) if body else None))
            answer = self.answers[method, path]
            found = next(answer) if isinstance(answer, Iterator) else answer
            if isinstance(found, Exception):
                raise found
            return found

        monkeypatch.setattr(LabAPI, "_ask", ask)


@pytest.fixture
def node(monkeypatch: pytest.MonkeyPatch) -> Node:
    return Node(monkeypatch)


@pytest.fixture
def config(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Config:
    monkeypatch.setenv("KACHERY_CLOUD_DIR", str(tmp_path / "data"))
    (tmp_path / "data").mkdir()
    return load_config()


def again(config: Config) -> Config:
    return load_config({"KACHERY_CLOUD_DIR": str(config.directory)})


class Pauses(list[float]):
    def __call__(self, seconds: float) -> None:
        self.append(seconds)


# --- what is kept ----------------------------------------------------------------------------------------------------


def test_what_is_kept_of_a_registration(node: Node, config: Config) -> None:
    """The service with its token, the node's addresses that others can dial, and whose client this is."""
    write_setting(config.directory, "peers", ["/ip4/192.0.2.1/tcp/4001"])
    front = Front()
    found = register(config, ME, f"{URL}/", front, label=" laptop ", pause=Pauses())
    assert front.shown == [(f"{URL}/register/r1", "AAAA-BBBB", "Lab of Neural Circuits")]
    assert ("POST", "/registrations", {"label": "laptop"}) in node.asked
    now = again(config)
    (service,) = now.pin_services
    assert (service.name, service.url, service.default) == ("lab-of-neural-circuits", URL, True)
    assert find_token(now, service) == "t0ken"
    assert now.peers == ("/ip4/192.0.2.1/tcp/4001", PUBLIC)
    lab = known_labs(config.directory)[URL]
    assert (lab.owner_name, lab.owner_email, lab.label, lab.peers) == ("Ada", "ada@example.org", "laptop", (PUBLIC,))
    assert "s3cret" not in (config.directory / LABS_NAME).read_text()
    assert (found.new, found.proof) == (True, False)
    assert stat.S_IMODE((config.directory / LABS_NAME).stat().st_mode) == 0o600


def test_once_more_changes_nothing(node: Node, config: Config) -> None:
    """Neither where the node says that it knows this machine, nor where it is away, nor where the clock is off."""
    register(config, ME, URL, Front(), pause=Pauses())
    before = {path.name: path.read_bytes() for path in config.directory.iterdir()}
    assert not register(again(config), ME, URL, Front(), label="other", pause=Pauses()).new
    node.answers["GET", "/me"] = Unreachable("It cannot be reached.")
    front = Front()
    assert not register(again(config), ME, URL, front, pause=Pauses()).new
    assert front.said == ["It cannot be reached. What is said here is what was so before."]
    node.answers["GET", "/me"] = Refused("Set the clock.", 401, "CLOCK")
    with pytest.raises(Refused, match="clock"):
        register(again(config), ME, URL, Front(), pause=Pauses())
    assert {path.name: path.read_bytes() for path in config.directory.iterdir()} == before


def test_two_services_of_one_name_do_not_meet(node: Node, config: Config) -> None:
    """Another lab of the same name gets another name here; the same node keeps that of its service."""
    register(config, ME, URL, Front(), pause=Pauses())
    register(again(config), ME, "https://other.example.org", Front(), pause=Pauses())
    names = {service.url: service.name for service in again(config).pin_services}
    assert names == {URL: "lab-of-neural-circuits", "https://other.example.org": "lab-of-neural-circuits-2"}
    keep_lab(config.directory, URL, None)
    register(again(config), ME, URL, Front(), pause=Pauses())
    assert {service.url: service.name for service in again(config).pin_services} == names


def test_forgetting_takes_back_what_registering_wrote(node: Node, config: Config) -> None:
    """And nothing that the user has changed since; also where the node refuses, or does not answer."""
    for answer, told in (({}, True), (Refused("Gone.", 404, ""), True), (Unreachable("Away."), False)):
        register(again(config), ME, URL, Front(), pause=Pauses())
        node.answers["DELETE", f"/clients/{ME.peer_id}"] = answer
        assert forget(again(config), ME, URL).told is told
        now = again(config)
        assert (now.pin_services, now.peers, known_labs(config.directory)) == ((), (), {})
    with pytest.raises(ConfigError, match="not registered with"):
        forget(again(config), ME, URL)


# --- waiting ---------------------------------------------------------------------------------------------------------


def test_waiting_asks_less_and_less_often(node: Node, config: Config) -> None:
    """Until it is registered; a node that is away for a while, or has too much to do, is asked again."""
    states: list[Any] = [{"state": "waiting"}] * 20
    states[3] = Unreachable("Away.")
    states[5] = Refused("Busy.", 429, "", 30.0)
    node.answers["GET", "/registrations/r1"] = iter([*states, DONE])
    pauses = Pauses()
    assert register(config, ME, URL, Front(), pause=pauses).new
    assert pauses[:3] == [registering.FIRST_PAUSE * registering.SLOWER**n for n in range(3)]
    assert pauses[5] == 30.0
    assert max(pauses[6:]) <= registering.LONGEST_PAUSE


def test_a_node_that_stays_away(node: Node, config: Config) -> None:
    """Waiting ends, and what was asked for stands."""
    node.answers["GET", "/registrations/r1"] = Unreachable("Away.")
    with pytest.raises(SignInError, match="The registration stands"):
        register(config, ME, URL, Front(), pause=Pauses())
    assert known_labs(config.directory)[URL].state == "waiting"


@pytest.mark.parametrize(
    ("answer", "says"),
    [
        ({"state": "refused"}, "Somebody refused"),
        ({"state": "expired"}, "in time"),
        (Refused("There is no such registration.", 404, ""), "no such registration"),
        ({"state": None}, "in time"),
    ],
)
def test_what_ends_the_waiting(answer: Any, says: str, node: Node, config: Config) -> None:
    """Nothing of it is left, so that the next time begins anew."""
    node.answers["GET", "/registrations/r1"] = answer
    with pytest.raises(SignInError, match=says):
        register(config, ME, URL, Front(), pause=Pauses())
    assert known_labs(config.directory) == {}
    assert again(config).pin_services == ()


@pytest.mark.parametrize(
    ("where", "answer"),
    [
        ("", {"name": 5, "peer_id": NODE}),
        ("", {}),
        ("/registrations", {**BEGUN, "url": "javascript:alert(1)"}),
        ("/registrations", {**BEGUN, "url": "https://lab.example.org/ x"}),
        ("/registrations", {**BEGUN, "secret": None}),
        ("/registrations/r1", {**DONE, "token": ""}),
        ("/registrations/r1", {**DONE, "token": "two words"}),
        ("/registrations/r1", {**DONE, "owner": None}),
    ],
)
def test_a_node_that_answers_nonsense(where: str, answer: Any, node: Node, config: Config) -> None:
    """A sentence; no link that is none is shown, and no service is set up."""
    node.answers["POST" if where == "/registrations" else "GET", where] = answer
    front = Front()
    with pytest.raises((SignInError, ConfigError), match=r"\.$|init|alone"):
        register(config, ME, URL, front, pause=Pauses())
    assert not front.shown or where == "/registrations/r1"
    assert again(config).pin_services == ()


def test_words_of_the_node_are_shown_as_text(node: Node, config: Config) -> None:
    """Names that it gives cannot do anything to a terminal."""
    node.answers["GET", ""] = {**ABOUT, "name": "\x1b[2JLab"}
    node.answers["GET", "/registrations/r1"] = {**DONE, "owner": {"name": "A\x1b[1m", "email": 5}}
    lab = register(config, ME, URL, Front(), pause=Pauses()).lab
    assert (lab.name, lab.owner_name, lab.owner_email) == ("\\x1b[2JLab", "A\\x1b[1m", "")


# --- URLs and labels -------------------------------------------------------------------------------------------------


def test_urls_of_nodes() -> None:
    """As people have them: with the path of the pins or a slash behind; nothing else."""
    for text in (URL, f" {URL}/ ", f"{URL}/pins", f"{URL}/api/v1/", "https://LAB.example.org"):
        assert node_url(text) == URL
    for text in ("lab.example.org", "ftp://lab", f"{URL}?token=x", "https://user:word@lab.example.org", ""):
        with pytest.raises(ConfigError, match="not the URL"):
            node_url(text)
    assert in_the_clear("http://192.168.1.7:8095")
    assert not in_the_clear("http://127.0.0.1:8095")
    assert not in_the_clear(URL)


def test_labels() -> None:
    """One line, not too long; the host's name by default."""
    assert check_label("  Ann's laptop ") == "Ann's laptop"
    assert check_label(default_label())
    for text in ("a\nb", "x" * 101, "\x1b"):
        with pytest.raises(ConfigError, match="one line"):
            check_label(text)


# --- files -----------------------------------------------------------------------------------------------------------

SEEN = KeySet(ISSUER, GOT, issuers()[ISSUER].keys, (CLIENT,))


def test_a_proof_is_kept_and_taken_away(tmp_path: Path) -> None:
    """Readable by its owner alone; what is damaged says what to do."""
    assert own_proof(tmp_path) is None
    keep_proof(tmp_path, Kept(good(), SEEN))
    path = tmp_path / "ownership.json"
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    assert own_proof(tmp_path) == Kept(good(), SEEN)
    path.write_text("{")
    with pytest.raises(ConfigError, match="sign in again"):
        own_proof(tmp_path)
    assert forget_proof(tmp_path)
    assert not forget_proof(tmp_path)


def test_keys_are_remembered_with_their_times(tmp_path: Path) -> None:
    """A key that was seen again has both times; one that is not published any more stays."""
    config = Config(tmp_path)
    assert believed(config) == {}
    remember(tmp_path, SEEN)
    other = STRANGER.as_dict(private=False)
    remember(tmp_path, KeySet(ISSUER, GOT + 100, (other, SEEN.keys[0]), ("second",)))
    stored = json.loads((tmp_path / ISSUERS_NAME).read_text())["issuers"][ISSUER]
    times = {each["key"]["n"][:9]: (each["first"], each["last"]) for each in stored["keys"] if "n" in each["key"]}
    assert times[SEEN.keys[0]["n"][:9]] == (time_text(GOT), time_text(GOT + 100))
    assert times[str(other["n"])[:9]] == (time_text(GOT + 100), time_text(GOT + 100))
    found = believed(config)[ISSUER]
    assert found.audiences == {CLIENT, "second"}
    assert len(found.keys) == 3


def test_the_client_id_of_the_settings_counts(tmp_path: Path) -> None:
    """For its own issuer, also before anybody has signed in; and for no other."""
    config = Config(tmp_path, openid_issuer="https://x.example.org", openid_client_id="mine")
    remember(tmp_path, SEEN)
    assert believed(config)["https://x.example.org"].audiences == {"mine"}
    assert believed(config)[ISSUER].audiences == {CLIENT}
    assert believed(replace(config, openid_issuer=ISSUER))[ISSUER].audiences == {CLIENT, "mine"}


def test_the_archive_is_bounded(tmp_path: Path) -> None:
    """The keys that were seen longest ago go first."""
    keys = [{"kty": "RSA", "kid": str(n), "n": "x", "e": "AQAB"} for n in range(MAX_KEYS + 10)]
    for start in range(0, len(keys), MAX_SET):
        remember(tmp_path, KeySet(ISSUER, GOT + start, tuple(keys[start : start + MAX_SET])))
    found = believed(Config(tmp_path))[ISSUER].keys
    assert len(found) == MAX_KEYS
    assert found[-1] == keys[-1]


def test_private_parts_of_keys_are_left_out() -> None:
    """And shared secrets, what is no key, and what is too long."""
    given_keys = [RSA.as_dict(private=True), {"kty": "oct", "k": "s3cret"}, 5, {"kty": "RSA", "n": "x" * 5000}, {}]
    (found,) = public_keys(given_keys)
    assert set(found) <= {"kty", "kid", "use", "alg", "n", "e"}
    with pytest.raises(Malformed):
        public_keys({"keys": []})
    with pytest.raises(Malformed):
        public_keys([{}] * (MAX_SET + 1))


json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.text(max_size=20),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=10), inner, max_size=4),
    max_leaves=10,
)


@given(json_values)
def test_any_json_in_the_files(value: Any) -> None:
    """It is read, or refused in a sentence."""
    for whole in (value, {"version": 1, "proof": good().to_json(), "keys": value}):
        with pytest.raises(ProofRefused, match="cannot be read"):
            read_kept(json.dumps(whole).encode())
    with pytest.raises(Malformed):
        read_key_set(value)


@pytest.mark.parametrize("text", ["", "[]", "{}", '{"issuers": 5}', '{"issuers": {"a": {"keys": [5]}}}', "\x00"])
def test_files_that_are_damaged(text: str, tmp_path: Path) -> None:
    """The error names the file, and what to do."""
    (tmp_path / ISSUERS_NAME).write_text(text)
    with pytest.raises(ConfigError, match=ISSUERS_NAME):
        believed(Config(tmp_path))
    (tmp_path / LABS_NAME).write_text(text.replace("issuers", "labs"))
    with pytest.raises(ConfigError, match=LABS_NAME):
        known_labs(tmp_path)


@given(st.integers(0, 4_000_000_000))
def test_times_come_back(seconds: int) -> None:
    """To the second."""
    assert read_time(time_text(seconds)) == seconds


def test_labs_come_back(tmp_path: Path) -> None:
    """Each with all that is known of it."""
    lab = Lab("waiting", "Lab", NODE, "laptop", "id", "secret", f"{URL}/register/id", "AAAA-BBBB", "claims")
    keep_lab(tmp_path, URL, lab)
    keep_lab(tmp_path, "https://other.example.org", replace(lab, state="registered", peers=(PUBLIC,)))
    found = known_labs(tmp_path)
    assert found[URL] == lab
    assert found["https://other.example.org"].peers == (PUBLIC,)
    keep_lab(tmp_path, URL, None)
    assert list(known_labs(tmp_path)) == ["https://other.example.org"]
