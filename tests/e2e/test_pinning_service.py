"""`kachery-cloud-node` as the pinning service of a lab: the program as it is run, and killed."""

from __future__ import annotations

import json
import random
import urllib.request
from pathlib import Path

import httpx
import pytest

from tests.conftest import StartWorkstation
from tests.helpers.certificates import self_signed
from tests.helpers.patience import wait_until
from tests.helpers.pin_clients import PinClient, add_token, pinning_lab, trusting
from tests.helpers.pin_server import nowhere

FILES = 40
_STORE_MANY = "say([kcl.store_file(path) for path in sorted(args[0])])"


def _write(folder: Path, count: int, size: int) -> list[str]:
    folder.mkdir()
    paths: list[str] = []
    for number in range(count):
        path = folder / f"{number:03d}.dat"
        path.write_bytes(random.Random(number).randbytes(size))
        paths.append(str(path))
    return paths


def _cid(uri: str) -> str:
    return uri.removeprefix("ipfs://").partition("?")[0]


@pytest.mark.slow
def test_killed_in_the_middle_of_pinning(workstation: StartWorkstation, tmp_path: Path) -> None:
    """kill -9, several times: every pin that was acknowledged is there, the queue goes on, and all of it verifies."""
    origin, lab = workstation(), workstation()
    origin.start()
    uris = origin.call(_STORE_MANY, _write(tmp_path / "files", FILES, 1_500_000))
    token = add_token(lab, "alice")
    client = PinClient(pinning_lab(lab), token)
    known: dict[str, str] = {}

    def pinned(client: PinClient, least: int) -> None:
        wait_until(lambda: client.counts()["pinned"] >= least, "that some are pinned")

    for turn, uri in enumerate(uris):
        known[client.pin(_cid(uri), origin.addr)] = _cid(uri)
        if turn in (9, 19, 29):
            # Between two of them something is being fetched.
            pinned(client, turn - 4)
            lab.kill()
            client = PinClient(pinning_lab(lab), token)
            assert sum(client.counts().values()) == len(known)
    for request_id, cid in known.items():
        assert client.wait_pinned(request_id)["pin"]["cid"] == cid
    assert client.counts() == {"queued": 0, "pinning": 0, "pinned": FILES, "failed": 0}
    origin.stop()
    assert lab.run("kachery-cloud", "verify").returncode == 0
    listed = json.loads(lab.run("kachery-cloud", "list", "--json").stdout)
    items = listed["items"] if isinstance(listed, dict) else listed
    assert {each["cid"] for each in items if each["kind"] == "pinned" and each["complete"]} == set(known.values())


def test_it_stops_in_the_middle_of_pinning(workstation: StartWorkstation) -> None:
    """Ctrl-C ends it as it ends any node, whatever is being fetched; what waits is there when it begins anew."""
    lab = workstation()
    token = add_token(lab, "alice")
    client = PinClient(pinning_lab(lab), token)
    for number in range(6):
        client.pin(nowhere(number))
    wait_until(lambda: client.counts()["pinning"] == 4, "that four are fetched")
    assert lab.stop() == 0
    client = PinClient(pinning_lab(lab), token)
    counts = client.counts()
    assert counts["queued"] + counts["pinning"] == 6
    assert lab.stop() == 0


def test_our_own_client_pins_there(workstation: StartWorkstation, tmp_path: Path) -> None:
    """Somebody of the lab sets the service up, stores, and switches off; another one loads."""
    lab, ours, other = workstation(), workstation(), workstation()
    url = pinning_lab(lab)
    token = add_token(lab, "alice", "--quota", "10MB")
    (tmp_path / "token").write_text(token + "\n")
    ours.env["LAB_TOKEN"] = token
    ours.run("kachery-cloud-pins", "service", "add", "lab", url, "--token-env", "LAB_TOKEN", "--default")
    ours.start()
    path = tmp_path / "session.dat"
    path.write_bytes(random.Random(5).randbytes(3_000_000))
    uri = ours.call("say(kcl.store_file(args[0]))", str(path))
    ours.run("kachery-cloud-pins", "wait", uri)
    (row,) = json.loads(ours.run("kachery-cloud-pins", "--json").stdout)["pins"]
    assert row["state"] == "verified"
    ours.stop()
    other.start("--peer", lab.addr)
    loaded = other.call("say(str(kcl.load_file(args[0])))", uri)
    assert Path(loaded).read_bytes() == path.read_bytes()
    (alice,) = json.loads(lab.run("kachery-cloud-node", "tokens", "list", "--json").stdout)["tokens"]
    assert (alice["name"], alice["pins"], alice["used"], alice["quota"]) == ("alice", 1, 3_000_000, 10_000_000)


