"""Where the rows of one dataset are measured: a work folder, and the peers that serve the dataset to the others."""

from __future__ import annotations

import itertools
import shutil
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path

from scripts.benchmark.dataset import Dataset
from scripts.benchmark.far import Surroundings
from scripts.benchmark.kubo import AnyKubo, new_kubo
from scripts.benchmark.nginx import Nginx
from scripts.benchmark.own import Own
from scripts.benchmark.ssh import SshServer
from scripts.peers import Helia, Peer
from scripts.workstation import Workstation


@dataclass(frozen=True)
class Source:
    """A peer that has the dataset: where to dial it, under which CID, and the process to watch.

    `hello` is the CID of a few bytes that it has as well: loading them connects. `peer` is what can be asked of it.
    """

    addr: str
    cid: str
    hello: str
    pid: int
    peer: Peer | AnyKubo | None = None


class Stage:
    """The dataset and whoever serves it. Servers start when they are first needed and end with the stage."""

    def __init__(self, folder: Path, dataset: Dataset, around: Surroundings, before: Path | None = None) -> None:
        """Makes `folder` and works in it. `before` is another checkout of ours."""
        folder.mkdir()
        self.dataset = dataset
        self.before = before
        self.around = around
        self._folder = folder
        self._numbers = itertools.count(1)
        self._stack = ExitStack()
        self._sources: dict[str, Source] = {}
        #: Each kind of peer that took part, and its version.
        self.versions: dict[str, str] = {}
        self._ssh: SshServer | None = None
        self._nginx: Nginx | None = None

    def close(self) -> None:
        """Ends the servers and removes what they kept, or puts it aside.

        ext4 does not give away the number of a file that was removed a minute ago, and looks through all of those for
        each file that is made. After thousands were removed, each new one takes half a millisecond, whoever makes it.
        So what was made of a folder of small files stays until the benchmark is over.
        """
        self._stack.close()
        if self.dataset.is_folder:
            left = (self._folder.with_name(f"left-{number}") for number in itertools.count(1))
            self._folder.rename(next(path for path in left if not path.exists()))
        else:
            shutil.rmtree(self._folder, ignore_errors=True)

    @contextmanager
    def fresh_folder(self) -> Iterator[Path]:
        """An empty folder for one run, removed after it where it is not one of many files (see `close`).

        The input is in the page cache, earlier writes on the disk.

        Meanwhile this thread is on the machine of the reader.
        """
        folder = self._folder / f"run-{next(self._numbers)}"
        folder.mkdir()
        try:
            self.dataset.warm()
            with self.around.reader.entered():
                yield folder
        finally:
            if not self.dataset.is_folder:
                shutil.rmtree(folder, ignore_errors=True)

    def new_own(self, folder: Path, *, gateway: str = "", before: bool = False) -> Own:
        """A process of our own on the reader's machine, with its node running; `before`: of the other checkout."""
        checkout = self.before if before else None
        return Own(folder, address=self.around.reader.address, gateway=gateway, checkout=checkout)

    def own(self, *, before: bool = False) -> Source:
        """One of our own nodes with the dataset in its data directory; `before`: of the other checkout."""
        name = "before" if before else "own"
        if name not in self._sources:
            place = self.around.source
            with place.entered():
                folder, checkout = self._folder / f"serving-{name}", self.before if before else None
                peer = self._stack.enter_context(Own(folder, address=place.address, checkout=checkout))
                self._sources[name] = self._source(peer, lambda path: peer.store(path)[0].removeprefix("ipfs://"))
        return self._sources[name]

    def kubo(self) -> Source:
        """A Kubo node that has added the dataset."""
        if "kubo" not in self._sources:
            place = self.around.source
            with place.entered():
                kubo = self._stack.enter_context(self._kubo(self._folder / "serving-kubo", place.address))
                self._sources["kubo"] = self._source(kubo, kubo.add)
        return self._sources["kubo"]

    def new_kubo(self, folder: Path) -> AnyKubo:
        """A Kubo of its own on the reader's machine, the newest that can be had here."""
        return self._kubo(folder, self.around.reader.address)

    def _kubo(self, folder: Path, address: str) -> AnyKubo:
        kubo = new_kubo(folder, address)
        self.versions["Kubo"] = kubo.implementation
        return kubo

    def helia(self) -> Source:
        """A Helia node that has added the dataset, under the profile unixfs-v1-2025."""
        if "helia" not in self._sources:
            helia = self._stack.enter_context(self.new_helia(self._folder / "serving-helia"))
            self._sources["helia"] = self._source(helia, helia.add)
        return self._sources["helia"]

    def new_helia(self, folder: Path) -> Helia:
        """A Helia of its own."""
        helia = Helia(folder, disposable=True)
        self.versions["Helia"] = helia.implementation
        return helia

    def _source(self, peer: Peer | AnyKubo, add: Callable[[Path], str]) -> Source:
        hello = peer.folder / "hello.txt"
        hello.write_text(f"hello from {peer.peer_id}", encoding="utf-8")
        return Source(peer.addrs[0], add(self.dataset.path), add(hello), peer.pid, peer)

    def ssh(self) -> SshServer:
        """An SSH server of our own."""
        if self._ssh is None:
            place = self.around.source
            with place.entered():
                self._ssh = self._stack.enter_context(SshServer(self._folder / "ssh", place.address))
        return self._ssh

    def gateway(self) -> Source:
        """One of our own nodes that has the dataset and serves it as an HTTP gateway; `addr` is the gateway's URL."""
        if "gateway" not in self._sources:
            place = self.around.source
            station = Workstation(self._folder / "serving-gateway", around=place.entered)
            self._stack.enter_context(station)
            stored = station.run("kachery-cloud-store", "-r", self.dataset.path).stdout.strip()
            (station.folder / "hello.txt").write_text("hello from the gateway", encoding="utf-8")
            hello = station.run("kachery-cloud-store", station.folder / "hello.txt").stdout.strip()
            station.start("--gateway", f"{place.address}:0")
            url = station.status()["gateway"]["url"]
            self._sources["gateway"] = Source(
                url, stored.removeprefix("ipfs://"), hello.removeprefix("ipfs://"), station.node.pid
            )
        return self._sources["gateway"]

    def nginx(self) -> Nginx:
        """An nginx that serves the folder of the dataset."""
        if self._nginx is None:
            place = self.around.source
            with place.entered():
                root = self.dataset.path.parent
                self._nginx = self._stack.enter_context(Nginx(self._folder / "nginx", root, place.address))
        return self._nginx
