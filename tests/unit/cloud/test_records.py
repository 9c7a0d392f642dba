"""What functions return: typed, a table in a notebook, a DataFrame when asked, and still the dict that it was."""

from __future__ import annotations

import copy
import inspect
import json
import pickle
from collections.abc import Iterator
from dataclasses import dataclass
from html.parser import HTMLParser
from importlib import import_module
from pathlib import Path
from typing import Any

import pytest

import kachery_cloud as kcl
from kachery_cloud.amounts import MOST_ROWS
from kachery_cloud.answers import ProblemTable, Running, Status, Stopped, WhereisRow, WhereisTable
from kachery_cloud.auditing import AlsoGiven, Given, LoadedBy
from kachery_cloud.comparing import Differences
from kachery_cloud.grouping import Group, GroupMember, GroupMemberTable, GroupTable
from kachery_cloud.inventory import Items
from kachery_cloud.inventory_removal import Collected, KeptBack, KeptBackItems, RemovedItems
from kachery_cloud.inventory_tables import Table
from kachery_cloud.lab_places import Project, ProjectMember, ProjectTable
from kachery_cloud.lab_usage import LabUsage, LabUsageTable
from kachery_cloud.listing import DirEntry, DirTable, FileInfo
from kachery_cloud.local import close_outboxes, close_repositories, outbox
from kachery_cloud.node.status_messages import RunningNode
from kachery_cloud.pin_rows import PinRow, PinTable
from kachery_cloud.publishing import Published, PublishedTable
from kachery_cloud.records import Record, Shown, absent, field_types, html_of_facts
from kachery_cloud.settings.config import load_config
from kachery_p2p.dag.cid import CID
from kachery_p2p.node.status_messages import DiscoveryStatus, NodeStatus, TrafficStatus
from kachery_p2p.pinning.outbox import PinEntry
from kachery_p2p.repo.checking import Problem

HOSTILE = '<script>alert("1")</script>&\x1b[31m\u202e'
CID_TEXT = "bafkreiaossxdnwtp6a4zfjl73w67i4ulmcoq277g5maz7kprxg23kqgygu"
EMPTY_TAGS = {"br"}


class Page(HTMLParser):
    """The tags and texts of a page whose tags are closed in order; anything else is an error."""

    def __init__(self, page: str) -> None:
        super().__init__()
        self.tags: list[str] = []
        self.texts: list[str] = []
        self._open: list[str] = []
        self.feed(page)
        self.close()
        assert self._open == [], "tags that nobody closed"

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append(tag)
        if tag not in EMPTY_TAGS:
            self._open.append(tag)

    def handle_endtag(self, tag: str) -> None:
        assert self._open.pop() == tag

    def handle_data(self, data: str) -> None:
        self.texts.append(data)


@pytest.fixture
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    monkeypatch.setenv("KACHERY_CLOUD_DIR", str(tmp_path / "data"))
    yield
    close_repositories()
    close_outboxes()


class Animal(Record):
    sizes = ("weight",)
    times = ("born",)

    name: str
    weight: int | None
    born: float
    notes: list[str] = absent(list)
    sex: str | None = None


MOUSE = Animal(name="mouse 12", weight=25_000, born=0.0)


# --- records ---------------------------------------------------------------------------------------------------------


def test_a_record_is_an_object_and_a_dict() -> None:
    """Attributes, brackets and JSON say the same, and what is changed in one is changed in the other."""
    row = Animal(MOUSE)
    assert (row.name, row["name"], row.get("name")) == ("mouse 12",) * 3
    assert row == {"name": "mouse 12", "weight": 25_000, "born": 0.0}
    assert json.loads(json.dumps([row])) == [row]
    row.name = "mouse 13"
    row["weight"] = None
    assert (row["name"], row.weight) == ("mouse 13", None)
    assert repr(row) == "Animal(name='mouse 13', weight=None, born=0.0)"


