"""Giving away and getting: what is in the string, who can load it, what it is called, and that nothing is replaced."""

from __future__ import annotations

import datetime
import json
import os
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner, Result

import kachery_cloud as kcl
from kachery_cloud import privacy, sharing
from kachery_cloud.commands import main as cli
from kachery_cloud.errors import ContentNotFound, FileExists, FileMissing, InvalidArgument, InvalidURI
from kachery_cloud.local import close_repositories
from kachery_cloud.node.status_messages import RunningNode
from kachery_cloud.qr import qr_lines
from kachery_cloud.settings.config import load_config
from kachery_cloud.sharing import MAX_LABEL, Range, make_share, reachable_now
from kachery_p2p.json_shapes import from_json
from tests.unit.cloud.test_status import FOUND, ME, PEER

PUBLIC = f"/ip4/11.0.0.5/tcp/4001/p2p/{ME}"
PUBLIC_6 = f"/ip6/2a00:1::5/tcp/4001/p2p/{ME}"
LAN = f"/ip4/192.168.1.20/tcp/4001/p2p/{ME}"
LOOPBACK = f"/ip4/127.0.0.1/tcp/4001/p2p/{ME}"
RELAYED = f"/ip4/11.0.0.9/tcp/4001/p2p/{PEER}/p2p-circuit/p2p/{ME}"
RELAYED_NEAR = f"/ip4/192.168.1.9/tcp/4001/p2p/{PEER}/p2p-circuit/p2p/{ME}"


@pytest.fixture(autouse=True)
def data(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    monkeypatch.setenv("KACHERY_CLOUD_DIR", str(tmp_path / "data"))
    (tmp_path / "here").mkdir()
    monkeypatch.chdir(tmp_path / "here")
    yield tmp_path / "data"
    close_repositories()


def run(*arguments: object) -> Result:
    return CliRunner().invoke(cli.cli, [str(a) for a in arguments])


def node(*addresses: str, state: str = "unknown", most: int = 0, **changes: Any) -> RunningNode:
    """A node that says this of itself."""
    relay = {**FOUND["relay"], "relays": [{**FOUND["relay"]["relays"][0], "bytes_per_circuit": most}]}
    said = {
        **FOUND,
        "addresses": list(addresses),
        "reachability": {**FOUND["reachability"], "state": state},
        "relay": relay,
        **changes,
    }
    return from_json(RunningNode, said)


# --- where to ask --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("addresses", "state", "expected", "given", "says"),
    [
        ((LAN, PUBLIC, LOOPBACK), "public", "world", (PUBLIC, LAN), "others can dial this machine"),
        ((LAN, RELAYED, LOOPBACK), "private", "relay", (RELAYED, LAN), "through a relay"),
        ((PUBLIC, RELAYED), "unknown", "relay", (PUBLIC, RELAYED), "through a relay"),
        ((PUBLIC, LAN), "unknown", "unsure", (PUBLIC, LAN), "nobody has tried yet"),
        ((LAN, LOOPBACK), "private", "network", (LAN,), "Only machines of this network"),
        ((RELAYED_NEAR, LOOPBACK), "private", "network", (RELAYED_NEAR,), "Only machines of this network"),
        ((LOOPBACK,), "unknown", "machine", (LOOPBACK,), "Only programs on this machine"),
        ((), "unknown", "machine", (), "Only programs on this machine"),
    ],
)
def test_who_can_load_it_and_at_which_addresses(
    addresses: tuple[str, ...], state: str, expected: Range, given: tuple[str, ...], says: str
) -> None:
    """What the node says of itself decides: addresses that reach farthest come first, loopback only where there is no
    other; and one sentence says who can load it."""
    found = reachable_now(node(*addresses, state=state))
    assert (found.range, found.addresses) == (expected, given)
    assert says in found.sentence
    assert found.from_outside == (expected in ("world", "relay", "unsure"))


def test_without_a_node_nobody_can() -> None:
    """That is said, with the command that helps."""
    found = reachable_now(None)
    assert (found.range, found.addresses, found.from_outside) == ("none", (), False)
    assert "kachery-cloud-node" in found.sentence


def test_a_relay_that_carries_little_is_told() -> None:
    """A stranger's relay carries some bytes and no more; that is not hidden. One of the lab's own has no bound."""
    assert "131,072 bytes and then" in reachable_now(node(RELAYED, state="private", most=1 << 17)).sentence
    assert "bytes" not in reachable_now(node(RELAYED, state="private")).sentence


