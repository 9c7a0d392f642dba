"""URIs: what is accepted, what it means, and what is said of the rest."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from kachery_cloud.errors import InvalidAddress, InvalidCID, InvalidURI, UnsupportedCID
from kachery_cloud.uri import ContentURI, check_peer_address, format_uri, parse_uri

V1 = "bafkreiajr6u7obg3mpunezz2mwarr2sptwr3zaedia665vdayvw6mpn5ga"
V0 = "QmbFMke1KXqnYyBBWxB74N4c5SBnJMVAiMNRcGu6x1AwQH"
PEER = "/ip4/192.168.1.20/tcp/4001/p2p/12D3KooWD3eckifWpRn9wQpMG9R9hX3sD158z7EqHWmweQAJU5SA"


@pytest.mark.parametrize(
    "form", ["ipfs://{}", "/ipfs/{}", "{}", "IPFS://{}", "Ipfs://{}", " ipfs://{}\n", "ipfs://{}/"]
)
@pytest.mark.parametrize("cid", [V1, V0])
def test_every_accepted_form_names_the_same_content(form: str, cid: str) -> None:
    """ipfs://, /ipfs/ and a bare CID of either version mean the same; the scheme's case does not matter."""
    assert parse_uri(form.format(cid)) == ContentURI(cid)


def test_path_label_and_providers_are_decoded() -> None:
    """Percent-encoding is undone in path, label and providers; several providers are kept in order, once each."""
    uri = parse_uri(
        f"ipfs://{V1}/a%20b/c%2520d/%C3%A9?label=my%20file%2Bx+y&provider={PEER}"
        "&provider=%2Fdns4%2Fexample.org%2Ftcp%2F4001&unknown=1&provider=/dns4/example.org/tcp/4001#part"
    )
    assert uri.path == ("a b", "c%20d", "é")
    assert uri.label == "my file+x+y"
    assert uri.providers == (PEER, "/dns4/example.org/tcp/4001")


def test_empty_path_segments_are_passed_over() -> None:
    """A trailing or doubled slash does not make a name."""
    assert parse_uri(f"ipfs://{V1}//a///b/").path == ("a", "b")


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("sha1://" + "0" * 40, "sha1://"),
        ("https://example.org/file", "https://"),
        (f"https://gateway.example/ipfs/{V1}/a", f"ipfs://{V1}/a"),
        (f"ipns://{V1}", "ipns://"),
        ("/data/session.nwb", "path on this machine"),
        ("./x", "path on this machine"),
        (r"C:\data\x", "path on this machine"),
        (f"ipfs:/{V1}", "two slashes"),
        (f"ipfs:{V1}", "two slashes"),
        ("", "empty"),
        ("ipfs://", "no CID"),
        (f"ipfs://{V1}/../x", "'..'"),
        (f"ipfs://{V1}/a%2Fb", "'a/b'"),
        (f"ipfs://{V1}/a%00b", "cannot be the name"),
        (f"ipfs://{V1}/%ff", "UTF-8"),
        (f"ipfs://{V1}?label=%ff", "UTF-8"),
        ("x" * 20_000, "too long"),
    ],
)
def test_other_text_is_refused_with_what_is_wrong(text: str, says: str) -> None:
    """Another scheme, a local path, a path that cannot be: InvalidURI, and the sentence says which."""
    with pytest.raises(InvalidURI) as caught:
        parse_uri(text)
    assert says in str(caught.value)


def test_not_text_is_refused() -> None:
    """A URI given as something else than text is an InvalidURI, not a TypeError from within."""
    with pytest.raises(InvalidURI):
        parse_uri(None)  # type: ignore[arg-type]


@pytest.mark.parametrize("text", ["ipfs://bafkreiajr6", "hello", V1[:-1] + "!", "ipfs://" + V0.lower()])
def test_malformed_cids_are_named(text: str) -> None:
    """What stands where the CID should stand, and is none, is an InvalidCID."""
    with pytest.raises(InvalidCID):
        parse_uri(text)


def test_lost_capitals_of_a_cidv0_are_explained() -> None:
    """A CIDv0 that some program lower-cased says so instead of "unknown encoding"."""
    with pytest.raises(InvalidCID, match="capital"):
        parse_uri("ipfs://" + V0.lower())


@pytest.mark.parametrize(
    ("cid", "says"),
    [
        ("bafyreigbtj4x7ip5legnfznufuopl4sg4knzc2cof6duas4b3q2fy6swua", "dag-cbor"),
        ("k51qzi5uqu5dhb6l8spkdx7yxafegfkee5by8h7lmjh2ehc2sgg34z7c15vzqs", "IPNS"),
    ],
)
def test_cids_of_other_things_are_unsupported(cid: str, says: str) -> None:
    """A CID that is neither raw nor dag-pb cannot be a file, and the error names what it is."""
    with pytest.raises(UnsupportedCID, match=says):
        parse_uri(cid)


@pytest.mark.parametrize("address", ["localhost:4001", "192.168.1.20", "/", "/ip4", "/ip4/1 .2/tcp/1", "http://x/y"])
def test_providers_that_are_no_multiaddrs_are_named(address: str) -> None:
    """A hint that cannot be an address is an InvalidAddress that shows it."""
    with pytest.raises(InvalidAddress, match="is not the address of a peer"):
        parse_uri(f"ipfs://{V1}?provider={address}")


def test_a_bare_peer_id_is_an_address() -> None:
    """A peer ID alone stands for /p2p/<peer ID>."""
    peer = PEER.rsplit("/", 1)[1]
    assert check_peer_address(peer, "--peer") == "/p2p/" + peer


names = st.text(min_size=1, max_size=20).filter(lambda s: s not in (".", "..") and "/" not in s and "\0" not in s)


@given(
    st.lists(names.filter(lambda s: s.isprintable()), max_size=3),
    st.none() | st.text(max_size=20).filter(lambda s: s.isprintable()),
    st.lists(st.sampled_from([PEER, "/dns4/a.org/tcp/1", "/ip6/::1/tcp/4"]), unique=True, max_size=2),
)
def test_formatting_and_parsing_are_inverse(path: list[str], label: str | None, providers: list[str]) -> None:
    """Whatever is put into a URI comes out again."""
    text = format_uri(V1, path, label=label, providers=tuple(providers))
    assert parse_uri(text) == ContentURI(V1, tuple(path), label, tuple(providers))
    assert str(parse_uri(text)) == text


@pytest.mark.parametrize(
    ("tail", "name"),
    [
        ("", V1),
        ("?label=session.nwb", "session.nwb"),
        ("?label=..%2F..%2Fetc%2Fpasswd", "passwd"),
        ("?label=..", V1),
        ("?label=a%5Cb", "b"),
        ("?label=%1b%5b2J", V1),
        ("?label=" + "x" * 300, V1),
        ("/dir/a.txt?label=other", "a.txt"),
    ],
)
def test_file_names_from_strangers_stay_in_their_folder(tail: str, name: str) -> None:
    """The name for a copy is one harmless name, whatever label or path the URI carries."""
    assert parse_uri(f"ipfs://{V1}{tail}").file_name == name
