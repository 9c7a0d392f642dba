"""The libraries of scientists open what lies on another workstation, as their users type it, without loading it.

Each test writes a real file with a library, stores it at one workstation, and reads it at another, whose processes go
through the node there. Where it says so, only a part of the file may travel.
"""

from __future__ import annotations

import importlib
import os
from collections.abc import Callable
from datetime import datetime, timezone
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from scripts.workstation import Workstation

#: Bytes that may travel beside what is read: nodes, blocks at both ends, and what was read ahead.
MIB = 1 << 20


def need(*names: str) -> list[Any]:
    """The modules of these names. Skips where one is missing: they come with the extra `science`; CI must have them."""
    try:
        return [importlib.import_module(name) for name in names]
    except ImportError as error:
        if os.environ.get("CI"):
            pytest.fail(f"CI must test with real libraries, but: {error}")
        pytest.skip(f"{error}: pip install 'kachery-cloud[science]'")


@pytest.fixture(scope="module")
def here(module_workstation: Callable[..., Workstation]) -> Workstation:
    """The workstation that has the files."""
    return module_workstation().start()


@pytest.fixture(scope="module")
def there(module_workstation: Callable[..., Workstation], here: Workstation) -> Workstation:
    """The workstation that opens them. It knows the other one, and its node runs."""
    return module_workstation(env={"KACHERY_CLOUD_PEERS": here.addr}).start()


class Bench:
    """Stores at one workstation, reads at the other, and says what travelled."""

    def __init__(self, here: Workstation, there: Workstation) -> None:
        self._here = here
        self._there = there
        self.moved = 0

    def store(self, path: Path) -> str:
        """Store a file or a folder where it is. Returns the plain URI."""
        function = "store_dir" if path.is_dir() else "link_file"
        return self._here.call(f"say(kcl.{function}(args[0]))", path)

    def read(self, code: str, *args: object) -> Any:
        """Run what a user types, with `uri` and whatever else is in `args`; returns what it gave to `say`."""
        before = self._sent()
        result = self._there.call("uri = args[0]\n" + code, *args)
        self.moved = self._sent() - before
        return result

    def _sent(self) -> int:
        return self._here.status()["bytes_sent"]


@pytest.fixture
def bench(here: Workstation, there: Workstation) -> Bench:
    return Bench(here, there)


# --- files ---------------------------------------------------------------------------------------------------------


def test_h5py(bench: Bench, tmp_path: Path) -> None:
    """A slice of a data set of a large HDF5 file: what travels is what it touches, and the index."""
    (h5py,) = need("h5py")

    path = tmp_path / "recording.h5"
    data = np.random.default_rng(1).integers(0, 1000, (64, 500_000), dtype=np.int16)
    with h5py.File(path, "w") as file:
        file["traces"] = data
        file.create_dataset("chunked", data=data[:8], chunks=(1, 50_000), compression="gzip")
        file.attrs["rate"] = 30_000
    code = """
import h5py
with h5py.File(kcl.open(uri)) as file:
    say([int(file.attrs["rate"]), file["traces"][40, 1000:1010].tolist(), file["chunked"][3, 99_990:100_010].tolist()])
"""
    assert bench.read(code, bench.store(path)) == [
        30_000,
        data[40, 1000:1010].tolist(),
        data[3, 99_990:100_010].tolist(),
    ]
    assert path.stat().st_size > 60 * MIB
    assert bench.moved < 8 * MIB


def test_pynwb(bench: Bench, tmp_path: Path) -> None:
    """A recording in NWB: its data are read where they are looked at."""
    (pynwb,) = need("pynwb")

    path = tmp_path / "session.nwb"
    nwb = pynwb.NWBFile(
        session_description="a mouse",
        identifier="session-1",
        session_start_time=datetime(2024, 1, 2, tzinfo=timezone.utc),
    )
    data = np.arange(8_000_000, dtype=np.int32).reshape(-1, 4)
    nwb.add_acquisition(pynwb.TimeSeries(name="lfp", data=data, unit="volts", rate=1000.0))
    with pynwb.NWBHDF5IO(path, "w") as file:
        file.write(nwb)
    code = """
import h5py, pynwb
with pynwb.NWBHDF5IO(file=h5py.File(kcl.open(uri)), load_namespaces=True) as io:
    lfp = io.read().acquisition["lfp"]
    say([lfp.data.shape, lfp.data[1_000_000].tolist(), lfp.unit])
"""
    expected = [[2_000_000, 4], data[1_000_000].tolist(), "volts"]
    assert bench.read(code, bench.store(path)) == expected
    assert bench.moved < 8 * MIB < path.stat().st_size


