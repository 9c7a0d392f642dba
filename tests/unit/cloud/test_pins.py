"""Pinning as the user sees it: services and tokens, what is written down before a call returns, and what is said."""

from __future__ import annotations

import contextlib
import json
import os
import stat
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
from click.testing import CliRunner, Result

import kachery_cloud as kcl
from kachery_cloud.commands.main import cli
from kachery_cloud.commands.pins_text import pin_lines, summary_phrase
from kachery_cloud.errors import ConfigError, ContentNotFound, PinningError, PinTooLarge
from kachery_cloud.local import close_outboxes, close_repositories, outbox
from kachery_cloud.pinning import on_their_way
from kachery_cloud.settings.config import Config, load_config
from kachery_cloud.settings.pin_choice import services_for, usable_services
from kachery_cloud.settings.pin_services import (
    PRESETS,
    SHARED_MAX_BYTES,
    PinSetting,
    keep_service,
    make_setting,
)
from kachery_cloud.settings.pin_tokens import find_token, keep_token, keep_token_in_keyring, token_origin
from kachery_p2p.dag.cid import CID
from kachery_p2p.pinning import PinEntry

SECRET = "the-secret-token"
LAB = "http://127.0.0.1:5000"


def config(tmp_path: Path, services: object = None, **env: str) -> Config:
    if services is not None:
        (tmp_path / "config.json").write_text(json.dumps({"pin_services": services}))
    return load_config({"KACHERY_CLOUD_DIR": str(tmp_path), **env})


def mode(path: Path) -> int:
    return stat.S_IMODE(path.stat().st_mode)


# --- which services there are ----------------------------------------------------------------------------------------


def test_no_service_is_set_up_by_default(tmp_path: Path) -> None:
    """Nothing is pinned by itself, and `pin=True` says what to do."""
    found = config(tmp_path)
    assert services_for(found, None) == []
    with pytest.raises(ConfigError, match="kachery-cloud-pins service add filebase"):
        services_for(found, True)


def test_services_of_the_file(tmp_path: Path) -> None:
    """Names with URL, kind, limit and default; the shared ones need no URL and have a limit, one's own have none."""
    services = {
        "filebase": {"default": True},
        "lab": {"url": LAB + "/", "max_bytes": "2TB"},
        "kubo": {"url": "https://kubo.example.org", "kind": "rpc"},
        "shared": {"url": "https://rpc.filebase.io", "kind": "rpc", "max_bytes": "none"},
    }
    filebase, lab, kubo, shared = config(tmp_path, services).pin_services
    assert (filebase.url, filebase.default) == ("https://api.filebase.io/v1/ipfs", True)
    assert (filebase.max_bytes, lab.max_bytes, kubo.max_bytes, shared.max_bytes) == (
        SHARED_MAX_BYTES, 2 * 10**12, None, None,
    )  # fmt: skip
    assert (lab.url, lab.kind, kubo.kind) == (LAB, "pinning", "rpc")
    assert filebase.needs_token
    assert not lab.needs_token


@pytest.mark.parametrize(
    ("services", "what"),
    [
        (["lab"], "must be an object"),
        ({"lab": {}}, "has no url"),
        ({"lab": {"url": "ftp://x"}}, "no proper URL"),
        ({"lab": {"url": "http://x:0"}}, "no proper URL"),
        ({"lab": {"url": "http://[::1"}}, "no proper URL"),
        ({"lab": {"url": LAB, "kind": "s3"}}, "pinning .* or rpc"),
        ({"lab": {"url": LAB, "max_bytes": "much"}}, "number of bytes"),
        ({"lab": {"url": LAB, "default": "yes"}}, "true or false"),
        ({"lab": {"url": LAB, "tokn": "x"}}, "unknown key 'tokn'"),
        ({"l b": {"url": LAB}}, "cannot be the name"),
        ({f"lab{n}": {"url": LAB} for n in range(40)}, "32 are the most"),
    ],
)
def test_entries_that_make_no_sense(tmp_path: Path, services: object, what: str) -> None:
    """The error names the service and what is wrong with it."""
    with pytest.raises(ConfigError, match=what):
        config(tmp_path, services)


