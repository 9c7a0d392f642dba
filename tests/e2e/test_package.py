"""The package as others meet it: what an import costs, and that an installed copy works without the clone."""

from __future__ import annotations

import os
import subprocess
import sys
import sysconfig
from pathlib import Path

import pytest

from kachery_p2p import __version__

ROOT = Path(__file__).resolve().parent.parent.parent


def test_import_is_light() -> None:
    """`import kachery_cloud` imports neither libp2p nor trio, nor numpy."""
    done = subprocess.run(
        [sys.executable, "-X", "importtime", "-c", "import kachery_cloud"], capture_output=True, text=True, check=True
    )
    imported = {line.rpartition("|")[2].strip().partition(".")[0] for line in done.stderr.splitlines()}
    assert "kachery_cloud" in imported
    assert imported.isdisjoint({"libp2p", "trio", "numpy"})


def test_local_work_needs_no_network(tmp_path: Path) -> None:
    """Storing with local=True and loading what is here import neither libp2p nor trio and start no thread."""
    code = """
import sys, threading
import kachery_cloud as kcl
uri = kcl.store_json({"a": 1}, local=True)
assert kcl.load_json(uri) == {"a": 1}
print(sorted({"libp2p", "trio"} & set(sys.modules)), threading.active_count())
"""
    env = {**os.environ, "KACHERY_CLOUD_DIR": str(tmp_path)}
    done = subprocess.run([sys.executable, "-c", code], env=env, capture_output=True, text=True, check=True)
    assert done.stdout == "[] 1\n"


@pytest.mark.slow
def test_installed_copy(tmp_path: Path) -> None:
    """`pip install <clone>` from elsewhere gives working commands, with all modules and data in the package."""
    subprocess.run([sys.executable, "-m", "venv", str(tmp_path / "venv")], check=True)
    python = tmp_path / "venv" / "bin" / "python"
    pip = [str(python), "-m", "pip", "install", "-v", "--no-deps", str(ROOT)]
    built = subprocess.run(pip, cwd=tmp_path, capture_output=True, text=True, check=True, timeout=300)
    assert "deprecat" not in (built.stdout + built.stderr).lower()
    # The dependencies are borrowed from this environment. Its own .pth files, the editable install among them, do not
    # count there, so the package that is found is the installed one.
    site = subprocess.run(
        [str(python), "-c", "import sysconfig; print(sysconfig.get_path('purelib'))"],
        capture_output=True,
        text=True,
        check=True,
    ).stdout.strip()
    borrowed = {sysconfig.get_path("purelib"), sysconfig.get_path("platlib")}
    (Path(site) / "borrowed.pth").write_text("\n".join(sorted(borrowed)) + "\n", encoding="utf-8")
    env = {**os.environ, "KACHERY_CLOUD_DIR": str(tmp_path / "data")}
    source = tmp_path / "file.txt"
    source.write_bytes(b"test-content\n")

    def run(command: str, *args: str) -> str:
        line = [str(python.with_name(command)), *args]
        return subprocess.run(line, cwd=tmp_path, env=env, capture_output=True, text=True, check=True).stdout.strip()

    where = subprocess.run(
        [str(python), "-c", "import kachery_cloud; print(kachery_cloud.__file__)"],
        cwd=tmp_path,
        capture_output=True,
        text=True,
        check=True,
    ).stdout.strip()
    assert where.startswith(str(tmp_path))
    assert run("kachery-cloud", "--version") == f"kachery-cloud {__version__}"
    metadata = subprocess.run(
        [str(python), "-c", "from importlib.metadata import version; print(version('kachery-cloud'))"],
        cwd=tmp_path,
        capture_output=True,
        text=True,
        check=True,
    ).stdout.strip()
    assert metadata == __version__
    uri = run("kachery-cloud-store", "file.txt")
    assert uri == "ipfs://bafkreiajr6u7obg3mpunezz2mwarr2sptwr3zaedia665vdayvw6mpn5ga"
    assert Path(run("kachery-cloud-load", uri)).read_bytes() == b"test-content\n"
    assert run("kachery-cloud-cat", uri) == "test-content"
    for command in ("kachery-cloud", "kachery-cloud-init", "kachery-cloud-link", "kachery-cloud-node"):
        assert "Usage" in run(command, "--help")


def test_lock_file_names_no_registry() -> None:
    """The versions of Helia's packages are locked by checksum, without the address of anybody's registry."""
    lock = (ROOT / "scripts" / "peers" / "package-lock.json").read_text(encoding="utf-8")
    assert '"integrity"' in lock
    assert '"resolved"' not in lock
    assert "://" not in lock
