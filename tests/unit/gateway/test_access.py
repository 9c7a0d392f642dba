"""What is not for everyone: the gateway gives it to its user, who shows the token; for all others it is not here."""

from __future__ import annotations

import logging
import os
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import httpx
import pytest

from kachery_p2p.access.audience import PRIVATE, PUBLIC, Audience
from kachery_p2p.access.gate import Gate
from kachery_p2p.dag.cid import CID, RAW, sha256_multihash
from kachery_p2p.dag.directory import DirectoryBuilder
from kachery_p2p.errors import ContentNotFound, KacheryError
from kachery_p2p.gateway.server.content import FetchKind
from kachery_p2p.gateway.server.names import NameRecord
from kachery_p2p.gateway.server.token import TOKEN_NAME, gateway_token, read_token, shows_token
from kachery_p2p.repo.repo import Repo
from scripts.data import write_random
from tests.helpers.access_fakes import MICE, Members
from tests.helpers.gateway_served import car_blocks, gateway

TOKEN = "t" * 43
USER = {"authorization": f"Bearer {TOKEN}"}
FOR_MICE = Audience(groups=frozenset({MICE}))

KEYS = (
    "12D3KooWD3eckifWpRn9wQpMG9R9hX3sD158z7EqHWmweQAJU5SA",
    "12D3KooWQYV9dGMFoRzNStwpXztXaBUjtPqi6aU76ZgUriHhKust",
    "12D3KooWJRSrypvnpHgc6ZAgyCni4KcSmbV7uGRaMw5LgMKT18fq",
    "12D3KooWQhK41E6VDzp7GL4cQTRmzsrUGQDbDLG4qjTnjQTGZ5pN",
)
#: All forms in which something may be asked for.
WAYS: list[tuple[str, str, dict[str, str]]] = [
    ("GET", "", {}),
    ("HEAD", "", {}),
    ("GET", "?format=raw", {}),
    ("HEAD", "?format=raw", {}),
    ("GET", "?format=car", {}),
    ("HEAD", "?format=car", {}),
    ("GET", "?format=car&dag-scope=block", {}),
    ("GET", "?format=car&dag-scope=entity&entity-bytes=0:9", {}),
    ("GET", "?format=tar", {}),
    ("GET", "?filename=x.html&download=true", {}),
    ("GET", "", {"range": "bytes=0-9"}),
    ("GET", "", {"range": "bytes=0-9,20-29"}),
    ("GET", "", {"accept": "text/html"}),
    ("GET", "", {"accept": "application/vnd.ipld.raw"}),
    ("GET", "", {"accept": "application/vnd.ipld.car"}),
    ("GET", "", {"cache-control": "only-if-cached"}),
    ("GET", "", {"if-none-match": "*"}),
    ("GET", "/", {}),
    ("GET", "/index.html", {}),
]


class Here:
    """A repo with public and restricted roots, and the gate before it."""

    def __init__(self, path: Path) -> None:
        self.repo = Repo.open(path / "repo")
        self.gate = Gate(Members({}), self.repo.access)
        self.secret = write_random(path / "secret.bin", 2**20 + 12_345, seed=1)
        self.file = self.repo.store_file(self.secret, audience=FOR_MICE).cid
        self.small = self.repo.store_bytes(b"a small secret", audience=PRIVATE).cid
        self.public = self.repo.store_bytes(os.urandom(50_000)).cid
        folder = path / "folder"
        folder.mkdir()
        (folder / "notes.txt").write_text("of a folder that is for the mice", encoding="utf-8")
        self.folder = self.repo.store_directory(folder, audience=FOR_MICE).cid

    @property
    def restricted(self) -> list[CID]:
        return [self.file, self.small, self.folder]


@pytest.fixture
def here(tmp_path: Path) -> Iterator[Here]:
    made = Here(tmp_path)
    yield made
    made.repo.close()


def like(cid: CID) -> CID:
    """A CID of the same kind of something that is not here."""
    return CID(cid.version, cid.codec, sha256_multihash(b"not here" + cid.multihash))


def plain(answer: httpx.Response, cid: CID) -> tuple[int, dict[str, str], str]:
    """An answer without what was asked for."""
    headers = {name: value.replace(str(cid), "CID") for name, value in answer.headers.items() if name != "date"}
    headers.pop("content-length", None)
    return answer.status_code, headers, answer.text.replace(str(cid), "CID")