def test_a_secret_in_a_url_is_refused_and_not_repeated(tmp_path: Path) -> None:
    """A password or a token in a URL would be shown wherever the URL is."""
    for url in (f"https://me:{SECRET}@pins.example.org", f"https://pins.example.org/?token={SECRET}"):
        with pytest.raises(ConfigError) as raised:
            config(tmp_path, {"lab": {"url": url}})
        assert SECRET not in str(raised.value)


def test_the_environment_names_the_default_services(tmp_path: Path) -> None:
    """Names of the file or of the shared ones, or NAME=URL; those that the file has as default are then not."""
    services = {"lab": {"url": LAB, "default": True}, "other": {"url": LAB}}

    def defaults(text: str) -> list[tuple[str, str]]:
        found = config(tmp_path, services, KACHERY_CLOUD_PIN_SERVICES=text)
        return [(s.name, s.kind) for s in services_for(found, None)]

    assert defaults(" ") == [("lab", "pinning")]
    assert defaults("other, filebase-rpc") == [("other", "pinning"), ("filebase-rpc", "rpc")]
    assert defaults("x=rpc+http://[::1]:5001 lab") == [("lab", "pinning"), ("x", "rpc")]
    assert defaults("none") == []
    with pytest.raises(ConfigError, match="'nobody', which is not known"):
        defaults("nobody")


def test_which_services_a_call_means(tmp_path: Path) -> None:
    """None: the default ones. True: these, or the only one. A name or several: these. Others are an error."""
    one = config(tmp_path, {"lab": {"url": LAB}})
    two = config(tmp_path, {"lab": {"url": LAB}, "kubo": {"url": LAB, "kind": "rpc"}})
    names = lambda found, pin: [service.name for service in services_for(found, pin)]  # noqa: E731
    assert (names(one, None), names(one, True), names(one, False)) == ([], ["lab"], [])
    assert names(two, ["kubo", "lab", "kubo"]) == ["kubo", "lab"]
    with pytest.raises(ConfigError, match=r"Name one or more of: kubo, lab\."):
        services_for(two, True)
    with pytest.raises(ConfigError, match="no pinning service 'labb'"):
        services_for(two, "labb")
    with pytest.raises(ConfigError, match="pin must be"):
        services_for(two, 3)


@pytest.mark.parametrize(
    ("url", "local"),
    [
        (LAB, True),
        ("http://[::1]:5000", True),
        ("http://192.168.1.7", True),
        ("http://kubo:5001", True),
        ("http://pins.local", True),
        ("http://localhost", True),
        ("https://api.filebase.io", False),
        ("https://8.8.8.8", False),
        ("https://pins.example.org", False),
    ],
)
def test_without_public_services_only_local_ones_are_asked(tmp_path: Path, url: str, local: bool) -> None:
    """`public` off, or a swarm key: what is not plainly on the local network is left alone."""
    service = make_setting("x", url, "pinning", origin="test")
    assert service.is_local is local
    assert service.why_not(Config(tmp_path), False) is None
    assert (service.why_not(Config(tmp_path, public=False), False) is None) is local
    assert (service.why_not(Config(tmp_path), True) is None) is local


# --- tokens ----------------------------------------------------------------------------------------------------------


