"""A node with a gateway: what is not for everyone is there for its user, who asks a command for the token."""

from __future__ import annotations

from pathlib import Path

import httpx

from tests.conftest import StartWorkstation
from tests.helpers.patience import PATIENCE

_STORE_PRIVATE = """
import os
from kachery_p2p.access.audience import PRIVATE
from kachery_p2p.repo.repo import Repo
with Repo.open(os.environ["KACHERY_CLOUD_DIR"]) as repo:
    say(str(repo.store_bytes(b"for my own machines", audience=PRIVATE).cid))
"""
_MAKE_PUBLIC = """
import os
from kachery_cloud.node.connection import tell_access
from kachery_cloud.settings.config import load_config
from kachery_p2p.access.audience import PUBLIC
from kachery_p2p.dag.cid import CID
from kachery_p2p.repo.repo import Repo
with Repo.open(os.environ["KACHERY_CLOUD_DIR"]) as repo:
    repo.access.set_audience(CID.parse(args[0]), PUBLIC)
say(tell_access(load_config()))
"""


def test_the_user_and_others(workstation: StartWorkstation) -> None:
    """Nothing without the token; with the one that the command prints, all; and what is made public, for everyone."""
    station = workstation().start("--gateway", "127.0.0.1:0")
    cid = station.call(_STORE_PRIVATE)
    token = station.run("kachery-cloud", "gateway-token").stdout.strip()
    with httpx.Client(base_url=station.status()["gateway"]["url"], trust_env=False, timeout=PATIENCE) as http:
        path = f"/ipfs/{cid}"
        assert http.get(path).status_code == 404
        assert http.get(path, headers={"authorization": "Bearer wrong"}).status_code == 401
        answer = http.get(path, headers={"authorization": f"Bearer {token}"})
        assert (answer.status_code, answer.text) == (200, "for my own machines")
        assert "private" in answer.headers["cache-control"]
        assert http.get(path).status_code == 404
        # A new token counts at once.
        (station.directory / "gateway-token").unlink()
        assert http.get(path, headers={"authorization": f"Bearer {token}"}).status_code == 401
        again = station.run("kachery-cloud", "gateway-token").stdout.strip()
        assert again != token
        assert http.get(path, headers={"authorization": f"Bearer {again}"}).status_code == 200
        assert station.call(_MAKE_PUBLIC, cid) is True
        assert http.get(path).text == "for my own machines"


def test_a_gateway_that_fetches_shows_links_as_they_are(workstation: StartWorkstation, tmp_path: Path) -> None:
    """Of a folder elsewhere: the target is the answer, wherever it leads; a path does not go on behind it."""
    (tmp_path / "f" / "s").mkdir(parents=True)
    (tmp_path / "f" / "s" / "x").write_text("inner", encoding="utf-8")
    for name, target in {"t": "s", "gone": "missing", "b": "s/x"}.items():
        (tmp_path / "f" / name).symlink_to(target)
    source = workstation().start()
    uri = source.call("say(kcl.store_dir(args[0]))", tmp_path / "f")
    env = {"KACHERY_CLOUD_PEERS": source.addr, "KACHERY_CLOUD_GATEWAY_FETCH": "on"}
    station = workstation(env=env).start("--gateway", "127.0.0.1:0")
    root = f"/ipfs/{uri.removeprefix('ipfs://')}"
    with httpx.Client(base_url=station.status()["gateway"]["url"], trust_env=False, timeout=PATIENCE) as http:
        for name, target in {"t": "s", "gone": "missing", "b": "s/x"}.items():
            answer = http.get(f"{root}/{name}")
            assert (answer.status_code, answer.text) == (200, target)
            assert answer.headers["content-type"] == "inode/symlink"
        assert http.get(f"{root}/t/x").status_code == 404
        assert http.get(f"{root}/s/x").text == "inner"


def test_the_token_is_printed(workstation: StartWorkstation) -> None:
    """Also where no node runs, and as JSON; a file that holds no token is an error that says what to do."""
    import json

    station = workstation()
    printed = station.run("kachery-cloud", "gateway-token").stdout.strip()
    found = json.loads(station.run("kachery-cloud", "gateway-token", "--json").stdout)
    assert found == {"token": printed, "path": str(station.directory / "gateway-token")}
    (station.directory / "gateway-token").write_text("x", encoding="utf-8")
    failed = station.run("kachery-cloud", "gateway-token", check=False)
    assert failed.returncode == 1
    assert "Remove it" in failed.stderr
