"""URIs of names that move: what is in their grammar, and what is said of the rest."""

from __future__ import annotations

from dataclasses import astuple

import pytest

from kachery_cloud.errors import InvalidAddress, InvalidURI
from kachery_cloud.uri import parse_name_uri, parse_uri

NAME = "k51qzi5uqu5dlvj2baxnqndepeb86cbk3ng7n3i46uzyxzyqj2xjonzllnv0v8"
ADDRESS = "/ip4/192.168.1.20/tcp/4001/p2p/12D3KooWEUwR7WdxRUNMaUvVAQDvAe2DF9fzvJvHoXgG8Xyn8mM4"


@pytest.mark.parametrize(
    ("text", "parts"),
    [
        (f"ipns://{NAME}", (NAME, (), None, ())),
        (f" IPNS://{NAME}/ ", (NAME, (), None, ())),
        (f"/ipns/{NAME}/a//b%20c", (NAME, ("a", "b c"), None, ())),
        (f"ipns://{NAME}/a?label=x.nii.gz", (NAME, ("a",), "x.nii.gz", ())),
        (f"ipns://{NAME}?provider={ADDRESS}", (NAME, (), None, (ADDRESS,))),
        ("ipns://data.example.org/x", ("data.example.org", ("x",), None, ())),
    ],
)
def test_names(text: str, parts: tuple[object, ...]) -> None:
    """A name, a path, a label and providers, as in the URI of content."""
    found = parse_name_uri(text)
    assert found is not None
    assert astuple(found)[:4] == parts
    assert (found.encryption, found.key, found.groups) == (None, None, ())


@pytest.mark.parametrize("text", ["ipfs://bafy", "k51abc", "", "ipns", "ipns:x", "/data/x", 3, None])
def test_what_is_no_name(text: object) -> None:
    """Everything else is for `parse_uri` to judge."""
    assert parse_name_uri(text) is None  # type: ignore[arg-type]


@pytest.mark.parametrize(
    "text",
    [
        "ipns://",
        "/ipns/",
        "ipns:///a",
        f"ipns://me@{NAME}",
        f"ipns://{NAME}:80/a",
        f"ipns://%6b{NAME[1:]}",
        f"ipns://{NAME}/..",
        f"ipns://{NAME}/a#b",
        f"ipns://{NAME}?x=y",
        f"ipns://{NAME}?label=a?label=b",
        f"ipns://{NAME}/a\nb",
        f"ipns://{NAME}/%zz",
        "ipns://" + "x" * 20_000,
    ],
)
def test_mistakes(text: str) -> None:
    """What is not in the grammar is refused."""
    with pytest.raises(InvalidURI):
        parse_name_uri(text)


def test_a_wrong_provider() -> None:
    """Named, as in every URI."""
    with pytest.raises(InvalidAddress):
        parse_name_uri(f"ipns://{NAME}?provider=nowhere")


@pytest.mark.parametrize("text", [f"ipns://{NAME}", f"/ipns/{NAME}/a"])
def test_where_content_is_meant(text: str) -> None:
    """What wants the URI of content says how to get it from a name."""
    with pytest.raises(InvalidURI, match="kachery-cloud resolve"):
        parse_uri(text)