def test_in_a_private_network_the_key_is_needed() -> None:
    """Not anybody can load it."""
    found = reachable_now(node(PUBLIC, state="public", private_network=True))
    assert found.sentence.startswith("Whoever holds the swarm key")


def test_few_short_addresses_that_are_right() -> None:
    """Whatever a node has: a bounded number of each kind, none that is long or leads nobody here; so the string fits a
    QR code that a terminal can show."""
    addresses = [f"/ip4/11.0.0.{n}/tcp/4001/p2p/{ME}" for n in range(50)]
    addresses += [f"/ip4/192.168.1.{n}/tcp/4001/p2p/{ME}" for n in range(50)]
    addresses += [f"/ip4/11.1.0.{n}/tcp/4001/p2p/{PEER}/p2p-circuit/p2p/{ME}" for n in range(50)]
    odd = [
        f"/ip6/fe80::1/tcp/4001/p2p/{ME}",
        f"/ip4/11.0.0.7/udp/4001/quic-v1/p2p/{ME}",
        f"/dns4/{'a' * 60}.{'b' * 60}.{'c' * 60}.{'d' * 50}.org/tcp/4001/p2p/{ME}",
        f"/p2p/{PEER}/p2p-circuit/p2p/{ME}",
        f"/ip4/11.0.0.9/tcp/1/p2p/{ME}/p2p-circuit/p2p/{ME}",
        "nonsense",
    ]
    found = reachable_now(node(*odd, *addresses, state="public"))
    assert found.addresses == (*addresses[:2], *addresses[100:102], *addresses[50:52])
    uri = kcl.store_text("x", local=True, label="session.nwb")
    string = make_share(load_config(), uri, running=lambda: node(*odd, *addresses, state="public")).string
    assert len(string) < 600
    assert len(qr_lines(string)[0]) <= 90


# --- what is given away --------------------------------------------------------------------------------------------


def shared(uri: str, **options: Any) -> sharing.Share:
    return make_share(load_config(), uri, running=lambda: node(PUBLIC, LAN, PUBLIC_6, state="public"), **options)


def test_the_string_is_the_uri_with_name_and_addresses() -> None:
    """What it holds is what a URI holds, so it goes wherever one goes; addresses of the URI that it was made of do not
    stay: they are another machine's."""
    uri = kcl.store_text("hello", local=True, label="v.nii.gz")
    string = shared(f"{uri}&provider=/ip4/11.0.0.99/tcp/1").string
    parsed = kcl.parse_uri(string)
    assert (parsed.cid, parsed.label) == (kcl.parse_uri(uri).cid, "v.nii.gz")
    assert parsed.providers == (PUBLIC, PUBLIC_6, LAN)
    assert string.count(ME) == 1
    assert kcl.load_text(string, local_only=True) == "hello"
    assert kcl.load_file(string, local_only=True).endswith("/v.nii.gz")


def test_its_name() -> None:
    """The one given, else that of the URI, else what it is called here: by the user before by a file or folder, the
    newest first. A path names itself. A long text is no name."""
    Path("mine.nwb").write_bytes(os.urandom(100_000))
    Path("folder/notes").mkdir(parents=True)
    Path("folder/notes/readme.txt").write_text("x")
    linked = kcl.link_file("mine.nwb", local=True)
    folder = kcl.store_dir("folder", local=True)
    assert shared(linked).uri.label == "mine.nwb"
    assert shared(linked + "?label=b").uri.label == "b"
    assert shared(linked + "?label=b", label="c").uri.label == "c"
    assert shared(folder).uri.label == "folder"
    stored = kcl.store_file("folder/notes/readme.txt", local=True)
    assert shared(stored).uri.label == "readme.txt"
    kcl.store_file("folder/notes/readme.txt", label="notes of May", local=True)
    kcl.link_file("folder/notes/readme.txt", local=True)
    assert (shared(stored).title, shared(stored).uri.label) == ("notes of May", "notes of May")
    assert shared(kcl.store_text("nameless", local=True)).uri.label is None
    inside = shared(kcl.join(folder, "notes/readme.txt"))
    assert (inside.title, inside.uri.label) == ("readme.txt", None)
    assert shared(linked, label="x" * (MAX_LABEL + 1)).uri.label is None


def test_only_what_is_here_can_be_shared() -> None:
    """Else nobody could load it from here, and the error says what to do."""
    with pytest.raises(ContentNotFound, match="Load it first"):
        shared("ipfs://bafkreiaossxdnwtp6a4zfjl73w67i4ulmcoq277g5maz7kprxg23kqgygu")
    uri = kcl.store_text("x", local=True)
    with pytest.raises(InvalidArgument):
        kcl.share(uri, label=5)  # type: ignore[arg-type]
    with pytest.raises(InvalidURI):
        kcl.share("/data/session.nwb")


