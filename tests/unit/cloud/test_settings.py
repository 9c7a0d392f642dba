"""Settings: one entry each. All that is told of them comes from that entry."""

from __future__ import annotations

import json
import os
import re
from dataclasses import MISSING, fields
from pathlib import Path

import pytest
from click.testing import CliRunner

import kachery_cloud as kcl
from kachery_cloud.commands.loading import cat, info, load, ls
from kachery_cloud.commands.main import cli
from kachery_cloud.errors import ConfigError
from kachery_cloud.settings.config import SETTINGS, Config, load_config, read_settings, write_default_config
from kachery_cloud.settings.values import Parser, one_of
from scripts import settings_table

A = "/ip4/10.0.0.1/tcp/4001"
PEER = "12D3KooWD3eckifWpRn9wQpMG9R9hX3sD158z7EqHWmweQAJU5SA"
URL = "https://gateway.example.org"
LAB = {"url": "http://127.0.0.1:5000"}

#: For each setting something else than its default: in a variable, in the file, and what both come to.
GIVEN: dict[str, tuple[str, object, object]] = {
    "shared_dirs": (f"/lab{os.pathsep}/site/./x", ["/lab", "/site/x"], (Path("/lab"), Path("/site/x"))),
    "listen": (A, [A], (A,)),
    "peers": (A, [A], (A,)),
    "timeout": ("5", 5, 5.0),
    "max_store_bytes": ("5kB", 5000, 5000),
    "public": ("off", False, False),
    "dht": ("client", "client", "client"),
    "bootstrap": (A, [A], (A,)),
    "delegated": (URL, [URL], (URL,)),
    "lan_dht": ("no", False, False),
    "mdns": ("0", False, False),
    "known_peers": ("false", False, False),
    "provide": ("all", "all", "all"),
    "announce": (A, [A], (A,)),
    "reachability": ("private", "private", "private"),
    "port_map": ("off", False, False),
    "relays": (A, [A], (A,)),
    "relay_service": ("on", "on", "on"),
    "to": ("hippocampus, private", ["hippocampus", "private"], ("hippocampus", "private")),
    "own_peers": (f"/p2p/{PEER}", [PEER], (PEER,)),
    "members_only": ("on", True, True),
    "access_log": ("off", False, False),
    "gateways": (URL, [URL], (URL,)),
    "gateway_tokens": (f"{URL}=secret", {URL: "secret"}, {URL: "secret"}),
    "gateway_names": ("Lab.example.org. lab", ["lab.example.org", "lab"], ("lab.example.org", "lab")),
    "gateway_origins": (
        "https://Lab.example.org:443, http://localhost:8888",
        ["https://lab.example.org", "http://localhost:8888"],
        ("https://lab.example.org", "http://localhost:8888"),
    ),
    "pinning_service": ("127.0.0.1:8095", "127.0.0.1:8095", "127.0.0.1:8095"),
    "max_pin_bytes": ("5kB", 5000, 5000),
    "tls_cert": ("/tls/cert.pem", "/tls/cert.pem", Path("/tls/cert.pem")),
    "tls_key": ("/tls/key.pem", "/tls/key.pem", Path("/tls/key.pem")),
    "follow": ("http://10.0.0.2:8095=t", {"http://10.0.0.2:8095/pins": "t"}, {"http://10.0.0.2:8095": "t"}),
    "gateway": ("127.0.0.1:8090", "127.0.0.1:8090", "127.0.0.1:8090"),
    "gateway_fetch": ("on", True, True),
    "storage_limit": ("500GB", "500GB", 500 * 10**9),
    "scrub_days": ("7", 7, 7.0),
    "log_level": ("debug", "debug", "debug"),
    "log_file": ("/var/log/node.log", "/var/log/node.log", Path("/var/log/node.log")),
    "log_format": ("json", "json", "json"),
    "openid_issuer": ("https://id.example.org/", "https://id.example.org/", "https://id.example.org/"),
    "openid_client_id": ("lab", " lab ", "lab"),
    "openid_client_secret": ("s3cret", "s3cret", "s3cret"),
    "openid_client_secret_file": ("/lab/secret", "/lab/secret", Path("/lab/secret")),
    "lab": ("127.0.0.1:8095", "127.0.0.1:8095", "127.0.0.1:8095"),
    "lab_url": ("https://Lab.example.org:443/", "https://lab.example.org", "https://lab.example.org"),
    "lab_gateway": ("https://Figures.example.org/", "https://figures.example.org", "https://figures.example.org"),
    "project": ("hippocampus", "hippocampus", "hippocampus"),
    "lab_name": ("Lab of Ada", "Lab of Ada", "Lab of Ada"),
    "lab_members": ("Example.org, ada@x.org", ["@example.org", "ada@x.org"], ("@example.org", "ada@x.org")),
    "show_owner": ("everyone", "everyone", "everyone"),
}