def test_tifffile(bench: Bench, tmp_path: Path) -> None:
    """One page of a stack of images."""
    (tifffile,) = need("tifffile")
    path = tmp_path / "stack.tif"
    stack = np.random.default_rng(2).integers(0, 65_536, (40, 512, 512), dtype=np.uint16)
    tifffile.imwrite(path, stack, photometric="minisblack")
    code = """
import tifffile
say([int(tifffile.imread(kcl.open(uri), key=25).sum()), list(tifffile.TiffFile(kcl.open(uri)).series[0].shape)])
"""
    assert bench.read(code, bench.store(path)) == [int(stack[25].sum()), [40, 512, 512]]
    assert bench.moved < 6 * MIB


def test_images(bench: Bench, tmp_path: Path) -> None:
    """Pillow reads an image."""
    (image_module,) = need("PIL.Image")
    path = tmp_path / "picture.png"
    image_module.radial_gradient("L").resize((600, 400)).save(path)
    code = "from PIL import Image\nimage = Image.open(kcl.open(uri))\nsay([image.size, image.getpixel((300, 200))])"
    with image_module.open(path) as image:
        assert bench.read(code, bench.store(path)) == [[600, 400], image.getpixel((300, 200))]


@pytest.mark.parametrize("name", ["scan.nii", "scan.nii.gz"])
def test_nibabel(bench: Bench, tmp_path: Path, name: str) -> None:
    """A slice of a NIfTI image, plain and compressed."""
    (nibabel,) = need("nibabel")

    path = tmp_path / name
    data = np.random.default_rng(3).integers(0, 500, (96, 96, 64, 10), dtype=np.int16)
    nibabel.Nifti1Image(data, np.eye(4)).to_filename(path)
    unpacked = "gzip.open(kcl.open(uri))" if name.endswith(".gz") else "kcl.open(uri)"
    code = f"""
import gzip, nibabel
image = nibabel.Nifti1Image.from_stream({unpacked})
say([list(image.shape), int(image.dataobj[..., 3].sum())])
"""
    assert bench.read(code, bench.store(path)) == [[96, 96, 64, 10], int(data[..., 3].sum())]


def test_numpy(bench: Bench, tmp_path: Path) -> None:
    """An npz archive reads one of its arrays; slices of an npy file fetch what they touch; and a file can be mapped."""

    data = np.arange(6_000_000, dtype=np.float64).reshape(3000, 2000)
    np.savez(tmp_path / "arrays.npz", small=np.arange(5), large=data)
    code = "import numpy as np\nwith np.load(kcl.open(uri)) as arrays: say(arrays['small'].tolist())"
    assert bench.read(code, bench.store(tmp_path / "arrays.npz")) == [0, 1, 2, 3, 4]
    assert bench.moved < 5 * MIB
    np.save(tmp_path / "data.npy", data)
    uri = bench.store(tmp_path / "data.npy")
    code = """
with kcl.open_npy(uri) as array:
    say([list(array.shape), array[1500:1502, 7].tolist(), array[-1, -1].item()])
"""
    assert bench.read(code, uri) == [[3000, 2000], data[1500:1502, 7].tolist(), 5_999_999.0]
    assert bench.moved < 5 * MIB
    code = "mapped = kcl.load_npy(uri, mmap_mode='r')\nsay([type(mapped).__name__, float(mapped[2999, 0])])"
    assert bench.read(code, uri) == ["memmap", data[2999, 0]]


