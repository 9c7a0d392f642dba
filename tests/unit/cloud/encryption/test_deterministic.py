"""Same group, same bytes, same URI: what is random otherwise follows from the group's secret and the bytes."""

from __future__ import annotations

import io
import os
from pathlib import Path
from typing import Any

import pytest

import kachery_cloud as kcl
from kachery_cloud.encryption.identities import group_identity
from tests.helpers.encryption_helpers import age, groups_of, needs_age, stored_bytes
from tests.unit.cloud.encryption.conftest import Go
from tests.unit.cloud.encryption.test_storing import CHUNK, _decrypt, _rotated, source


def test_same_group_same_bytes_same_uri(tmp_path: Path, at: Go) -> None:
    """By file, stream and value, on two machines; another group, other bytes or another secret give another."""
    groups = groups_of(at("here"))
    group, other = (groups.create(name).group for name in ("hippocampus", "cortex"))
    path = source(tmp_path)
    how: dict[str, Any] = {"encrypt": "deterministic", "local": True}
    uri = kcl.store_file(path, to="hippocampus", **how)
    (tmp_path / "as-value").mkdir()
    assert kcl.store_file(io.BytesIO(path.read_bytes()), to=group, **how) == uri
    assert kcl.store_bytes(path.read_bytes(), to="hippocampus", **how) == uri
    first = stored_bytes(uri)
    assert _decrypt(first, group_identity(groups.secrets_of(group)[0])) == [path.read_bytes()]
    assert Path(kcl.load_file(uri, local_only=True)).read_bytes() == path.read_bytes()
    assert kcl.parse_uri(kcl.store_file(path, to="cortex", **how)).cid != kcl.parse_uri(uri).cid
    assert other != group
    path.write_bytes(path.read_bytes()[:-1])
    assert kcl.store_file(path, to="hippocampus", **how) != uri
    _rotated(groups, group, "12D3KooWGzxzKZYveHXtpG6AsrUJBcWxHBFS2HsEoGTxrMLvKXtf")
    again = kcl.store_bytes(_decrypt(first, group_identity(groups.secrets_of(group)[1]))[0], to="hippocampus", **how)
    assert kcl.parse_uri(again).cid != kcl.parse_uri(uri).cid


@needs_age
def test_age_opens_what_is_deterministic(tmp_path: Path, at: Go) -> None:
    """It is an age file as all others."""
    groups = groups_of(at("here"))
    group = groups.create("hippocampus").group
    uri = kcl.store_bytes(bytes(CHUNK + 5), to="hippocampus", encrypt="deterministic", local=True)
    (tmp_path / "key").write_text(group_identity(groups.secrets_of(group)[0]).text + "\n")
    assert age("-d", "-i", tmp_path / "key", data=stored_bytes(uri)) == bytes(CHUNK + 5)


@pytest.mark.parametrize("to", [None, "public", "private", ["hippocampus", "cortex"], ["hippocampus", "private"]])
def test_it_is_for_one_group(at: Go, to: Any) -> None:
    """Anything else is refused."""
    groups = groups_of(at("here"))
    for name in ("hippocampus", "cortex"):
        groups.create(name)
    with pytest.raises(kcl.InvalidArgument, match="exactly one group"):
        kcl.store_text("secret", to=to, encrypt="deterministic", local=True)


def test_bytes_that_change_between_two_readings(at: Go) -> None:
    """Key and nonce are those of other bytes then: what was written is not stored."""
    from kachery_cloud.encryption.recipients import Recipients
    from kachery_cloud.encryption.writing import encrypt

    class Changing(io.BytesIO):
        def seek(self, offset: int, whence: int = os.SEEK_SET, /) -> int:
            if whence == os.SEEK_SET:
                self.getbuffer()[5] ^= 1
            return super().seek(offset, whence)

    with pytest.raises(kcl.EncryptionError, match="changed while it was encrypted"):
        encrypt(Changing(bytes(100_000)), io.BytesIO(), Recipients(secret=bytes(32)))