def config(tmp_path: Path, **env: str) -> Config:
    return load_config({"KACHERY_CLOUD_DIR": str(tmp_path), **env})


def test_each_field_is_a_setting_with_all_that_is_told_of_it() -> None:
    """A field of `Config` is an entry: variable, key, what it takes, one sentence, and its own default."""
    assert [field.name for field in fields(Config)] == list(SETTINGS)
    assert {*GIVEN, "directory", "private", "pin_services"} == set(SETTINGS)
    for field in fields(Config):
        setting = SETTINGS[field.name]
        assert setting.variable == f"KACHERY_CLOUD_{'DIR' if field.name == 'directory' else field.name.upper()}"
        assert setting.key == ("" if field.name == "directory" else field.name)
        assert re.fullmatch(r"(\* )?[A-Z][^.]+\.", setting.meaning), setting.meaning
        assert setting.parser.takes
        assert re.fullmatch(r"[^`\s].*|`[^`]+`.*", setting.default_text), "no empty code, which Markdown does not know"
        assert field.default_factory is MISSING or field.default_factory() == setting.default


@pytest.mark.parametrize("name", GIVEN)
def test_each_setting_is_read_from_its_variable_and_its_key(name: str, tmp_path: Path) -> None:
    """The same value by both ways, under the name of the field; and where it came from is known."""
    text, stored, value = GIVEN[name]
    variable = SETTINGS[name].variable
    assert getattr(Config(tmp_path), name) != value
    assert config(tmp_path, **{variable: text}) == Config(tmp_path, **{name: value})  # type: ignore[arg-type]
    (tmp_path / "config.json").write_text(json.dumps({name: stored}))
    assert config(tmp_path) == Config(tmp_path, **{name: value})  # type: ignore[arg-type]
    env = {"KACHERY_CLOUD_DIR": str(tmp_path)}
    assert read_settings(env)[1] == {"directory": "KACHERY_CLOUD_DIR", name: "config.json"}
    assert read_settings({**env, variable: text})[1][name] == variable


@pytest.mark.parametrize(
    ("name", "value"),
    [
        *(("gateway_names", each) for each in ("lab.example.org:80", "https://lab", "a b/c", "-a", "a..b", "a" * 64)),
        *(
            ("gateway_origins", each)
            for each in ("lab.example.org", "https://a/b", "null", "*", "file:///x", "https://u:p@a")
        ),
    ],
)
def test_names_and_origins_of_the_gateway_are_checked(name: str, value: str, tmp_path: Path) -> None:
    """A name is one of a host, an origin has a scheme and a host and nothing else; the error names the variable."""
    variable = SETTINGS[name].variable
    with pytest.raises(ConfigError, match=variable):
        config(tmp_path, **{variable: value})


def test_pinning_services_come_from_both(tmp_path: Path) -> None:
    """The variable adds to those of the file, and says which are the default ones."""
    (tmp_path / "config.json").write_text(json.dumps({"pin_services": {"lab": {**LAB, "default": True}}}))
    env = {"KACHERY_CLOUD_DIR": str(tmp_path), "KACHERY_CLOUD_PIN_SERVICES": "filebase"}
    found, origins = read_settings(env)
    assert [(service.name, service.default) for service in found.pin_services] == [("lab", False), ("filebase", True)]
    assert origins["pin_services"] == "KACHERY_CLOUD_PIN_SERVICES and config.json"


