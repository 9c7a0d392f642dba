"""Settings: where they come from, and what is said of those that make no sense."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from kachery_cloud.config import DEFAULT_LISTEN, Config, load_config, write_default_config
from kachery_cloud.errors import ConfigError

A, B = "/ip4/10.0.0.1/tcp/4001", "/ip4/10.0.0.2/tcp/4001"


def config(tmp_path: Path, **env: str) -> Config:
    return load_config({"KACHERY_CLOUD_DIR": str(tmp_path), **env})


def test_defaults_without_any_setting() -> None:
    """Nothing set: the home directory, any free port, no peers, a minute's patience, no limit."""
    assert load_config({}) == Config(Path.home() / ".kachery-cloud", DEFAULT_LISTEN, (), 60.0, None)


def test_the_environment_is_read(tmp_path: Path) -> None:
    """Lists are separated by commas or blanks; numbers of bytes may have units."""
    found = config(
        tmp_path,
        KACHERY_CLOUD_PEERS=f"{A}, {B}\n{A}",
        KACHERY_CLOUD_LISTEN=A,
        KACHERY_CLOUD_TIMEOUT="2.5",
        KACHERY_CLOUD_MAX_STORE_BYTES="1.5GB",
    )
    assert found == Config(tmp_path, (A,), (A, B), 2.5, 1_500_000_000)


def test_the_file_is_read_and_the_environment_goes_before_it(tmp_path: Path) -> None:
    """config.json counts where the environment is silent."""
    (tmp_path / "config.json").write_text(json.dumps({"peers": [A], "timeout": 5, "max_store_bytes": 10}))
    assert config(tmp_path) == Config(tmp_path, DEFAULT_LISTEN, (A,), 5.0, 10)
    assert config(tmp_path, KACHERY_CLOUD_PEERS=B).peers == (B,)
    assert config(tmp_path, KACHERY_CLOUD_PEERS=" ").peers == (A,)


def test_the_default_file_changes_nothing_and_is_never_overwritten(tmp_path: Path) -> None:
    """What kachery-cloud-init writes means the defaults; a file that is there stays."""
    write_default_config(tmp_path)
    assert config(tmp_path) == Config(tmp_path)
    (tmp_path / "config.json").write_text('{"timeout": 7}')
    write_default_config(tmp_path)
    assert config(tmp_path).timeout == 7


@pytest.mark.parametrize(
    ("variable", "value"),
    [
        ("KACHERY_CLOUD_TIMEOUT", "soon"),
        ("KACHERY_CLOUD_TIMEOUT", "-1"),
        ("KACHERY_CLOUD_TIMEOUT", "0"),
        ("KACHERY_CLOUD_TIMEOUT", "nan"),
        ("KACHERY_CLOUD_TIMEOUT", "inf"),
        ("KACHERY_CLOUD_PEERS", "example.org:4001"),
        ("KACHERY_CLOUD_LISTEN", "4001"),
        ("KACHERY_CLOUD_MAX_STORE_BYTES", "many"),
        ("KACHERY_CLOUD_MAX_STORE_BYTES", "-5"),
    ],
)
def test_bad_values_are_named(tmp_path: Path, variable: str, value: str) -> None:
    """A value that makes no sense is a ConfigError that names the variable and shows the value."""
    with pytest.raises(ConfigError) as caught:
        config(tmp_path, **{variable: value})
    assert variable in str(caught.value)
    assert value in str(caught.value)


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("{", "not JSON"),
        ("[]", "JSON object"),
        ('{"peer": []}', "'peer'"),
        ('{"peers": 5}', "list of multiaddrs"),
        ('{"peers": [5]}', "list of multiaddrs"),
        ('{"timeout": true}', "number of seconds"),
        ('{"max_store_bytes": true}', "number of bytes"),
    ],
)
def test_a_bad_file_is_named(tmp_path: Path, text: str, says: str) -> None:
    """So is a settings file that is damaged, or has a key that nobody reads."""
    (tmp_path / "config.json").write_text(text)
    with pytest.raises(ConfigError) as caught:
        config(tmp_path)
    assert says in str(caught.value)
    assert str(tmp_path) in str(caught.value)


def test_a_file_as_data_directory_is_refused(tmp_path: Path) -> None:
    """KACHERY_CLOUD_DIR must not name a file."""
    (tmp_path / "f").touch()
    with pytest.raises(ConfigError, match="must be a directory"):
        load_config({"KACHERY_CLOUD_DIR": str(tmp_path / "f")})