def test_what_a_record_does_not_have() -> None:
    """Keys with a default may be missing: of these there is always the default; of others, the usual errors."""
    row = Animal(MOUSE)
    assert (row.sex, row["sex"], "sex" in row) == (None, None, False)
    row.notes.append("of this one alone")
    assert (row.notes, Animal(MOUSE)["notes"]) == ([], [])
    with pytest.raises(AttributeError, match="This Animal has no name"):
        Animal().name  # noqa: B018
    with pytest.raises(KeyError, match="colour"):
        row["colour"]
    assert not hasattr(row, "colour")


def test_records_travel() -> None:
    """Between processes, and as copies."""
    row = WhereisRow(peer="12D3", has=None, error="refused")
    for again in (pickle.loads(pickle.dumps(row)), copy.copy(row), copy.deepcopy(row)):
        assert type(again) is WhereisRow
        assert again == row
        assert again.error == "refused"


def test_records_are_values_that_can_be_stored(here: None) -> None:
    """As the dicts and lists were that they are."""
    uri = kcl.store_json(DirTable([DirEntry(name="a", size=1)]), local=True)
    assert kcl.load_json(uri) == [{"name": "a", "size": 1}]


@pytest.mark.parametrize(("kind", "names"), [(Animal, 5), (Problem, 4), (Published, 6)])
def test_the_types_of_fields(kind: type[Any], names: int) -> None:
    """Of records, named tuples and dataclasses, as they are written."""
    found = field_types(kind)
    assert len(found) == names
    assert found.get("name", "str") == "str"
    assert found.get("path", "Path") == "Path"


# --- in a notebook ---------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Cage(Shown):
    label: str
    animals: tuple[Animal, ...]
    full: bool
    more: Any = None


def test_what_is_known_is_a_table() -> None:
    """A row for each name; sizes and times for people, lists of rows as tables within, and lists of texts as lines."""
    page = Page(Cage("c1", (MOUSE,), True, {"a": {"b": [1, 2]}})._repr_html_())
    assert page.tags.count("table") == 4
    for text in ("label", "c1", "mouse 12", "25 kB", "yes", "b", "1", "2"):
        assert text in page.texts
    assert "1970-01-01" in html_of_facts(MOUSE) or "1969-12-31" in html_of_facts(MOUSE)
    assert {"sex", "more"}.isdisjoint(Page(Cage("c1", (MOUSE,), True)._repr_html_()).texts)  # of which nothing is known


def test_what_is_deep_or_long_has_an_end() -> None:
    """Dicts within dicts are shown as text from some depth on; of many rows it is said how many there are more."""
    deep: Any = "end"
    for _ in range(300):
        deep = {"in": deep}
    assert Page(html_of_facts({"deep": deep})).tags.count("table") < 10
    page = Cage("c1", (MOUSE,) * (MOST_ROWS + 7), False)._repr_html_()
    assert Page(page).texts.count("mouse 12") == MOST_ROWS
    assert "and 7 more" in page


