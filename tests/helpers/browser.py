"""A real browser without a screen, which speaks to this machine alone. See devtools.py for one that is worked with."""

from __future__ import annotations

import shutil
import subprocess
from collections.abc import Callable
from pathlib import Path

import pytest

CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")

#: Nothing but this machine is spoken to: no name but localhost is found, and the browser's own services are off.
FLAGS = (
    "--headless",
    "--no-sandbox",
    "--disable-gpu",
    "--disable-dev-shm-usage",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-default-apps",
    "--disable-domain-reliability",
    "--disable-extensions",
    "--disable-sync",
    "--disable-features=DialMediaRouteProvider,MediaRouter,OptimizationHints,Translate",
    "--host-resolver-rules=MAP * ~NOTFOUND , EXCLUDE 127.0.0.1 , EXCLUDE localhost",
    "--no-first-run",
    "--no-pings",
    "--no-proxy-server",
)


def browse_with(profile: Path) -> Callable[[str], str]:
    """What opens an address in a browser and gives what the page has become. Without a browser the test is skipped."""
    program = CHROMIUM
    if program is None:
        pytest.skip("Chromium is not installed (Debian: apt-get install chromium)")

    def open_page(address: str) -> str:
        flags = [*FLAGS, f"--user-data-dir={profile}", "--virtual-time-budget=60000", "--dump-dom"]
        done = subprocess.run(
            [program, *flags, address], capture_output=True, text=True, encoding="utf-8", timeout=300, check=False
        )
        assert done.returncode == 0, done.stderr[-2000:]
        return done.stdout

    return open_page