# --- tables --------------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def tables(tmp_path_factory: pytest.TempPathFactory, here: Workstation) -> tuple[str, str, Any]:
    """The URIs of a table as CSV and as a folder of parquet, and the table."""
    pd, _ = need("pandas", "pyarrow")
    folder = tmp_path_factory.mktemp("tables")
    table = pd.DataFrame({"trial": np.arange(50_000), "rate": np.random.default_rng(4).random(50_000)})
    table.to_csv(folder / "table.csv", index=False)
    (folder / "parts").mkdir()
    for number in range(3):
        part = table.iloc[number * 20_000 : (number + 1) * 20_000]
        part.to_parquet(folder / "parts" / f"part-{number}.parquet", index=False)
    code = "say([kcl.store_file(args[0]), kcl.store_dir(args[1])])"
    csv, parts = here.call(code, folder / "table.csv", folder / "parts")
    return csv, parts, table


def test_pandas(bench: Bench, tables: tuple[str, str, Any]) -> None:
    """pandas reads CSV and parquet by their plain URIs, and what cannot be written is said."""
    csv, parts, table = tables
    code = """
import pandas as pd
table = pd.read_csv(uri)
part = pd.read_parquet(args[1] + "/part-1.parquet", columns=["rate"])
try:
    table.to_csv(args[1] + "/new.csv")
except PermissionError as error:
    said = str(error)
say([int(table.trial.sum()), float(part.rate.sum()), list(part.columns), said])
"""
    total, rates, columns, said = bench.read(code, csv, parts)
    assert total == int(table.trial.sum())
    assert rates == pytest.approx(table.rate[20_000:40_000].sum())
    assert columns == ["rate"]
    assert "never changes" in said


def test_polars(bench: Bench, tables: tuple[str, str, Any]) -> None:
    """polars reads from an open file; its own readers know no fsspec, so a plain URI goes through pyarrow."""
    need("polars")
    csv, parts, table = tables
    code = """
import polars as pl
part = kcl.join(args[1], "part-2.parquet")
say([
    pl.read_csv(uri, use_pyarrow=True)["trial"].sum(),
    pl.read_csv(kcl.open(uri))["trial"].sum(),
    pl.read_parquet(part, use_pyarrow=True)["rate"].sum(),
    pl.scan_parquet(kcl.open(part)).select(pl.col("rate").sum()).collect().item(),
])
"""
    trials, rates = int(table.trial.sum()), pytest.approx(table.rate[40_000:].sum())
    assert bench.read(code, csv, parts) == [trials, trials, rates, rates]


def test_pyarrow(bench: Bench, tables: tuple[str, str, Any]) -> None:
    """pyarrow reads a folder of parquet through the file system, and one file that is open."""
    _, parts, table = tables
    code = """
import fsspec, pyarrow.dataset, pyarrow.parquet
fs, path = fsspec.url_to_fs(uri)
whole = pyarrow.dataset.dataset(path, filesystem=fs).to_table()
part = pyarrow.parquet.read_table(kcl.open(kcl.join(uri, "part-0.parquet")))
say([whole.num_rows, sum(whole["trial"].to_pylist()), part.num_rows])
"""
    assert bench.read(code, parts) == [50_000, int(table.trial.sum()), 20_000]


def test_dask(bench: Bench, tables: tuple[str, str, Any]) -> None:
    """dask reads by URI in other processes, which go through the node of their machine."""
    need("dask", "distributed")
    csv, parts, table = tables
    code = """
import dask, dask.dataframe as dd
with dask.config.set(scheduler="processes", num_workers=2):
    say([int(dd.read_parquet(uri).trial.sum().compute()), int(dd.read_csv(args[1]).trial.sum().compute())])
"""
    assert bench.read(code, parts, csv) == [int(table.trial.sum())] * 2


def test_intake(bench: Bench, tables: tuple[str, str, Any]) -> None:
    """intake reads a table by its URI."""
    need("intake")
    csv, _, table = tables
    code = "import intake.readers.datatypes as types\nsay(len(types.CSV(url=uri).to_reader('pandas').read()))"
    assert bench.read(code, csv) == len(table)


def test_universal_pathlib(bench: Bench, tables: tuple[str, str, Any]) -> None:
    """Paths of universal_pathlib lead into a folder. It knows them, so nothing is said of untested file systems."""
    need("upath")
    _, parts, _ = tables
    code = """
import warnings
warnings.simplefilter("error")
from upath import UPath
folder = UPath(uri)
names = sorted(each.name for each in folder.glob("*.parquet"))
say([names, (folder / "part-0.parquet").read_bytes()[:4].decode(), type(folder).__module__])
"""
    assert bench.read(code, parts) == [[f"part-{n}.parquet" for n in range(3)], "PAR1", "kachery_cloud.upaths"]


