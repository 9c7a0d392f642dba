"""What opening without loading costs: `python -m scripts.opening --hdf5 20Gi --zarr 5Gi --reads 1000`.

An HDF5 file and a zarr store on one workstation, opened on another, over loopback. Files are sparse: as many rows and
chunks as are read have random bytes, the others were never written. For each way of reading: the time to the first
value; reads of 4 KiB at random, cold and then again; what travelled against the blocks that were touched; and the CPU
time of all that took part. Beside it ranges from nginx, where that is installed. With `--ipfsspec`, the folder of a
`pip install --target FOLDER ipfsspec`, that through our gateway, too: three reads, for each of which it loads all of
the file. Needs the extra `science`.
"""

from __future__ import annotations

import argparse
import json
import os
import random
import sys
import tempfile
from collections.abc import Callable
from contextlib import ExitStack
from pathlib import Path
from typing import Any

from scripts.benchmark import machine, nginx
from scripts.benchmark.__main__ import _size as parse_size
from scripts.workstation import Workstation

ROW = 1 << 20
READ = 4096

#: Reads as a list of (row, offset in it). `first` and `read` are what is measured; both are told where to begin.
_MEASURE = """
import random, time
{imports}
begun = time.perf_counter()
{setup}
first(places[0])
seconds = [time.perf_counter() - begun]
for _ in range(2):
    times = []
    for place in places[1:]:
        at = time.perf_counter()
        data = read(place)
        times.append(time.perf_counter() - at)
        assert len(data) == {size} and data.count(0) < {size} // 2, "what was read is not what was written"
    times.sort()
    seconds += [sum(times), times[len(times) // 2], times[len(times) * 99 // 100]]
say([seconds, time.process_time()])
"""

_OPEN_HDF5 = """
import h5py
uri, addr, places = args
traces = h5py.File(kcl.open(uri, providers=[addr]))["traces"]
read = lambda place: traces[place[0], place[1] : place[1] + 4096].tobytes()
first = read
"""
_OPEN_BYTES = """
uri, addr, places = args
file = kcl.open(uri, providers=[addr])
read = lambda place: file.read_at(place[0] * (1 << 20) + place[1] + 4096, 4096)
first = read
"""
_HTTP = """
import http.client
host, path, places = args
connection = http.client.HTTPConnection(host)
def read(place):
    start = place[0] * (1 << 20) + place[1] + 4096
    connection.request("GET", path, headers={"Range": f"bytes={start}-{start + 4095}"})
    return connection.getresponse().read()
first = read
"""
_IPFSSPEC = """
import os
import ipfsspec
os.environ["IPFS_GATEWAY"] = args[0]
gateway, uri, places = args
fs = ipfsspec.AsyncIPFSFileSystem(asynchronous=False)
def read(place):
    start = place[0] * (1 << 20) + place[1] + 4096
    return fs.cat_file(uri, start=start, end=start + 4096)
first = read
"""
_OPEN_ZARR = """
import zarr
uri, addr, places = args
t = zarr.open(uri, mode="r", storage_options={"providers": (addr,)})
read = lambda place: t[place[0], place[1] : place[1] + 4096].tobytes()
first = read
"""


def main() -> int:
    """Parses the command line, measures, prints. Returns the exit code."""
    parser = argparse.ArgumentParser(prog="opening", description=__doc__)
    parser.add_argument("--hdf5", type=parse_size, default=256 << 20, help="size of the file (256Mi)")
    parser.add_argument("--zarr", type=parse_size, default=128 << 20, help="size of the store (128Mi)")
    parser.add_argument("--reads", type=int, default=100, help="reads of 4 KiB (100)")
    parser.add_argument("--profile", default=None, help="how the file is cut into blocks (the default one)")
    parser.add_argument("--ipfsspec", type=Path, help="the folder where that is installed")
    parser.add_argument("--json", action="store_true", help="print JSON")
    parser.add_argument("--dir", type=Path, help="where to work (the system's temporary directory)")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="kachery-opening-", dir=options.dir) as name, ExitStack() as stack:
        rows = measure(Path(name), options, stack)
    if options.json:
        print(json.dumps({"machine": machine.describe(), "rows": rows}, indent=2))
    else:
        print("\n".join(f"{key:8}{value}" for key, value in machine.describe().items()))
        print("\n".join(table(rows, options)))
    return 0


