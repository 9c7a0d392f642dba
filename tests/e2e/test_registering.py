"""Registering with a lab's node: `kachery-cloud-init --node URL` against a real node and a real OpenID provider."""

from __future__ import annotations

import json
import re
import stat
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest

from scripts.workstation import Workstation
from tests.e2e.test_notebooks import Notebook
from tests.e2e.test_ownership import INIT, ended, owner, terminal
from tests.helpers.openid import Browser, OpenIDProvider, web_client

Make = Callable[..., Workstation]

LINK = re.compile(r"http://127\.0\.0\.1:\d+/register/[\w-]+")
CODE = re.compile(r"shows the code (?:<b>)?([A-Z0-9]{4}-[A-Z0-9]{4})")


class Lab:
    """A lab's node, as a process, where everybody of example.org may sign in."""

    def __init__(self, station: Workstation, port: int) -> None:
        self.station = station
        self.url = f"http://127.0.0.1:{port}"
        self.start()

    def start(self) -> None:
        self.station.start("--lab", self.url.removeprefix("http://"))


class Member:
    """Somebody at a browser, who follows links that others show."""

    def __init__(self, browser: Browser, user: str) -> None:
        self.browser = browser
        self._user = user

    def follow(self, link: str) -> httpx.Response:
        """Follow the link of a registration, and sign in; what the page then asks the node."""
        lab, id = link.split("/register/")
        back = self.browser.sign_in(f"{lab}/sign-in?next=/register/{id}", self._user)
        self.browser.http.get(back)
        return self.browser.get(f"{lab}/api/v1/registrations/{id}")

    def press(self, link: str, button: str) -> httpx.Response:
        """Press "Register client", or the other button."""
        lab, id = link.split("/register/")
        csrf = self.browser.get(f"{lab}/api/v1/me").json()["csrf"]
        headers = {"x-csrf-token": csrf, "sec-fetch-site": "same-origin", "origin": lab}
        return self.browser.http.post(f"{lab}/api/v1/registrations/{id}/{button}", headers=headers)

    def clients(self, lab: Lab) -> list[dict[str, Any]]:
        return self.browser.get(f"{lab.url}/api/v1/clients").json()["items"]


@pytest.fixture
def lab(workstation: Make, start_openid: Callable[..., OpenIDProvider], free_port: Callable[[], int]) -> Lab:
    port = free_port()
    provider = start_openid(clients=[web_client(f"http://127.0.0.1:{port}/sign-in/callback")])
    settings = {
        "KACHERY_CLOUD_OPENID_ISSUER": provider.issuer,
        "KACHERY_CLOUD_OPENID_CLIENT_ID": "lab",
        "KACHERY_CLOUD_OPENID_CLIENT_SECRET": "lab-secret",
        "KACHERY_CLOUD_LAB_NAME": "Hippocampus Lab",
        "KACHERY_CLOUD_LAB_MEMBERS": "@example.org",
    }
    return Lab(workstation(env=settings), port)


@pytest.fixture
def ada() -> Iterator[Member]:
    with Browser() as browser:
        yield Member(browser, "ada")


def begin(shell: Any, line: str) -> tuple[str, str]:
    """Type a command, and wait for the link and the code that it shows."""
    shell.send(f"{line}; echo ended with=$?.")
    shown = shell.wait_for("Waiting ...")
    link, code = LINK.search(shown), CODE.search(shown)
    assert link is not None, shown
    assert code is not None, shown
    return link[0], code[1]


def registered(station: Workstation, lab: Lab, member: Member, *options: str) -> str:
    """Register a machine on a terminal; all that is shown after the link."""
    with terminal(station) as shell:
        link, code = begin(shell, f"{INIT} --node {lab.url} {' '.join(options)}")
        assert member.follow(link).json()["code"] == code
        assert member.press(link, "register").status_code == 200
        shown, status = ended(shell)
        assert status == 0, shown
        return shown


def read(station: Workstation, name: str) -> Any:
    return json.loads((station.directory / name).read_text())


