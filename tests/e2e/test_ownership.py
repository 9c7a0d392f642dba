"""Who stands behind a machine: signing in at a real OpenID provider, and checking it elsewhere, without anybody."""

from __future__ import annotations

import json
import re
import stat
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from kachery_cloud.ownership.proofs import make_proof
from kachery_p2p.repo.keys import load_or_create_identity
from scripts.workstation import Workstation
from tests.e2e.test_notebooks import Notebook
from tests.helpers.openid import DESKTOP, DESKTOP_ID, DESKTOP_SECRET, Browser, OpenIDProvider
from tests.helpers.shells import Shell

Make = Callable[..., Workstation]

INIT = "kachery-cloud-init"
LINK = re.compile(r"http://127\.0\.0\.1:\d+/auth\?\S+")


@pytest.fixture
def provider(start_openid: Callable[..., OpenIDProvider]) -> OpenIDProvider:
    return start_openid()


@pytest.fixture
def browser() -> Iterator[Browser]:
    with Browser() as made:
        yield made


def settings(provider: OpenIDProvider, **more: str) -> dict[str, str]:
    """What a user is told to set."""
    return {
        "KACHERY_CLOUD_OPENID_ISSUER": provider.issuer,
        "KACHERY_CLOUD_OPENID_CLIENT_ID": DESKTOP_ID,
        "KACHERY_CLOUD_OPENID_CLIENT_SECRET": DESKTOP_SECRET,
        **more,
    }


def sign_in(station: Workstation, browser: Browser, user: str = "ada") -> str:
    """Sign in on a terminal whose browser is on the same machine; all that is shown after the link."""
    with terminal(station) as shell:
        link = begin(shell, f"{INIT} --sign-in")
        assert browser.get(browser.sign_in(link, user)).status_code == 200
        shown, code = ended(shell)
        assert code == 0, shown
        return shown


def terminal(station: Workstation) -> Shell:
    path = f"{Path(station.python).parent}:/usr/bin:/bin"
    return Shell("bash", station.folder, {**station.env, "PATH": path}, columns=2000, quiet=True)


def begin(shell: Shell, line: str) -> str:
    """Type a command, and wait for the link that it shows."""
    shell.send(f"{line}; echo ended with=$?.")
    shell.wait_for("code_challenge_method=S256", keep=True)
    shown = shell.wait_for("(Enter alone: do not sign in.)")
    found = LINK.search(shown)
    assert found is not None, shown
    return found[0]


def ended(shell: Shell) -> tuple[str, int]:
    """Wait until the command has ended: what it showed, and its exit code."""
    shown = shell.wait_for("ended with=")
    return shown, int(shell.wait_for(".").partition(".")[0])


def owner(station: Workstation, *args: str, check: bool = True) -> dict[str, Any]:
    done = station.run("kachery-cloud", "owner", "--json", *args, check=check)
    return json.loads(done.stdout)


# --- signing in ------------------------------------------------------------------------------------------------------