def test_a_line_to_cite_it_by() -> None:
    """Title, day, size, and the URI that stays: without addresses, which do not."""
    Path("folder").mkdir()
    Path("folder/a").write_bytes(bytes(1234))
    uri = kcl.store_text("hello", local=True)
    found = replace(shared(uri, label="Mouse 12, asleep"), day=datetime.date(2026, 11, 30))
    assert found.citation == f"Mouse 12, asleep (2026-11-30). 5 bytes. {uri}"
    assert replace(found, title=found.uri.cid).citation.startswith("bafkrei")
    assert shared(kcl.store_dir("folder", local=True)).size == 1234


def test_the_day_is_that_on_which_it_was_stored(monkeypatch: pytest.MonkeyPatch) -> None:
    """Whatever is shared later, also a file in a folder, has the day that `list` shows."""
    Path("folder").mkdir()
    Path("folder/a").write_bytes(bytes(1234))
    then = datetime.datetime(2024, 2, 29, 12).timestamp()
    with monkeypatch.context() as patched:
        patched.setattr("time.time", lambda: then)
        folder = kcl.store_dir("folder", local=True)
        file = kcl.store_text("hello", local=True)
    kcl.store_text("hello", local=True)
    for uri in (folder, kcl.join(folder, "a"), file):
        assert shared(uri).day == datetime.date(2024, 2, 29)
    assert "(2024-02-29)" in run("share", file, "--cite").stdout


def test_a_folder_that_is_shared_comes_under_its_name(tmp_path: Path) -> None:
    """Its own name goes along, so that of the copy is the same."""
    Path("experiment 12").mkdir()
    Path("experiment 12/a").write_text("a")
    string = shared(kcl.store_dir("experiment 12", local=True)).string
    out = tmp_path / "out"
    out.mkdir()
    assert kcl.get(string, out, local_only=True) == str(out / "experiment 12")
    assert (out / "experiment 12" / "a").read_text() == "a"


def test_the_command_without_a_node() -> None:
    """The string alone is on stdout; that nobody can dial it is a warning, with what helps and what the other types."""
    uri = kcl.store_text("hello", local=True)
    result = run("share", uri, "--label", "a b.txt", "--cite")
    assert result.exit_code == 0
    string, citation = result.stdout.splitlines()
    assert string == uri.replace("//", "//label=a%20b.txt@")
    assert citation.startswith("a b.txt (")
    assert "Warning: Nobody else can load it yet" in result.stderr
    assert "kachery-cloud get STRING" in result.stderr
    found = json.loads(run("share", uri, "--json").stdout)
    assert (found["string"], found["range"], found["addresses"]) == (uri, "none", [])
    assert run("share", "ipfs://bafkreiaossxdnwtp6a4zfjl73w67i4ulmcoq277g5maz7kprxg23kqgygu").exit_code == 3


def test_store_and_share_in_one() -> None:
    """`store --share` prints the string, with the name of the file, or the label; so does `link`, and a folder."""
    Path("folder").mkdir()
    Path("folder/a.txt").write_text("a")
    Path("v.nii.gz").write_text("v")
    for arguments, name in (
        (("store", "v.nii.gz"), "v.nii.gz"),
        (("link", "v.nii.gz"), "v.nii.gz"),
        (("store", "-r", "folder/"), "folder"),
        (("store", "v.nii.gz", "--label", "x"), "x"),
    ):
        result = run(*arguments, "--share")
        assert result.stdout.startswith(f"ipfs://label={name}@baf")
        assert "kachery-cloud get STRING" in result.stderr
        assert json.loads(run(*arguments, "--share", "--json").stdout)["share"]["string"] == result.stdout.strip()


# --- the QR code ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("length", [10, 300, 1000, 2900])
def test_the_code_has_every_module(length: int) -> None:
    """Read back from the lines, it is the code of the text, with a light zone around it."""
    import segno

    text = ("ipfs://label=v.nii.gz@" + "b" * length)[:length]
    lines = qr_lines(text)
    assert len({len(line) for line in lines}) == 1
    upper, lower = {"█": 0, "▀": 0, "▄": 1, " ": 1}, {"█": 0, "▀": 1, "▄": 0, " ": 1}
    rows = [[half[char] for char in line] for line in lines for half in (upper, lower)]
    size = len(rows[0])
    assert all(set(row) == {0} for row in (rows[0], rows[1], rows[size - 1], rows[size - 2]))
    code = [bytes(row[2:-2]) for row in rows[2 : size - 2]]
    assert code == [bytes(row) for row in segno.make(text, error="l", micro=False, boost_error=False).matrix]