async def test_an_outsider_is_told_what_it_is_told_of_what_is_not_here(here: Here) -> None:
    """Status, headers and text are the same in every form, also of the block at the root of a file."""
    async with gateway(here.repo, gate=here.gate, token=lambda: TOKEN) as http:
        for cid in here.restricted:
            for method, rest, headers in WAYS:
                found = await http.request(method, f"/ipfs/{cid}{rest}", headers=headers)
                missing = await http.request(method, f"/ipfs/{like(cid)}{rest}", headers=headers)
                assert plain(found, cid) == plain(missing, like(cid)), (method, rest, headers)
                assert found.status_code in (404, 412)
        assert (await http.get(f"/ipfs/{here.public}")).status_code == 200


async def test_the_same_work_is_done(here: Here, monkeypatch: pytest.MonkeyPatch) -> None:
    """The repo is asked as often for what is hidden as for what is not here, and in the same way."""
    work: Counter[str] = Counter()

    def counted(name: str, ask: Callable[..., Any]) -> Callable[..., Any]:
        def count(*args: Any) -> Any:
            found = ask(*args)
            work[f"{name}: {found is not None}"] += 1
            return found

        return count

    for name in ("get_block", "has_block", "read_file"):
        monkeypatch.setattr(here.repo.own, name, counted(name, getattr(here.repo.own, name)))
    async with gateway(here.repo, gate=here.gate) as http:
        for cid in here.restricted:
            for method, rest, headers in WAYS:
                done = []
                for each in (cid, like(cid)):
                    work.clear()
                    await http.request(method, f"/ipfs/{each}{rest}", headers=headers)
                    done.append(dict(work))
                assert done[0] == done[1], (method, rest, headers)
                # A path below a raw block leads nowhere, whatever is here.
                looked = not (cid.codec == RAW and rest == "/index.html")
                assert done[0] == ({"get_block: False": 1} if looked else {})


async def test_the_user_gets_everything(here: Here) -> None:
    """With the token: whole, in parts, as CAR; and no cache that others use may keep it."""
    async with gateway(here.repo, gate=here.gate, token=lambda: TOKEN) as http:
        data = here.secret.read_bytes()
        answer = await http.get(f"/ipfs/{here.file}", headers=USER)
        assert answer.content == data
        part = await http.get(f"/ipfs/{here.file}", headers={**USER, "range": "bytes=1000000-1000009"})
        assert (part.status_code, part.content) == (206, data[1_000_000:1_000_010])
        car = await http.get(f"/ipfs/{here.file}?format=car", headers=USER)
        assert car_blocks(car.content)[0][0] == here.file
        assert (await http.get(f"/ipfs/{here.small}", headers=USER)).content == b"a small secret"
        page = await http.get(f"/ipfs/{here.folder}/", headers=USER)
        assert "notes.txt" in page.text
        moved = await http.get(f"/ipfs/{here.folder}", headers=USER)
        assert moved.status_code == 301
        same = await http.get(f"/ipfs/{here.file}", headers={**USER, "if-none-match": answer.headers["etag"]})
        assert same.status_code == 304
        missing = await http.get(f"/ipfs/{like(here.file)}", headers=USER)
        assert missing.status_code == 404
        public = await http.get(f"/ipfs/{here.public}", headers=USER)
        for each in (answer, part, car, page, moved, same, missing, public):
            caching = [part.strip() for part in each.headers["cache-control"].split(",")]
            assert "private" in caching
            assert "public" not in caching
            assert "Authorization" in each.headers["vary"]
        for each in (answer, part, car, page, same):
            assert "Accept" in each.headers["vary"]
        # What the user has read is nothing to others.
        for path in (f"/ipfs/{here.file}", f"/ipfs/{here.folder}/"):
            assert (await http.get(path)).status_code == 404
            assert (await http.get(path, headers={"if-none-match": answer.headers["etag"]})).status_code == 404


