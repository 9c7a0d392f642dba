"""A lab over real HTTP: people come in, register their computers, and these use the pinning service."""

from __future__ import annotations

import contextlib
import json
import time
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import httpx
import trio

from kachery_cloud.lab.signed_requests import sign
from kachery_p2p.repo.keys import new_identity
from scripts.workstation import Workstation
from tests.conftest import StartOpenID, StartWorkstation
from tests.helpers.certificates import self_signed
from tests.helpers.lab import Wall, running_lab
from tests.helpers.openid import web_client
from tests.helpers.patience import PATIENCE
from tests.helpers.pin_clients import trusting

JSON = {"content-type": "application/json"}


async def test_from_an_invitation_to_a_pin(tmp_path: Path) -> None:
    """Somebody who was invited signs in, registers a computer, and that pins with its token."""
    async with running_lab(tmp_path) as lab:
        alice = await lab.member("Alice", quota=1000)
        browser = await lab.browser(alice)
        me = await browser.me()
        assert (me["id"], me["name"], me["role"], me["quota"], me["used"]) == (alice.id, "Alice", "member", 1000, 0)
        client = await lab.register(browser, label="laptop")
        assert [(each["peer"], each["label"]) for each in (await browser.me())["clients"]] == [
            (client.key.peer_id, "laptop")
        ]
        answer = await client.by_token("GET", "/pins")
        assert (answer.status_code, answer.json()["count"]) == (200, 0)
        for answer in (await client.by_token("GET", "/api/v1/me"), await client.signed("GET", "/api/v1/me")):
            assert answer.status_code == 200, answer.text
            assert (answer.json()["id"], answer.json()["client"]) == (alice.id, client.key.peer_id)


async def test_signing_in_at_a_provider(tmp_path: Path, start_openid: StartOpenID) -> None:
    """Whoever the settings let in signs in at a real provider, and is the same member the next time."""
    provider = start_openid()
    told: dict[str, Any] = {"openid_issuer": provider.issuer, "openid_client_id": "lab"}
    (tmp_path / "secret").write_text("lab-secret\n")
    told["openid_client_secret_file"] = tmp_path / "secret"
    async with running_lab(tmp_path / "lab", wall=Wall(time.time()), lab_members=("ada@example.org",), **told) as lab:
        await trio.to_thread.run_sync(provider.add_client, web_client(f"{lab.url}/sign-in/callback"))
        ids: set[str] = set()
        for _ in range(2):
            person = await lab.person()
            landed = await person.sign_in("/sign-in?next=/files", "ada")
            assert (landed.status_code, landed.headers["location"]) == (303, "/files")
            me = await person.browser.me()
            assert (me["name"], me["email"], me["role"]) == ("Ada Lovelace", "ada@example.org", "member")
            ids.add(me["id"])
        assert len(ids) == 1
        refused = await (await lab.person()).sign_in("/sign-in", "grace")
        assert refused.status_code == 403
        assert "Ask those who run kachery-cloud-node" in refused.json()["error"]["details"]


async def test_where_the_gateway_is(tmp_path: Path) -> None:
    """Whoever asks is told of it by an address at which it answers him; or by the one of the settings."""

    @dataclass
    class Gateway:
        open_to_others: bool
        url: str = "http://127.0.0.1:8090"

    async def told(host: str) -> str | None:
        answer = await (await lab.http()).get("/api/v1", headers={"host": host})
        return answer.json()["gateway"]

    async with running_lab(tmp_path, lab_url="https://lab.example.org") as lab:
        inside: Any = lab.server.lab
        assert await told("127.0.0.1:8095") is None
        inside.gateway_server = Gateway(open_to_others=False)
        assert await told("localhost:8095") == "http://127.0.0.1:8090"
        assert await told("192.168.1.7:8095") is None
        inside.gateway_server = Gateway(open_to_others=True)
        assert await told("192.168.1.7:8095") == "http://192.168.1.7:8090"
        assert await told("[fd00::1]:8095") == "http://[fd00::1]:8090"
        assert await told("lab.example.org") is None
        inside.config = replace(inside.config, gateway_names=("lab.example.org",))
        assert await told("lab.example.org") == "http://lab.example.org:8090"
        inside.config = replace(inside.config, lab_gateway="https://figures.example.org")
        assert await told("lab.example.org") == "https://figures.example.org"


