"""Pins of all owners: pages, and sums of what is pinned several times, against plain Python."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from kachery_p2p.pinning.server.listing import OwnedPin, Sum
from kachery_p2p.pinning.server.requests import read_pin
from kachery_p2p.pinning.server.store import PinStore
from tests.helpers.pin_server import nowhere

OWNERS = ("ann", "bob", "eve")
PROJECTS = ("", "reef", "atlas")
#: Who, of what, in which project, of which size; None where it is not known.
pins = st.lists(
    st.tuples(
        st.sampled_from(OWNERS), st.integers(0, 4), st.sampled_from(PROJECTS), st.sampled_from([None, 1, 10, 100])
    ),
    max_size=25,
)


@pytest.fixture
def store(tmp_path: Path) -> PinStore:
    return PinStore(tmp_path / "pins.sqlite")


def add(store: PinStore, owner: str, root: int, project: str = "", size: int | None = None, name: str = "") -> int:
    """A pin; its number."""
    meta = {"project": project, "label": name} if project else {}
    wanted = read_pin(json.dumps({"cid": nowhere(root), "name": name, "meta": meta}).encode())
    pin = store.add(store.owner(owner, f"member:{owner}", None), wanted, size)
    assert pin is not None
    return pin.id


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], deadline=None, max_examples=40)
@given(pins)
def test_sums(store: PinStore, wanted: list[tuple[str, int, str, int | None]]) -> None:
    """Each root once for each owner and project, and once for each project; with the largest of its sizes."""
    for each in store.listing.page(1000):
        store.delete_any(each.pin.request_id)
    for owner, root, project, size in wanted:
        add(store, owner, root, project, size)
    by_owner: dict[tuple[str, str], Sum] = {}
    by_project: dict[str, Sum] = {}
    for project in PROJECTS:
        of_project = [each for each in wanted if each[2] == project]
        for owner in OWNERS:
            mine = [each for each in of_project if each[0] == owner]
            if mine:
                by_owner[owner, project] = _sum(mine)
        if project and of_project:
            by_project[project] = _sum(of_project)
    assert store.listing.by_owner() == by_owner
    assert store.listing.by_project() == by_project


def _sum(found: list[tuple[str, int, str, int | None]]) -> Sum:
    roots = {root for _, root, _, _ in found}
    return Sum(len(found), sum(max(size or 0 for _, of, _, size in found if of == root) for root in roots))


def test_pages(store: PinStore) -> None:
    """Of owners and projects together each pin once, the newest first; from where the page before ended."""
    for number in range(40):
        add(store, OWNERS[number % 3], number, PROJECTS[number % 2], name=f"File {number}")
    listing = store.listing
    ann, eve = listing.owners_of("member:ann"), listing.owners_of("member:eve")

    def numbers(**which: object) -> list[int]:
        found: list[OwnedPin] = []
        before: int | None = None
        while rows := listing.page(7, before=before, **which):  # type: ignore[arg-type]
            found += rows
            before = rows[-1].pin.id
        return [int(each.pin.name.removeprefix("File ")) for each in found]

    assert numbers() == list(range(39, -1, -1))
    assert numbers(owners=ann) == [n for n in range(39, -1, -1) if n % 3 == 0]
    assert numbers(projects=["reef"]) == [n for n in range(39, -1, -1) if n % 2]
    both = [n for n in range(39, -1, -1) if n % 3 != 1 or n % 2]
    assert numbers(owners=[*ann, *eve], projects=["reef", "none"]) == both
    assert numbers(owners=ann, label="FILE 3") == [n for n in (39, 36, 33, 30, 3) if n % 3 == 0]
    assert numbers(owners=[], projects=[]) == []
    assert numbers(label="%") == numbers(label="\ud800") == []


def test_what_a_root_is_a_part_of(store: PinStore) -> None:
    """The project of its first pin that is in one; nothing of what nobody has pinned."""
    add(store, "ann", 1)
    add(store, "bob", 1, "reef")
    add(store, "eve", 1, "atlas")
    add(store, "ann", 2)
    keys = {each.pin.cid: each.pin.key for each in store.listing.page(9)}
    found = store.listing.projects_of([*keys.values(), b"nobody's"])
    assert found == {keys[nowhere(1)]: "reef", keys[nowhere(2)]: ""}
    assert store.listing.count_of_project("reef") == 1
    assert store.listing.accounts() == {name: f"member:{name}" for name in OWNERS}