async def test_wrong_tokens(here: Here) -> None:
    """A wrong one is 401 for whatever is asked, also where there is none. Other schemes are for others."""
    wrong = ["Bearer x", f"bearer {TOKEN[:-1]}", f"BEARER {TOKEN}x", "Bearer", f"Bearer {TOKEN} x", "Bearer \xff"]
    async with gateway(here.repo, gate=here.gate, token=lambda: TOKEN) as http:
        for header in wrong:
            for cid in (here.file, here.public, like(here.file)):
                answer = await http.get(f"/ipfs/{cid}", headers={b"authorization": header.encode("latin-1")})
                assert answer.status_code == 401
                assert answer.headers["www-authenticate"].startswith("Bearer")
                assert answer.headers["cache-control"] == "no-store"
                assert TOKEN not in answer.text
        basic = {"authorization": "Basic dTpw"}
        assert (await http.get(f"/ipfs/{here.public}", headers=basic)).status_code == 200
        assert (await http.get(f"/ipfs/{here.file}", headers=basic)).status_code == 404
        assert (await http.get(f"/ipfs/{here.file}", headers={"authorization": f"bearer  {TOKEN}"})).status_code == 200
    async with gateway(here.repo, gate=here.gate) as http:
        assert (await http.get(f"/ipfs/{here.public}", headers=USER)).status_code == 401


async def test_a_token_that_cannot_be_read(here: Here, caplog: pytest.LogCaptureFixture) -> None:
    """Then nobody is the user, and the log says why."""

    def fails() -> str:
        raise KacheryError("it is a folder")

    async with gateway(here.repo, gate=here.gate, token=fails) as http:
        with caplog.at_level(logging.WARNING):
            assert (await http.get(f"/ipfs/{here.file}", headers=USER)).status_code == 401
        assert "it is a folder" in caplog.text
        assert (await http.get(f"/ipfs/{here.public}")).status_code == 200


async def test_a_folder_with_a_public_and_a_private_child(here: Here, tmp_path: Path) -> None:
    """A folder for the mice with a file that is public by itself: that file is for everyone, the folder is not."""
    folder = tmp_path / "mixed"
    folder.mkdir()
    (folder / "private.txt").write_text("for the mice", encoding="utf-8")
    (folder / "public.txt").write_text("for everyone", encoding="utf-8")
    public = here.repo.store_file(folder / "public.txt").cid
    mixed = here.repo.store_directory(folder, audience=FOR_MICE).cid
    private = here.repo.store_file(folder / "private.txt").cid
    async with gateway(here.repo, gate=here.gate, token=lambda: TOKEN) as http:
        assert (await http.get(f"/ipfs/{public}")).text == "for everyone"
        for path in (f"/ipfs/{mixed}/", f"/ipfs/{mixed}/public.txt", f"/ipfs/{mixed}/private.txt", f"/ipfs/{private}"):
            assert (await http.get(path)).status_code == 404
            assert (await http.get(path, headers=USER)).status_code == 200


async def test_a_public_folder_of_which_only_the_listing_is_public(here: Here) -> None:
    """A directory block that anybody may have made links to something hidden: that is not here, nor in CAR and TAR."""
    blocks: list[tuple[CID, bytes]] = []
    builder = DirectoryBuilder("unixfs-v1-2025", lambda cid, block: blocks.append((cid, block)))
    builder.add("secret.bin", here.file, 2**20 + 12_345)
    cid = builder.finish().cid
    here.repo.put_blocks(blocks)
    async with gateway(here.repo, gate=here.gate) as http:
        assert "secret.bin" in (await http.get(f"/ipfs/{cid}/")).text
        assert (await http.get(f"/ipfs/{cid}/secret.bin")).status_code == 404
        secret = here.secret.read_bytes()[:1000]
        for form in ("car", "tar"):
            answer = await http.get(f"/ipfs/{cid}?format={form}")
            assert answer.status_code == 404
            assert secret not in answer.content


async def test_blocks_that_are_also_in_a_public_file(here: Here, tmp_path: Path) -> None:
    """What is in a public file as well is for everyone; the rest of the private one is not."""
    data = here.secret.read_bytes()
    public = write_random(tmp_path / "other.bin", 10, seed=2)
    public.write_bytes(data[: 2**20] + b"and something else" * 1000)
    shared = here.repo.store_file(public)
    leaf = CID(1, RAW, sha256_multihash(data[: 2**20]))
    assert here.repo.own.has_block(leaf.multihash)
    async with gateway(here.repo, gate=here.gate) as http:
        assert (await http.get(f"/ipfs/{shared.cid}")).content == public.read_bytes()
        assert (await http.get(f"/ipfs/{leaf}?format=raw")).content == data[: 2**20]
        rest = CID(1, RAW, sha256_multihash(data[2**20 :]))
        assert here.repo.own.has_block(rest.multihash)
        assert (await http.get(f"/ipfs/{rest}?format=raw")).status_code == 404
        assert (await http.get(f"/ipfs/{here.file}")).status_code == 404