# --- arrays --------------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def arrays(tmp_path_factory: pytest.TempPathFactory, here: Workstation) -> tuple[str, Any]:
    """The URI of a folder with a zarr store of xarray, and what is in it. One chunk has nothing but fill values."""
    _, xr = need("zarr", "xarray")
    folder = tmp_path_factory.mktemp("arrays") / "climate.zarr"
    values = np.random.default_rng(5).random((40, 256, 256)) + 1
    values[8:16] = np.nan
    data = xr.Dataset({"t": (("time", "y", "x"), values)}, coords={"time": np.arange(40)})
    encoding = {"t": {"chunks": (8, 256, 256)}}
    data.to_zarr(folder, encoding=encoding, zarr_format=3)
    return here.call("say(kcl.store_dir(args[0]))", folder), values


def test_zarr(bench: Bench, arrays: tuple[str, Any]) -> None:
    """zarr opens a store by its URI; one slice moves its chunks alone."""
    uri, values = arrays
    code = (
        "import zarr\nt = zarr.open(uri, mode='r')['t']\nsay([list(t.shape), float(t[20, 100, 5]), float(t[39, 0, 0])])"
    )
    assert bench.read(code, uri) == [[40, 256, 256], values[20, 100, 5], values[39, 0, 0]]
    assert bench.moved < 10 * MIB < values.nbytes


def test_xarray(bench: Bench, arrays: tuple[str, Any]) -> None:
    """xarray opens the same store, and fills what was never written."""
    uri, values = arrays
    code = """
import xarray as xr
data = xr.open_zarr(uri)
say([float(data.t.isel(time=3).mean()), int(data.t.isel(time=10).isnull().sum()), list(data.sizes.values())])
"""
    mean, missing, sizes = bench.read(code, uri)
    assert (mean, missing, sizes) == (pytest.approx(values[3].mean()), 256 * 256, [40, 256, 256])


def test_a_chunk_that_nobody_has_is_an_error(
    bench: Bench, tmp_path: Path, workstation: Callable[..., Workstation]
) -> None:
    """What is missing from a store is filled, and what cannot be had now is not: it is an error, and no zeros."""
    (zarr,) = need("zarr")
    array = zarr.create_array(tmp_path / "a.zarr", shape=(40_000,), chunks=(10_000,), dtype="i8", compressors=None)
    array[:] = np.arange(40_000) + 7
    chunk = tmp_path / "a.zarr" / "c" / "2"
    source = workstation(env={"KACHERY_CLOUD_PEERS": ""}).start()
    uri = source.call("say(kcl.store_dir(args[0], link=True))", tmp_path / "a.zarr")
    chunk.unlink()  # a linked file that is gone is no longer served
    code = """
import zarr
array = zarr.open(uri, mode="r", storage_options={"providers": (args[1],), "timeout": 5})
said = ""
try:
    array[25_000]
except kcl.ContentNotFound as error:
    said = "not found"
say([int(array[5]), said])
"""
    assert bench.read(code, uri, source.addr) == [12, "not found"]


def test_dask_and_joblib_read_in_other_processes(bench: Bench, tmp_path: Path) -> None:
    """Files and arrays that are open can be sent to the workers of dask and joblib."""
    need("dask", "joblib")

    data = np.arange(3_000_000, dtype=np.int64).reshape(3000, 1000)
    np.save(tmp_path / "data.npy", data)
    code = """
import dask, dask.array as da, joblib
array = kcl.open_npy(uri)
with dask.config.set(scheduler="processes", num_workers=2):
    total = int(da.from_array(array, chunks=(1000, 1000)).sum().compute())
file = kcl.open(uri)
parts = joblib.Parallel(n_jobs=2)(joblib.delayed(file.read_at)(start, 8) for start in (128, 136, 8_000_128))
say([total, [int.from_bytes(part, "little") for part in parts]])
"""
    assert bench.read(code, bench.store(tmp_path / "data.npy")) == [int(data.sum()), [0, 1, 1_000_000]]