def test_signing_in_on_a_terminal(workstation: Make, provider: OpenIDProvider, browser: Browser) -> None:
    """The link, the browser that comes back by itself, and the owner; kept where nobody else reads it."""
    station = workstation(env=settings(provider))
    shown = sign_in(station, browser)
    assert "Owner:          Ada Lovelace <ada@example.org>, who signed in with 127.0.0.1:" in shown
    kept = station.directory / "ownership.json"
    assert stat.S_IMODE(kept.stat().st_mode) == 0o600
    stored = json.loads(kept.read_text())
    assert stored["keys"]["keys"] == [
        {name: key[name] for name in ("kty", "kid", "use", "alg", "n", "e")} for key in provider.keys()["keys"]
    ]
    assert re.fullmatch(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\dZ", stored["keys"]["fetched"])
    found = owner(station)
    assert (found["name"], found["email"], found["subject"]) == ("Ada Lovelace", "ada@example.org", "ada")
    assert found["peer"] == json.loads(station.run(INIT, "--json").stdout)["peer_id"]
    assert station.call("say(kcl.init()['owner']['email'])") == "ada@example.org"
    assert station.call("say(kcl.owner().name)") == "Ada Lovelace"


def test_it_is_offered_on_a_terminal_and_never_forced(workstation: Make, provider: OpenIDProvider) -> None:
    """A person is asked once, and may say no; a program is not asked; the key is made in any case."""
    station = workstation(env=settings(provider))
    with terminal(station) as shell:
        shell.send(f"{INIT}; echo ended with=$?.")
        shell.wait_for("[y/N]: ")
        shell.send("")
        shown, code = ended(shell)
        assert code == 0
        assert "Signing in is not needed" in shown
        shell.send(f"{INIT} --no-sign-in; echo ended with=$?.")
        shown, code = ended(shell)
        assert (code, "[y/N]" in shown) == (0, False)
    done = station.run(INIT)
    assert "Peer ID:        12D3KooW" in done.stdout
    assert done.stderr.count("check whose machine this is: kachery-cloud-init --sign-in") == 1
    without = workstation().run(INIT)
    assert without.stderr.count("check whose machine this is: kachery-cloud-init --node URL") == 1
    assert json.loads(station.run(INIT, "--json").stdout)["owner"] is None


def test_without_a_client_id_it_says_what_to_set(workstation: Make) -> None:
    """Asked to sign in where nothing is set: a sentence, and the key is made."""
    station = workstation()
    done = station.run(INIT, "--sign-in", check=False)
    assert done.returncode == 2
    assert "KACHERY_CLOUD_OPENID_CLIENT_ID" in done.stderr
    assert (station.directory / "private.pem").exists()


def test_the_address_is_pasted_where_the_browser_is_elsewhere(
    workstation: Make, provider: OpenIDProvider, browser: Browser
) -> None:
    """Over ssh nothing comes by itself. What is pasted is compared with what was asked: another state is refused, and
    so is what is no such address; the right one is taken after that."""
    station = workstation(env=settings(provider))
    with terminal(station) as shell:
        link = begin(shell, f"{INIT} --sign-in")
        back = browser.sign_in(link)
        shell.send(re.sub(r"state=[^&]+", "state=another", back))
        shell.wait_for("belongs to another sign-in")
        shell.send("https://example.org/")
        shell.wait_for("is not the address")
        shell.send(back.replace("iss=", "iss=https%3A%2F%2Fevil.example.org&x="))
        shell.wait_for("comes from another provider")
        shell.send(f"  {back}  ")
        shown, code = ended(shell)
        assert code == 0
        assert "Owner:          Ada Lovelace" in shown


def test_other_pages_cannot_end_or_forge_a_sign_in(
    workstation: Make, provider: OpenIDProvider, browser: Browser
) -> None:
    """Whatever is sent to the port by others is refused there, and waiting goes on; a code of another sign-in, too."""
    station = workstation(env=settings(provider))
    with terminal(station) as shell:
        link = begin(shell, f"{INIT} --sign-in")
        back = browser.sign_in(link)
        port = back.partition("?")[0]
        for path in ("", "favicon.ico", "?code=x", "?code=x&state=y", "?state=y&error=access_denied", "?" + "x" * 5000):
            assert browser.get(port + path).status_code == 404
        assert browser.http.post(back).status_code == 404
        assert browser.get(back).status_code == 200
        shown, code = ended(shell)
        assert (code, "is not the address" in shown) == (0, False)


def test_who_says_no_is_not_signed_in(workstation: Make, provider: OpenIDProvider, browser: Browser) -> None:
    """At the provider, by Enter alone, or by Ctrl-C: a sentence, an exit code, and everything else is made."""
    station = workstation(env=settings(provider))
    with terminal(station) as shell:
        link = begin(shell, f"{INIT} --sign-in")
        denied = browser.get(browser.sign_in(link, allow=False))
        assert denied.status_code == 403
        shown, code = ended(shell)
        assert code == 6
        assert "access_denied" in shown
        begin(shell, f"{INIT} --sign-in")
        shell.send("")
        shown, code = ended(shell)
        assert code == 6
        assert "Nobody has signed in." in shown
        begin(shell, f"{INIT} --sign-in")
        assert "Interrupted. Nobody has signed in" in shell.interrupt()
    assert not (station.directory / "ownership.json").exists()
    assert (station.directory / "private.pem").exists()


def test_a_provider_that_is_down(workstation: Make, provider: OpenIDProvider, browser: Browser) -> None:
    """Before the link, or after it: a sentence that names the provider; nothing is kept."""
    station = workstation(env=settings(provider))
    provider.go_down()
    done = station.run(INIT, "--sign-in", check=False)
    assert done.returncode == 6
    assert f"{provider.issuer} answers with status 503" in done.stderr
    provider.go_down(False)
    with terminal(station) as shell:
        back = browser.sign_in(begin(shell, f"{INIT} --sign-in"))
        provider.go_down()
        browser.get(back)
        shown, code = ended(shell)
    assert (code, "answers with status 503" in shown) == (6, True)
    provider.stop()
    done = station.run(INIT, "--sign-in", check=False)
    assert (done.returncode, "cannot be reached" in done.stderr) == (6, True)
    assert not (station.directory / "ownership.json").exists()


@pytest.mark.parametrize(("offset", "says"), [(7200, "clock of this computer is behind"), (-7200, "had expired")])
def test_a_clock_that_is_off(
    offset: float, says: str, workstation: Make, provider: OpenIDProvider, browser: Browser
) -> None:
    """A proof that nobody would believe is not kept; what is wrong is said."""
    station = workstation(env=settings(provider))
    with terminal(station) as shell:
        link = begin(shell, f"{INIT} --sign-in")
        if offset > 0:
            provider.set_clock(offset)
        back = browser.sign_in(link)
        provider.set_clock(offset)  # only now where it is behind: cookies would have expired
        browser.get(back)
        shown, code = ended(shell)
    assert (code, says in shown) == (6, True), shown
    assert not (station.directory / "ownership.json").exists()


def test_a_token_by_another_key_is_not_kept(workstation: Make, provider: OpenIDProvider, browser: Browser) -> None:
    """Whoever sits between us and the provider, but does not have its key, gets nowhere."""
    station = workstation(env=settings(provider))
    provider.sign_as_stranger()
    with terminal(station) as shell:
        browser.get(browser.sign_in(begin(shell, f"{INIT} --sign-in")))
        shown, code = ended(shell)
    assert (code, "was changed, or" in shown) == (6, True)
    assert not (station.directory / "ownership.json").exists()


def test_a_client_without_a_secret_and_one_that_sends_it_in_the_form(
    workstation: Make, provider: OpenIDProvider, browser: Browser
) -> None:
    """Both kinds of clients that providers give to programs."""
    public = {**DESKTOP, "client_id": "public", "token_endpoint_auth_method": "none"}
    public.pop("client_secret")
    provider.add_client(public)
    station = workstation(env=settings(provider, KACHERY_CLOUD_OPENID_CLIENT_ID="public"))
    station.env.pop("KACHERY_CLOUD_OPENID_CLIENT_SECRET")
    sign_in(station, browser)
    assert owner(station)["audience"] == "public"
    provider.add_client({**DESKTOP, "client_id": "posts", "token_endpoint_auth_method": "client_secret_post"})
    secret = station.folder / "secret"
    station.env["KACHERY_CLOUD_OPENID_CLIENT_ID"] = "posts"
    station.env["KACHERY_CLOUD_OPENID_CLIENT_SECRET_FILE"] = str(secret)
    done = station.run(INIT, "--sign-in", check=False)
    assert (done.returncode, str(secret) in done.stderr) == (2, True)
    secret.write_text(DESKTOP_SECRET + "\n")
    with terminal(station) as shell:
        browser.get(browser.sign_in(begin(shell, f"{INIT} --sign-in")))
        shown, code = ended(shell)
    assert code == 0, shown
    assert owner(station)["audience"] == "posts"
    secret.write_text("another")
    with terminal(station) as shell:
        browser.get(browser.sign_in(begin(shell, f"{INIT} --sign-in")))
        shown, code = ended(shell)
    assert (code, "invalid_client" in shown, "openid_client_secret" in shown) == (6, True, True), shown


# --- in a notebook ---------------------------------------------------------------------------------------------------


def test_in_a_notebook(workstation: Make, provider: OpenIDProvider, browser: Browser) -> None:
    """The link is shown in the cell's output, and the cell ends when the browser was sent back."""
    station = workstation(env=settings(provider))
    notebook = Notebook(station)
    with notebook.running:
        assert not notebook.run("import kachery_cloud as kcl")
        shown = notebook.run(WATCHED)
        assert [each.get("ename") for each in shown] == [None] * len(shown), shown
        html = [each["data"]["text/html"] for each in shown if "text/html" in each.get("data", {})]
        assert re.search(r'<a href="http://127\.0\.0\.1:\d+/auth\?[^"]+&amp;code_challenge_method=S256"', html[0])
        assert shown[-1]["data"]["text/plain"] == "'ada@example.org'"


#: A cell is one call to the kernel, and nothing else is heard from it meanwhile: what follows the link runs beside it.
WATCHED = """
import html, re, sys, threading
sys.path.insert(0, ROOT)
from tests.helpers.openid import Browser
from IPython.core import displaypub
publish = get_ipython().display_pub.publish
def follow(data, *args, **more):
    publish(data, *args, **more)
    link = re.search(r'href="([^"]+)"', data.get("text/html", ""))
    if link:
        browser = Browser()
        threading.Thread(target=lambda: browser.get(browser.sign_in(html.unescape(link[1])))).start()
get_ipython().display_pub.publish = follow
try:
    made = kcl.init(sign_in=True)
finally:
    get_ipython().display_pub.publish = publish
made["owner"]["email"]
""".replace("ROOT", repr(str(Path(__file__).resolve().parents[2])))


# --- another client checks it ----------------------------------------------------------------------------------------


def test_another_client_checks_it_without_a_network(
    workstation: Make, provider: OpenIDProvider, browser: Browser, tmp_path: Path
) -> None:
    """With the keys that it saw itself when its own user signed in; the provider has changed its keys since, and is
    gone. Its own peer ID, or another's, is not what the proof is about."""
    ada, grace, stranger = workstation(env=settings(provider)), workstation(env=settings(provider)), workstation()
    sign_in(ada, browser)
    with Browser() as other:
        sign_in(grace, other, "grace")
    proof = tmp_path / "proof.json"
    ada.run("kachery-cloud", "owner", "--save", proof)
    assert stat.S_IMODE(proof.stat().st_mode) == 0o600
    provider.rotate(drop=True)
    provider.stop()
    found = owner(grace, "--verify", str(proof))
    assert (found["email"], found["peer"]) == ("ada@example.org", owner(ada)["peer"])
    assert owner(grace, owner(ada)["peer"], "--verify", str(proof))["email"] == "ada@example.org"
    done = grace.run("kachery-cloud", "owner", owner(grace)["peer"], "--verify", str(proof), check=False)
    assert (done.returncode, "not about" in done.stderr) == (1, True)
    # Who has never seen the provider believes neither the proof nor the keys that came with it ...
    done = stranger.run("kachery-cloud", "owner", "--verify", str(proof), check=False)
    assert (done.returncode, "no issuer to believe here" in done.stderr) == (1, True), done.stderr
    # ... unless he is given them by somebody whom he trusts.
    keys = grace.directory / "ownership.json"
    assert owner(stranger, "--verify", str(proof), "--keys", str(keys))["email"] == "ada@example.org"


def test_what_is_wrong_with_a_proof_is_refused(
    workstation: Make, provider: OpenIDProvider, browser: Browser, tmp_path: Path
) -> None:
    """For another key, for another audience, too old, by another issuer, altered: exit code 1, and why."""
    station = workstation(env=settings(provider))
    sign_in(station, browser)
    stored = json.loads((station.directory / "ownership.json").read_text())

    def why(value: Any, *args: str, **env: str) -> str:
        path = tmp_path / "proof.json"
        path.write_text(json.dumps(value))
        before = dict(station.env)
        station.env.update(env)
        done = station.run("kachery-cloud", "owner", "--json", "--verify", path, *args, check=False)
        station.env.clear()
        station.env.update(before)
        assert done.returncode == 1, done.stdout
        assert json.loads(done.stdout)["error"]["type"] == "ProofRefused"
        return json.loads(done.stdout)["error"]["message"]

    token = stored["proof"]["pk_token"]
    claims = json.loads(_decoded(token["payload"]))
    issuer_header, _, issuer_signature = provider.token({**claims, "aud": "other"}).split(".")
    payload = provider.token({**claims, "aud": "other"}).split(".")[1]
    forged = json.loads(json.dumps(stored))
    forged["proof"]["pk_token"]["payload"] = payload
    forged["proof"]["pk_token"]["signatures"][0] = {"protected": issuer_header, "signature": issuer_signature}
    assert "not signed by the key of the machine" in why(forged)
    altered = json.loads(json.dumps(stored))
    altered["proof"]["pk_token"]["signatures"][0]["signature"] = issuer_signature
    assert "another ID token" in why(altered)
    assert "cannot be read" in why({"version": 1})
    assert "cannot be read" in why([])
    # The sign-in was a moment ago, which is longer than a thousandth of a second; clocks may differ by minutes.
    provider_gone = {**stored, "proof": stored["proof"]}
    (station.directory / "issuers.json").unlink()
    assert "not known to be one of" in why(provider_gone)


def test_real_tokens_that_are_for_something_else(
    workstation: Make,
    start_openid: Callable[..., OpenIDProvider],
    provider: OpenIDProvider,
    browser: Browser,
    tmp_path: Path,
) -> None:
    """Tokens that a real provider gave out: at another application, by another provider, for another machine's key, by
    a key of a stranger under a known name. Each is refused, offline, with its reason."""
    grace = workstation(env=settings(provider))
    sign_in(grace, browser, "grace")
    provider.add_client({**DESKTOP, "client_id": "game"})
    gamer = workstation(env=settings(provider, KACHERY_CLOUD_OPENID_CLIENT_ID="game"))
    elsewhere = workstation(env=settings(second := start_openid()))
    ada = workstation(env=settings(provider))
    for station in (gamer, elsewhere, ada):
        with Browser() as another:
            sign_in(station, another)
    key_set = provider.keys()
    claims = json.loads(_decoded(_token(ada)["payload"]))
    forged = provider.token(claims, key="stranger")
    provider.stop()
    second.stop()

    def refused(stored: Any) -> str:
        path = tmp_path / "proof.json"
        path.write_text(json.dumps(stored))
        done = grace.run("kachery-cloud", "owner", "--verify", path, check=False)
        assert done.returncode == 1, done.stdout
        return done.stderr

    assert "signed in at another application (game)" in refused(_stored(gamer))
    assert "which is no issuer to believe here" in refused(_stored(elsewhere))
    # Grace has Ada's ID token, as who was handed her proof has, and puts it under her own key.
    stolen = _wrapped(grace, _id_token(ada), _stored(ada))
    assert "its nonce does not commit to it" in refused(stolen)
    # Ada's machine signs what looks like a token of the provider.
    assert json.loads(_decoded(forged.split(".")[0]))["kid"] == key_set["keys"][0]["kid"]
    assert "was changed, or" in refused(_wrapped(ada, forged, _stored(ada)))
    good = tmp_path / "good.json"
    ada.run("kachery-cloud", "owner", "--save", good)
    assert owner(grace, "--verify", str(good))["email"] == "ada@example.org"


def _stored(station: Workstation) -> Any:
    return json.loads((station.directory / "ownership.json").read_text())


def _token(station: Workstation) -> Any:
    return _stored(station)["proof"]["pk_token"]


def _id_token(station: Workstation) -> str:
    token = _token(station)
    issuer = token["signatures"][0]
    return f"{issuer['protected']}.{token['payload']}.{issuer['signature']}"


def _wrapped(station: Workstation, id_token: str, stored: Any) -> Any:
    """An ID token under the key of a machine, with the claims that this machine once made for its own sign-in."""
    claims = _decoded(_token(station)["signatures"][1]["protected"])
    made = make_proof(load_or_create_identity(station.directory), claims, id_token, now=time.time())
    return {**stored, "proof": made.to_json()}


def test_old_sign_ins_do_not_count_where_an_age_is_asked(
    workstation: Make, provider: OpenIDProvider, browser: Browser
) -> None:
    """The age is for who looks to say."""
    station = workstation(env=settings(provider))
    provider.set_lifetime(30 * 86_400)
    with terminal(station) as shell:
        back = browser.sign_in(begin(shell, f"{INIT} --sign-in"))
        provider.set_clock(-7200)
        browser.get(back)
        assert ended(shell)[1] == 0
    assert owner(station)["email"] == "ada@example.org"
    assert owner(station, "--max-age", "1")["email"] == "ada@example.org"
    done = station.run("kachery-cloud", "owner", "--max-age", "0.05", check=False)
    assert (done.returncode, "signed in 2 hours ago" in done.stderr) == (1, True)


def test_a_machine_hands_its_proof_to_members_of_its_groups(
    workstation: Make, provider: OpenIDProvider, browser: Browser
) -> None:
    """A fellow member is told who stands behind a machine, over the network; a stranger is not, unless it is set so.
    Where a key is new, the provider is asked for it."""
    ada = workstation(env=settings(provider))
    sign_in(ada, browser)
    ada.start()
    member, stranger = workstation(env=settings(provider)), workstation(env=settings(provider))
    ada.run("kachery-cloud-group", "create", "hippocampus")
    invitation = json.loads(ada.run("kachery-cloud-group", "invite", "hippocampus", "--json").stdout)["invitation"]
    member.run("kachery-cloud-group", "join", invitation)
    assert owner(member, ada.addr)["email"] == "ada@example.org"
    assert json.loads((member.directory / "issuers.json").read_text())["issuers"][provider.issuer]["keys"]
    assert member.call("say(kcl.owner(args[0]).name)", ada.addr) == "Ada Lovelace"
    done = stranger.run("kachery-cloud", "owner", ada.addr, check=False)
    assert (done.returncode, "does not say who stands behind it" in done.stderr) == (3, True)
    ada.stop()
    ada.env["KACHERY_CLOUD_SHOW_OWNER"] = "everyone"
    ada.start()
    assert owner(stranger, ada.addr)["email"] == "ada@example.org"
    assert json.loads(ada.run("kachery-cloud", "owner", "--remove", "--json").stdout) == {"removed": True}
    done = stranger.run("kachery-cloud", "owner", ada.addr, check=False)
    assert done.returncode == 3


def _decoded(text: str) -> bytes:
    import base64

    return base64.urlsafe_b64decode(text + "==")