async def test_what_becomes_narrower_or_wider(here: Here) -> None:
    """It counts for the next request, also for what was read and remembered before."""
    async with gateway(here.repo, gate=here.gate) as http:
        path = f"/ipfs/{here.file}"
        assert (await http.get(path)).status_code == 404
        here.repo.access.set_audience(here.file, PUBLIC)
        answer = await http.get(path)
        assert answer.status_code == 200
        here.repo.access.set_audience(here.file, PRIVATE)
        assert (await http.get(path)).status_code == 404
        assert (await http.get(path, headers={"range": "bytes=0-9"})).status_code == 404
        assert (await http.get(path, headers={"if-none-match": answer.headers["etag"]})).status_code == 404


class Fetcher:
    """Brings nothing, and remembers what it was asked for."""

    def __init__(self) -> None:
        self.asked: list[CID] = []

    async def __call__(
        self, cid: CID, path: Sequence[str], *, kind: FetchKind, start: int | None = None, end: int | None = None
    ) -> Any:
        self.asked.append(cid)
        raise ContentNotFound("Nobody has it.")


async def test_nothing_is_fetched_for_strangers(here: Here) -> None:
    """A node fetches with the rights of its user. What is hidden and what is not here are the same then, too."""
    fetcher = Fetcher()
    async with gateway(here.repo, gate=here.gate, fetch=fetcher, token=lambda: TOKEN) as http:
        for cid in here.restricted:
            for method, rest, headers in WAYS:
                found = await http.request(method, f"/ipfs/{cid}{rest}", headers=headers)
                missing = await http.request(method, f"/ipfs/{like(cid)}{rest}", headers=headers)
                assert plain(found, cid) == plain(missing, like(cid))
        assert not fetcher.asked
        assert (await http.get(f"/ipfs/{like(here.file)}", headers=USER)).status_code == 504
        assert fetcher.asked == [like(here.file)]


async def test_for_strangers_it_is_fetched_apart(here: Here, tmp_path: Path) -> None:
    """What is hidden as what is not here: the same is asked for, as often, and the same is said. What came is given to
    them, and only where it is asked for; the user's own fetches are others."""
    own, apart = Fetcher(), Fetcher()
    with Repo.open(tmp_path / "apart") as beside:
        async with gateway(
            here.repo,
            gate=here.gate,
            fetch=own,
            fetch_apart=apart,
            fetched_apart=lambda: beside.own,
            token=lambda: TOKEN,
        ) as http:
            for cid in here.restricted:
                for method, rest, headers in WAYS:
                    done = []
                    for each in (cid, like(cid)):
                        apart.asked.clear()
                        answer = await http.request(method, f"/ipfs/{each}{rest}", headers=headers)
                        done.append((plain(answer, each), len(apart.asked), set(apart.asked) <= {each}))
                    assert done[0] == done[1], (method, rest, headers)
            assert not own.asked
            beside.store_file(here.secret)
            answer = await http.get(f"/ipfs/{here.file}")
            assert answer.content == here.secret.read_bytes()
            part = await http.get(f"/ipfs/{here.file}", headers={"range": "bytes=1000000-1000009"})
            assert part.content == answer.content[1_000_000:1_000_010]
            assert (await http.get(f"/ipfs/{here.small}")).status_code == 504
            apart.asked.clear()
            assert (await http.get(f"/ipfs/{like(here.file)}", headers=USER)).status_code == 504
            assert (own.asked, apart.asked) == ([like(here.file)], [])
    assert here.repo.access.audience_of(here.file) == FOR_MICE


async def test_where_nothing_is_restricted_all_is_fetched(tmp_path: Path) -> None:
    """As long as this machine is in no group, a gateway that fetches does so for everyone."""
    with Repo.open(tmp_path) as repo:
        fetcher = Fetcher()
        async with gateway(repo, gate=Gate(None, repo.access), fetch=fetcher) as http:
            cid = CID(1, RAW, sha256_multihash(b"x"))
            assert (await http.get(f"/ipfs/{cid}")).status_code == 504
            assert fetcher.asked == [cid]
        async with gateway(repo, gate=Gate(Members({}), repo.access), fetch=fetcher) as http:
            assert (await http.get(f"/ipfs/{cid}")).status_code == 404


class Points:
    """Where a name points."""

    ttl = 60.0

    def __init__(self, path: str, names: tuple[str, ...]) -> None:
        self.path = path
        self.names = names


