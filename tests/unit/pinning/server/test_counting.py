"""The sums that the list of pins keeps are those that one would get by adding up, whatever happened before."""

from __future__ import annotations

import tempfile
from pathlib import Path

from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, rule

from kachery_p2p.dag.cid import CID
from kachery_p2p.pinning.server.requests import PinObject, Refusal
from kachery_p2p.pinning.server.rows import Pin, Token
from kachery_p2p.pinning.server.store import STORE_NAME, PinStore, hash_of
from tests.helpers.pin_server import nowhere

NAMES = st.sampled_from(["one", "two", "three"])
ACCOUNTS = st.sampled_from(["alice", "bob"])
SIZES = st.none() | st.integers(0, 50)


class Counting(RuleBasedStateMachine):
    """Pins and tokens that come, change and go."""

    def __init__(self) -> None:
        super().__init__()
        self.folder = tempfile.TemporaryDirectory()
        self.store = PinStore(Path(self.folder.name) / STORE_NAME)
        self.pins: list[tuple[Token, Pin]] = []

    def teardown(self) -> None:
        self.store.close()
        self.folder.cleanup()

    def token(self, name: str) -> Token | None:
        return next((each for each in self.store.tokens() if each.name == name), None)

    @rule(name=NAMES)
    def make(self, name: str) -> None:
        self.store.add_token(name, 120)

    @rule(name=NAMES, account=ACCOUNTS)
    def grant(self, name: str, account: str) -> None:
        self.store.grant(name, hash_of(name), account, 120)

    @rule(name=NAMES, pins=st.booleans())
    def remove(self, name: str, pins: bool) -> None:
        self.store.remove_token(name, pins=pins)

    @rule(name=NAMES, root=st.integers(0, 4), size=SIZES)
    def add(self, name: str, root: int, size: int | None) -> None:
        token = self.token(name)
        if token is None:
            return
        used = self.added_up(token)
        try:
            pin = self.store.add(token, PinObject(CID.parse(nowhere(root)), nowhere(root)), size)
        except Refusal:
            pin = None
        if pin is None:
            assert token.quota is not None
            assert used + (size or 1) > token.quota
        else:
            self.pins.append((token, pin))

    @rule(at=st.integers(0, 20), size=st.integers(0, 50))
    def reserve(self, at: int, size: int) -> None:
        if self.pins:
            self.store.reserve(self.pins[at % len(self.pins)][1], size)

    @rule(at=st.integers(0, 20), status=st.sampled_from(["failed", "pinned"]))
    def finish(self, at: int, status: str) -> None:
        if self.pins:
            self.store.finish(self.pins[at % len(self.pins)][1], status)

    @rule(at=st.integers(0, 20))
    def delete(self, at: int) -> None:
        if self.pins:
            token, pin = self.pins.pop(at % len(self.pins))
            self.store.delete(token, pin.request_id)

    def added_up(self, token: Token) -> int:
        """What the pins of a token and its fellows take, by adding up."""
        fellows = [each.id for each in self.store.tokens() if each.id == token.id or (
            token.account is not None and each.account == token.account)]  # fmt: skip
        rows = self.store._file.all(
            f"SELECT key, max(size) FROM pins WHERE owner IN ({','.join('?' * len(fellows))}) GROUP BY key", fellows
        )
        return sum(size or 0 for _, size in rows)

    @invariant()
    def sums_are_right(self) -> None:
        for token in self.store.tokens():
            pot = token.account or f"token {token.id}"
            assert self.store.used(pot) == self.added_up(token)


TestCounting = Counting.TestCase
TestCounting.settings = settings(max_examples=30, stateful_step_count=30, deadline=None)