def test_the_file_of_defaults_has_every_setting(tmp_path: Path) -> None:
    """Each key with the value that changes nothing; pinning services are added by their command."""
    written = json.loads(write_default_config(tmp_path).read_text())
    assert list(written) == [name for name in SETTINGS if name not in ("directory", "pin_services")]
    assert (written["bootstrap"], written["max_store_bytes"], written["mdns"]) == ("default", None, True)
    assert config(tmp_path) == Config(tmp_path)


def test_status_shows_the_settings_without_secrets(tmp_path: Path) -> None:
    """Where no node runs, `status` has each setting by its name; tokens are not among them."""
    shown = kcl.status()["settings"]
    assert set(shown) - {"sources"} == set(SETTINGS) - {
        "directory",
        "follow",
        "gateway_tokens",
        "openid_client_secret",
        "pin_services",
    }
    assert "s3cret" not in repr(config(tmp_path, KACHERY_CLOUD_OPENID_CLIENT_SECRET="s3cret"))
    assert "s3cret" not in repr(config(tmp_path, KACHERY_CLOUD_GATEWAY_TOKENS=f"{URL}=s3cret"))
    assert "s3cret" not in repr(config(tmp_path, KACHERY_CLOUD_FOLLOW="http://10.0.0.2=s3cret"))
    tokens = SETTINGS["gateway_tokens"]
    assert tokens.parser.show({URL: "s3cret"}) == [URL]


@pytest.mark.parametrize("name", SETTINGS)
def test_what_a_setting_takes_is_what_it_accepts(name: str) -> None:
    """Each word that the table shows as taken, or as the default, is taken."""
    setting = SETTINGS[name]
    if setting.key and setting.parser.add is None:
        for word in re.findall(r"`([a-z]+)`", setting.parser.takes):
            setting.parser.read(word, "the table")
        for word in re.findall(r"^`([a-z0-9]+)`", setting.default_text):
            assert setting.parser.read(word, "the table") == setting.default


def test_words_are_listed_once() -> None:
    """The words of a `Literal` are those that are taken and those that the table shows."""
    from typing import Literal

    parser: Parser[str] = one_of(Literal["red", "green", "off"])
    assert parser.takes == "`red`, `green` or `off`"
    assert [parser.read(word, "") for word in ("red", "GREEN", "no", "on")] == ["red", "green", "off", "red"]


# --- the table in the documentation ----------------------------------------------------------------------------------


def test_the_table_in_the_documentation_is_up_to_date() -> None:
    """What a user reads is what the settings are: `python -m scripts.settings_table --write` writes it anew."""
    assert settings_table.out_of_date(settings_table.ROOT) == {}


def test_the_table_is_written_between_its_markers(tmp_path: Path) -> None:
    """Whatever page the markers stand in; what is around them stays, and a second time changes nothing."""
    (tmp_path / "docs").mkdir()
    with pytest.raises(ValueError, match=r"none of README.md, docs/settings.md"):
        settings_table.out_of_date(tmp_path)
    for name in settings_table.PAGES:
        page = tmp_path / name
        page.write_text(f"before\n{settings_table.BEGIN}old\n{settings_table.END}\nafter\n")
        ((path, text),) = settings_table.out_of_date(tmp_path).items()
        assert path == page
        assert text.startswith(f"before\n{settings_table.BEGIN}")
        assert text.endswith(f"{settings_table.END}\nafter\n")
        for setting in SETTINGS.values():
            assert f"| `{setting.variable}` " in text
        page.write_text(text)
        assert settings_table.out_of_date(tmp_path) == {}
        page.write_text(f"{settings_table.BEGIN}old\n")
        with pytest.raises(ValueError, match="is missing"):
            settings_table.out_of_date(tmp_path)
        page.unlink()


