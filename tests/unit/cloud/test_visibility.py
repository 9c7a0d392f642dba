"""For whom something is that is stored: what users say, what they are told, and what is refused."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from click.testing import CliRunner, Result

import kachery_cloud as kcl
from kachery_cloud import audiences, sharing, store, visibility
from kachery_cloud.commands.main import find_command
from kachery_cloud.errors import ConfigError, ContentNotFound, GroupError, GroupNotFound, InvalidArgument, NoPermission
from kachery_cloud.local import close_repositories, repository
from kachery_cloud.settings.config import load_config
from kachery_cloud.uri import parse_uri
from kachery_p2p.access.audience import NOBODY, PRIVATE, PUBLIC, Audience, group_audience

PEER = "12D3KooWD3eckifWpRn9wQpMG9R9hX3sD158z7EqHWmweQAJU5SA"


pytestmark = pytest.mark.usefixtures("data")


def run(*line: object) -> Result:
    """A command, in this process."""
    return CliRunner().invoke(find_command(str(line[0])), [str(each) for each in line[1:]])


def audience_of(uri: str) -> Audience:
    return repository(load_config()).access.audience_of(parse_uri(uri).root)


# --- storing ---------------------------------------------------------------------------------------------------------


def test_every_store_function_takes_it(hippocampus: str, tmp_path: Path) -> None:
    """By the name of the group or its ID; and the URI says which it is, so that whoever has it asks members alone."""
    (tmp_path / "folder").mkdir()
    (tmp_path / "folder" / "a").write_bytes(b"in a folder")
    for name in ("copied", "linked", "read"):
        (tmp_path / name).write_bytes(name.encode())
    with open(tmp_path / "read", "rb") as file:
        stored = [
            kcl.store_file(tmp_path / "copied", to="hippocampus", local=True),
            kcl.store_file(file, to=hippocampus, local=True),
            kcl.link_file(tmp_path / "linked", to="hippocampus", local=True),
            kcl.store_dir(tmp_path / "folder", to=["hippocampus"], local=True),
            kcl.store_bytes(b"bytes", to="hippocampus", local=True),
            kcl.store_text("text", to="hippocampus", local=True),
            kcl.store_json([1], to="hippocampus", local=True),
            kcl.store_npy(np.arange(3), to="hippocampus", local=True),
            kcl.store_pkl({1, 2}, to="hippocampus", local=True),
        ]
    for uri in stored:
        assert parse_uri(uri).groups == (hippocampus,)
        assert audience_of(uri) == group_audience([hippocampus])


def test_without_a_word_it_is_public_and_stays_as_it_was(hippocampus: str) -> None:
    """What is new is for everybody; what is known is for those for whom it is."""
    assert audience_of(kcl.store_text("new", local=True)) == PUBLIC
    first = kcl.store_text("known", to="hippocampus", local=True)
    assert kcl.store_text("known", local=True) == first
    assert audience_of(first) == group_audience([hippocampus])


def test_fsspec_takes_it(hippocampus: str, tmp_path: Path) -> None:
    """What stores there says for whom, too: a word that was passed over would make it public."""
    fsspec = pytest.importorskip("fsspec")
    (tmp_path / "folder").mkdir()
    (tmp_path / "folder" / "a").write_bytes(b"a" * 5000)
    fs = fsspec.filesystem("ipfs", skip_instance_cache=True)
    stored = [
        fs.put(str(tmp_path / "folder" / "a"), "ipfs://", to="hippocampus"),
        fs.put([str(tmp_path / "folder")], "ipfs://", recursive=True, to="hippocampus")[0],
        fs.pipe_file("ipfs://", b"bytes", to="hippocampus"),
    ]
    assert {audience_of(uri) for uri in stored} == {group_audience([hippocampus])}


def test_the_uri_of_what_is_private_says_so() -> None:
    """Else whoever loads by it would have to ask everybody. Other machines of the user are named in the settings."""
    uri = kcl.store_text("mine", to="private", local=True)
    assert parse_uri(uri).groups == ("own",)
    assert kcl.list(to="private")[0].uri == uri
    assert kcl.load_text(uri) == "mine"
    assert audience_of(uri) == PRIVATE
    assert parse_uri(kcl.set_visibility(uri, "public")).groups == ()


def test_several_at_once(hippocampus: str) -> None:
    """Members of either may load it, and the user's own machines."""
    lab = kcl.create_group("lab").id
    uri = kcl.store_text("both", to=["hippocampus", "lab", "private"], local=True)
    assert set(parse_uri(uri).groups) == {hippocampus, lab, "own"}
    assert kcl.access(uri).visibility == ("hippocampus", "lab", "private")
    assert (
        kcl.access(uri).sentence == "Only members of hippocampus (1) and lab (1) and your own machines can load this."
    )


