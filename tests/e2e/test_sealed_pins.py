"""What is for a group, pinned at a lab's node that is not in it: the node keeps cipher text, and members load that."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path

from scripts.data import write_random
from scripts.workstation import Workstation
from tests.conftest import StartWorkstation
from tests.helpers.encryption_helpers import age, needs_age
from tests.helpers.pin_clients import add_token, pinning_lab

SIZE = 3_000_000

_PIN = "say(kcl.pin(args[0], wait='verified')[0]['cid'])"
_LOAD = """
import hashlib
try:
    say(hashlib.sha256(kcl.load_bytes(args[0], providers=args[1:], timeout=20)).hexdigest())
except kcl.KacheryError as error:
    say(type(error).__name__)
"""


def lies_at(station: Workstation, piece: bytes) -> bool:
    """Whether these bytes are anywhere in a data directory."""
    return any(piece in path.read_bytes() for path in station.directory.rglob("*") if path.is_file())


def said_by(station: Workstation, *texts: str) -> list[str]:
    """Those of these texts that are anywhere in a data directory, or in the log of its node."""
    paths = [*station.directory.rglob("*"), station.folder / "node.log"]
    data = [path.read_bytes() for path in paths if path.is_file()]
    return [text for text in texts if any(text.encode() in each for each in data)]


@needs_age
def test_a_service_that_is_no_member_keeps_cipher_text(workstation: StartWorkstation, tmp_path: Path) -> None:
    """The real service, of our own node. Nothing of the plain bytes, of their CID or of their name gets there; `age -d`
    opens what it has with the key of who stored it. Who stored it goes; a member loads the plain bytes from the
    service, and a stranger gets what he cannot read."""
    lab, ada, ben, cleo = (workstation() for _ in range(4))
    url = pinning_lab(lab)
    ada.env["LAB_TOKEN"] = add_token(lab, "ada")
    ada.run("kachery-cloud-pins", "service", "add", "lab", url, "--token-env", "LAB_TOKEN", "--default")
    ada.start()
    ada.call("kcl.create_group('hippocampus')")
    for each in (ben, cleo):
        each.env["KACHERY_CLOUD_PEERS"] = f"{ada.addr},{lab.addr}"
        each.start()
    ben.call("kcl.join_group(args[0])", ada.call("say(kcl.invite('hippocampus'))"))
    source = write_random(tmp_path / "an unpublished session.dat", SIZE, seed=8)
    plain = source.read_bytes()
    uri = ada.run("kachery-cloud-store", source, "--to", "hippocampus").stdout.strip()
    cid = ada.call("say(kcl.parse_uri(args[0]).cid)", uri)
    sealed = ada.call(_PIN, uri)
    assert sealed != cid
    (row,) = json.loads(ada.run("kachery-cloud-pins", "--json").stdout)["pins"]
    assert row["state"] == "verified"

    for at in (0, SIZE // 2, SIZE - 64):
        assert not lies_at(lab, plain[at : at + 64])
    multihash = ada.call("say(kcl.parse_uri(args[0]).root.multihash.hex())", uri)
    assert said_by(lab, cid, multihash, source.name, "hippocampus") == []
    assert not lies_at(lab, bytes.fromhex(multihash))
    (stored,) = [path for path in lab.directory.rglob(sealed) if path.is_file()]
    opened = age("-d", "-i", ada.directory / "age.key", stored)
    assert opened == plain

    ada.stop()
    asked = f"ipfs://{sealed}?encryption=age"
    assert ben.call(_LOAD, asked, lab.addr) == hashlib.sha256(plain).hexdigest()
    assert cleo.call(_LOAD, asked, lab.addr) == "NoDecryptionKey"
    assert cleo.call(_LOAD, f"ipfs://{cid}", lab.addr) == "ContentNotFound"