def test_neither_rm_nor_gc_takes_it_away(workstation: StartWorkstation) -> None:
    """`rm` says whose it is, `gc` passes it over; `rm --force` removes it, and the service fetches it again."""
    origin, lab = workstation(), workstation()
    origin.start()
    uri = origin.call("say(kcl.store_text('x' * 100_000))")
    token = add_token(lab, "alice")
    client = PinClient(pinning_lab(lab), token)
    made = client.pin(_cid(uri), origin.addr)
    client.wait_pinned(made)
    refused = lab.run("kachery-cloud", "rm", uri, check=False)
    assert refused.returncode != 0
    assert "pinning service" in refused.stderr
    assert lab.run("kachery-cloud", "gc", "--keep", "0", "--stored", "--force", check=False).returncode == 1
    assert json.loads(lab.run("kachery-cloud", "info", uri, "--json").stdout)["kept"] == "pinned"
    lab.run("kachery-cloud", "rm", "--force", uri)
    wait_until(lambda: client.counts()["pinned"] == 1, "that it is back")
    wait_until(lambda: "pinned" in lab.run("kachery-cloud", "list").stdout, "that it is listed again")


def test_tokens_are_made_and_taken_away(workstation: StartWorkstation) -> None:
    """A node that runs goes by them at once; pins stay for a new token of the name, or go with `--pins`."""
    lab = workstation()
    url = pinning_lab(lab)
    first = PinClient(url, add_token(lab, "alice"))
    assert first.ask("GET", "/pins") == (200, {"count": 0, "results": []})
    again = lab.run("kachery-cloud-node", "tokens", "add", "alice", check=False)
    assert again.returncode == 2
    assert "already" in again.stderr
    # The file of no bytes, which everybody has.
    made = first.pin("bafkreihdwdcefgh4dqkjv67uzcmw7ojee6xedzdetojuzjevtenxquvyku")
    lab.run("kachery-cloud-node", "tokens", "remove", "alice")
    assert first.ask("GET", "/pins")[0] == 401
    second = PinClient(url, add_token(lab, "alice"))
    assert second.ask("GET", f"/pins/{made}")[0] == 200
    lab.run("kachery-cloud-node", "tokens", "remove", "alice", "--pins")
    assert lab.run("kachery-cloud-node", "tokens", "remove", "alice", check=False).returncode == 2
    third = PinClient(url, add_token(lab, "alice"))
    assert third.ask("GET", f"/pins/{made}")[0] == 404


async def test_https_by_certificate_files(workstation: StartWorkstation, tmp_path: Path) -> None:
    """HTTP/1.1 and HTTP/2; what speaks no TLS gets nothing, and a wrong file stops the start with a sentence."""
    certificate = self_signed(tmp_path)
    lab = workstation()
    token = add_token(lab, "alice")
    url = pinning_lab(lab, "--tls-cert", str(certificate))
    assert url.startswith("https://")
    for http2 in (False, True):
        async with httpx.AsyncClient(verify=trusting(str(certificate)), http2=http2, trust_env=False) as client:
            answer = await client.get(f"{url}/pins", headers={"authorization": f"Bearer {token}"}, timeout=60)
            assert (answer.status_code, answer.http_version) == (200, "HTTP/2" if http2 else "HTTP/1.1")
    async with httpx.AsyncClient(trust_env=False) as client:
        with pytest.raises(httpx.TransportError):
            await client.get(url.replace("https", "http") + "/healthz", timeout=60)
    lab.stop()
    (tmp_path / "no.pem").write_text("not a certificate")
    failed = lab.run("kachery-cloud-node", "--pinning-service", "--tls-cert", tmp_path / "no.pem", check=False)
    assert failed.returncode == 2
    assert "HTTPS cannot be spoken" in failed.stderr


def test_figures_and_whether_all_is_well(workstation: StartWorkstation) -> None:
    """Without a token, and without a name or CID of anybody; Prometheus' own parser reads it."""
    from prometheus_client.parser import text_string_to_metric_families

    origin, lab = workstation(), workstation()
    origin.start()
    uri = origin.call("say(kcl.store_text('figures' * 10_000))")
    token = add_token(lab, "alice")
    client = PinClient(pinning_lab(lab), token)
    client.wait_pinned(client.pin(_cid(uri), origin.addr, name="a-secret-name"))

    def get(path: str) -> str:
        with urllib.request.urlopen(client.url + path, timeout=60) as answer:
            assert answer.status == 200
            return answer.read().decode()

    assert get("/healthz") == "ok\n"
    assert get("/readyz") == "ready\n"
    text = get("/metrics")
    for secret in ("a-secret-name", _cid(uri), token, "alice"):
        assert secret not in text
    found = {
        (sample.name, *sample.labels.values()): sample.value
        for family in text_string_to_metric_families(text)
        for sample in family.samples
    }
    assert found["kachery_peers",] >= 1
    assert found["kachery_pins", "pinned"] == 1
    assert found["kachery_pin_queue_length",] == 0
    assert found["kachery_bitswap_bytes_total", "in"] >= 70_000
    assert found["kachery_bitswap_blocks_total", "in"] >= 1
    assert found["kachery_disk_free_bytes",] > 0
    assert found["kachery_disk_used_bytes",] >= 0
    assert found["kachery_http_request_seconds_count", "POST", "/pins", "202"] == 1
