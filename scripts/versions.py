"""Checks other versions of Python and numpy: `python -m scripts.versions`.

The seed URIs, and what store_pkl and store_npy write of each type: under numpy 1.26 with an older Python, and under
the newest numpy with every Python from 3.10 on that is found. Each has an environment of its own in `.cache/versions`,
with the few packages that local work needs: no libp2p.

Then all unit tests, under the oldest Python with numpy 1.26 and under the newest of both, side by side, in
environments with the whole package.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import time
import zlib
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
CACHE = ROOT / ".cache" / "versions"
LIGHT = ("py-cid", "py-multibase", "multiformats", "ipld-dag-pb", "cryptography", "click", "tqdm", "base58")
OLD_NUMPY = "numpy==1.26.4"
NEW_NUMPY = "numpy>=2"
#: What runs the tests of what is written.
LIGHT_TESTS = ("pytest", "pytest-trio", "hypothesis")
VALUE_TESTS = ("test_formats.py", "test_npy.py", "test_pickling.py", "test_pickle_values.py")
#: numpy 1.26 has wheels for these.
OLD_NUMPY_PYTHONS = ((3, 10), (3, 11), (3, 12))
PYTHONS = (*OLD_NUMPY_PYTHONS, (3, 13), (3, 14))
_STAMP = "installed-for"
#: Seconds for one run of the tests, which takes ten minutes on a quiet machine: a test that hangs ends with it.
LONGEST = 3600.0


def main() -> int:
    """Runs all checks. Returns the exit code."""
    pythons = find_pythons()
    old = [version for version in OLD_NUMPY_PYTHONS if version in pythons]
    if not old:
        print("No Python 3.10 to 3.12 was found, so numpy 1.26 is not checked.", file=sys.stderr)
        return 1 if os.environ.get("CI") else 0
    oldest, newest = (pythons[old[0]], OLD_NUMPY), (pythons[max(pythons)], NEW_NUMPY)
    checks = [oldest, *((python, NEW_NUMPY) for python in pythons.values())]
    with ThreadPoolExecutor(os.cpu_count()) as pool:
        light = list(pool.map(prepare, *zip(*checks, strict=True)))
        codes = [check(folder, pair not in (oldest, newest)) for pair, folder in zip(checks, light, strict=True)]
        # One after the other, because both write the package's metadata into the repository.
        folders = [prepare_all(*pair) for pair in (oldest, newest)]
        codes += pool.map(check_all, folders)
    return max(codes)


def prepare(python: Path, numpy: str) -> Path:
    """The environment for one version of Python with one of numpy; made when it is not there."""
    return _environment("", python, numpy, [*LIGHT, *LIGHT_TESTS])


def prepare_all(python: Path, numpy: str) -> Path:
    """The same with the whole package and all that its tests need."""
    project = zlib.crc32((ROOT / "pyproject.toml").read_bytes())
    return _environment("all-", python, numpy, ["--editable", f"{ROOT}[test]"], f" {project:08x}")


def _environment(prefix: str, python: Path, numpy: str, packages: list[str], more: str = "") -> Path:
    stamp = f"{python} " + " ".join((numpy, *packages)) + more
    folder = CACHE / f"{prefix}{python.name}-{numpy.translate(str.maketrans('=>', '--'))}"
    if not (folder / _STAMP).exists() or (folder / _STAMP).read_text(encoding="utf-8") != stamp:
        shutil.rmtree(folder, ignore_errors=True)
        folder.parent.mkdir(parents=True, exist_ok=True)
        subprocess.run([str(python), "-m", "venv", str(folder)], check=True)
        pip = [str(folder / "bin" / "python"), "-m", "pip", "install", "--prefer-binary", "--no-compile"]
        done = subprocess.run(
            [*pip, numpy, *packages], stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, check=False
        )
        if done.returncode != 0:
            sys.exit(f"pip failed for {folder.name}:\n{done.stdout[-4000:]}")
        (folder / _STAMP).write_text(stamp, encoding="utf-8")
    return folder


def check(folder: Path, values: bool) -> int:
    """Checks the URIs, and if asked to what is written of each type, in one environment. Returns the exit code."""
    seeds = _run(folder, "-m", "scripts.seeds").returncode
    return seeds or (_test(folder, [f"tests/unit/cloud/{name}" for name in VALUE_TESTS]) if values else 0)


def check_all(folder: Path) -> int:
    """Runs the unit tests in one environment. Returns the exit code."""
    return _test(folder, ["tests/unit"])


def _test(folder: Path, tests: list[str]) -> int:
    """Says how many tests passed, and of what failed the end of the output."""
    begun = time.monotonic()
    done = _run(folder, "-m", "pytest", "-q", "-p", "no:cacheprovider", "--tb=short", *tests, capture_output=True)
    lines = done.stdout.splitlines() or done.stderr.splitlines() or ["no output"]
    if done.returncode != 0:
        print("\n".join(lines[-150:]))
    print(f"{folder.name}, {' '.join(tests)}: {lines[-1]} ({time.monotonic() - begun:.0f} s)", flush=True)
    return done.returncode


def _run(folder: Path, *arguments: str, capture_output: bool = False) -> subprocess.CompletedProcess[str]:
    env = {**os.environ, "PYTHONPATH": str(ROOT), "PYTHONDONTWRITEBYTECODE": "1"}
    command = [str(folder / "bin" / "python"), *arguments]
    try:
        return subprocess.run(
            command, cwd=ROOT, env=env, check=False, text=True, capture_output=capture_output, timeout=LONGEST
        )
    except subprocess.TimeoutExpired as late:
        said = late.stdout or ""
        text = said.decode(errors="replace") if isinstance(said, bytes) else said
        return subprocess.CompletedProcess(command, 1, f"{text}\nIt did not end within {LONGEST:g} seconds.", "")


def find_pythons() -> dict[tuple[int, int], Path]:
    """The Pythons of this machine that can make an environment, by version."""
    found: dict[tuple[int, int], Path] = {}
    for version in PYTHONS:
        name = f"python{version[0]}.{version[1]}"
        managed = sorted(Path.home().glob(f".pyenv/versions/{version[0]}.{version[1]}.*/bin/{name}"))
        on_path = shutil.which(name)
        for candidate in [*managed, *([Path(on_path)] if on_path else []), Path(sys.base_prefix) / "bin" / name]:
            # A name on the PATH may be a shim that only tells what to install.
            probe = [str(candidate), "-c", "import ensurepip, venv"]
            if candidate.exists() and subprocess.run(probe, capture_output=True, check=False).returncode == 0:
                found[version] = candidate
                break
    return found


if __name__ == "__main__":
    sys.exit(main())