def test_registering_on_a_terminal(workstation: Make, lab: Lab, ada: Member) -> None:
    """A link and a code; who signs in owns the machine; it pins at the node, knows it, and has the proof. Once more,
    nothing changes."""
    station = workstation()
    shown = registered(station, lab, ada, "--label", "laptop")
    assert (
        "This machine is registered with Hippocampus Lab as laptop. It belongs to Ada Lovelace <ada@example.org>."
        in shown
    )
    peer = json.loads(station.run(INIT, "--json").stdout)["peer_id"]
    assert [(each["peer"], each["label"]) for each in ada.clients(lab)] == [(peer, "laptop")]
    config = read(station, "config.json")
    assert config["pin_services"] == {"hippocampus-lab": {"url": lab.url, "kind": "pinning", "default": True}}
    assert config["peers"]
    assert all(each.endswith(f"/p2p/{lab.station.peer_id}") for each in config["peers"])
    for name in ("labs.json", "tokens.json", "ownership.json", "config.json"):
        assert stat.S_IMODE((station.directory / name).stat().st_mode) == 0o600
    assert (
        "secret" not in read(station, "labs.json")["labs"][lab.url]
        or not read(station, "labs.json")["labs"][lab.url]["secret"]
    )
    # The sign-in at the node is a proof of ownership of this machine's key, for everybody to check.
    found = owner(station)
    assert (found["peer"], found["email"], found["audience"]) == (peer, "ada@example.org", "lab")
    before = {each: (station.directory / each).read_bytes() for each in ("config.json", "labs.json", "tokens.json")}
    done = station.run(INIT, "--node", lab.url, "--label", "another")
    assert "It belongs to Ada Lovelace <ada@example.org>. Nothing changed." in done.stdout
    assert {each: (station.directory / each).read_bytes() for each in before} == before


def test_what_is_stored_is_pinned_at_the_node(workstation: Make, lab: Lab, ada: Member) -> None:
    """The machine sleeps afterwards, and another one loads from the node."""
    station, other = workstation(), workstation()
    registered(station, lab, ada)
    station.start()
    uri = station.call("uri = kcl.store_text('kept by the lab'); kcl.wait_pinned(uri); say(uri)")
    station.stop()
    loaded = other.call("say(kcl.load_text(args[0], providers=args[1]))", uri, lab.station.addrs)
    assert loaded == "kept by the lab"


def test_waiting_is_taken_up_again(workstation: Make, lab: Lab, ada: Member) -> None:
    """Ctrl-C leaves what was asked for; the same command shows the same link, also after it was registered."""
    station = workstation()
    line = f"{INIT} --node {lab.url}"
    with terminal(station) as shell:
        first = begin(shell, line)
        assert "goes on waiting" in shell.interrupt()
        assert stat.S_IMODE((station.directory / "labs.json").stat().st_mode) == 0o600
        assert begin(shell, line) == first
        shell.interrupt()
        ada.follow(first[0])
        ada.press(first[0], "register")
    done = station.run(INIT, "--node", lab.url)
    assert "It belongs to Ada Lovelace" in done.stdout
    assert owner(station)["email"] == "ada@example.org"


def test_another_link_where_the_first_has_gone(workstation: Make, lab: Lab, ada: Member) -> None:
    """Another label asks anew, and so does a node that knows nothing of the first."""
    station = workstation()
    with terminal(station) as shell:
        first = begin(shell, f"{INIT} --node {lab.url}")
        shell.interrupt()
        second = begin(shell, f"{INIT} --node {lab.url} --label desk")
        assert second[0] != first[0]
        ada.follow(second[0])
        assert ada.press(first[0], "register").status_code == 410
        assert ada.press(second[0], "register").status_code == 200
        assert ended(shell)[1] == 0
    assert [each["label"] for each in ada.clients(lab)] == ["desk"]


def test_who_refuses_is_heard(workstation: Make, lab: Lab, ada: Member) -> None:
    """Whoever followed the link did not want it: exit code 6, and nothing is kept but the key."""
    station = workstation()
    with terminal(station) as shell:
        link, _ = begin(shell, f"{INIT} --node {lab.url}")
        ada.follow(link)
        assert ada.press(link, "refuse").status_code == 200
        shown, code = ended(shell)
    assert (code, "Somebody refused" in shown) == (6, True)
    assert read(station, "labs.json")["labs"] == {}
    assert not (station.directory / "tokens.json").exists()