def _values() -> dict[str, Any]:
    """One of each kind that functions return, with words of strangers in it."""
    bad, cid = HOSTILE, CID.parse(CID_TEXT)
    numbers = dict.fromkeys(("id", "size", "tries", "polls", "revision"), 1)
    times = dict.fromkeys(("asked", "waited", "next_try", "added", "changed", "verified"), 1.0)
    words = dict.fromkeys(("service", "name", "request_id", "problem", "last_error"), bad)
    facts: dict[str, Any] = {**numbers, **times, **words, "delegates": (bad,), "origins": (), "meta": {bad: bad}}
    entry = PinEntry(cid=CID_TEXT, state="failed", **facts)
    row = PinRow(uri=bad, **entry.as_json())
    project = Project(bad, bad, bad, "members", None, None, (ProjectMember(bad, bad, "reader"),), 5, 1, bad)
    loaded = LoadedBy(bad, bad, False, None, bad, 5, 1.0, 2.0)
    problem = Problem(cid, Path(bad), "damaged", bad)
    owner = kcl.Owner("12D3", "https://accounts.google.com", bad, bad, bad, 1, bad)
    usage = LabUsage(bad, bad, bad, bad, bad, 1, 2, 3, 4)
    whereis = WhereisRow(peer=bad, addrs=[bad], source=bad, seconds=1.0, has=None, error=bad, found_by={bad: 1.0})
    values = [
        DirTable([DirEntry(name=bad, cid=CID_TEXT, uri=bad, size=None, kind=None, destination=bad)]),
        FileInfo(uri=bad, label=bad, sources={bad: 5}, size=3, added=1.0, pinned=[{"service": bad, "state": bad}]),
        WhereisTable([WhereisRow({**whereis, "connected": True, "round_trip_ms": 1.0})]),
        PinTable([row]),
        ProblemTable([problem]),
        kcl.Repaired(problems=ProblemTable([problem]), pins={"aside": bad}),
        Differences(added=(bad,), changed=("a", bad)),
        PublishedTable([Published(bad, bad, bad, 1, 2.0)]),
        Published(bad, bad, bad, 1, 2.0),
        Collected(RemovedItems(), KeptBackItems([KeptBack(bad, bad, 5, bad)]), 5, 5, 3, False),
        kcl.Access(bad, (bad,), bad, (), (), (loaded,), True),
        kcl.Audit((Given(bad, None, None, None, 1, 5),), (AlsoGiven(bad, bad, (bad,), (bad,)),), (loaded,), True, 3.0),
        owner,
        GroupTable([Group(bad, bad, "reader", 2)]),
        GroupMemberTable([GroupMember(bad, "reader", bad)]),
        ProjectTable([project]),
        project,
        LabUsageTable([usage]),
        kcl.Announcement(copies=3, seconds=bad),
        kcl.Initialised(directory=bad, owner={"name": bad}, nodes=[{"url": bad}]),
        Status(running=True, connected=[{"peer": bad}], sources={bad: {"on": True}}, shared=[]),
    ]
    return {type(value).__name__: value for value in values}


@pytest.mark.parametrize("name", sorted(_values()))
def test_words_of_strangers_stay_words(name: str) -> None:
    """Each kind of answer is a table whose tags are closed; nothing in it is a tag of somebody else, or a control."""
    shown = _values()[name]._repr_html_()
    page = Page(shown)
    assert set(page.tags) <= {"table", "thead", "tbody", "tr", "th", "td", "br", "p"}
    assert "\x1b" not in shown
    assert "\u202e" not in shown
    assert any("alert" in text for text in page.texts)


#: Returned as they are: what Python has, files, and what has a text that is all of it.
PLAIN = {"str", "bool", "bytes", "None", "Any", "LoadedFolder", "ContentURI", "NpyFile"}
PLAIN |= {"np.ndarray[Any, Any]", "AbstractContextManager[None]", "KacheryFile | io.TextIOWrapper"}


def test_every_answer_shows_itself() -> None:
    """What a public function returns is plain, or shows itself in a notebook; lists of rows are tables."""
    for name in (*kcl.__all__, *kcl._NOT_FOR_STAR):
        function = getattr(kcl, name)
        if not inspect.isfunction(function):
            continue
        said = str(function.__annotations__["return"])
        if said in PLAIN:
            continue
        kind = said.removeprefix("Iterator[").removesuffix("]").removesuffix(" | None")
        homes = (function.__module__, "kachery_cloud.answers", "kachery_cloud.listing", "kachery_cloud.pin_rows")
        homes += ("kachery_cloud.lab_places",)
        found = [found for home in homes if (found := getattr(import_module(home), kind, None)) is not None]
        assert found, f"{name} returns {said}"
        assert hasattr(found[0], "_repr_html_"), f"{name} returns {said}"


def _tables() -> list[type[Table[Any]]]:
    """All tables that there are: importing what functions return brings them."""
    for name in kcl.__all__:
        getattr(kcl, name)
    return [each for each in Table.__subclasses__() if each.__module__.startswith("kachery_cloud.")]


def test_every_table_gives_a_dataframe_with_its_columns() -> None:
    """Also of no rows: what is asked of the frame of a full machine can be asked of that of a fresh one."""
    pytest.importorskip("pandas", reason="pandas is not installed")
    tables = _tables()
    assert {Items, DirTable, WhereisTable, ProblemTable, KeptBackItems, RemovedItems} <= set(tables)
    for table in tables:
        frame = table().to_dataframe()
        assert list(frame.columns) == list(field_types(table.row_type))
        assert len(frame) == 0
        assert table.columns


