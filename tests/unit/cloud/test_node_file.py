"""`node.toml`: what may stand in it, what goes before what, and what is said of mistakes."""

from __future__ import annotations

import contextlib
import os
import re
import stat
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from kachery_cloud.errors import ConfigError
from kachery_cloud.settings.config import SETTINGS
from kachery_cloud.settings.node_file import NODE_FILE_NAME, load_node_config, template, tomllib, write_template


def written(tmp_path: Path, text: str) -> dict[str, str]:
    """An environment whose data directory has that `node.toml`."""
    (tmp_path / NODE_FILE_NAME).write_text(text, encoding="utf-8")
    return {"KACHERY_CLOUD_DIR": str(tmp_path)}


def refused(tmp_path: Path, text: str) -> str:
    env = written(tmp_path, text)
    with pytest.raises(ConfigError) as caught:
        load_node_config(environ=env)
    return str(caught.value)


def test_the_template_says_every_default() -> None:
    """With each "# " taken away it is TOML, has every setting, and means what holds without a file."""
    values = tomllib.loads(re.sub(r"(?m)^# (?=[a-z_]+ = )", "", template()))
    assert list(values) == [setting.key for setting in SETTINGS.values() if setting.key]
    for name, value in values.items():
        assert SETTINGS[name].parser.read(value, name) == SETTINGS[name].default, name


def test_the_template_sets_nothing(tmp_path: Path) -> None:
    """As it is written it changes nothing, whatever config.json says; and it is not written over another one."""
    (tmp_path / "config.json").write_text('{"timeout": 7}')
    assert write_template(tmp_path / NODE_FILE_NAME)
    env = {"KACHERY_CLOUD_DIR": str(tmp_path)}
    config, origins = load_node_config(environ=env)
    assert config.timeout == 7
    assert origins == {"directory": "KACHERY_CLOUD_DIR", "timeout": "config.json"}
    (tmp_path / NODE_FILE_NAME).write_text("timeout = 8\n")
    assert not write_template(tmp_path / NODE_FILE_NAME)
    assert load_node_config(environ=env)[0].timeout == 8
    if os.name == "posix":
        assert stat.S_IMODE((tmp_path / "config.json").stat().st_mode) != 0


def test_the_environment_goes_before_it_and_it_before_config_json(tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text('{"timeout": 1, "mdns": false, "provide": "all"}')
    env = written(tmp_path, 'timeout = 2\nmdns = true\nstorage_limit = "500GB"\n')
    config, origins = load_node_config(environ={**env, "KACHERY_CLOUD_TIMEOUT": "3"})
    assert (config.timeout, config.mdns, config.provide, config.storage_limit) == (3, True, "all", 500 * 10**9)
    assert origins["timeout"] == "KACHERY_CLOUD_TIMEOUT"
    assert origins["mdns"] == NODE_FILE_NAME
    assert origins["provide"] == "config.json"


def test_another_file_is_read_instead(tmp_path: Path) -> None:
    """The one of the data directory is not looked at then; and it must be there."""
    env = written(tmp_path, "timeout = what")
    other = tmp_path / "other.toml"
    with pytest.raises(ConfigError, match=r"no settings file .*other\.toml.*--init"):
        load_node_config(other, env)
    other.write_text("timeout = 5")
    assert load_node_config(other, env)[0].timeout == 5


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("timeout = 5\n\nstorage_limits = 5\n", r"node\.toml, line 3, is no setting\. Is storage_limit meant"),
        ("storageLimit = 5", r"'storageLimit' in .*line 1, is no setting\. It is written storage_limit"),
        ("KACHERY_CLOUD_TIMEOUT = 5", r"line 1, is no setting\. In a file it is written timeout"),
        ("\n[dht_mode]\nx = 1", r"'dht_mode' in .*line 2, is no setting\. It is dht now"),
        ("kachery_zone = 'lab'", r"kachery-cloud-group create"),
        ("qqqq = 1", r"line 1, is no setting\. All of them: kachery-cloud settings"),
        ("timeout = 5\nmdns = 'perhaps'", r"'mdns' in .*line 2, is 'perhaps'; it must be on or off"),
        ('storage_limit = "much"', r"'storage_limit' in .*line 1, is 'much'; it must be a number of bytes"),
        ("scrub_days = -1", r"'scrub_days' in .*line 1, is -1; it must be a number of days"),
        ("timeout = 5\nmdns = tru", r"node\.toml, line 2, is not TOML"),
        ("timeout = 5\ntimeout = 6", r"line 2, is not TOML"),
        ("a = " + "[" * 100_000, r"is not TOML"),
    ],
)  # fmt: skip
def test_mistakes_are_named_with_their_line(tmp_path: Path, text: str, said: str) -> None:
    assert re.search(said, refused(tmp_path, text))


def test_a_line_of_a_text_is_not_taken_for_a_key(tmp_path: Path) -> None:
    """What looks like the key may stand in a text of several lines."""
    text = 'log_file = """\nmdns = 3\n"""\nmdns = 3\n'
    assert "'mdns' in" in refused(tmp_path, text)
    assert "line 4" in refused(tmp_path, text)


def test_bytes_that_are_no_text(tmp_path: Path) -> None:
    env = written(tmp_path, "")
    (tmp_path / NODE_FILE_NAME).write_bytes(b"timeout = 5 # \xff")
    with pytest.raises(ConfigError, match="not UTF-8, from its byte 14"):
        load_node_config(environ=env)


@pytest.mark.skipif(os.name != "posix", reason="file modes are POSIX")
def test_a_file_with_tokens_is_made_private(tmp_path: Path) -> None:
    env = written(tmp_path, '[gateway_tokens]\n"https://gateway.example.org" = "secret"\n')
    path = tmp_path / NODE_FILE_NAME
    path.chmod(0o644)
    config, _ = load_node_config(environ=env)
    assert dict(config.gateway_tokens) == {"https://gateway.example.org": "secret"}
    assert stat.S_IMODE(path.stat().st_mode) == 0o600


@given(st.text(max_size=200))
def test_whatever_stands_in_it_is_read_or_refused(tmp_path_factory: pytest.TempPathFactory, text: str) -> None:
    """There is no other error."""
    env = written(tmp_path_factory.mktemp("any"), text.encode("utf-8", "replace").decode())
    with contextlib.suppress(ConfigError):
        load_node_config(environ=env)