def test_leaving_a_lab(workstation: Make, lab: Lab, ada: Member) -> None:
    """The node forgets the client, and the machine the token, the service and the peer; other settings stay. Where the
    node is away, the machine leaves all the same, and says so."""
    station = workstation()
    registered(station, lab, ada)
    other = "/ip4/192.0.2.1/tcp/4001"
    config = read(station, "config.json")
    (station.directory / "config.json").write_text(json.dumps({**config, "peers": [other, *config["peers"]]}))
    done = station.run(INIT, "--forget", lab.url)
    assert "This machine has left Hippocampus Lab." in done.stdout
    assert ada.clients(lab) == []
    assert (read(station, "config.json")["peers"], read(station, "config.json")["pin_services"]) == ([other], {})
    assert read(station, "tokens.json") == {}
    done = station.run(INIT, "--forget", lab.url, check=False)
    assert (done.returncode, "not registered with" in done.stderr) == (2, True)
    registered(station, lab, ada)
    lab.station.kill()
    done = station.run(INIT, "--forget", lab.url, "--json")
    assert json.loads(done.stdout)["forgotten"]["told"] is False
    assert json.loads(done.stdout)["nodes"] == []


def test_a_node_that_is_away_or_none(workstation: Make, lab: Lab, ada: Member, free_port: Callable[[], int]) -> None:
    """A sentence and an exit code; who is registered is told so, and a node that comes back goes on."""
    station = workstation()
    for url, code, says in (
        (f"http://127.0.0.1:{free_port()}", 6, "cannot be reached"),
        ("lab.example.org", 2, "is not the URL of a lab's node"),
        (f"{lab.url}/nothing", 6, "answers with status 404"),
    ):
        done = station.run(INIT, "--node", url, check=False)
        assert (done.returncode, says in done.stderr) == (code, True), done.stderr
        assert "Peer ID" in done.stdout
    with terminal(station) as shell:
        link, _ = begin(shell, f"{INIT} --node {lab.url}")
        lab.station.kill()
        lab.start()
        ada.follow(link)
        assert ada.press(link, "register").status_code == 200
        assert ended(shell)[1] == 0
    lab.station.kill()
    done = station.run(INIT, "--node", lab.url)
    assert "It belongs to Ada Lovelace <ada@example.org>. Nothing changed." in done.stdout
    assert "cannot be reached" in done.stderr


def test_a_client_that_was_removed_registers_anew(workstation: Make, lab: Lab, ada: Member) -> None:
    """Its owner removed it on the page: the command says so, and asks again."""
    station = workstation()
    registered(station, lab, ada)
    peer = ada.clients(lab)[0]["peer"]
    csrf = ada.browser.get(f"{lab.url}/api/v1/me").json()["csrf"]
    headers = {"x-csrf-token": csrf, "sec-fetch-site": "same-origin", "origin": lab.url}
    assert ada.browser.http.delete(f"{lab.url}/api/v1/clients/{peer}", headers=headers).status_code == 204
    with terminal(station) as shell:
        shell.send(f"{INIT} --node {lab.url}; echo ended with=$?.")
        shown = shell.wait_for("Waiting ...")
        assert "does not know this machine any more" in shown
        link = LINK.search(shown)
        assert link is not None
        ada.follow(link[0])
        ada.press(link[0], "register")
        assert ended(shell)[1] == 0
    assert len(ada.clients(lab)) == 1


def test_in_a_notebook(workstation: Make, lab: Lab, ada: Member) -> None:
    """The link is in the output of the cell, which ends when the machine is registered."""
    station = workstation()
    notebook = Notebook(station)
    with notebook.running:
        assert not notebook.run("import kachery_cloud as kcl")
        shown = notebook.run(WATCHED.replace("URL", repr(lab.url)))
        assert [each.get("ename") for each in shown] == [None] * len(shown), shown
        html = [each["data"]["text/html"] for each in shown if "text/html" in each.get("data", {})]
        assert "Register this machine with Hippocampus Lab</a>" in html[0]
        assert CODE.search(html[0])
        assert shown[-1]["data"]["text/plain"] == "('ada@example.org', 'notebook')"
    assert owner(station)["email"] == "ada@example.org"


WATCHED = """
import re, sys, threading
sys.path.insert(0, ROOT)
from tests.e2e.test_registering import LINK, Browser, Member
publish = get_ipython().display_pub.publish
def follow(data, *args, **more):
    publish(data, *args, **more)
    link = LINK.search(data.get("text/html", ""))
    if link:
        def person():
            ada = Member(Browser(), "ada")
            ada.follow(link[0])
            ada.press(link[0], "register")
        threading.Thread(target=person).start()
get_ipython().display_pub.publish = follow
try:
    made = kcl.init(node=URL, label="notebook")
finally:
    get_ipython().display_pub.publish = publish
made["nodes"][0]["owner"]["email"], made["nodes"][0]["label"]
""".replace("ROOT", repr(str(Path(__file__).resolve().parents[2])))
