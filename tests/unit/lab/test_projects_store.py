"""The list of projects, and who is in them."""

from __future__ import annotations

from pathlib import Path

import pytest

from kachery_cloud.lab import projects_store
from kachery_cloud.lab.database import LabDatabase
from kachery_cloud.lab.projects_store import ProjectMember, ProjectsStore, check_description, check_name, check_role
from kachery_p2p.pinning.server.requests import Refusal


@pytest.fixture
def store(tmp_path: Path) -> ProjectsStore:
    return ProjectsStore(LabDatabase(tmp_path))


def refused(reason: str) -> object:
    """A refusal for that reason."""
    return pytest.raises(Refusal, check=lambda error: error.reason == reason)


def test_a_name_is_taken_once(store: ProjectsStore) -> None:
    """Whether written large or small; until it is called something else, or is deleted."""
    first = store.create("Reef", "ann")
    with refused("NAME_TAKEN"):  # type: ignore[attr-defined]
        store.create("reef", "bob")
    second = store.create("atoll", "bob")
    with refused("NAME_TAKEN"):  # type: ignore[attr-defined]
        store.change(second.id, name="REEF")
    assert store.change(first.id, name="REEF") is not None
    assert store.find("reef") == store.find(first.id)
    assert store.delete(first.id)
    assert store.change(second.id, name="reef", description="coral") is not None
    found = store.find("Reef")
    assert found is not None
    assert (found.id, found.description) == (second.id, "coral")


def test_it_keeps_an_administrator(store: ProjectsStore) -> None:
    """The last one stays, unless somebody may say otherwise."""
    made = store.create("reef", "ann")
    with refused("LAST_ADMINISTRATOR"):  # type: ignore[attr-defined]
        store.remove_member(made.id, "ann")
    with refused("LAST_ADMINISTRATOR"):  # type: ignore[attr-defined]
        store.set_member(made.id, "ann", "writer")
    store.set_member(made.id, "bob", "administrator")
    store.set_member(made.id, "ann", "reader")
    assert store.members(made.id) == [ProjectMember("ann", "reader"), ProjectMember("bob", "administrator")]
    assert store.remove_member(made.id, "bob", keep_one=False)
    assert not store.remove_member(made.id, "bob", keep_one=False)
    assert store.roles_of("ann") == {made.id: "reader"}


def test_who_left_the_lab_is_in_no_project(store: ProjectsStore) -> None:
    """In none of them, whatever they were there."""
    ids = [store.create(name, "ann").id for name in ("a", "b")]
    store.set_member(ids[0], "bob", "writer")
    assert sorted(store.forget_member("ann")) == sorted(ids)
    assert store.all_members() == {ids[0]: [ProjectMember("bob", "writer")]}


def test_its_bounds(store: ProjectsStore, monkeypatch: pytest.MonkeyPatch) -> None:
    """Projects of one member, and members of one project."""
    monkeypatch.setattr(projects_store, "MAX_PROJECTS_EACH", 2)
    monkeypatch.setattr(projects_store, "MAX_MEMBERS", 2)
    made = store.create("a", "ann")
    store.create("b", "ann")
    with refused("TOO_MANY_PROJECTS"):  # type: ignore[attr-defined]
        store.create("c", "ann")
    store.set_member(made.id, "bob", "reader")
    with refused("TOO_MANY_MEMBERS"):  # type: ignore[attr-defined]
        store.set_member(made.id, "eve", "reader")
    store.set_member(made.id, "bob", "writer")
    assert store.role_of(made.id, "bob") == "writer"


@pytest.mark.parametrize("name", ["", "two words", "x" * 65, "a/b", "-a", "public", "a\x1b", "‮evil", None, 7])
def test_names_that_cannot_be(name: object) -> None:
    """Each with a sentence that says why."""
    with refused("BAD_NAME"):  # type: ignore[attr-defined]
        check_name(name)


def test_other_words_that_cannot_be() -> None:
    """Descriptions and roles."""
    assert check_description("two\nlines") == "two\nlines"
    for text in ("a\x1b[2J", "x" * 2001, None):
        with refused("BAD_DESCRIPTION"):  # type: ignore[attr-defined]
            check_description(text)
    for role in ("owner", "", None, []):
        with refused("BAD_ROLE"):  # type: ignore[attr-defined]
            check_role(role)


@pytest.mark.parametrize("text", ["\ud800", "'; DROP TABLE projects", "x" * 10_000, "", "\0"])
def test_ids_that_nobody_has(store: ProjectsStore, text: str) -> None:
    """They are nobody's, whatever they are made of."""
    made = store.create("reef", "ann")
    assert store.find(text) is None
    assert store.role_of(text, "ann") is None
    assert not store.remove_member(made.id, text, keep_one=False)
