"""Members and their clients: who may come in, and what remains of whom, whatever happens in which order."""

from __future__ import annotations

import tempfile
import threading
from collections.abc import Callable
from pathlib import Path

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, rule

from kachery_cloud.lab import limits
from kachery_cloud.lab.accounts_store import CLIENT, Accounts, Member
from kachery_cloud.lab.database import LabDatabase
from kachery_cloud.lab.id_tokens import SignedIn
from kachery_cloud.lab.invitations import Invitations
from kachery_cloud.lab.registrations import Registrations, token_of
from kachery_cloud.lab.sessions import Sessions
from kachery_cloud.lab.sessions import hash_of as hash_of_secret
from kachery_cloud.lab.sign_in import is_admitted
from kachery_cloud.settings.config import GOOGLE, Config
from kachery_p2p.pinning.server.requests import Refusal
from kachery_p2p.pinning.server.store import STORE_NAME, PinStore, hash_of
from tests.helpers.lab import Wall

ISSUER = "https://accounts.example.org"


class Opened:
    """The stores of one directory."""

    def __init__(self, folder: Path) -> None:
        self.wall = Wall()
        self.database = LabDatabase(folder, wall=self.wall)
        self.pins = PinStore(folder / STORE_NAME, wall=self.wall)
        self.accounts = Accounts(self.database, self.pins)
        self.sessions = Sessions(self.database)
        self.invitations = Invitations(self.database)
        self.registrations = Registrations(self.database)

    def close(self) -> None:
        """Close the files."""
        self.database.close()
        self.pins.close()


@pytest.fixture
def opened(tmp_path: Path) -> Opened:
    """The stores of a directory."""
    return Opened(tmp_path)


def test_only_hashes_are_kept(opened: Opened, tmp_path: Path) -> None:
    """No secret of a session, an invitation, a registration or a token is in a file."""
    member = opened.accounts.add_member("Alice")
    secrets = [opened.sessions.begin(member.id), opened.invitations.make(member.id)[0]]
    secret, made = opened.registrations.begin("12D3KooWPeer", "laptop", "192.0.2.1")
    _, token, _ = opened.registrations.decide(made.id, "registered", member.id)
    opened.accounts.register(member.id, "12D3KooWPeer", "laptop", token)
    assert opened.pins.token(token_of(secret)) is not None
    opened.close()
    written = b"".join(path.read_bytes() for path in tmp_path.iterdir())
    assert b"12D3KooWPeer" in written
    for each in (*secrets, secret, token_of(secret)):
        assert each.encode() not in written


def test_a_member_who_is_removed_while_registering(opened: Opened) -> None:
    """Whatever comes first, no token is left of somebody who is none of the members."""
    for turn in range(20):
        member = opened.accounts.add_member(f"member {turn}")
        peer = f"12D3KooW{turn}"
        begin = threading.Barrier(2)
        outcome: list[str] = []

        def register(member: Member = member, peer: str = peer, begin: threading.Barrier = begin) -> None:
            begin.wait()
            try:
                opened.accounts.register(member.id, peer, "laptop", hash_of(peer))
                outcome.append("registered")  # noqa: B023 - this thread ends within this turn
            except Refusal as refusal:
                outcome.append(refusal.reason)  # noqa: B023

        thread = threading.Thread(target=register)
        thread.start()
        begin.wait()
        opened.accounts.remove_member(member.id)
        thread.join()
        assert outcome[0] in ("registered", "NOT_FOUND", "REMOVED")
        assert opened.accounts.client(peer) is None
        assert opened.pins.token(peer) is None


def test_a_crash_between_two_steps(opened: Opened) -> None:
    """A token whose client is gone is taken away when the node begins anew; others stay, also those made by hand."""
    member = opened.accounts.add_member("Alice")
    for peer in ("one", "two"):
        opened.accounts.register(member.id, peer, "laptop", hash_of(peer))
    made = opened.pins.add_token("carol")
    assert made is not None
    with opened.database.write() as db:
        db.execute("DELETE FROM clients WHERE peer = 'one'")
    opened.accounts.reconcile()
    assert opened.pins.token("one") is None
    assert opened.pins.token("two") is not None
    assert opened.pins.token(made[0]) is not None


def test_a_quota_goes_to_all_computers(opened: Opened) -> None:
    """Those that there are when it changes, and those that come later."""
    member = opened.accounts.add_member("Alice", quota=10)
    opened.accounts.register(member.id, "one", "laptop", hash_of("one"))
    assert opened.accounts.change_member(member.id, quota=20).quota == 20
    opened.accounts.register(member.id, "two", "laptop", hash_of("two"))
    assert [token.quota for token in opened.pins.tokens()] == [20, 20]
    opened.accounts.change_member(member.id, quota=None)
    assert [token.quota for token in opened.pins.tokens()] == [None, None]


