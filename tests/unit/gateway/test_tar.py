"""TAR answers (https://specs.ipfs.tech/ipips/ipip-0288/): what is in them, and what must not be."""

from __future__ import annotations

import io
import os
import tarfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest

from kachery_p2p.dag.cid import CID, DAG_PB
from kachery_p2p.dag.directory import DirectoryBuilder
from kachery_p2p.dag.pb import encode_node
from kachery_p2p.dag.profiles import profile
from kachery_p2p.dag.unixfs import DataType, UnixFSData, encode
from kachery_p2p.errors import MalformedDag
from kachery_p2p.gateway.server import limits
from kachery_p2p.gateway.server.tar import _Writer
from tests.helpers.gateway_served import gateway
from tests.helpers.gateway_site import Site


@pytest.fixture
def site(tmp_path: Path) -> Iterator[Site]:
    made = Site(tmp_path)
    yield made
    made.repo.close()


async def tar_of(site: Site, cid: CID) -> tarfile.TarFile:
    async with gateway(site.repo) as client:
        answer = await client.get(f"/ipfs/{cid}?format=tar")
    assert answer.status_code == 200, answer.text
    return tarfile.open(fileobj=io.BytesIO(answer.content))


async def refusal(site: Site, cid: CID, **bounds: Any) -> str:
    """Why there is no archive: a status before it has begun, or a connection that is closed in the middle."""
    async with gateway(site.repo, **bounds) as client:
        try:
            answer = await client.get(f"/ipfs/{cid}?format=tar")
        except httpx.RemoteProtocolError:
            return "cut"
    assert answer.status_code == 422, answer.status_code
    return answer.text


async def test_a_folder_unpacks_to_what_was_stored(site: Site, tmp_path: Path) -> None:
    """All files, folders, symbolic links and names of any letters come out as they went in."""
    with await tar_of(site, site.docs) as archive:
        assert {name.split("/")[0] for name in archive.getnames()} == {str(site.docs)}
        assert archive.getmember(f"{site.docs}/sub").isdir()
        archive.extractall(tmp_path / "out", filter="data")
    out = tmp_path / "out" / str(site.docs)
    for folder, _, names in os.walk(site.folder):
        for name in names:
            path = Path(folder, name)
            other = out / path.relative_to(site.folder)
            if path.is_symlink():
                assert os.readlink(other) == os.readlink(path)
            else:
                assert other.read_bytes() == path.read_bytes()
    assert sum(len(names) for _, _, names in os.walk(out)) == sum(len(names) for _, _, names in os.walk(site.folder))


async def test_a_file_is_an_archive_of_one(site: Site) -> None:
    """A file is named by its CID, too, however the path led there."""
    async with gateway(site.repo) as client:
        answer = await client.get(f"/ipfs/{site.docs}/big.bin?format=tar")
        again = await client.get(f"/ipfs/{site.cid('big.bin')}?format=tar")
    with tarfile.open(fileobj=io.BytesIO(answer.content)) as archive:
        (member,) = archive.getmembers()
        assert (member.name, member.size) == (str(site.cid("big.bin")), len(site.big))
        file = archive.extractfile(member)
        assert file is not None
        assert file.read() == site.big
    assert again.content == answer.content  # byte for byte the same each time
    assert len(answer.content) % tarfile.RECORDSIZE == 0


async def test_mode_and_time_are_those_of_the_file(site: Site) -> None:
    """Permissions and time of UnixFS 1.5 are kept, those that give rights to whoever runs a file are not."""
    data = encode(UnixFSData(DataType.FILE, b"#!/bin/sh\n", 10, mode=0o4755, mtime_s=1_700_000_000))
    script = site.put(DAG_PB, encode_node([], data))
    with await tar_of(site, site.directory({"run": script, "plain": site.cid("ten.bin")})) as archive:
        members = {Path(each.name).name: (each.mode, each.mtime) for each in archive.getmembers()}
    assert members["run"] == (0o755, 1_700_000_000)
    assert members["plain"] == (0o644, 0)


async def test_long_names_and_deep_folders(site: Site) -> None:
    """Names of 255 bytes, nested, which the oldest form of TAR cannot hold."""
    cid, parts = site.cid("ten.bin"), []
    for number in range(20):
        name = f"{number:02}" + "ü" * 120
        parts.append(name)
        cid = site.directory({name: cid})
    with await tar_of(site, cid) as archive:
        assert archive.getnames()[-1] == "/".join([str(cid), *reversed(parts)])


