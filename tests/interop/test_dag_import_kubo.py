"""`ipfs dag import` of a real Kubo, with our node at the other end of `--api`."""

from __future__ import annotations

import os
import random
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from scripts.peers import KuboDaemon, missing_kubo_daemon, places
from tests.conftest import StartWorkstation
from tests.helpers.certificates import self_signed
from tests.helpers.pin_clients import PinClient, add_token, pinning_lab


@pytest.fixture(scope="module")
def daemon() -> Iterator[KuboDaemon]:
    """Makes the CAR files."""
    reason = missing_kubo_daemon()
    if reason is not None:
        pytest.skip(reason)
    with KuboDaemon() as running:
        yield running


def test_ipfs_dag_import(daemon: KuboDaemon, workstation: StartWorkstation, tmp_path: Path) -> None:
    """What `ipfs dag export` writes, `ipfs --api ... --api-auth ... dag import` sends; it says what is pinned, and why
    not where a token is wrong."""
    lab = workstation()
    token = add_token(lab, "kubo")
    url = pinning_lab(lab)
    folder = tmp_path / "folder"
    folder.mkdir()
    for number in range(5):
        (folder / f"{number}.dat").write_bytes(random.Random(number).randbytes(400_000))
    cid = daemon.run("add", "-Q", "-r", folder).strip()
    car = tmp_path / "folder.car"
    car.write_bytes(daemon.run_bytes("dag", "export", cid))
    api = "/ip4/127.0.0.1/tcp/" + url.rpartition(":")[2]

    def ipfs(auth: str, *arguments: str | Path) -> subprocess.CompletedProcess[str]:
        line = [str(places.KUBO_PROGRAM), "--api", api, "--api-auth", auth, *map(str, arguments)]
        env = {**os.environ, "IPFS_PATH": str(tmp_path / "no-repo"), "IPFS_TELEMETRY": "off"}
        env["SSL_CERT_FILE"] = str(tmp_path / "certificate.pem")
        return subprocess.run(line, env=env, capture_output=True, text=True, timeout=120, check=False)

    done = ipfs(f"bearer:{token}", "dag", "import", "--stats", car)
    assert done.returncode == 0, done.stderr
    assert f"Pinned root\t{cid}\tsuccess" in done.stdout
    assert "Imported 6 blocks (2000" in done.stdout
    client = PinClient(url, token)
    (pin,) = client.ask("GET", "/pins")[1]["results"]
    assert pin["pin"]["cid"] == cid
    refused = ipfs("bearer:wrong", "dag", "import", car)
    assert refused.returncode != 0
    assert "token" in refused.stderr
    lab.stop()
    certificate = self_signed(tmp_path)
    url = pinning_lab(lab, "--tls-cert", str(certificate))
    api = "/ip4/127.0.0.1/tcp/" + url.rpartition(":")[2] + "/https"
    secured = ipfs(f"bearer:{token}", "dag", "import", car)
    assert secured.returncode == 0, secured.stderr
    car.write_bytes(car.read_bytes()[:1_000_000])
    broken = ipfs(f"bearer:{token}", "dag", "import", car)
    assert broken.returncode != 0
    assert broken.stderr.startswith("Error:")