def test_too_much_for_a_code_is_an_error() -> None:
    """Not a stack trace."""
    with pytest.raises(InvalidArgument, match="too many for a QR code"):
        qr_lines("x" * 5000)


def test_the_code_is_on_stderr() -> None:
    """So that the string can be taken from stdout."""
    uri = kcl.store_text("hello", local=True)
    result = run("share", uri, "--qr")
    assert result.stdout == uri + "\n"
    assert "\n".join(qr_lines(uri)) in result.stderr


# --- getting -------------------------------------------------------------------------------------------------------


def test_a_file_and_a_folder_come_under_their_names(tmp_path: Path) -> None:
    """Into the current folder, or another, or under a name of one's own; whatever form of URI it is."""
    Path("folder/notes").mkdir(parents=True)
    Path("folder/notes/readme.txt").write_text("read")
    Path("folder/empty").mkdir()
    folder = kcl.store_dir("folder", local=True, label="experiment")
    file = kcl.store_text("hello", local=True, label="v.nii.gz")
    out = tmp_path / "out"
    out.mkdir()
    os.chdir(out)
    for uri in (file, kcl.parse_uri(file).pasteable):
        assert run("get", uri).stdout == f"{out / 'v.nii.gz'}\n"
    assert (out / "v.nii.gz").read_text() == "hello"
    assert os.access(out / "v.nii.gz", os.W_OK)
    assert kcl.get(kcl.parse_uri(folder).pasteable) == str(out / "experiment")
    assert (out / "experiment" / "notes" / "readme.txt").read_text() == "read"
    assert (out / "experiment" / "empty").is_dir()
    assert kcl.get(file, "other.nii") == str(out / "other.nii")
    assert kcl.get(folder, out / "again") == str(out / "again")
    assert kcl.get(kcl.join(folder, "notes/readme.txt"), "again/") == str(out / "again" / "readme.txt")
    # Without a name in the URI: what it is called on this machine, and if it is not, its CID, which is said.
    (out / "v.nii.gz").unlink()
    assert run("get", kcl.parse_uri(file).cid).output == f"{out / 'v.nii.gz'}\n"
    nameless = kcl.parse_uri(kcl.store_text("nameless", local=True)).cid
    said = run("get", nameless)
    assert said.stdout == f"{out / nameless}\n"
    assert "./NAME" in said.stderr
    found = json.loads(run("get", file, "--json").stdout)
    assert (found["path"], found["size"]) == (str(out / "v.nii.gz"), 5)


def test_nothing_is_replaced() -> None:
    """A file, folder or link of that name stays, whatever was shared; the same file there is success."""
    Path("folder").mkdir()
    Path("folder/a").write_text("a")
    folder = kcl.store_dir("folder", local=True, label="taken")
    file = kcl.store_text("theirs", local=True, label="taken")
    larger = kcl.store_text("theirs, and longer", local=True, label="taken")
    Path("taken").write_text("mine!!")
    for uri in (folder, file, larger):
        result = run("get", uri)
        assert (result.exit_code, result.stdout) == (2, "")
        assert "exists already" in result.stderr
        with pytest.raises(FileExists):
            kcl.get(uri)
    assert Path("taken").read_text() == "mine!!"
    Path("taken").write_text("theirs")
    assert kcl.get(file) == os.path.abspath("taken")
    Path("taken").unlink()
    Path("taken").symlink_to("nowhere")
    for uri in (folder, file):
        with pytest.raises(FileExists):
            kcl.get(uri)
    assert not Path("nowhere").exists()
    with pytest.raises(FileMissing):
        kcl.get(file, "missing/")


@pytest.mark.parametrize("name", [".bashrc", "-rf", "../../evil", "CON", "a\x1b[2J", "x" * 256])
def test_a_name_that_means_something_is_not_taken(name: str) -> None:
    """What a stranger calls it does not decide then: it comes under its CID."""
    file = kcl.store_text("theirs", local=True, label=name)
    cid = kcl.parse_uri(file).cid
    assert kcl.get(file) == os.path.abspath(cid)
    assert os.listdir() == [cid]


# --- to whom this machine announces --------------------------------------------------------------------------------


