"""What tests of encryption need: the real `age`, groups, and what one machine stored on another."""

from __future__ import annotations

import io
import shutil
import subprocess
from pathlib import Path

import pytest

import kachery_cloud as kcl
from kachery_cloud.encryption.recipients import Recipients
from kachery_cloud.encryption.writing import encrypt
from kachery_cloud.settings.config import load_config
from kachery_p2p.membership.groups import Groups
from kachery_p2p.repo.keys import load_or_create_identity
from kachery_p2p.repo.repo import Repo
from kachery_p2p.transport.compat import Keys

needs_age = pytest.mark.skipif(shutil.which("age") is None, reason="age is not installed (apt-get install age)")


def age(*arguments: object, data: bytes = b"") -> bytes:
    """What `age` writes."""
    done = subprocess.run(["age", *map(str, arguments)], input=data, capture_output=True, check=False)
    assert done.returncode == 0, done.stderr
    return done.stdout


def encrypted_bytes(data: bytes, recipients: Recipients) -> bytes:
    """Some bytes as an age file."""
    out = io.BytesIO()
    encrypt(io.BytesIO(data), out, recipients)
    return out.getvalue()


def groups_of(directory: Path) -> Groups:
    """The groups of a data directory."""
    directory.mkdir(exist_ok=True)
    return Groups(directory, Keys.from_seed(load_or_create_identity(directory).seed))


def bring(source: Path, target: Path, uri: str) -> None:
    """Copy all blocks of something from one data directory to another, as a CAR file."""
    import os

    from kachery_cloud.local import close_repositories

    before = os.environ["KACHERY_CLOUD_DIR"]
    car = source.parent / "carried.car"
    try:
        os.environ["KACHERY_CLOUD_DIR"] = str(source)
        kcl.export_car(uri, car, overwrite=True, local_only=True, plain=True)
        close_repositories()
        os.environ["KACHERY_CLOUD_DIR"] = str(target)
        kcl.import_car(car, local=True)
        close_repositories()
    finally:
        os.environ["KACHERY_CLOUD_DIR"] = before


def stored_bytes(uri: str) -> bytes:
    """The cipher text of a URI in the data directory of now."""
    cid = kcl.parse_uri(uri).root
    with Repo.open(load_config().directory) as repo:
        path = repo.find_file(cid)
        assert path is not None
        return path.read_bytes()