def test_where_a_token_is_looked_for(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The variable of the service, the general one, the one that is named, the file of tokens; in this order."""
    found = config(tmp_path, {"my-lab": {"url": LAB, "token_env": "LAB_TOKEN"}})
    (service,) = found.pin_services
    keep_token(tmp_path, "my-lab", "kept")
    assert (find_token(found, service), token_origin(found, service)) == ("kept", "tokens.json")
    for variable in ("LAB_TOKEN", "KACHERY_CLOUD_PIN_TOKEN", "KACHERY_CLOUD_PIN_TOKEN_MY_LAB"):
        token = "from-" + variable.lower()
        monkeypatch.setenv(variable, token)
        assert (find_token(found, service), token_origin(found, service)) == (token, variable)


def test_the_general_token_goes_to_one_service_only(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Where there are several, nobody could say whose it is, and it would go to strangers."""
    found = config(tmp_path, {"lab": {"url": LAB}, "kubo": {"url": LAB}})
    monkeypatch.setenv("KACHERY_CLOUD_PIN_TOKEN", SECRET)
    assert [find_token(found, service) for service in found.pin_services] == ["", ""]


def test_a_token_never_travels_in_the_clear(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """http:// is for the local network."""
    found = config(tmp_path, {"lab": {"url": "http://pins.example.org"}})
    monkeypatch.setenv("KACHERY_CLOUD_PIN_TOKEN", SECRET)
    with pytest.raises(ConfigError, match="Use https://") as raised:
        find_token(found, found.pin_services[0])
    assert SECRET not in str(raised.value)


def test_a_shared_service_without_a_token_is_told_at_once(tmp_path: Path) -> None:
    """Before anything is stored, not as a refusal by the service days later."""
    with pytest.raises(ConfigError, match="no token for the pinning service 'filebase'"):
        services_for(config(tmp_path), "filebase")
    keep_token(tmp_path, "filebase", SECRET)
    assert services_for(config(tmp_path), "filebase") == [PRESETS["filebase"]]


@pytest.mark.skipif(os.name != "posix", reason="modes of files")
def test_files_with_tokens_are_private(tmp_path: Path) -> None:
    """tokens.json always, config.json when there is a token in it; one that was readable by others is made private."""
    keep_token(tmp_path, "lab", SECRET)
    assert mode(tmp_path / "tokens.json") == 0o600
    (tmp_path / "tokens.json").chmod(0o644)
    found = config(tmp_path, {"lab": {"url": LAB}})
    assert find_token(found, found.pin_services[0]) == SECRET
    assert mode(tmp_path / "tokens.json") == 0o600
    (tmp_path / "config.json").chmod(0o644)
    config(tmp_path)
    assert mode(tmp_path / "config.json") == 0o644
    config(tmp_path, {"lab": {"url": LAB, "token": SECRET}})
    assert mode(tmp_path / "config.json") == 0o600
    keep_token(tmp_path, "lab", None)
    assert SECRET not in (tmp_path / "tokens.json").read_text()


def test_a_token_is_in_no_repr_and_no_error(tmp_path: Path) -> None:
    """Settings end up in logs and bug reports."""
    found = config(tmp_path, {"lab": {"url": LAB, "token": SECRET}})
    assert SECRET not in repr(found)
    for wrong in (f"{SECRET}\n", f"Bearer {SECRET}", f"{SECRET}é"):
        with pytest.raises(ConfigError) as raised:
            keep_token(tmp_path, "lab", wrong)
        assert SECRET not in str(raised.value)
    (tmp_path / "tokens.json").write_text(SECRET)
    with pytest.raises(ConfigError) as raised:
        find_token(config(tmp_path, {"lab": {"url": LAB}}), PinSetting("lab", LAB))
    assert SECRET not in str(raised.value)


def test_a_keyring_that_is_not_installed_is_told(tmp_path: Path) -> None:
    """The package is only asked for by those who want it."""
    code = (
        "import sys; sys.modules['keyring'] = None\n"
        "from pathlib import Path\n"
        "import kachery_cloud.settings.pin_tokens as p; from kachery_cloud.settings.config import Config\n"
        "s = p.PinSetting('lab', 'http://127.0.0.1:1', keyring=True)\n"
        "try: p.find_token(Config(Path(sys.argv[1])), s)\n"
        "except p.ConfigError as e: print(e)\n"
    )
    done = subprocess.run([sys.executable, "-c", code, str(tmp_path)], capture_output=True, text=True, check=True)
    assert "pip install keyring" in done.stdout


def test_changing_a_service_keeps_the_other_settings(tmp_path: Path) -> None:
    """`config.json` is rewritten whole; a service that makes no sense leaves it as it was."""
    (tmp_path / "config.json").write_text(json.dumps({"timeout": 5, "pin_services": {"lab": {"url": LAB}}}))
    keep_service(tmp_path, "filebase", {"default": True})
    keep_service(tmp_path, "lab", None)
    found = config(tmp_path)
    assert (found.timeout, [service.name for service in found.pin_services]) == (5.0, ["filebase"])
    with pytest.raises(ConfigError):
        keep_service(tmp_path, "x", {"url": "nonsense"})
    assert config(tmp_path) == found
    assert sorted(os.listdir(tmp_path)) == ["config.json"]


def test_a_token_in_the_keyring_of_the_system(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """With `"keyring": true` it is kept there and in no file; a keyring that refuses is told without the token."""
    kept: dict[tuple[str, str], str] = {}
    errors = ModuleType("keyring.errors")
    errors.KeyringError = type("KeyringError", (Exception,), {})  # type: ignore[attr-defined]
    keyring: Any = ModuleType("keyring")
    keyring.errors = errors
    keyring.get_password = lambda service, name: kept.get((service, name))
    keyring.set_password = lambda service, name, token: kept.update({(service, name): token})
    keyring.delete_password = lambda service, name: kept.pop((service, name))
    monkeypatch.setitem(sys.modules, "keyring", keyring)
    monkeypatch.setitem(sys.modules, "keyring.errors", errors)
    found = config(tmp_path, {"lab": {"url": LAB, "keyring": True}})
    (service,) = found.pin_services
    keep_token_in_keyring("lab", SECRET)
    assert (find_token(found, service), token_origin(found, service)) == (SECRET, "keyring")
    assert sorted(os.listdir(tmp_path)) == ["config.json"]
    keep_token_in_keyring("lab", None)
    assert (kept, find_token(found, service)) == ({}, "")

    def refuse(service: str, name: str) -> str:
        raise errors.KeyringError(f"locked; the token is {SECRET}")

    keyring.get_password = refuse
    with pytest.raises(ConfigError, match="keyring does not give the token of 'lab'") as raised:
        find_token(found, service)
    assert SECRET not in str(raised.value)


# --- what is written down --------------------------------------------------------------------------------------------


@pytest.fixture
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """A data directory with two services, none of which runs."""
    directory = tmp_path / "data"
    directory.mkdir()
    services = {"lab": {"url": LAB, "max_bytes": 1000}, "kubo": {"url": LAB, "kind": "rpc"}}
    (directory / "config.json").write_text(json.dumps({"pin_services": services}))
    monkeypatch.setenv("KACHERY_CLOUD_DIR", str(directory))
    yield directory
    close_outboxes()
    close_repositories()


def listed(directory: Path) -> list[tuple[str, str]]:
    """What another process reads from the disk right now."""
    code = "import kachery_cloud as kcl, json; print(json.dumps([(r['service'], r['uri']) for r in kcl.pins()]))"
    env = {**os.environ, "KACHERY_CLOUD_DIR": str(directory)}
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, env=env)
    return [(service, uri) for service, uri in json.loads(done.stdout)]


def test_everything_that_stores_can_pin(here: Path, tmp_path: Path) -> None:
    """Each store writes down what is to be pinned before it returns, also without a node."""
    import numpy as np

    (tmp_path / "folder").mkdir()
    (tmp_path / "folder" / "a.txt").write_text("in a folder")
    (tmp_path / "b.txt").write_text("linked")
    more: dict[str, Any] = {"local": True, "pin": "kubo"}
    uris = [
        kcl.store_text("text", **more),
        kcl.store_json({"a": 1}, **more),
        kcl.store_npy(np.arange(3), **more),
        kcl.store_pkl({"b": 2}, **more),
        kcl.store_file(tmp_path / "folder" / "a.txt", **more),
        kcl.link_file(tmp_path / "b.txt", **more),
        kcl.store_dir(tmp_path / "folder", **more),
    ]
    assert listed(here) == [("kubo", uri) for uri in uris]
    assert [row["name"] for row in kcl.pins()][-3:] == ["a.txt", "b.txt", "folder"]
    assert [row["state"] for row in kcl.pins()] == ["waiting"] * 7


def test_the_same_thing_is_written_down_once(here: Path) -> None:
    """However often it is stored; each service has a row of its own."""
    (uri,) = {kcl.store_text("text", local=True, pin=["lab", "kubo"], label="a note") for _ in range(3)}
    rows = kcl.pins(uri)
    assert [(row["service"], row["size"], row["name"]) for row in rows] == [("kubo", 4, "a note"), ("lab", 4, "a note")]


def test_nothing_is_pinned_without_being_told(here: Path) -> None:
    """Services alone pin nothing; not even the file of the outbox is made."""
    kcl.store_text("text", local=True)
    kcl.store_text("more", local=True, pin=False)
    assert kcl.pins() == []
    assert not (here / "outbox.sqlite").exists()


def test_the_limit_is_told_before_anything_is_stored(here: Path, tmp_path: Path) -> None:
    """What was to be pinned by name and is too large is not even copied; the error says what to do instead."""
    big = tmp_path / "big"
    big.mkdir()
    (big / "big.bin").write_bytes(bytes(2000))
    for store, path in ((kcl.store_file, big / "big.bin"), (kcl.link_file, big / "big.bin"), (kcl.store_dir, big)):
        with pytest.raises(PinTooLarge, match=r"at most 1,000 bytes .* raise the limit"):
            store(path, local=True, pin=["kubo", "lab"])
    assert kcl.pins() == []
    assert not (here / "ipfs").exists() or not list((here / "ipfs").rglob("baf*"))
    kcl.store_file(big / "big.bin", local=True, pin="kubo")
    assert len(kcl.pins()) == 1


def test_a_default_service_does_not_stop_a_large_store(here: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """What is too large for it is stored, goes to the others, and a warning says so."""
    monkeypatch.setenv("KACHERY_CLOUD_PIN_SERVICES", "lab kubo")
    with pytest.warns(RuntimeWarning, match="Stored, but not pinned: .*at most 1,000 bytes"):
        uri = kcl.store_text("x" * 2000, local=True)
    assert [row["service"] for row in kcl.pins(uri)] == ["kubo"]


def test_mistakes_are_told_before_anything_is_stored(here: Path) -> None:
    """A wrong name, a wait that cannot be, a timeout that is none."""
    wrong: list[tuple[dict[str, Any], str]] = [
        ({"pin": "labb"}, "no pinning service 'labb'"),
        ({"pin": True}, "Which pinning service is meant"),
        ({"pin": "lab", "wait": "done"}, "must be 'pinned', 'verified' or None"),
        ({"wait": "pinned"}, "needs a pinning service"),
        ({"pin": "lab", "wait": "pinned", "local": True}, "no waiting"),
        ({"pin": "lab", "timeout": -1}, "timeout"),
    ]
    for more, what in wrong:
        with pytest.raises(ConfigError, match=what):
            kcl.store_text("text", **more)
    assert kcl.pins() == []


class Listening:
    """A connection to a node that notes what it is told."""

    def __init__(self, told: list[str]) -> None:
        self._told = told

    def notify_stored(self, cid: CID) -> None:
        self._told.append(str(cid))

    def notify_pins_changed(self) -> None:
        self._told.append("pins changed")


def test_storing_and_pinning_are_told_apart(here: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The node hears that data came, and that there is something to pin: two things, each when it is so."""
    told: list[str] = []
    monkeypatch.setattr("kachery_cloud.node.connection.get_connection", lambda config: Listening(told))
    cid = kcl.store_text("first").removeprefix("ipfs://")
    assert told == [cid]
    other = kcl.store_text("second", pin="kubo").removeprefix("ipfs://")
    assert told == [cid, other, "pins changed"]
    kcl.unpin("ipfs://" + other)
    assert told == [cid, other, "pins changed", "pins changed"]


def test_commands_tell_the_node_what_has_happened(here: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """That data came, when something was stored; that what is to be pinned has changed: never one for the other."""
    told: list[str] = []
    monkeypatch.setattr("kachery_cloud.node.connection.ask_running_node", lambda config, call: told.append(call.name))
    monkeypatch.setattr(
        "kachery_cloud.node.connection.tell_running_node", lambda config, cid: bool(told.append(str(cid)))
    )
    (tmp_path / "a.txt").write_text("a")

    def run(*arguments: str) -> Result:
        told.clear()
        return CliRunner().invoke(cli, [*arguments, "--json"], catch_exceptions=False)

    cid = json.loads(run("store", str(tmp_path / "a.txt")).stdout)["cid"]
    assert told == [cid]
    run("store", str(tmp_path / "a.txt"), "--service", "kubo", "--no-wait")
    assert told == [cid, "wake_pins"]
    run("pins", "remove", cid)
    assert told == ["wake_pins"]
    run("pins", "add", cid, "--service", "kubo", "--no-wait")
    assert told == ["wake_pins"]


def test_pinning_what_is_here_and_no_longer(here: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """By URI, a path in a directory included; what is not here is an error, and so is what was never pinned."""
    told: list[str] = []
    monkeypatch.setattr("kachery_cloud.node.connection.get_connection", lambda config: Listening(told))
    (tmp_path / "folder").mkdir()
    (tmp_path / "folder" / "a.txt").write_text("in a folder")
    uri = kcl.store_dir(tmp_path / "folder", local=True)
    (row,) = kcl.pin(uri, "kubo")
    assert row["size"] > len("in a folder")
    (inner,) = kcl.pin(uri + "/a.txt", "kubo")
    assert (inner["uri"], inner["size"], inner["name"]) == ("ipfs://" + inner["cid"], 11, "a.txt")
    assert kcl.load_text(inner["uri"], local_only=True) == "in a folder"
    assert told == ["pins changed", "pins changed"]
    assert kcl.pins(uri + "/a.txt") == [inner]
    assert [each["state"] for each in kcl.unpin(uri)] == ["removed"]
    assert told == ["pins changed"] * 3
    assert kcl.pins(uri) == []
    with pytest.raises(ContentNotFound, match="is not pinned"):
        kcl.unpin(uri)
    with pytest.raises(ContentNotFound, match="is not pinned at lab"):
        kcl.wait_pinned(inner["uri"], service="lab")
    with pytest.raises(ContentNotFound, match="is not on this machine"):
        kcl.pin("ipfs://bafkreiaossxdnwtp6a4zfjl73w67i4ulmcoq277g5maz7kprxg23kqgygu", "kubo")


def test_what_stands_still_because_of_the_settings_says_so(here: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A service that is gone, has no token, or must not be asked: the row names it, and nobody waits for it."""
    keep_token(here, "filebase", SECRET)
    uri = kcl.store_text("text", local=True, pin=["lab", "filebase"])

    def why() -> dict[str, str]:
        return {row["service"]: row["last_error"] for row in kcl.pins()}

    monkeypatch.setenv("KACHERY_CLOUD_PUBLIC", "on")
    assert why() == {"lab": "", "filebase": ""}
    monkeypatch.setenv("KACHERY_CLOUD_PUBLIC", "off")
    assert "public services are switched off" in why()["filebase"]
    assert [service.name for service in usable_services(load_config(), False)] == ["lab", "kubo"]
    with pytest.raises(PinningError, match="public services are switched off"):
        kcl.wait_pinned(uri)
    monkeypatch.setenv("KACHERY_CLOUD_PUBLIC", "on")
    keep_token(here, "filebase", None)
    assert "There is no token for filebase" in why()["filebase"]
    assert [service.name for service in usable_services(load_config(), False)] == ["lab", "kubo"]
    keep_service(here, "lab", None)
    assert "no pinning service 'lab' in the settings any more" in why()["lab"]


def test_the_node_gets_the_tokens_and_a_swarm_key_shuts_out_strangers(here: Path) -> None:
    """A shared service is used as soon as there is a token for it; in a private network only local ones are."""
    keep_token(here, "filebase-rpc", SECRET)
    keep_token(here, "lab", "t")
    public = Config(here, pin_services=load_config().pin_services)
    assert {each.name: each.token for each in usable_services(public, False)} == {
        "filebase-rpc": SECRET, "lab": "t", "kubo": "",
    }  # fmt: skip
    assert [each.name for each in usable_services(public, True)] == ["lab", "kubo"]


def test_a_token_that_cannot_be_used_does_not_stop_the_node(here: Path) -> None:
    """The service is left out, and its rows say why."""
    kcl.store_text("text", local=True, pin="lab")
    keep_token(here, "lab", "basic:nonsense")
    assert [each.name for each in usable_services(load_config(), False)] == ["kubo"]
    assert "'basic:'" in kcl.pins()[0]["last_error"]


# --- what is said ----------------------------------------------------------------------------------------------------


def row(state: str, error: str = "") -> PinEntry:
    return PinEntry(
        id=1, cid="bafy", service="lab", name="a.dat", meta={}, size=1_234_567, state=state, revision=0, request_id="",
        delegates=(), origins=(), asked=0.0, tries=0, polls=0, waited=0.0, next_try=float("inf"),
        problem="x" if error else "", last_error=error, added=0.0, changed=0.0, verified=None,
    )  # fmt: skip


def test_the_table_tells_claims_from_proofs() -> None:
    """One line for each; why it is not done stands under it, with no control characters of strangers."""
    lines = pin_lines([row("verified"), row("pinned"), row("refused", "The token\x1b[2J is wrong.")])
    assert lines == [
        "verified  lab  1.2 MB  ipfs://bafy  a.dat",
        "claimed   lab  1.2 MB  ipfs://bafy  a.dat",
        "refused   lab  1.2 MB  ipfs://bafy  a.dat",
        "    The token\\x1b[2J is wrong.",
    ]


def test_what_is_on_its_way_in_sentences() -> None:
    """For those who stop waiting."""
    assert on_their_way([row("queued", "It has been there long."), row("pinned")]) == [
        "lab: ipfs://bafy is queued at the service (It has been there long.)",
        "lab: ipfs://bafy is there, as the service says; no block was fetched back yet",
    ]


def test_a_summary_begins_with_what_wants_the_user() -> None:
    """States with nothing in them are left out."""
    assert summary_phrase({"verified": 1200, "queued": 2, "refused": 1, "pinned": 0}) == (
        "1 refused, 2 queued, 1,200 verified"
    )
    assert summary_phrase({}) == ""


# --- commands --------------------------------------------------------------------------------------------------------


def run(*args: str, text: str = "") -> Result:
    return CliRunner().invoke(cli, ["pins", *args], input=text)


def test_setting_up_a_service(here: Path) -> None:
    """The token comes from standard input, goes to a private file, and is not printed; removing takes it away."""
    done = run("service", "add", "mine", "https://pins.example.org", "--default", "--token-stdin", text=SECRET + "\n")
    assert done.exit_code == 0
    listing = run("service", "list"), run("service", "list", "--json")
    for said in (done, *listing):
        assert SECRET not in said.output
    assert "mine  https://pins.example.org  (pinning, default, no limit, token in tokens.json)" in listing[0].output
    found = {each["name"]: each for each in json.loads(listing[1].output)["services"]}
    assert (found["mine"]["token"], found["mine"]["default"]) == ("tokens.json", True)
    assert mode(here / "tokens.json") == mode(here / "config.json") == 0o600
    assert run("service", "remove", "mine").exit_code == 0
    assert SECRET not in (here / "tokens.json").read_text() + (here / "config.json").read_text()
    assert run("service", "remove", "mine").exit_code == 2


def test_changing_a_service(here: Path) -> None:
    """Without a URL the rest stays; another URL does not get the old token."""
    run("service", "add", "mine", "https://pins.example.org", "--token-stdin", text=SECRET)
    changed = json.loads(run("service", "add", "mine", "--default", "--max-bytes", "5GB", "--json").output)
    assert (changed["url"], changed["default"], changed["max_bytes"]) == ("https://pins.example.org", True, 5 * 10**9)
    assert changed["token"] == "tokens.json"
    other = json.loads(run("service", "add", "mine", "https://elsewhere.example.org", "--json").output)
    assert (other["token"], other["default"]) == (None, False)


def test_services_that_make_no_sense_are_refused(here: Path) -> None:
    """One sentence and exit code 2; the settings stay as they are."""
    before = (here / "config.json").read_text()
    assert run("service", "add", "mine").exit_code == 2
    assert run("service", "add", "mine", "nonsense").exit_code == 2
    assert run("service", "add", "mine", LAB, "--max-bytes", "much").exit_code == 2
    assert run("service", "add", "mine", LAB, "--token-stdin", text="").exit_code == 2
    assert (here / "config.json").read_text() == before


@pytest.mark.skipif(os.name != "posix", reason="terminals")
def test_a_token_that_is_typed_is_not_shown(here: Path) -> None:
    """Without --token-stdin a person is asked, and what is typed does not appear on the terminal."""
    import pty

    code = (
        "from kachery_cloud.commands.main import main; import sys; sys.argv = ['kachery-cloud', *sys.argv[1:]]; main()"
    )
    pid, terminal = pty.fork()
    if pid == 0:
        os.execv(sys.executable, [sys.executable, "-c", code, "pins", "service", "add", "mine", LAB])
    shown = b""
    while b"Token of mine" not in shown or b": " not in shown:
        shown += os.read(terminal, 1000)
    os.write(terminal, SECRET.encode() + b"\n")
    with contextlib.suppress(OSError):  # so a terminal ends
        while more := os.read(terminal, 1000):
            shown += more
    os.close(terminal)
    assert os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == 0
    assert SECRET.encode() not in shown
    assert b"token in tokens.json" in shown


def test_listing_and_storing_without_a_node(here: Path, tmp_path: Path) -> None:
    """--no-wait writes down and says who will do it; the list shows it; removing takes it off."""
    data = tmp_path / "a.dat"
    data.write_bytes(b"abc")
    runner = CliRunner()
    stored = runner.invoke(cli, ["store", str(data), "--service", "kubo", "--no-wait"])
    assert stored.exit_code == 0
    uri = stored.stdout.strip()
    assert "No node is running here" in stored.stderr
    assert run().stdout == f"waiting  kubo  3 B  {uri}  a.dat\n"
    found = json.loads(runner.invoke(cli, ["link", str(data), "--service", "lab", "--no-wait", "--json"]).output)
    assert [each["service"] for each in found["pins"]] == ["lab"]
    assert [each["service"] for each in json.loads(run("--json").output)["pins"]] == ["kubo", "lab"]
    assert run("remove", uri, "--service", "kubo").output == f"removed  kubo  3 B  {uri}  a.dat\n"
    assert [each["state"] for each in json.loads(run("--removed", "--json").output)["pins"]] == ["removed", "waiting"]
    assert run("remove", uri, "--service", "kubo").exit_code == 3
    assert runner.invoke(cli, ["store", str(data), "--service", "lab", "--no-pin"]).exit_code == 2


def test_the_status_tells_of_pins(here: Path) -> None:
    """Where no node runs, too: they wait for one."""
    kcl.store_text("text", local=True, pin="lab")
    assert kcl.status()["pinning"] == {"counts": {"lab": {"waiting": 1}}}
    assert any(
        line.split() == ["Pins:", "lab:", "1", "waiting"]
        for line in CliRunner().invoke(cli, ["status"]).output.splitlines()
    )


def test_settings_with_tokens_do_not_get_into_the_status(here: Path) -> None:
    """`kachery-cloud-status --json` is what people send to each other."""
    keep_service(here, "lab", {"url": LAB, "token": SECRET})
    kcl.store_text("text", local=True, pin="lab")
    assert SECRET not in CliRunner().invoke(cli, ["status", "--json"]).output
    assert SECRET not in run("--json").output
    assert outbox(load_config()).path.read_bytes().find(SECRET.encode()) == -1


def test_settings_name_no_more_services_than_a_node_takes() -> None:
    """The number is written twice, for settings are read by programs that import nothing of pinning."""
    from kachery_cloud.settings.pin_services import MAX_SERVICES
    from kachery_p2p.pinning import limits

    assert limits.MAX_SERVICES == MAX_SERVICES