def test_a_frame_of_nothing_can_be_asked(here: None) -> None:
    """By what is equal, by what is true, by texts, sums and times: no rows, and all columns."""
    pandas = pytest.importorskip("pandas", reason="pandas is not installed")
    frame = kcl.list().to_dataframe()
    assert list(frame[frame.kind == "stored"].columns) == list(frame.columns)
    assert list(frame[frame.complete].columns) == list(frame.columns)
    assert list(frame[frame.uri.str.startswith("ipfs://")].columns) == list(frame.columns)
    assert frame.here.sum() == 0
    assert isinstance(frame.added.dtype, pandas.DatetimeTZDtype)


def test_frames_of_rows() -> None:
    """Times are times, and paths and CIDs are texts."""
    pandas = pytest.importorskip("pandas", reason="pandas is not installed")
    problem = Problem(CID.parse(CID_TEXT), Path("/data/a.dat"), "damaged", "")
    assert ProblemTable([problem]).to_dataframe().values.tolist() == [[CID_TEXT, "/data/a.dat", "damaged", ""]]
    frame = PublishedTable([Published("ipns://k51", "ipfs://bafy", "self", 1, 86_400.0)]).to_dataframe()
    assert frame.valid_until[0] == pandas.Timestamp("1970-01-02", tz="UTC")
    differences = Differences(added=("b", "c"), changed=("a",))
    assert differences.to_dataframe().values.tolist() == [["changed", "a"], ["added", "b"], ["added", "c"]]


# --- what functions return -------------------------------------------------------------------------------------------


def test_folders_and_files(here: None, tmp_path: Path) -> None:
    """Objects with the names of the keys that they had."""
    (tmp_path / "folder" / "sub").mkdir(parents=True)
    (tmp_path / "folder" / "a.txt").write_bytes(b"text")
    uri = kcl.store_dir(tmp_path / "folder", local=True)
    first, second = kcl.list_dir(uri)
    assert (first.name, first.size, first.kind, second.kind) == ("a.txt", 4, "file", "directory")
    assert list(first) == list(field_types(DirEntry))
    assert "sub/" in kcl.list_dir(uri)._repr_html_()
    info = kcl.load_file_info(first.uri)
    assert (info.size, info["size"], info.local, info.kept, "kept" in info) == (4, 4, True, None, False)
    assert kcl.load_file_info(uri).kept == "stored"
    of_a_path = kcl.load_file_info(tmp_path / "folder" / "a.txt")
    assert (of_a_path.cid, of_a_path.size, of_a_path.labels) == (None, 4, None)
    for found in (info, of_a_path, kcl.load_file_info(uri)):
        assert set(found) <= set(field_types(FileInfo))


def test_pins_have_rows(here: None) -> None:
    """Each with all that the outbox says of it."""
    assert kcl.pins() == []
    outbox(load_config()).add(CID.parse(CID_TEXT), "filebase", "a name")
    (row,) = kcl.pins()
    assert (row.service, row.state, row.size) == ("filebase", "waiting", None)
    assert list(row) == ["uri", *(name for name in row if name != "uri")]
    assert set(row) == set(field_types(PinRow))


def test_the_state_of_the_machine(here: None) -> None:
    """Typed, whether a node runs or not; what is not known is what its type says."""
    status = kcl.status()
    assert (status.running, status.addresses, status.pid) == (False, [], None)
    assert "addresses" not in status
    assert kcl.init().peer_id == kcl.status().peer_id
    assert set(kcl.init()) == set(field_types(kcl.Initialised))
    repaired = kcl.repair()
    assert (repaired.files, repaired.problems) == (0, [])
    assert set(repaired) == set(field_types(kcl.Repaired))
    assert set(status) <= set(field_types(Status))
    assert Page(status._repr_html_()).tags


def test_every_key_of_a_status_is_an_attribute() -> None:
    """What messages say that are new, too."""
    flat = {"found", "node", "discovery", "traffic"}
    said = {
        name
        for kind in (Running, Stopped, RunningNode, NodeStatus, DiscoveryStatus, TrafficStatus)
        for name in field_types(kind)
    }
    assert said - flat == set(field_types(Status))