def test_storing_again_adds(hippocampus: str) -> None:
    """To those who may load it; it takes it from nobody."""
    kcl.store_text("twice", to="hippocampus", local=True)
    uri = kcl.store_text("twice", to="private", local=True)
    assert audience_of(uri) == group_audience([hippocampus]) | PRIVATE


@pytest.mark.parametrize(
    ("to", "words"),
    [
        (
            "hipocampus",
            ["no group 'hipocampus' here", "Did you mean hippocampus?", "There are: hippocampus."],
        ),
        (
            "hippocampus,private",
            ["Say them one by one: --to hippocampus --to private (to=['hippocampus', 'private'])."],
        ),
        (["public", "hippocampus"], ["everybody", "nothing can stand beside it"]),
        (["public", "private"], ["nothing can stand beside it"]),
        ([], ["names nobody"]),
        ("", ["There is no group ''"]),
        (7, ["it must be text"]),
        ([f"g{n}" for n in range(3)], ["'g0'"]),
    ],
)
def test_what_names_nobody(hippocampus: str, to: Any, words: list[str]) -> None:
    """Is told before anything is stored, with what there is."""
    with pytest.raises((GroupNotFound, InvalidArgument)) as caught:
        kcl.store_text("not stored", to=to, local=True)
    for word in words:
        assert word in str(caught.value)
    assert not list(kcl.list())


def test_no_group_at_all() -> None:
    """Then the error says how to get into one."""
    with pytest.raises(GroupNotFound, match="kachery-cloud-group create"):
        kcl.store_text("not stored", to="hippocampus", local=True)


def test_two_groups_of_one_name(hippocampus: str) -> None:
    """Only the ID says which is meant."""
    other = kcl.create_group("hippocampus").id
    with pytest.raises(GroupError, match="Say which by its ID") as caught:
        kcl.store_text("which?", to="hippocampus", local=True)
    assert hippocampus in str(caught.value)
    assert other in str(caught.value)
    uri = kcl.store_text("this", to=other, local=True)
    assert kcl.access(uri).visibility == (other,)