def test_init_says_to_whom_and_can_change_it(data: Path) -> None:
    """One sentence; --private is kept in config.json beside what is there, and --no-private takes it back."""
    data.mkdir()
    (data / "config.json").write_text(json.dumps({"timeout": 5}))
    assert privacy.sentence("lan") in run("init").stdout
    assert json.loads((data / "config.json").read_text()) == {"timeout": 5}
    assert privacy.sentence("nobody") in run("init", "--private").stdout
    assert json.loads((data / "config.json").read_text()) == {"timeout": 5, "private": True}
    assert privacy.sentence("nobody") in run("init").stdout
    assert privacy.sentence("nobody") in run("status").stdout
    assert kcl.init(private=False)["announces_to"] == "lan"
    assert privacy.sentence("lan") in run("status").stdout
    with pytest.raises(InvalidArgument):
        kcl.init(private="no")  # type: ignore[arg-type]


def test_private_goes_before_everything(data: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A variable that says otherwise for a part of it does not make the machine speak; the origin of each is told."""
    from kachery_cloud.node.serve import node_options
    from kachery_cloud.settings.config import read_settings

    kcl.init(private=True)
    for name in ("PUBLIC", "DHT", "LAN_DHT", "MDNS", "KNOWN_PEERS", "PROVIDE", "PORT_MAP", "RELAY_SERVICE"):
        monkeypatch.setenv(f"KACHERY_CLOUD_{name}", "all" if name == "PROVIDE" else "on")
    config, origins = read_settings()
    options = node_options(config, private=False, service=True)
    assert (options.dht, options.lan_dht, options.mdns, options.provide) == ("off", False, False, "off")
    assert (options.bootstrap, options.delegated, options.gateways) == ((), (), ())
    assert not any((options.known_peers, options.port_map, options.autonat, options.use_relays))
    assert options.relay_service == "off"
    assert origins["public"] == "private (config.json)"
    assert "Set by private (config.json)" in run("settings").stdout
    monkeypatch.setenv("KACHERY_CLOUD_PRIVATE", "off")
    assert load_config().public


@pytest.mark.parametrize(
    ("env", "expected"),
    [
        ({}, "lan"),
        ({"PUBLIC": "on"}, "world"),
        ({"PUBLIC": "on", "PROVIDE": "off"}, "lan"),
        ({"PUBLIC": "on", "DHT": "off"}, "lan"),
        ({"MDNS": "off", "LAN_DHT": "off"}, "nobody"),
        ({"MDNS": "off", "PROVIDE": "off"}, "nobody"),
        ({"PRIVATE": "on", "PUBLIC": "on"}, "nobody"),
    ],
)
def test_the_settings_decide(env: dict[str, str], expected: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Announcing in the public DHT is to the world; in the LAN's, or by mDNS, to the LAN; else to nobody."""
    for name in ("PUBLIC", "MDNS"):
        monkeypatch.delenv(f"KACHERY_CLOUD_{name}", raising=False)
    monkeypatch.setenv("KACHERY_CLOUD_PUBLIC", "off")
    for name, value in env.items():
        monkeypatch.setenv(f"KACHERY_CLOUD_{name}", value)
    assert privacy.configured_audience(load_config()) == expected


def test_the_first_store_says_it_once(data: Path) -> None:
    """On stderr, with the first thing that comes into a data directory, also after `init`; not with the second, not
    with a mistake, and not among JSON."""
    Path("a").write_text("a")
    run("init")
    assert privacy.sentence("lan") not in run("store", "missing").stderr
    assert privacy.sentence("lan") not in run("store", "a", "--json").output
    close_repositories()
    for path in sorted(data.rglob("*"), reverse=True):
        path.rmdir() if path.is_dir() else path.unlink()
    privacy._begun.clear()
    first, second = run("store", "a"), run("store", "a")
    assert (first.stderr, second.stderr) == (privacy.sentence("lan") + "\n", "")


def test_in_python_it_is_said_to_who_watches(
    data: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """A notebook says it with its first store, a script that nobody watches says nothing."""
    from kachery_cloud import store

    kcl.store_text("a", local=True)
    assert capsys.readouterr() == ("", "")
    monkeypatch.setattr(store, "is_watched", lambda: True)
    kcl.store_text("b", local=True)
    assert capsys.readouterr() == ("", "")  # it is not the first one
    monkeypatch.setenv("KACHERY_CLOUD_DIR", str(data.with_name("other")))
    kcl.store_text("c", local=True)
    kcl.store_text("d", local=True)
    assert capsys.readouterr() == ("", privacy.sentence("lan") + "\n")