# --- the program ----------------------------------------------------------------------------------------------------


def _lab(station: Workstation, *options: str) -> str:
    """Start the node of a workstation as a lab; its URL."""
    station.start("--lab", "127.0.0.1:0", *options)
    return station.status()["lab"]


def _invite(station: Workstation, *options: str) -> str:
    """The link of an invitation."""
    made = station.run("kachery-cloud-node", "members", "invite", *options, "--json")
    return json.loads(made.stdout)["invitation"]


def _come_in(url: str, link: str, **more: Any) -> tuple[httpx.Client, dict[str, str]]:
    """A browser that has used an invitation, and the headers with which its pages change something."""
    browser = httpx.Client(base_url=url, trust_env=False, timeout=PATIENCE, **more)
    assert browser.post(link).status_code == 200
    return browser, {"x-csrf-token": browser.get("/api/v1/me").json()["csrf"]}


def test_the_program(workstation: StartWorkstation) -> None:
    """An operator invites, and removes, while the node runs; kill -9 takes nobody's session or token."""
    lab = workstation()
    url = _lab(lab)
    link = _invite(lab, "Ada", "--administrator", "--quota", "1MB")
    assert link.startswith(f"{url}/invitation/")
    browser, told = _come_in(url, link)
    with contextlib.closing(browser):
        key = new_identity()
        body = b'{"label": "rig"}'
        headers = {**sign(key, "POST", f"{url}/api/v1/registrations", body, now=time.time()), **JSON}
        begun = browser.post("/api/v1/registrations", content=body, headers=headers).json()
        path = f"/api/v1/registrations/{begun['id']}"
        assert browser.post(f"{path}/register", headers=told).status_code == 200
        bearer = {"authorization": f"Bearer {begun['secret']}"}
        token = {"authorization": f"Bearer {browser.get(path, headers=bearer).json()['token']}"}
        (row,) = json.loads(lab.run("kachery-cloud-node", "clients", "list", "--json").stdout)["clients"]
        assert (row["peer"], row["name"], row["label"]) == (key.peer_id, "Ada", "rig")
        lab.kill()
        lab.start("--lab", url.removeprefix("http://"))
        assert browser.get("/api/v1/me").json()["role"] == "administrator"
        assert browser.get("/pins", headers=token).json()["count"] == 0
        lab.run("kachery-cloud-node", "clients", "remove", key.peer_id)
        assert browser.get("/pins", headers=token).status_code == 401
        (ada,) = json.loads(lab.run("kachery-cloud-node", "members", "list", "--json").stdout)["members"]
        assert (ada["name"], ada["quota"], ada["clients"]) == ("Ada", 1_000_000, 0)
        removed = lab.run("kachery-cloud-node", "members", "remove", "Ada")
        assert "There is no administrator any more" in removed.stderr
        assert browser.get("/api/v1/me").status_code == 401
    assert lab.stop() == 0


def test_with_https(workstation: StartWorkstation, tmp_path: Path) -> None:
    """The lab's own certificate: cookies of this host alone, HTTPS for good, HTTP/2 as well."""
    certificate = self_signed(tmp_path)
    lab = workstation()
    url = _lab(lab, "--tls-cert", str(certificate))
    assert url.startswith("https://")
    for http2 in (False, True):
        browser, told = _come_in(
            url, _invite(lab, "Ada"), verify=trusting(str(certificate)), http1=not http2, http2=http2
        )
        with contextlib.closing(browser):
            answer = browser.get("/api/v1/me")
            assert answer.http_version == ("HTTP/2" if http2 else "HTTP/1.1")
            assert answer.headers["strict-transport-security"] == "max-age=31536000"
            assert [each.name for each in browser.cookies.jar] == ["__Host-kachery-session"]
            assert browser.post("/sign-out", headers=told).status_code == 200