@pytest.mark.parametrize(
    ("email", "domain", "issuer", "admitted"),
    [
        ("ada@lab.org", None, ISSUER, True),
        ("eve@else.org", None, ISSUER, False),
        ("bob@inst.edu", None, ISSUER, True),
        ("bob@sub.inst.edu", None, ISSUER, False),
        ("bob@inst.edu.evil.org", None, ISSUER, False),
        (None, "inst.edu", ISSUER, False),
        # At Google the organisation counts, not what an address once was.
        ("bob@inst.edu", None, GOOGLE, False),
        ("bob@inst.edu", "inst.edu", GOOGLE, True),
        ("bob@inst.edu", "else.org", GOOGLE, False),
        ("ada@lab.org", None, GOOGLE, True),
        ("x@gmail.com", None, GOOGLE, True),
    ],
)
def test_who_is_let_in(tmp_path: Path, email: str | None, domain: str | None, issuer: str, admitted: bool) -> None:
    """By address, or by domain."""
    config = Config(tmp_path, lab_members=("ada@lab.org", "@inst.edu", "@gmail.com"), openid_issuer=issuer)
    assert is_admitted(config, SignedIn("s", "n", email, domain)) == admitted


def test_sessions_have_a_bound(opened: Opened) -> None:
    """The oldest ends; and a session that is noted seldom still lives on."""
    member = opened.accounts.add_member("Alice")
    secrets = []
    for _ in range(limits.MAX_SESSIONS + 2):
        secrets.append(opened.sessions.begin(member.id))
        opened.wall.now += 1
    assert [opened.sessions.find(each) is not None for each in secrets] == [False] * 2 + [True] * limits.MAX_SESSIONS
    opened.wall.now += limits.SESSION_LIFE
    opened.sessions.forget_old()
    assert opened.database.one("SELECT count(*) FROM sessions") == (0,)


def refused(work: Callable[[], object]) -> str:
    """Do something: why it was refused; empty where it was not."""
    try:
        work()
    except Refusal as refusal:
        return refusal.reason
    return ""


class Histories(RuleBasedStateMachine):
    """Anything that may be done, in any order; what has to hold holds after each step."""

    def __init__(self) -> None:
        super().__init__()
        self.folder = tempfile.TemporaryDirectory()
        self.opened = Opened(Path(self.folder.name))
        self.ids: list[str] = []
        self.secrets: dict[str, str] = {}

    def teardown(self) -> None:
        self.opened.close()
        self.folder.cleanup()

    def some(self, number: int) -> str:
        """The ID of some member, who may be none any more."""
        return self.ids[number % len(self.ids)] if self.ids else "none"

    @rule(name=st.sampled_from("abc"), admin=st.booleans(), address=st.booleans())
    def add(self, name: str, admin: bool, address: bool) -> None:
        email = f"{name}@example.org" if address else None
        role = "administrator" if admin else "member"

        def add() -> None:
            self.ids.append(self.opened.accounts.add_member(name, email=email, role=role).id)

        assert refused(add) in ("", "MEMBER_EXISTS")

    @rule(who=st.integers(0, 9), last=st.booleans())
    def remove(self, who: int, last: bool) -> None:
        why = refused(lambda: self.opened.accounts.remove_member(self.some(who), last=last))
        assert why in ("", "NOT_FOUND") or (why == "LAST_ADMINISTRATOR" and not last)

    @rule(who=st.integers(0, 9))
    def step_down(self, who: int) -> None:
        had = self.opened.accounts.has_administrator()
        why = refused(lambda: self.opened.accounts.change_member(self.some(who), role="member"))
        assert why in ("", "NOT_FOUND", "LAST_ADMINISTRATOR")
        assert self.opened.accounts.has_administrator() == had

    @rule(who=st.integers(0, 9), peer=st.sampled_from("xyz"))
    def register(self, who: int, peer: str) -> None:
        why = refused(lambda: self.opened.accounts.register(self.some(who), peer, peer, hash_of(peer)))
        assert why in ("", "NOT_FOUND", "OTHER_MEMBER")

    @rule(peer=st.sampled_from("xyz"))
    def unregister(self, peer: str) -> None:
        self.opened.accounts.remove_client(peer)

    @rule(who=st.integers(0, 9))
    def come_in(self, who: int) -> None:
        id = self.some(who)
        if self.opened.accounts.member(id) is not None:
            self.secrets[self.opened.sessions.begin(id)] = id

    @rule(subject=st.sampled_from("st"), name=st.sampled_from("abc"), admitted=st.booleans())
    def sign_in(self, subject: str, name: str, admitted: bool) -> None:
        member = self.opened.accounts.signed_in(
            ISSUER, subject, name=name, email=f"{name}@example.org", invitation=None, admitted=admitted
        )
        if member is not None and member.id not in self.ids:
            assert admitted
            self.ids.append(member.id)

    @invariant()
    def holds(self) -> None:
        accounts, pins = self.opened.accounts, self.opened.pins
        members = {member.id for member in accounts.members()}
        clients = accounts.clients()
        assert {client.member for client in clients} <= members
        assert {token.name for token in pins.tokens() if token.valid} == {CLIENT + each.peer for each in clients}
        everybody = accounts.members(removed=True)
        assert len({member.email for member in everybody if member.email}) == sum(
            member.email is not None for member in everybody
        )
        for secret, id in self.secrets.items():
            if id not in members:
                row = self.opened.database.one("SELECT 1 FROM sessions WHERE hash = ?", (hash_of_secret(secret),))
                assert row is None


TestHistories = Histories.TestCase
TestHistories.settings = settings(max_examples=15, stateful_step_count=25, deadline=None)
