"""The settings of gateways: which are used when, and that tokens stay secret."""

from __future__ import annotations

import json
import stat
from pathlib import Path

import pytest

from kachery_cloud.errors import ConfigError
from kachery_cloud.node.serve import node_options
from kachery_cloud.settings.config import Config, load_config
from kachery_p2p.gateway.client.defaults import GATEWAYS

URL, OTHER = "https://gateway.example.org", "http://127.0.0.1:8080"
TOKEN = "s3cret=="


def config(folder: Path, **env: str) -> Config:
    return load_config({"KACHERY_CLOUD_DIR": str(folder), **env})


def test_gateways_from_the_environment_and_the_file(tmp_path: Path) -> None:
    """URLs separated by commas or blanks, or a list; each once, without what does not belong to it."""
    expected = (URL, OTHER)
    assert config(tmp_path, KACHERY_CLOUD_GATEWAYS=f"{URL}/, {OTHER}/ipfs {URL}").gateways == expected
    (tmp_path / "config.json").write_text(json.dumps({"gateways": [URL, OTHER]}))
    assert config(tmp_path).gateways == expected
    assert config(tmp_path, KACHERY_CLOUD_GATEWAYS="none").gateways == ()
    assert config(tmp_path, KACHERY_CLOUD_GATEWAYS="default").gateways is None


def test_which_gateways_are_used(tmp_path: Path) -> None:
    """By default the public ones; without public services only those that are named; in a private network none."""
    assert Config(tmp_path).gateway_urls(private_network=False) == GATEWAYS
    assert all(url.startswith("https://") for url in GATEWAYS)
    assert Config(tmp_path, public=False).gateway_urls(private_network=False) == ()
    assert Config(tmp_path, public=False, gateways=(OTHER,)).gateway_urls(private_network=False) == (OTHER,)
    for found in (Config(tmp_path), Config(tmp_path, gateways=(OTHER,))):
        assert found.gateway_urls(private_network=True) == ()


def test_tokens_go_to_the_node_with_their_gateways(tmp_path: Path) -> None:
    """From a variable or the file; only for gateways that are used."""
    text = f"{URL}/={TOKEN}, {OTHER}=unused"
    found = config(tmp_path, KACHERY_CLOUD_GATEWAYS=URL, KACHERY_CLOUD_GATEWAY_TOKENS=text)
    options = node_options(found, private=False, service=False)
    assert (options.gateways, options.gateway_tokens) == ((URL,), {URL: TOKEN})
    as_json = json.dumps({URL: TOKEN})
    assert config(tmp_path, KACHERY_CLOUD_GATEWAY_TOKENS=as_json).gateway_tokens == {URL: TOKEN}
    assert TOKEN not in repr(found) + repr(options)


def test_a_file_with_tokens_in_it_becomes_private(tmp_path: Path) -> None:
    """Whatever its mode was before."""
    path = tmp_path / "config.json"
    path.write_text(json.dumps({"gateways": [URL], "gateway_tokens": {URL: TOKEN}}))
    path.chmod(0o644)
    assert config(tmp_path).gateway_tokens == {URL: TOKEN}
    assert stat.S_IMODE(path.stat().st_mode) == 0o600


@pytest.mark.parametrize(
    "text", [TOKEN, f"{TOKEN} {URL}", f"{TOKEN}=x", "{s3cret", f'{{"{TOKEN}": "x"}}', '["s3cret"]']
)
def test_tokens_that_make_no_sense_are_not_repeated(tmp_path: Path, text: str) -> None:
    """The error says what they should look like, and nothing of what was there."""
    with pytest.raises(ConfigError, match="KACHERY_CLOUD_GATEWAY_TOKENS must be") as error:
        config(tmp_path, KACHERY_CLOUD_GATEWAY_TOKENS=text)
    assert "s3cret" not in str(error.value)


@pytest.mark.parametrize("text", ["gateway.example.org", "ftp://x", "https://user:s3cret@x"])
def test_gateways_that_are_none(tmp_path: Path, text: str) -> None:
    """They are errors of the setting."""
    with pytest.raises(ConfigError, match="KACHERY_CLOUD_GATEWAYS") as error:
        config(tmp_path, KACHERY_CLOUD_GATEWAYS=text)
    assert "s3cret" not in str(error.value)