def measure(folder: Path, options: argparse.Namespace, stack: ExitStack) -> list[dict[str, Any]]:
    """Makes the files, and measures each way of reading them."""
    choose = random.Random(7)
    rows = options.hdf5 // ROW
    places = _places(choose, rows, options.reads)
    hdf5 = folder / "recording.h5"
    _make_hdf5(hdf5, rows, {place[0] for place in places})
    chunks = options.zarr // ROW
    zarr_places = _places(choose, chunks, min(options.reads, chunks))
    store = folder / "store.zarr"
    _make_zarr(store, chunks, {place[0] for place in zarr_places})

    here = stack.enter_context(Workstation(folder / "here")).start("--gateway", "127.0.0.1:0")
    profile = options.profile
    uri, zarr_uri = here.call(
        "say([kcl.link_file(args[0], profile=args[2]), kcl.store_dir(args[1], link=True)])", hdf5, store, profile
    )
    found: list[dict[str, Any]] = []

    def add(title: str, setup: str, where: Workstation, *args: object) -> None:
        print(f"{title} ...", file=sys.stderr, flush=True)
        sent, cpu = _sent(here), _cpu(here) + _cpu(where)
        imports = [line for line in setup.splitlines() if line.startswith("import ")]
        code = _MEASURE.format(imports="\n".join(imports), setup=setup, size=READ)
        seconds, own_cpu = where.call(code, *args)
        found.append(
            {
                "title": title,
                "first": seconds[0],
                "cold": seconds[1],
                "cold median": seconds[2],
                "cold 99 %": seconds[3],
                "warm": seconds[4],
                "warm median": seconds[5],
                "moved": _sent(here) - sent,
                "cpu": own_cpu + _cpu(here) + _cpu(where) - cpu,
                "touched": len({place[0] for place in args[2]}) * ROW if isinstance(args[2], list) else 0,
            }
        )

    def fresh(number: int) -> Workstation:
        return stack.enter_context(Workstation(folder / f"there-{number}")).start()

    add("h5py, kcl.open", _OPEN_HDF5, fresh(1), uri, here.addr, places)
    add("kcl.open, read_at", _OPEN_BYTES, fresh(2), uri, here.addr, places)
    add("zarr, ipfs://", _OPEN_ZARR, fresh(3), zarr_uri, here.addr, zarr_places)
    client = fresh(4)
    gateway = here.call("say(kcl.status())")["gateway"]["url"]
    host = gateway.removeprefix("http://").rstrip("/")
    add("HTTP ranges from our gateway", _HTTP, client, host, f"/ipfs/{uri.removeprefix('ipfs://')}", places)
    if nginx.missing() is None:
        server = stack.enter_context(nginx.Nginx(folder / "nginx", folder, "127.0.0.1"))
        add("HTTP ranges from nginx", _HTTP, client, server.url.removeprefix("http://"), f"/{hdf5.name}", places)
    if options.ipfsspec is not None:
        other = stack.enter_context(Workstation(folder / "there-5", env={"PYTHONPATH": str(options.ipfsspec)})).start()
        add("ipfsspec, our gateway", _IPFSSPEC, other, gateway, uri.removeprefix("ipfs://"), places[:4])
    return found


def _places(choose: random.Random, rows: int, count: int) -> list[tuple[int, int]]:
    return [(choose.randrange(rows), choose.randrange(ROW - 2 * READ)) for _ in range(count)]


def _make_hdf5(path: Path, rows: int, filled: set[int]) -> None:
    import h5py
    import numpy as np

    with h5py.File(path, "w") as file:
        traces: Any = file.create_dataset("traces", (rows, ROW), dtype="u1")
        for row in sorted(
            filled | {max(0, each - 1) for each in filled} | {min(rows - 1, each + 1) for each in filled}
        ):
            traces[row] = np.frombuffer(os.urandom(ROW), "u1")


def _make_zarr(path: Path, chunks: int, filled: set[int]) -> None:
    import numpy as np
    import zarr

    array: Any = zarr.create_array(path, shape=(chunks, ROW), chunks=(1, ROW), dtype="u1", compressors=None)
    for chunk in filled:
        array[chunk] = np.frombuffer(os.urandom(ROW), "u1")


def _sent(where: Workstation) -> int:
    return where.status()["bytes_sent"]


def _cpu(where: Workstation) -> float:
    fields = Path(f"/proc/{where.node.pid}/stat").read_text(encoding="ascii").rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


def table(rows: list[dict[str, Any]], options: argparse.Namespace) -> list[str]:
    """The rows as a table of Markdown."""
    columns: list[tuple[str, Callable[[dict[str, Any]], str]]] = [
        (f"{options.reads} reads of 4 KiB", lambda row: row["title"]),
        ("first value", lambda row: f"{row['first']:.2f} s"),
        ("cold", lambda row: f"{row['cold']:.2f} s"),
        ("median", lambda row: f"{row['cold median'] * 1e3:.2f} ms"),
        ("99 %", lambda row: f"{row['cold 99 %'] * 1e3:.1f} ms"),
        ("warm", lambda row: f"{row['warm median'] * 1e3:.3f} ms"),
        ("moved / touched", lambda row: f"{row['moved'] / row['touched']:.2f}" if row["moved"] else ""),
        ("CPU of all", lambda row: f"{row['cpu']:.2f} s"),
    ]
    lines = ["| " + " | ".join(name for name, _ in columns) + " |", "|" + "---|" * len(columns)]
    return lines + ["| " + " | ".join(show(row) for _, show in columns) + " |" for row in rows]


if __name__ == "__main__":
    sys.exit(main())
