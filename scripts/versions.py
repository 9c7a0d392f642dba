"""Checks the seed URIs under other versions: `python -m scripts.versions`.

Under numpy 1.26 with an older Python, and under the newest numpy with every other Python from 3.10 on that is found.
Each check has an environment of its own in `.cache/versions`, with the few packages that local work needs: no libp2p.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
CACHE = ROOT / ".cache" / "versions"
LIGHT = ("py-cid", "py-multibase", "multiformats", "ipld-dag-pb", "cryptography", "click", "tqdm", "exceptiongroup")
OLD_NUMPY = "numpy==1.26.4"
NEW_NUMPY = "numpy>=2"
# numpy 1.26 has wheels for these
OLD_NUMPY_PYTHONS = ((3, 10), (3, 11), (3, 12))
PYTHONS = (*OLD_NUMPY_PYTHONS, (3, 13), (3, 14))
_STAMP = "installed-for"


def main() -> int:
    """Runs all checks. Returns the exit code."""
    pythons = find_pythons()
    old = [version for version in OLD_NUMPY_PYTHONS if version in pythons]
    if not old:
        print("No Python 3.10 to 3.12 was found, so numpy 1.26 is not checked.", file=sys.stderr)
        return 1 if os.environ.get("CI") else 0
    checks = [(pythons[old[0]], OLD_NUMPY)]
    checks += [(python, NEW_NUMPY) for python in pythons.values()]
    with ThreadPoolExecutor(os.cpu_count()) as pool:
        folders = list(pool.map(prepare, *zip(*checks, strict=True)))
    return max(check(folder) for folder in folders)


def prepare(python: Path, numpy: str) -> Path:
    """The environment for one version of Python with one of numpy; made when it is not there."""
    requirements = (numpy, *LIGHT)
    stamp = f"{python} " + " ".join(requirements)
    folder = CACHE / f"{python.name}-{numpy.translate(str.maketrans('=>', '--'))}"
    if not (folder / _STAMP).exists() or (folder / _STAMP).read_text(encoding="utf-8") != stamp:
        shutil.rmtree(folder, ignore_errors=True)
        folder.parent.mkdir(parents=True, exist_ok=True)
        subprocess.run([str(python), "-m", "venv", str(folder)], check=True)
        pip = [str(folder / "bin" / "python"), "-m", "pip", "install", "--prefer-binary", "--no-compile", *requirements]
        done = subprocess.run(pip, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, check=False)
        if done.returncode != 0:
            sys.exit(f"pip failed for {folder.name}:\n{done.stdout[-4000:]}")
        (folder / _STAMP).write_text(stamp, encoding="utf-8")
    return folder


def check(folder: Path) -> int:
    """Checks the URIs in one environment. Returns the exit code."""
    env = {**os.environ, "PYTHONPATH": str(ROOT), "PYTHONDONTWRITEBYTECODE": "1"}
    run = subprocess.run([str(folder / "bin" / "python"), "-m", "scripts.seeds"], cwd=ROOT, env=env, check=False)
    return run.returncode


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