@pytest.mark.parametrize("setting", [False, True])
def test_what_comes_in_a_car_file(
    setting: bool, hippocampus: str, data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Files and folders: for whom it is said, also by the setting; and the URIs say so."""
    (tmp_path / "folder").mkdir()
    (tmp_path / "folder" / "a").write_bytes(b"a" * 5000)
    monkeypatch.setenv("KACHERY_CLOUD_DIR", str(tmp_path / "elsewhere"))
    uris = [kcl.store_dir(tmp_path / "folder", local=True), kcl.store_bytes(b"b" * 2_000_000, local=True)]
    kcl.export_car(uris, tmp_path / "all.car")
    monkeypatch.setenv("KACHERY_CLOUD_DIR", str(data))
    if setting:
        monkeypatch.setenv("KACHERY_CLOUD_TO", "hippocampus")
        found = kcl.import_car(tmp_path / "all.car", local=True).uris
    else:
        done = run("import", tmp_path / "all.car", "--to", "hippocampus")
        found = done.stdout.split()
        assert done.stderr == "Only members of hippocampus (1) can load this.\n"
    group = group_audience([hippocampus])
    assert [(parse_uri(uri).groups, audience_of(uri)) for uri in found] == [((hippocampus,), group)] * 2
    assert [item.visibility for item in kcl.list()] == [("hippocampus",)] * 2


# --- the setting -----------------------------------------------------------------------------------------------------


def test_the_setting_holds_where_nothing_is_said(hippocampus: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """From the environment or the file; `public` goes before it."""
    monkeypatch.setenv("KACHERY_CLOUD_TO", " hippocampus , private")
    assert audience_of(kcl.store_text("a", local=True)) == group_audience([hippocampus]) | PRIVATE
    assert audience_of(kcl.store_text("b", to="public", local=True)) == PUBLIC
    monkeypatch.delenv("KACHERY_CLOUD_TO")
    (load_config().directory / "config.json").write_text(json.dumps({"to": ["private"]}))
    assert audience_of(kcl.store_text("c", local=True)) == PRIVATE


@pytest.mark.parametrize(
    ("value", "words"),
    [
        ("nobody", ["KACHERY_CLOUD_TO", "'nobody'", "There are: hippocampus"]),
        ("public,hippocampus", ["KACHERY_CLOUD_TO", "nothing can stand beside it"]),
    ],
)
def test_a_setting_that_names_nobody(
    hippocampus: str, value: str, words: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Nothing is stored then, so that nothing gets out by a mistake; what is here can be read all the same."""
    uri = kcl.store_text("before", local=True)
    monkeypatch.setenv("KACHERY_CLOUD_TO", value)
    with pytest.raises(ConfigError) as caught:
        kcl.store_text("not stored", local=True)
    for word in words:
        assert word in str(caught.value)
    monkeypatch.setenv("KACHERY_CLOUD_TO", "nobody")
    assert kcl.load_text(uri, local_only=True) == "before"
    assert len(kcl.list()) == 1


def test_own_peers(monkeypatch: pytest.MonkeyPatch) -> None:
    """Peer IDs in any of their forms, each once; anything else is an error that says where to find them."""
    from kachery_cloud.node.serve import node_options

    monkeypatch.setenv("KACHERY_CLOUD_OWN_PEERS", f"{PEER} /p2p/{PEER}")
    config = load_config()
    assert config.own_peers == (PEER,)
    assert node_options(config, private=False, service=False).own_peers == (PEER,)
    for wrong in ("alice", "/ip4/192.168.1.20/tcp/4001", PEER[:-1] + "0"):
        monkeypatch.setenv("KACHERY_CLOUD_OWN_PEERS", wrong)
        with pytest.raises(ConfigError, match=r"KACHERY_CLOUD_OWN_PEERS.*kachery-cloud-status"):
            load_config()


# --- what is said ----------------------------------------------------------------------------------------------------


def test_the_command_says_it_once(hippocampus: str, tmp_path: Path) -> None:
    """For each group once; not with --json, which has it in the object."""
    for name in ("a", "b"):
        (tmp_path / name).write_text(name)
    done = run("store", tmp_path / "a", tmp_path / "b", "--to", "hippocampus")
    assert done.exit_code == 0, done.stderr
    assert done.stderr == "Only members of hippocampus (1) can load this.\n"
    assert [parse_uri(line).groups for line in done.stdout.splitlines()] == [(hippocampus,)] * 2
    done = run("store", tmp_path / "a", "--to", "private", "--json")
    assert done.stderr == ""
    assert json.loads(done.stdout)["visibility"] == ["hippocampus", "private"]


def test_in_python_it_is_said_to_who_watches(
    hippocampus: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Once for each; a script that nobody watches says nothing."""
    kcl.store_text("a", to="private", local=True)
    assert capsys.readouterr() == ("", "")
    monkeypatch.setattr(store, "is_watched", lambda: True)
    for text in ("b", "c"):
        kcl.store_text(text, to="hippocampus", local=True)
    assert capsys.readouterr() == ("", "Only members of hippocampus (1) can load this.\n")


def test_private_without_other_machines_says_so(monkeypatch: pytest.MonkeyPatch) -> None:
    """It works, and nobody else can load it until a machine is named."""
    done = run("store", __file__, "--to", "private")
    assert done.exit_code == 0
    assert "Only your own machines can load this." in done.stderr
    assert "KACHERY_CLOUD_OWN_PEERS" in done.stderr
    audiences._said.clear()
    monkeypatch.setenv("KACHERY_CLOUD_OWN_PEERS", PEER)
    assert run("store", __file__, "--to", "private").stderr == "Only your own machines can load this.\n"


def test_the_first_public_store_says_to_whom_it_is_announced(tmp_path: Path) -> None:
    """What was stored for some before does not count: nothing of it was announced to others."""
    for name in ("a", "b"):
        (tmp_path / name).write_text(name)
    assert "announces" not in run("store", tmp_path / "a", "--to", "private").stderr
    assert "announces" in run("store", tmp_path / "b").stderr
    assert "announces" not in run("store", tmp_path / "b").stderr


def test_public_already(hippocampus: str, tmp_path: Path) -> None:
    """By itself, or in a folder that is public: the sentence says so instead, and names what has it."""
    (tmp_path / "folder").mkdir()
    (tmp_path / "folder" / "a").write_bytes(b"a" * 5000)
    (tmp_path / "b").write_bytes(b"b" * 5000)
    kcl.store_dir(tmp_path / "folder", label="demo", local=True)
    kcl.store_file(tmp_path / "b", local=True)
    done = run("store", tmp_path / "folder" / "a", "--to", "hippocampus")
    assert re.fullmatch(r"This is public already: ipfs://label=demo@bafy\w+ has it\.\n", done.stderr)
    done = run("store", tmp_path / "b", "--to", "hippocampus")
    assert "This is public already: it was stored so before." in done.stderr


def test_what_became_public_meanwhile_is_said_whatever_is_asked(hippocampus: str, tmp_path: Path) -> None:
    """A public folder has it by now: store, link, share and visibility do not say that only members can load it."""
    (tmp_path / "q.bin").write_bytes(b"q" * 5000)
    (tmp_path / "qq").mkdir()
    (tmp_path / "qq" / "copy").write_bytes(b"q" * 5000)
    uri = run("store", tmp_path / "q.bin", "--to", "hippocampus").stdout.strip()
    run("store", "-r", tmp_path / "qq", "--label", "pub", "--to", "public")
    for line in (
        ["store", tmp_path / "q.bin"],
        ["link", tmp_path / "q.bin"],
        ["share", uri],
        ["store", tmp_path / "q.bin", "--share"],
        ["visibility", uri],
        ["visibility", uri, "--to", "private"],
    ):
        done = run(*line)
        assert re.search(r"^This is public already: ipfs://label=pub@bafy\w+ has it\.", done.stderr, re.M), done.stderr
        assert done.stderr.count("This is public already") == 1
        assert not re.search(r"^Only|Those for whom it is", done.stderr, re.M), done.stderr


def test_in_python_share_says_what_became_public(
    hippocampus: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """As the command."""
    monkeypatch.setattr(sharing, "settled_node", lambda config: None)
    (tmp_path / "qq").mkdir()
    (tmp_path / "qq" / "copy").write_bytes(b"q" * 5000)
    uri = kcl.store_bytes(b"q" * 5000, to="hippocampus", local=True)
    kcl.store_dir(tmp_path / "qq", label="pub", to="public", local=True)
    capsys.readouterr()
    kcl.share(uri)
    assert "This is public already: ipfs://label=pub@" in capsys.readouterr().err


# --- later -----------------------------------------------------------------------------------------------------------


def test_set_visibility(hippocampus: str) -> None:
    """Says anew who may load it: the URI follows, and what cannot be taken back is said."""
    uri = kcl.store_text("a", label="note", local=True)
    narrow = kcl.set_visibility(uri, "hippocampus")
    assert (parse_uri(narrow).groups, parse_uri(narrow).label) == ((hippocampus,), "note")
    assert audience_of(uri) == group_audience([hippocampus])
    assert kcl.set_visibility(narrow, "public") == uri
    assert audience_of(uri) == PUBLIC


def test_the_command_of_that(hippocampus: str) -> None:
    """Without --to it shows what is; with it, it changes that. Only what narrows warns."""
    uri = kcl.store_text("a", local=True)
    shown = run("visibility", uri)
    assert (shown.stdout.strip(), shown.stderr) == (uri, "Anybody can load this.\n")
    done = run("visibility", uri, "--to", "hippocampus")
    assert done.stderr.splitlines() == ["Only members of hippocampus (1) can load this.", visibility.NARROWED]
    assert json.loads(run("visibility", uri, "--json").stdout)["visibility"] == ["hippocampus"]
    done = run("visibility", uri, "--to", "public")
    assert (done.stdout.strip(), done.stderr) == (uri, "Anybody can load this.\n")


def test_a_part_that_is_public_already(hippocampus: str, tmp_path: Path) -> None:
    """A folder for some, with a file in it that everybody can load: it is said, and what has that."""
    (tmp_path / "folder").mkdir()
    for name in ("a", "b"):
        (tmp_path / "folder" / name).write_bytes(name.encode() * 5000)
    kcl.store_file(tmp_path / "folder" / "a", label="open.txt", local=True)
    done = run("store", "-r", tmp_path / "folder", "--to", "hippocampus")
    assert re.fullmatch(r"A part of this is public already: ipfs://label=open.txt@bafk\w+ has it\.\n", done.stderr)
    other = kcl.create_group("lab").id
    kcl.store_file(tmp_path / "folder" / "b", label="theirs.txt", to="lab", local=True)
    found = kcl.access(parse_uri(done.stdout.strip()).locator)
    assert {(each.label, each.visibility) for each in found.wider} == {
        ("open.txt", ("public",)),
        ("theirs.txt", ("lab",)),
    }
    wider = {each.uri.partition("?")[2] for each in found.wider}
    assert wider == {f"label=theirs.txt&group={other}", "label=open.txt"}


def test_narrowing_what_a_public_folder_has_says_so(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """It is for all for whom one of them is."""
    (tmp_path / "folder").mkdir()
    (tmp_path / "folder" / "a").write_bytes(b"a" * 5000)
    kcl.store_dir(tmp_path / "folder", label="demo", local=True)
    uri = kcl.store_file(tmp_path / "folder" / "a", local=True)
    kcl.set_visibility(uri, "private")
    assert "This is public already: ipfs://label=demo@" in capsys.readouterr().err
    found = kcl.access(uri)
    assert found.visibility == ("private",)
    assert re.fullmatch(
        r"This is public already: ipfs://label=demo@\w+ has it\. By itself it is for your own machines alone\.",
        found.sentence,
    )
    assert [(each.label, each.visibility) for each in found.wider] == [("demo", ("public",))]


def test_what_is_not_listed_cannot_be_changed(tmp_path: Path) -> None:
    """A part of a folder is for those for whom the folder is; the error says so."""
    (tmp_path / "folder").mkdir()
    (tmp_path / "folder" / "a").write_bytes(b"a")
    uri = kcl.store_dir(tmp_path / "folder", to="private", local=True)
    inner = kcl.join(uri, "a")
    with pytest.raises(ContentNotFound, match="a part of a folder"):
        kcl.set_visibility(inner, "public")
    assert kcl.access(inner).visibility == ("private",)
    with pytest.raises(ContentNotFound, match="not on this machine"):
        kcl.set_visibility("ipfs://bafkrei" + 52 * "a", "public")
    with pytest.raises(ContentNotFound, match="not on this machine"):
        kcl.access("ipfs://bafkrei" + 52 * "a")


def test_a_name_tells_everybody(hippocampus: str) -> None:
    """So what is for some cannot be published, neither by its URI nor by what is known of it here."""
    uri = kcl.store_text("a", to="hippocampus", local=True)
    for given in (uri, parse_uri(uri).locator, f"ipfs://bafkrei{52 * 'a'}?group={hippocampus}"):
        with pytest.raises(NoPermission, match="a name tells everybody"):
            kcl.publish("self", given)


# --- lists -----------------------------------------------------------------------------------------------------------


def test_list(hippocampus: str) -> None:
    """A column where something is not public, and filters; in JSON it is always there."""
    kcl.store_text("a", label="open", local=True)
    assert "FOR" not in run("list").stdout.splitlines()[0].split()
    kcl.store_text("b", label="theirs", to="hippocampus", local=True)
    kcl.store_text("c", label="mine", to="private", local=True)
    head, *rows = run("list").stdout.splitlines()
    assert "FOR" in head.split()
    assert [row[head.index("FOR") :].split()[0] for row in rows] == ["private", "hippocampus", "public"]
    assert f"group={hippocampus}" in rows[1]
    for options, labels in (
        (["--to", "hippocampus"], ["theirs"]),
        (["--to", hippocampus, "--private"], ["mine", "theirs"]),
        (["--public"], ["open"]),
    ):
        found = json.loads(run("list", "--json", *options).stdout)["items"]
        assert [item["label"] for item in found] == labels
    assert [item.visibility for item in kcl.list(to="private")] == [("private",)]
    assert "Nothing here is for those." in run("list", "--to", 26 * "a").stdout
    assert run("list", "--to", "nobody").exit_code == 3
    assert "for:     hippocampus" in run("info", kcl.list(to="hippocampus")[0].uri).stdout


def test_what_others_may_load_as_well_is_marked(hippocampus: str, tmp_path: Path) -> None:
    """In lists and in audits: what is for some by itself, and in a public folder, or in something for a group more."""
    (tmp_path / "qq").mkdir()
    (tmp_path / "qq" / "copy").write_bytes(b"q" * 5000)
    lab = kcl.create_group("lab").id
    uri = kcl.store_bytes(b"q" * 5000, label="q.bin", to="hippocampus", local=True)
    alone = kcl.store_bytes(b"a" * 5000, label="alone", to="hippocampus", local=True)
    assert [item.also for item in kcl.list()] == [(), ()]
    assert kcl.audit().also == ()
    kcl.store_dir(tmp_path / "qq", label="theirs", to=["lab", "private"], local=True)
    assert {item.label: item.also for item in kcl.list()} == {
        "q.bin": ("lab", "private"),
        "alone": (),
        "theirs": ("hippocampus",),
    }
    kcl.store_dir(tmp_path / "qq", label="theirs", to="public", local=True)
    assert {item.label: item.also for item in kcl.list(to="hippocampus")} == {"q.bin": ("public",), "alone": ()}
    done = run("list")
    assert re.search(r"q\.bin .* hippocampus, also public  ipfs://", done.stdout)
    assert re.search(r"alone .* hippocampus  ", done.stdout)
    assert "kachery-cloud access URI" in done.stderr
    assert "for:     hippocampus, also public\n" in run("info", uri).stdout
    assert "for:     hippocampus\n" in run("info", alone).stdout
    (found,) = kcl.audit().also
    assert (found.uri, found.label, found.also) == (uri, "q.bin", ("public",))
    text = run("audit").stdout
    assert "1 of these everybody can load, too, or a part of them, for they are in other things:" in text
    assert "  q.bin: for hippocampus, also public\n" in text
    kcl.set_visibility(kcl.list(find="theirs")[0].uri, "lab")
    assert lab in str(audience_of(kcl.list(find="theirs")[0].uri))
    assert {item.also for item in kcl.list(to="hippocampus")} == {("lab",), ()}


def test_every_uri_says_for_whom_it_is(hippocampus: str, data: Path, tmp_path: Path) -> None:
    """All that commands give as a URI has the groups, and that it is encrypted: whoever loads by it asks them alone."""
    from kachery_p2p.access.log import LOG_NAME, AccessLog, Belonging

    (tmp_path / "f").mkdir()
    (tmp_path / "f" / "a").write_bytes(b"a" * 5000)
    stored = [
        json.loads(run("store", *line, "--to", "hippocampus", "--json").stdout)["uri"]
        for line in (["-r", tmp_path / "f"], ["-r", tmp_path / "f", "--encrypt"])
    ]
    kcl.store_dir(tmp_path / "f", to="private", local=True)
    for uri in stored:
        root = parse_uri(uri).root.multihash
        belonging = Belonging(root, hippocampus)
        log = AccessLog(data / LOG_NAME, lambda some, found=belonging: dict.fromkeys(some, found))
        log.note(PEER, root, 6)
        log.flush()
        log.close()
    part = run("store", tmp_path / "f" / "a", "--to", "private", "--json").stdout
    bare = parse_uri(stored[0]).locator
    lines = (["list"], ["audit"], ["access", bare], ["visibility", bare], ["info", bare], ["share", bare])
    answers = [part, *(run(*line, "--json").stdout for line in lines)]
    uris = [uri for answer in answers for uri in _uris(json.loads(answer))]
    assert len(uris) >= len(lines) + 5
    for uri in uris:
        parsed = parse_uri(uri)
        assert parsed.groups, uri
        assert (parsed.encryption is not None) == (parsed.cid == parse_uri(stored[1]).cid), uri
    private = kcl.store_text("mine", to="private", local=True)
    for line in (["export", private, tmp_path / "a.car"], ["publish", private]):
        assert f"{parse_uri(private).pasteable} is for your own machines alone" in run(*line).stderr


def _uris(value: Any) -> Iterator[str]:
    """What stands under "uri" anywhere in it."""
    if isinstance(value, list):
        for each in value:
            yield from _uris(each)
    elif isinstance(value, dict):
        for key, each in value.items():
            if key == "uri" and each is not None:
                yield each
            yield from _uris(each)


def test_what_is_for_nobody_else() -> None:
    """Of which nothing is known any more: it says so, and can be said anew."""
    uri = kcl.store_text("a", local=True)
    repository(load_config()).access.set_audience(parse_uri(uri).root, NOBODY)
    assert run("visibility", uri).stderr == "Nobody else can load this.\n"
    assert "nobody else" in run("list").stdout
    assert kcl.access(uri).reasons == ()
    assert run("access", uri).stdout.startswith("Nobody else can load this.\n")
    assert kcl.set_visibility(uri, "public") == uri
    assert audience_of(uri) == PUBLIC


def test_a_shared_directory_says_for_whom_its_owner_has_it(
    data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What is listed from there has its column, too; a notebook shows it."""
    monkeypatch.setenv("KACHERY_CLOUD_DIR", str(tmp_path / "theirs"))
    kcl.store_text("a", label="shared", to="private", local=True)
    close_repositories()
    monkeypatch.setenv("KACHERY_CLOUD_DIR", str(data))
    monkeypatch.setenv("KACHERY_CLOUD_SHARED_DIRS", str(tmp_path / "theirs"))
    kcl.store_text("b", label="own", local=True)
    assert {item.label: item.visibility for item in kcl.list()} == {"shared": ("private",), "own": ("public",)}
    shown = kcl.list()._repr_html_()
    assert ">for</th>" in shown
    assert ">private</td>" in shown
    assert ">for</th>" not in kcl.list(own=True)._repr_html_()


def test_audit(hippocampus: str) -> None:
    """What is for whom, with how many and how much; also of a group that has nothing yet."""
    kcl.create_group("lab")
    kcl.store_text("a", local=True)
    kcl.store_text("bb", to="hippocampus", local=True)
    kcl.store_text("ccc", to=["hippocampus", "private"], local=True)
    found = kcl.audit()
    assert [(each.to, each.role, each.members, each.roots, each.bytes) for each in found.given] == [
        ("public", None, None, 1, 1),
        ("private", None, 1, 1, 3),
        ("hippocampus", "owner", 1, 2, 5),
        ("lab", "owner", 1, 0, 0),
    ]
    assert found.loads == ()
    text = run("audit", "--since", "7").stdout
    assert "Nobody loaded any of it in the last 7 days." in text
    assert json.loads(run("audit", "--json").stdout)["given"][0]["to"] == "public"
    for wrong in (0, -1, float("nan"), True, "7"):
        with pytest.raises(InvalidArgument, match="number of days"):
            kcl.audit(since=wrong)  # type: ignore[arg-type]


def test_access_says_who_loaded(hippocampus: str, data: Path) -> None:
    """From the log of the node: by whom, how much and when; summed over days."""
    from kachery_p2p.access.log import LOG_NAME, AccessLog, Belonging

    uri = kcl.store_text("theirs", label="note", to="hippocampus", local=True)
    root = parse_uri(uri).root.multihash
    now = [1_000_000.0]
    log = AccessLog(
        data / LOG_NAME, lambda some: dict.fromkeys(some, Belonging(root, hippocampus)), wall=lambda: now[0]
    )
    for _ in range(2):
        log.note(PEER, root, 6)
        log.flush()
        now[0] += 86_400
    log.close()
    (load,) = kcl.access(uri).loads
    assert (load.peer, load.label, load.bytes, load.first, load.last) == (PEER, "note", 12, 1_000_000.0, 1_086_400.0)
    lines = run("access", uri).stdout.splitlines()
    assert lines[0] == "Only members of hippocampus (1) can load this."
    assert f"Members of hippocampus ({hippocampus}):" in lines
    assert lines[-1].endswith(f"12 bytes by {PEER}")
    assert kcl.audit(since=1).loads == ()


def test_share_says_for_whom(hippocampus: str) -> None:
    """The string names the group, and nobody is told that anybody can load it."""
    uri = kcl.store_text("theirs", to="hippocampus", local=True)
    done = run("share", parse_uri(uri).locator)
    assert f"group={hippocampus}" in done.stdout
    assert done.stderr.startswith("Only members of hippocampus (1) can load this.\n")
    assert "Anybody" not in done.stderr


def test_status_shows_groups(hippocampus: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """With what is for them; and a setting that names nobody is a warning there."""
    kcl.store_text("theirs", to="hippocampus", local=True)
    monkeypatch.setenv("KACHERY_CLOUD_TO", "nobody")
    text = run("status").stdout
    assert "hippocampus: owner, 1 member; 1 root here" in text
    assert "One file or folder is not for everybody" in text
    assert "'nobody'" in text
    (group,) = kcl.status()["visible"]["groups"]
    assert (group["name"], group["group"], group["roots"]) == ("hippocampus", hippocampus, 1)


def test_what_a_shell_offers(hippocampus: str) -> None:
    """Groups by their names, and the two words."""
    from kachery_cloud.commands.completing import offers

    found = [word for _, word, _ in offers(find_command("store"), ["--to"], "")]
    assert found == ["hippocampus", "private", "public"]