def test_settings_that_make_no_sense(workstation: StartWorkstation, tmp_path: Path) -> None:
    """Each is one sentence, and an exit code; nothing is listened on."""
    lab = workstation()
    for settings, said in (
        ({"PINNING_SERVICE": "127.0.0.1:0"}, "pinning service as well"),
        ({"LAB_URL": "https://lab.example.org/path"}, "URL without a path"),
        ({"LAB_MEMBERS": "nobody"}, "neither an e-mail address nor a domain"),
        ({"OPENID_CLIENT_ID": "a", "OPENID_CLIENT_SECRET_FILE": str(tmp_path / "none")}, "cannot be read"),
    ):
        lab.env.update({f"KACHERY_CLOUD_{name}": value for name, value in settings.items()})
        ended = lab.run("kachery-cloud-node", "--lab", "127.0.0.1:0", check=False)
        assert ended.returncode == 2, ended.stderr
        assert said in ended.stderr
        for name in settings:
            del lab.env[f"KACHERY_CLOUD_{name}"]


def test_mistakes_of_the_operator(workstation: StartWorkstation) -> None:
    """Members who are none, or several; addresses and sizes that are none: exit code 2, and what helps."""
    lab = workstation()
    _invite(lab, "Ada", "--email", "ada@example.org")
    _invite(lab, "Ada", "--email", "ada@elsewhere.example")
    for arguments, said in (
        (("remove", "Bob"), "members list"),
        (("set-quota", "Ada", "1GB"), "2 members called Ada"),
        (("invite", "Ada"), "2 members called Ada"),
        (("set-quota", "ada@example.org", "much"), "number of bytes"),
        (("invite", "Bob", "--email", "bob"), "is not one"),
        (("invite", "\u202e"), "characters that can be shown"),
        (("make-admin", "Bob"), "members list"),
    ):
        ended = lab.run("kachery-cloud-node", "members", *arguments, check=False)
        assert ended.returncode == 2, ended.stderr
        assert said in ended.stderr
    made = lab.run("kachery-cloud-node", "members", "make-admin", "grace@example.org")
    assert "a link is needed" in made.stdout
    lab.run("kachery-cloud-node", "members", "set-quota", "ada@example.org", "none")


def test_settings_that_are_read_again(workstation: StartWorkstation, tmp_path: Path) -> None:
    """Name, URL and who may sign in hold from a reload on; where they make no sense nothing changes."""
    lab = workstation()
    lab.directory.mkdir(parents=True, exist_ok=True)
    file, secret = lab.directory / "node.toml", tmp_path / "secret"
    secret.write_text("s3cret")

    def write(name: str, secret: Path) -> None:
        file.write_text(
            f'lab = "127.0.0.1:0"\nlab_name = "{name}"\nopenid_client_id = "lab"\n'
            f'openid_client_secret_file = "{secret}"\n'
        )

    write("Lab of Ada", secret)
    lab.start()
    with httpx.Client(base_url=lab.status()["lab"], trust_env=False, timeout=PATIENCE) as anybody:
        assert anybody.get("/api/v1").json()["name"] == "Lab of Ada"
        write("Lab of Grace", secret)
        said = json.loads(lab.run("kachery-cloud-node", "reload", "--json").stdout)
        assert said["applied"] == ["lab_name"]
        assert anybody.get("/api/v1").json()["name"] == "Lab of Grace"
        write("Lab of Nobody", tmp_path / "none")
        failed = lab.run("kachery-cloud-node", "reload", check=False)
        assert failed.returncode == 2
        assert "cannot be read" in failed.stderr
        assert anybody.get("/api/v1").json()["name"] == "Lab of Grace"
