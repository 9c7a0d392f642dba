"""Settings: where they come from, and what is said of those that make no sense."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

from kachery_cloud.errors import ConfigError
from kachery_cloud.settings.config import DEFAULT_LISTEN, Config, load_config, write_default_config

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


ROUTER = "https://router.example.org"


def test_finding_and_announcing_from_the_environment(tmp_path: Path) -> None:
    """Each setting of the network has a variable."""
    found = config(
        tmp_path,
        KACHERY_CLOUD_PUBLIC="off",
        KACHERY_CLOUD_DHT="client",
        KACHERY_CLOUD_BOOTSTRAP=f"{A} {B}",
        KACHERY_CLOUD_DELEGATED=f"{ROUTER}/, http://localhost:8080",
        KACHERY_CLOUD_LAN_DHT="no",
        KACHERY_CLOUD_MDNS="0",
        KACHERY_CLOUD_KNOWN_PEERS="FALSE",
        KACHERY_CLOUD_PROVIDE="all",
        KACHERY_CLOUD_ANNOUNCE=A,
        KACHERY_CLOUD_REACHABILITY="private",
        KACHERY_CLOUD_PORT_MAP="off",
        KACHERY_CLOUD_RELAYS=B,
        KACHERY_CLOUD_RELAY_SERVICE="on",
    )
    assert found == Config(
        tmp_path,
        public=False,
        dht="client",
        bootstrap=(A, B),
        delegated=(ROUTER, "http://localhost:8080"),
        lan_dht=False,
        mdns=False,
        known_peers=False,
        provide="all",
        announce=(A,),
        reachability="private",
        port_map=False,
        relays=(B,),
        relay_service="on",
    )


def test_finding_and_announcing_from_the_file(tmp_path: Path) -> None:
    """Switches are true and false there, lists are arrays, and null is not set."""
    text = {"public": False, "mdns": 0, "dht": False, "relay_service": True, "bootstrap": [], "delegated": "none"}
    (tmp_path / "config.json").write_text(json.dumps({**text, "lan_dht": None, "relays": [A]}))
    assert config(tmp_path) == Config(
        tmp_path, public=False, mdns=False, dht="off", relay_service="on", bootstrap=(), delegated=(), relays=(A,)
    )


@pytest.mark.parametrize("word", ["on", "On", " true ", "YES", "1", "off", "False", "no", "0"])
def test_words_for_switches(tmp_path: Path, word: str) -> None:
    """On and off, true and false, yes and no, 1 and 0, in any case."""
    expected = word.strip().lower() in ("on", "true", "yes", "1")
    assert config(tmp_path, KACHERY_CLOUD_MDNS=word).mdns is expected
    assert config(tmp_path, KACHERY_CLOUD_DHT=word).dht == ("auto" if expected else "off")
    assert config(tmp_path, KACHERY_CLOUD_PROVIDE=word).provide == ("roots" if expected else "off")


@pytest.mark.parametrize(("word", "expected"), [("default", None), ("none", ()), ("off", ()), ("on", None)])
def test_words_for_lists_of_public_services(tmp_path: Path, word: str, expected: tuple[str, ...] | None) -> None:
    """`default` is the public ones whatever the file says, `none` is no one."""
    (tmp_path / "config.json").write_text(json.dumps({"bootstrap": [A], "delegated": [ROUTER]}))
    found = config(tmp_path, KACHERY_CLOUD_BOOTSTRAP=word, KACHERY_CLOUD_DELEGATED=word)
    assert (found.bootstrap, found.delegated) == (expected, expected)


def test_public_services_are_used_unless_switched_off(tmp_path: Path) -> None:
    """By default the public DHT, with addresses to enter it by; `public` switches all of it off."""
    found = Config(tmp_path)
    assert found.dht_mode(private_network=False) == "auto"
    assert all(address.startswith("/") for address in found.bootstrap_peers(private_network=False))
    assert found.bootstrap_peers(private_network=False)
    assert all(url.startswith("https://") for url in found.delegated_routers(private_network=False))
    off = Config(tmp_path, public=False, dht="server", bootstrap=(A,), delegated=(ROUTER,))
    for private in (False, True):
        assert (off.dht_mode(private), off.bootstrap_peers(private), off.delegated_routers(private)) == ("off", (), ())


def test_a_private_network_uses_no_public_service(tmp_path: Path) -> None:
    """Neither bootstrap peers nor routers, nor a DHT, unless the lab names peers of its own to enter it by."""
    for found in (Config(tmp_path), Config(tmp_path, bootstrap=(), delegated=(ROUTER,), dht="server")):
        assert (found.dht_mode(True), found.bootstrap_peers(True), found.delegated_routers(True)) == ("off", (), ())
    own = Config(tmp_path, bootstrap=(A,), dht="server")
    assert (own.dht_mode(True), own.bootstrap_peers(True), own.delegated_routers(True)) == ("server", (A,), ())


def test_reading_the_settings_loads_no_public_lists(tmp_path: Path) -> None:
    """The lists of public services are imported when they are first used."""
    code = (
        "import sys, kachery_cloud.settings.config as c; c.load_config({}); print('kachery_p2p.routing' in sys.modules)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout == "False\n"


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
        ("KACHERY_CLOUD_PUBLIC", "maybe"),
        ("KACHERY_CLOUD_LAN_DHT", "auto"),
        ("KACHERY_CLOUD_MDNS", "2"),
        ("KACHERY_CLOUD_KNOWN_PEERS", "-"),
        ("KACHERY_CLOUD_PORT_MAP", "upnp"),
        ("KACHERY_CLOUD_DHT", "both"),
        ("KACHERY_CLOUD_PROVIDE", "some"),
        ("KACHERY_CLOUD_REACHABILITY", "off"),
        ("KACHERY_CLOUD_RELAY_SERVICE", "server"),
        ("KACHERY_CLOUD_BOOTSTRAP", "example.org"),
        ("KACHERY_CLOUD_ANNOUNCE", "203.0.113.5:4001"),
        ("KACHERY_CLOUD_RELAYS", "relay"),
        ("KACHERY_CLOUD_DELEGATED", "router.example.org"),
        ("KACHERY_CLOUD_DELEGATED", "ftp://router.example.org"),
        ("KACHERY_CLOUD_DELEGATED", "https://router.example.org:port"),
        ("KACHERY_CLOUD_DELEGATED", "https://[::1"),
        ("KACHERY_CLOUD_TIMEOUT", "soon"),
        ("KACHERY_CLOUD_TIMEOUT", "-1"),
        ("KACHERY_CLOUD_TIMEOUT", "0"),
        ("KACHERY_CLOUD_TIMEOUT", "nan"),
        ("KACHERY_CLOUD_TIMEOUT", "inf"),
        ("KACHERY_CLOUD_PEERS", "example.org:4001"),
        ("KACHERY_CLOUD_LISTEN", "4001"),
        ("KACHERY_CLOUD_MAX_STORE_BYTES", "many"),
        ("KACHERY_CLOUD_MAX_STORE_BYTES", "-5"),
        ("KACHERY_CLOUD_SHARED_DIRS", "lab/kachery"),
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
        ('{"public": "perhaps"}', "on or off"),
        ('{"mdns": []}', "on or off"),
        ('{"dht": "sometimes"}', "auto, client, server or off"),
        ('{"dht": {}}', "auto, client, server or off"),
        ('{"reachability": false}', "auto, public or private"),
        ('{"provide": 7}', "roots, all or off"),
        ('{"relay_service": null, "relays": 1}', "list of multiaddrs"),
        ('{"delegated": 3}', "list of URLs"),
        ('{"bootstrap": 3}', "list of multiaddrs"),
        ('{"shared_dirs": 3}', "list of folders"),
        ('{"shared_dirs": ["/lab", ""]}', "list of folders"),
        ('{"shared_dirs": ["lab"]}', "full path"),
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
