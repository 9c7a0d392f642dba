"""What an outsider tries at the node of a member, over real connections."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path

import pytest

from scripts.workstation import Workstation

StartWorkstation = Callable[..., Workstation]

#: Seconds for a load to give up: who may have it gets it at once.
IN_VAIN = 5.0

_GET = """
found = {}
for name, uri in args[0].items():
    try:
        found[name] = kcl.load_text(uri, providers=args[1], timeout=args[2])
    except kcl.KacheryError as error:
        found[name] = type(error).__name__
say(found)
"""


@pytest.fixture(scope="module")
def owner(module_workstation: StartWorkstation) -> Workstation:
    """A machine in a network with a key of its own, which founded a group."""
    station = module_workstation()
    station.run("kachery-cloud-keygen-swarm")
    station.run("kachery-cloud", "group", "create", "cortex")
    return station.start()


@pytest.fixture(scope="module")
def outsider(owner: Workstation, module_workstation: StartWorkstation) -> Workstation:
    """Another machine of that network, in no group."""
    station = module_workstation()
    station.directory.mkdir(parents=True)
    shutil.copy(owner.directory / "swarm.key", station.directory / "swarm.key")
    return station.start()


def got(outsider: Workstation, owner: Workstation, **uris: str) -> dict[str, str]:
    """What the outsider gets by CIDs."""
    bare = {name: uri.partition("?")[0] for name, uri in uris.items()}
    return outsider.call(_GET, bare, [owner.addr], IN_VAIN)


def test_a_swarm_key_is_no_membership(owner: Workstation, outsider: Workstation) -> None:
    """Who has the key of the network, and is on no list, gets what is public."""
    code = "say([kcl.store_text(to, to=to) for to in ('public', 'cortex', 'private')])"
    public, cortex, private = owner.call(code)
    assert got(outsider, owner, public=public, cortex=cortex, private=private) == {
        "public": "public",
        "cortex": "ContentNotFound",
        "private": "ContentNotFound",
    }


def test_folders_and_what_is_in_them(owner: Workstation, outsider: Workstation, tmp_path: Path) -> None:
    """A file of a group's folder that was also stored for everybody is public, and nothing else of that folder; a
    private file that is in a public folder is public, and no longer when that folder is gone."""
    for folder, names in (("ours", ("seen", "hidden")), ("shown", ("mine", "plain"))):
        (tmp_path / folder).mkdir()
        for name in names:
            (tmp_path / folder / name).write_text(f"{name} of {folder}", encoding="utf-8")
    code = """
from pathlib import Path
top = Path(args[0])
found = {"ours": kcl.store_dir(top / "ours", to="cortex"), "seen": kcl.store_file(top / "ours" / "seen", to="public")}
found["mine"] = kcl.store_file(top / "shown" / "mine", to="private")
found["shown"] = kcl.store_dir(top / "shown", to="public")
found["hidden"] = next(each["uri"] for each in kcl.list_dir(found["ours"]) if each["name"] == "hidden")
say(found)
"""
    uris = owner.call(code, tmp_path)
    ours = uris["ours"].partition("?")[0]
    tried = {**{name: uris[name] for name in ("seen", "hidden", "mine")}, "by path": f"{ours}/seen"}
    assert got(outsider, owner, **tried) == {
        "seen": "seen of ours",
        "hidden": "ContentNotFound",
        "mine": "mine of shown",
        "by path": "ContentNotFound",
    }
    said = owner.run("kachery-cloud", "access", uris["mine"]).stdout
    assert "in common with shown" in said
    owner.run("kachery-cloud", "rm", "--force", uris["shown"])
    outsider.run("kachery-cloud", "rm", "--force", uris["mine"].partition("?")[0])
    assert got(outsider, owner, mine=uris["mine"]) == {"mine": "ContentNotFound"}


def test_what_is_said_to_outsiders(owner: Workstation, outsider: Workstation) -> None:
    """`whereis` finds nobody, the log of the node names no CID, and the owner sees that nobody was given anything."""
    uri = owner.call("say(kcl.store_text('of the group', to='cortex'))")
    cid = uri.removeprefix("ipfs://").partition("?")[0]
    asked = outsider.run(
        "kachery-cloud", "whereis", f"ipfs://{cid}", "--peer", owner.addr, "--timeout", str(IN_VAIN), check=False
    )
    assert asked.returncode == 3
    assert "has it" not in asked.stdout
    assert got(outsider, owner, it=uri) == {"it": "ContentNotFound"}
    for station in (owner, outsider):
        assert cid not in (station.folder / "node.log").read_text(encoding="utf-8")
    assert outsider.peer_id not in owner.run("kachery-cloud", "access", uri).stdout
