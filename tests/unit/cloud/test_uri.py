"""URIs: what is accepted, what it means, and what is said of the rest."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from kachery_cloud.errors import (
    InvalidAddress,
    InvalidArgument,
    InvalidCID,
    InvalidURI,
    KacheryError,
    UnsupportedCID,
)
from kachery_cloud.uri import ContentURI, check_peer_address, format_uri, join, parse_name_uri, parse_uri, with_groups

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
        "&provider=%2Fdns4%2Fexample.org%2Ftcp%2F4001&provider=/dns4/example.org/tcp/4001"
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
        ("data/x.csv", "path on this machine"),
        ("x.csv", "path on this machine"),
        (__file__, "It is here"),
        ("~/x", "store_file"),
        (f"{V1}.txt", "path on this machine"),
        ("sha1://" + "0" * 40 + "/x.dat?label=x", "older kachery"),
        ("sha1-enc://" + "0" * 40, "older kachery"),
        (f"https://{V1}.ipfs.dweb.example/a/b?filename=x", f"ipfs://{V1}/a/b instead"),
        (f"http://127.0.0.1:8080/ipfs/{V1}", f"ipfs://{V1} instead"),
        (f"/ipns/{V1}", "IPNS"),
        (f"ipfs://ipfs/{V1}", "'ipfs' where the CID should be"),
        (f"ipfs://me@{V1}", "a user or a port"),
        (f"ipfs://{V1}:80/x", "a user or a port"),
        (f"ipfs:///{V1}", "no CID"),
        (f"ipfs://%62{V1[1:]}", "'%' in its CID"),
        (f"ipfs://{V1}#part", "%23"),
        (f"ipfs://{V1}?label=a#1.png", "%23"),
        (f"ipfs://{V1}/a\nb", "line break"),
        (f"ipfs://{V1}?label=\x1b[2J", "control character"),
        (f"ipfs://{V1}/100%.txt", "%25"),
        (f"ipfs://{V1}/%4", "%25"),
        (f"ipfs://{V1}?label=%zz", "'%zz'"),
        (f"ipfs://{V1}?labels=x", "'labels'"),
        (f"ipfs://{V1}?label=x&format=car", "'format'"),
        (f"ipfs://{V1}?Label=x", "'Label'"),
        (f"ipfs://{V1}?label=x&y.json", "'y.json'"),
        (f"ipfs://{V1}?label", "empty parameter"),
        (f"ipfs://{V1}?provider", "empty parameter"),
        (f"ipfs://{V1}?label=x&", "empty parameter"),
        (f"ipfs://{V1}?&label=x", "empty parameter"),
        (f"ipfs://{V1}?label=x&label=x", "two labels"),
        (f"ipfs://{V1}?x.json&label=y", "two labels"),
        # What comes of text that was appended to a URI which has a query already.
        (
            f"ipfs://{V1}?label=x/a%20b/c.txt",
            f"ipfs://{V1}/a%20b/c.txt?label=x (in Python: kcl.join(uri, 'a b/c.txt'))",
        ),
        (f"ipfs://{V1}?x.json/a", f"ipfs://{V1}/a?label=x.json"),
        (f"ipfs://{V1}?label=x?provider={PEER}", "?label=NAME&provider=ADDRESS"),
        (f"ipfs://{V1}?provider={PEER}?label=x", "?label=NAME&provider=ADDRESS"),
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


@pytest.mark.parametrize(
    "text", ["ipfs://bafkreiajr6", "hello", "ipfs://data/x.csv", V1[:-1] + "!", "ipfs://" + V0.lower()]
)
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


@pytest.mark.parametrize("provider", [PEER, "/ip4/192.0.2.1/tcp/4001", "/dnsaddr/example.org", PEER + "/p2p-circuit"])
@pytest.mark.parametrize("tail", ["/notes.txt", "/a/b"])
def test_a_path_after_a_provider_is_no_part_of_its_address(provider: str, tail: str) -> None:
    """`uri + "/name"` of a URI with a provider is refused, and the error says where a path goes."""
    assert parse_uri(f"ipfs://{V1}{tail}?provider={provider}").path == tuple(tail[1:].split("/"))
    with pytest.raises(InvalidAddress, match=r"ipfs://CID/PATH\?provider=ADDRESS"):
        parse_uri(f"ipfs://{V1}?provider={provider}{tail}")


def test_a_bare_name_in_the_query_is_a_label() -> None:
    """As older releases wrote it: `ipfs://<cid>?name.json`."""
    assert parse_uri(f"ipfs://{V1}?my%20name.json").label == "my name.json"
    assert parse_uri(f"ipfs://{V1}?name.json&provider={PEER}") == ContentURI(V1, (), "name.json", (PEER,))
    assert parse_uri(f"ipfs://{V1}?") == ContentURI(V1)


def test_names_are_joined_to_any_uri() -> None:
    """In every form and order: the path goes before the query, and what the URI says besides stays."""
    for uri in (V1, f"/ipfs/{V1}", f"ipfs://{V1}/", f"ipfs://{V1}"):
        assert join(uri, "a b/c", "d") == f"ipfs://{V1}/a%20b/c/d"
    labelled = f"ipfs://{V1}/a?label=x&provider={PEER}"
    joined = parse_uri(join(labelled, "/b/", "50%?#.txt"))
    assert joined == ContentURI(V1, ("a", "b", "50%?#.txt"), "x", (PEER,))
    assert join(join(V1, "a"), "b") == join(V1, "a/b")
    assert join(labelled) == str(parse_uri(labelled))
    for names in (("..",), ("a/../b",), (".",), ("a\0",), ("\udcff",)):
        with pytest.raises(InvalidURI):
            join(V1, *names)
    with pytest.raises(InvalidArgument):
        join(V1, 5)  # type: ignore[arg-type]


@pytest.mark.parametrize("address", ["localhost:4001", "192.168.1.20", "/", "/ip4", "/ip4/1 .2/tcp/1", "http://x/y"])
def test_providers_that_are_no_multiaddrs_are_named(address: str) -> None:
    """A hint that cannot be an address is an InvalidAddress that shows it."""
    with pytest.raises(InvalidAddress, match="is not the address of a peer"):
        parse_uri(f"ipfs://{V1}?provider={address}")


def test_a_bare_peer_id_is_an_address() -> None:
    """A peer ID alone stands for /p2p/<peer ID>."""
    peer = PEER.rsplit("/", 1)[1]
    assert check_peer_address(peer, "--peer") == "/p2p/" + peer


names = st.text(max_size=20).filter(lambda s: s not in ("", ".", "..") and "/" not in s and "\0" not in s)
addresses = st.lists(st.sampled_from([PEER, "/dns4/a.org/tcp/1", "/ip6/::1/tcp/4", "/p2p/" + PEER[-52:]]), unique=True)


groups = st.lists(st.text("abcdefghijklmnopqrstuvwxyz234567", min_size=26, max_size=26), unique=True, max_size=16)


@given(st.lists(names, max_size=3), st.none() | st.text(max_size=20), addresses, groups)
def test_formatting_and_parsing_are_inverse(
    path: list[str], label: str | None, providers: list[str], groups: list[str]
) -> None:
    """Whatever is put into a URI comes out again: any text, control characters too. In both forms."""
    text = format_uri(V1, path, label=label, providers=tuple(providers), groups=groups)
    assert text.isascii()
    assert text.isprintable()
    parsed = ContentURI(V1, tuple(path), label, tuple(providers), tuple(groups))
    assert parse_uri(text) == parsed
    assert str(parse_uri(text)) == text
    assert parse_uri(parsed.pasteable).groups == parsed.groups
    assert parse_uri(parsed.source) == ContentURI(V1, tuple(path), groups=tuple(groups))
    assert parse_uri(parsed.locator) == ContentURI(V1, tuple(path))


def test_the_groups_of_a_uri() -> None:
    """Once for each; they stay when names are joined; before the CID, too, for a shell."""
    one, other = "a" * 26, "b234567" * 3 + "cdefg"
    uri = f"ipfs://{V1}/a?group={one}&label=x&group={other}&group={one}"
    assert parse_uri(uri) == ContentURI(V1, ("a",), "x", (), (one, other))
    assert join(uri, "b") == f"ipfs://{V1}/a/b?label=x&group={one}&group={other}"
    assert parse_uri(uri).pasteable == f"ipfs://label=x+group={one}+group={other}@{V1}/a"
    assert parse_uri(f"ipfs://group={one}@{V1}?group={other}").groups == (one, other)
    named = parse_name_uri(f"ipns://k51abc/a?group={one}")
    assert named is not None
    assert named.groups == (one,)


@pytest.mark.parametrize(
    "text",
    [f"ipfs://{V1}?group={{}}", f"ipfs://group={{}}@{V1}", "ipns://k51abc?group={}"],
    ids=["query", "note", "name"],
)
@pytest.mark.parametrize(
    "group", ["", "hippocampus", "A" * 26, "a" * 25, "a" * 27, "OWN", "private", "a" * 25 + "/", "a" * 25 + "1"]
)
def test_what_is_no_group_is_refused(text: str, group: str) -> None:
    """A name is none, nor is what lost a letter: who cannot be asked is told now. And nobody else is asked instead."""
    with pytest.raises(InvalidURI):
        (parse_name_uri if "ipns" in text else parse_uri)(text.format(group))


def test_the_hint_of_what_is_private() -> None:
    """It is for the machines of whoever made the URI; in all forms, with groups and without."""
    uri = format_uri(V1, ["a"], groups=["own"])
    assert uri == f"ipfs://{V1}/a?group=own"
    assert parse_uri(uri).groups == parse_uri(parse_uri(uri).pasteable).groups == ("own",)
    assert join(uri, "b").endswith("/a/b?group=own")
    assert parse_uri(f"ipfs://group=own@{V1}?group={26 * 'a'}").groups == ("own", 26 * "a")


def test_more_groups_for_a_uri() -> None:
    """Whatever form it has; the key of a link stays at its end."""
    one = 26 * "a"
    key = "#key=AGE-SECRET-KEY-1" + 58 * "Q"
    assert with_groups(f"ipfs://{V1}", [one]) == f"ipfs://{V1}?group={one}"
    assert parse_uri(with_groups(f"ipfs://label=x@{V1}/a?group=own{key}", [one])).groups == ("own", one)
    assert with_groups(f"ipfs://{V1}{key}", [one]).endswith(key)
    assert with_groups(V1, []) == V1
    named = parse_name_uri(with_groups("ipns://k51abc", [one]))
    assert named is not None
    assert named.groups == (one,)
    with pytest.raises(InvalidURI):
        with_groups(V1, ["x&provider=y"])


def test_a_uri_names_a_bounded_number_of_groups() -> None:
    """Each is asked for."""
    many = "&".join("group=" + "a" * 25 + letter for letter in "abcdefghijklmnopq")
    with pytest.raises(InvalidURI, match="more than 16 groups"):
        parse_uri(f"ipfs://{V1}?{many}")
    with pytest.raises(InvalidURI, match="not the ID of a group"):
        format_uri(V1, groups=["hippocampus"])


parts = st.sampled_from(
    [
        "ipfs://",
        "/ipfs/",
        V1,
        V0,
        "/",
        "?",
        "&",
        "#",
        "%",
        "%20",
        "%2F",
        "%ff",
        "label=",
        "provider=",
        "=",
        "a",
        "é",
        "..",
        PEER,
        "/tcp/1",
        ":",
        "@",
        " ",
        "\x1b",
        "+",
    ]
)


@given(st.lists(parts, max_size=8).map("".join))
def test_what_is_read_is_written_and_nothing_is_lost(text: str) -> None:
    """Any mixture of the parts of a URI: it is refused with a sentence, or what was read can be written and read again,
    and every letter of it is in what was read."""
    uri, error = None, ""
    try:
        uri = parse_uri(text)
    except KacheryError as why:
        error = str(why)
    assert error.isprintable()
    if uri is None:
        return
    assert parse_uri(str(uri)) == uri
    assert str(parse_uri(str(uri))) == str(uri)
    said = "".join([uri.cid, *uri.path, uri.label or "", *uri.providers])
    for piece in ("é", "a", "..", "+", ":"):
        rest = text
        for known in (V1, V0, "label=", "ipfs://"):
            rest = rest.replace(known, "")
        assert (piece in rest) <= (piece in said)


def test_what_cannot_be_in_a_uri_is_refused_when_it_is_written() -> None:
    """What is no text, names that no directory has, text that is no Unicode, a label longer than a URI may be."""
    for call in (
        lambda: format_uri(5),  # type: ignore[arg-type]
        lambda: format_uri(V1, "a/b"),
        lambda: format_uri(V1, [5]),  # type: ignore[list-item]
        lambda: format_uri(V1, label=5),  # type: ignore[arg-type]
        lambda: format_uri(V1, providers=PEER),
        lambda: format_uri(V1, None),  # type: ignore[arg-type]
    ):
        with pytest.raises(InvalidArgument):
            call()
    for call in (
        lambda: format_uri(V1, ["a/b"]),
        lambda: format_uri(V1, [".."]),
        lambda: format_uri(V1, [""]),
        lambda: format_uri(V1, label="\udcff"),
        lambda: format_uri(V1, label="é" * 10_000),
    ):
        with pytest.raises(InvalidURI):
            call()