async def test_a_sharded_folder(site: Site) -> None:
    """Every entry of a sharded directory is in it."""
    builder = DirectoryBuilder(profile("unixfs-v1-2025"), lambda cid, block: site.repo.put_blocks([(cid, block)]))
    names = [f"file-with-a-rather-long-name-so-that-shards-are-needed-{number:06}" for number in range(4000)]
    for name in names:
        builder.add(name, site.cid("ten.bin"), 10)
    assert builder.sharded
    cid = builder.finish().cid
    with await tar_of(site, cid) as archive:
        assert set(archive.getnames()) == {str(cid), *(f"{cid}/{name}" for name in names)}


@pytest.mark.parametrize("name", ["foobar/file", "./foobar/file", "x/../foobar/file", "/foobar/file"])
async def test_paths_inside_the_root_work(site: Site, name: str) -> None:
    """Security: a name "that looks like a relative path that points inside the root directory" must work."""
    cid = site.directory({name: site.cid("ten.bin")})
    with await tar_of(site, cid) as archive:
        assert archive.getnames() == [str(cid), f"{cid}/foobar/file"]


@pytest.mark.parametrize(
    "name", ["../foobar/file", "..", ".", "", "a/../..", "../../etc/passwd", "x/../../y", "a\0b", "/.."]
)
async def test_paths_outside_the_root_fail(site: Site, name: str) -> None:
    """Security: one "that points outside the root directory" must fail, also in a folder further down; so does a name
    for the folder itself."""
    bad = site.directory({"a": site.cid("ten.bin"), name: site.cid("ten.bin")})
    reason = await refusal(site, bad)
    assert "outside the root" in reason or "would lie" in reason
    if name in ("a\0b", "..", "../../etc/passwd", "x/../../y", "/.."):
        # One level further down some of these still are inside.
        deeper = site.directory({"b": site.cid("big.bin"), "d": site.directory({f"../{name}": site.cid("ten.bin")})})
        assert await refusal(site, deeper)


async def test_a_bad_name_further_down_closes_the_connection(site: Site) -> None:
    """Security: the download "should fail by force-closing the HTTP connection" when bytes were sent already."""
    bad = site.directory({"../../x": site.cid("ten.bin")})
    folder = site.directory({"a": site.cid("big.bin"), "b": bad})
    assert await refusal(site, folder) == "cut"


async def test_nothing_is_written_through_a_link(site: Site) -> None:
    """A symbolic link and a folder of one name, or of names that are one to some file systems, are not put in."""
    link, folder = site.symlink("/etc"), site.directory({"passwd": site.cid("ten.bin")})
    for entries in (
        [("x", link), ("x", folder)],
        [("X", folder), ("x", link)],
        [("x", link), ("X", folder)],
        [("\u00e9", link), ("e\u0301", folder)],
        [("x", link), ("x/passwd", site.cid("ten.bin"))],
        [("a/../x", link), ("y", folder)],
        [("d", site.directory([("x", link)])), ("d/x/passwd", site.cid("ten.bin"))],
    ):
        assert await refusal(site, site.directory(entries)), entries
    with await tar_of(site, site.directory({"x": link, "y": folder})) as archive:
        assert [each.linkname for each in archive.getmembers() if each.issym()] == ["/etc"]


async def test_what_is_missing_cuts_it_short(site: Site) -> None:
    """An archive without all of its blocks never passes for a whole one."""
    absent = CID.parse(site.names()["absent"])
    folder = site.directory({"a": site.cid("big.bin"), "z": absent})
    assert await refusal(site, folder) == "cut"


async def test_what_is_no_unixfs_further_down(site: Site) -> None:
    """`format=tar` "for content that is not UnixFS SHOULD return 406", also where only an entry of a folder is that."""
    async with gateway(site.repo) as client:
        answer = await client.get(f"/ipfs/{site.directory({'a': site.dag_cbor})}?format=tar")
        assert (answer.status_code, "?format=car" in answer.text) == (406, True)
    assert await refusal(site, site.directory({"a": site.cid("big.bin"), "b": site.dag_cbor})) == "cut"


async def test_folders_that_claim_too_much(site: Site) -> None:
    """A few blocks that claim two to the thirtieth folders end in an error, not in an endless archive."""
    cid = site.directory({})
    for _ in range(30):
        cid = site.directory({"a": cid, "b": cid})
    assert "too many for a TAR" in await refusal(site, cid, max_tar_entries=100)


async def test_depth_is_bounded(site: Site) -> None:
    """Folders nested deeper than any path can be asked for are refused."""
    cid = site.directory({})
    for _ in range(limits.MAX_PATH_NAMES + 2):
        cid = site.directory({"a": cid})
    assert "too deep" in await refusal(site, cid)


def test_the_root_is_compared_as_a_whole_name() -> None:
    """The check of names compares whole parts of a path: what begins like the root is outside of it."""
    writer = _Writer(None, "bafy")  # type: ignore[arg-type]
    with pytest.raises(MalformedDag, match="outside the root"):
        writer._place("bafy", "../bafybar")
    assert writer._place("bafy", "x") == "bafy/x"