def test_the_options_that_stand_for_a_setting_state_its_default() -> None:
    """`--timeout` of the commands that load says the default of the setting."""
    for command in (load, cat, ls, info):
        (option,) = (each for each in command.params if each.name == "timeout")
        assert f"[default: {SETTINGS['timeout'].default:g}]" in str(getattr(option, "help", ""))


# --- the command -----------------------------------------------------------------------------------------------------


def run(*arguments: str, **env: str) -> str:
    result = CliRunner().invoke(cli, ["settings", *arguments], env=env)
    assert result.exit_code == 0, result.output
    return result.stdout


def test_the_command_says_what_each_setting_is(tmp_path: Path) -> None:
    """Each setting with its value and where it comes from; no token, and no Markdown."""
    (tmp_path / "config.json").write_text(json.dumps({"timeout": 5, "gateway_tokens": {URL: "s3cret"}}))
    env = {"KACHERY_CLOUD_DIR": str(tmp_path), "KACHERY_CLOUD_PEERS": A}
    text = run(**env)
    for setting in SETTINGS.values():
        assert f"{setting.variable}: " in text
        assert setting.meaning.replace("`", "") in text
    assert f"KACHERY_CLOUD_PEERS: {A}\n" in text
    assert "Set by config.json. The default: 60." in text
    assert f"KACHERY_CLOUD_GATEWAY_TOKENS: {URL}\n" in text
    rows = {row["name"]: row for row in json.loads(run("--json", **env))["settings"]}
    assert list(rows) == list(SETTINGS)
    assert (rows["timeout"]["value"], rows["timeout"]["origin"]) == (5.0, "config.json")
    assert (rows["peers"]["value"], rows["peers"]["origin"]) == ([A], "KACHERY_CLOUD_PEERS")
    assert (rows["mdns"]["key"], rows["mdns"]["takes"], rows["directory"]["key"]) == ("mdns", "on or off", None)
    assert "s3cret" not in text + json.dumps(rows)
    assert "`" not in text + json.dumps(rows)


def test_a_setting_that_is_empty_is_none(tmp_path: Path) -> None:
    """An empty text is said as "none", as a default and as a value, and a word beside it stays."""
    env = {"KACHERY_CLOUD_DIR": str(tmp_path)}
    assert run("project", **env).startswith("KACHERY_CLOUD_PROJECT: none\n")
    assert run("openid_client_id", **env).startswith("KACHERY_CLOUD_OPENID_CLIENT_ID: none: nobody signs in\n")
    assert json.loads(run("project", "--json", **env))["settings"][0]["default"] == "none"
    (tmp_path / "config.json").write_text(json.dumps({"project": ""}))
    assert run("project", **env).startswith("KACHERY_CLOUD_PROJECT: none\n")


@pytest.mark.parametrize("url", ["http://id.example.org", "id.example.org", "https://u:p@id.example.org", "ftp://a"])
def test_an_issuer_is_https_or_on_this_machine(url: str, tmp_path: Path) -> None:
    """Tokens and secrets never go to a provider in the clear."""
    with pytest.raises(ConfigError, match="OPENID_ISSUER"):
        config(tmp_path, KACHERY_CLOUD_OPENID_ISSUER=url)
    local = "http://127.0.0.1:4000"
    assert config(tmp_path, KACHERY_CLOUD_OPENID_ISSUER=local).openid_issuer == local


@pytest.mark.parametrize("text", ["http://10.0.0.2:8095", "nonsense=t", "http://lab.example.org=t", "https://a@b.c=t"])
def test_nodes_that_cannot_be_followed(tmp_path: Path, text: str) -> None:
    """No token, no URL, a token in the clear to somewhere outside: what is wrong is said without the token."""
    with pytest.raises(ConfigError, match="KACHERY_CLOUD_FOLLOW") as caught:
        config(tmp_path, KACHERY_CLOUD_FOLLOW=text)
    assert "=t" not in str(caught.value)
