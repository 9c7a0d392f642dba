"""Who is asked for what is not for everybody, as commands and settings say it; and what only a part is here of."""

from __future__ import annotations

from pathlib import Path

import pytest
from click.testing import CliRunner, Result

import kachery_cloud as kcl
from kachery_cloud import audiences
from kachery_cloud.commands.completing import _contents
from kachery_cloud.commands.main import find_command
from kachery_cloud.errors import ContentNotFound
from kachery_cloud.local import repository
from kachery_cloud.node.connection import NodeConnection
from kachery_cloud.settings.config import load_config
from kachery_cloud.uri import parse_uri
from kachery_p2p.access.audience import group_audience
from kachery_p2p.dag.cid import CID, DAG_PB
from kachery_p2p.node.messages import LoadRequest
from kachery_p2p.repo import Repo
from kachery_p2p.repo.offering import kept_names

pytestmark = pytest.mark.usefixtures("data")


def run(*line: object) -> Result:
    """A command, in this process."""
    return CliRunner().invoke(find_command(str(line[0])), [str(each) for each in line[1:]])


def test_commands_load_from_members(hippocampus: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """`--group` says it where the URI does not, by a name or an ID; the setting says it for all that is loaded."""
    asked: list[LoadRequest] = []

    def load(self: object, request: LoadRequest, progress: object = None) -> None:
        asked.append(request)
        raise ContentNotFound("nobody has it")

    monkeypatch.setattr(NodeConnection, "load", load)
    bare = "ipfs://bafkrei" + 52 * "a"
    for line in (["load", bare], ["cat", bare], ["get", bare], ["info", bare]):
        assert run(*line, "--group", "hippocampus").exit_code == 3
        assert asked.pop().groups == (hippocampus,)
    assert run("load", f"{bare}?group=own", "--group", hippocampus).exit_code == 3
    assert set(asked[-1].groups) == {"own", hippocampus}
    assert run("load", bare, "--group", "private").exit_code == 3
    assert (asked[-1].groups, asked[-1].members_only) == (("own",), False)
    assert "no group 'hipocampus'" in run("load", bare, "--group", "hipocampus").stderr
    assert run("load", bare, "--group", "public").exit_code == 2
    monkeypatch.setenv("KACHERY_CLOUD_MEMBERS_ONLY", "on")
    count = len(asked)
    assert run("load", bare).exit_code == 3
    assert (len(asked), asked[-1].members_only) == (count + 1, True)


def test_a_plain_export_says_for_whom_it_is(hippocampus: str, tmp_path: Path) -> None:
    """The URIs that it prints lead to members, not to everybody."""
    uri = kcl.store_text("theirs", to="hippocampus", local=True)
    (named,) = kcl.export_car(parse_uri(uri).locator, tmp_path / "x.car", plain=True, local_only=True).uris
    assert parse_uri(named).groups == (hippocampus,)


def test_of_what_only_a_part_is_here(hippocampus: str, tmp_path: Path) -> None:
    """What was said of it would not hold for the rest; so nothing is done, and the error says what is missing."""
    (tmp_path / "folder").mkdir()
    for name in ("a", "b"):
        (tmp_path / "folder" / name).write_bytes(name.encode() * 5000)
    with Repo.open(tmp_path / "there") as there:
        root = there.store_directory(tmp_path / "folder").cid
        nodes = [(CID(1, DAG_PB, each), there.get_block(each) or b"") for each in there.inventory.members(root).nodes]
        file = there.hash_file(tmp_path / "folder" / "a")
    repo = repository(load_config())
    with repo.access.claim(group_audience([hippocampus])) as claim:
        repo.put_blocks(nodes, claim)
        repo.add_small_files([(file, b"a" * 5000)])
        repo.inventory.loaded_part(root, file, claim)
    uri = f"ipfs://{root}"
    assert kcl.access(uri).visibility == ("hippocampus",)
    for to in ("public", "private"):
        with pytest.raises(ContentNotFound, match=r"Only a part of .* is here.*kachery-cloud-load"):
            kcl.set_visibility(uri, to)
    assert kcl.access(uri).visibility == kcl.access(kcl.join(uri, "a")).visibility == ("hippocampus",)


def test_what_is_shown_has_the_hint(hippocampus: str) -> None:
    """Whatever people may copy a URI from: completion, what `rm` has removed, and what has a part of something."""
    uri = kcl.store_text("theirs", label="theirs", to="hippocampus", local=True)
    cid = parse_uri(uri).cid
    config = load_config()
    (offered,) = kept_names(config.directory)
    assert offered[2] == group_audience([hippocampus])
    assert parse_uri(audiences.named_root(repository(config), parse_uri(uri).root)).groups == (hippocampus,)
    assert [value for value, _ in _contents("ipfs://")] == [parse_uri(uri).pasteable]
    assert [item.uri for item in kcl.gc(keep=0, stored=True, force=True, dry_run=True).removed] == [
        f"ipfs://{cid}?group={hippocampus}"
    ]
    assert kcl.remove(uri, force=True).uri == f"ipfs://{cid}?group={hippocampus}"