class OneName:
    """Knows where some names point; `own` are those of this machine."""

    def __init__(self, paths: dict[str, str], own: set[str]) -> None:
        self.paths = paths
        self.own = own

    async def resolve(self, text: str, *, timeout: float) -> Points:
        if text not in self.paths:
            raise ContentNotFound("unknown")
        return Points(self.paths[text], (text,))

    async def record(self, text: str, *, timeout: float) -> NameRecord:
        if text not in self.paths:
            raise ContentNotFound("unknown")

        class Record:
            raw = b"a record of " + self.paths[text].encode()
            ttl = 60.0

        return Record()

    async def owns(self, text: str) -> bool:
        return text in self.own


async def test_names(here: Here) -> None:
    """A name of this machine that points to something hidden points nowhere; what others say, others know."""
    own, theirs, unknown = "example.org", "example.com", "example.net"
    resolver = OneName({own: f"/ipfs/{here.file}", theirs: f"/ipfs/{here.file}"}, {own})
    async with gateway(here.repo, gate=here.gate, resolver=resolver, token=lambda: TOKEN) as http:
        told = await http.get(f"/ipns/{own}")
        nothing = await http.get(f"/ipns/{unknown}")
        assert told.status_code == nothing.status_code == 404
        assert told.text.replace(own, "N") == nothing.text.replace(unknown, "N")
        assert (await http.get(f"/ipns/{own}", headers=USER)).status_code == 200
        other = await http.get(f"/ipns/{theirs}")
        assert other.status_code == 404
        for answer in (told, other):
            assert str(here.file) not in answer.text + str(answer.headers)


async def test_records_of_names(here: Here) -> None:
    """A record says where a name points: of names of this machine it is given only if that may be seen."""
    own, theirs, public, unknown = KEYS
    paths = {own: f"/ipfs/{here.file}", theirs: f"/ipfs/{here.file}", public: f"/ipfs/{here.public}"}
    resolver = OneName(paths, {own, public})
    async with gateway(here.repo, gate=here.gate, resolver=resolver, token=lambda: TOKEN) as http:
        found = {key: await http.get(f"/ipns/{key}?format=ipns-record") for key in KEYS}
        assert [found[key].status_code for key in KEYS] == [404, 200, 200, 404]
        assert found[own].text.replace(own, "N") == found[unknown].text.replace(unknown, "N")
        mine = await http.get(f"/ipns/{own}?format=ipns-record", headers=USER)
        assert str(here.file) in mine.text
        here.repo.access.set_audience(here.file, PUBLIC)
        assert (await http.get(f"/ipns/{own}?format=ipns-record")).status_code == 200


# --- the token -------------------------------------------------------------------------------------------------------


def test_the_token_is_made_once(tmp_path: Path) -> None:
    """When it is first needed, of 32 random bytes, in a file of its owner; later ones are the same."""
    directory = tmp_path / "data"
    assert read_token(directory) is None
    token = gateway_token(directory)
    assert len(token) == 43
    assert gateway_token(directory) == read_token(directory) == token
    assert [each.name for each in directory.iterdir()] == [TOKEN_NAME]
    if os.name == "posix":
        assert (directory / TOKEN_NAME).stat().st_mode & 0o777 == 0o600
        (directory / TOKEN_NAME).chmod(0o644)
        read_token(directory)
        assert (directory / TOKEN_NAME).stat().st_mode & 0o777 == 0o600
    assert gateway_token(tmp_path / "another") != token


@pytest.mark.parametrize("content", [b"", b"short", b"x" * 500, b"\xff" * 43, b"a b" * 20])
def test_what_is_no_token(tmp_path: Path, content: bytes) -> None:
    """It is an error that says what to do, and never replaced by itself."""
    (tmp_path / TOKEN_NAME).write_bytes(content)
    for ask in (read_token, gateway_token):
        with pytest.raises(KacheryError, match=TOKEN_NAME):
            ask(tmp_path)
    assert (tmp_path / TOKEN_NAME).read_bytes() == content


def test_headers_that_show_a_token() -> None:
    """None where it is no Bearer token; without a token of our own none is right."""
    assert shows_token(f"Bearer {TOKEN}", TOKEN) is True
    assert shows_token(f" BEARER   {TOKEN}  ", TOKEN) is True
    assert shows_token("Bearer", TOKEN) is False
    assert shows_token(f"Bearer {TOKEN}", None) is False
    assert shows_token("Bearer \N{SNOWMAN}", TOKEN) is False
    assert shows_token(f"Basic {TOKEN}", TOKEN) is None
    assert shows_token("", TOKEN) is None
