"""What browsers let the lab's pages do: two policies that differ from that of all other answers (`origins.HEADERS`).

Content Security Policy, level 3: scripts and styles are files of this node; nothing is inline, nothing is evaluated,
nothing is loaded from elsewhere, nobody frames the pages, and text never becomes a script (Trusted Types).
"""

from __future__ import annotations

_BOTH = {
    "default-src": "'none'",
    "base-uri": "'none'",
    "connect-src": "'self'",
    "form-action": "'self'",
    "frame-ancestors": "'none'",
}
_PAGE = {
    **_BOTH,
    "img-src": "'self' blob:",
    "require-trusted-types-for": "'script'",
    "script-src": "'self'",
    "style-src": "'self'",
    "trusted-types": "workers",
    "worker-src": "'self'",
}


def _text(policy: dict[str, str]) -> str:
    return "; ".join(f"{name} {value}" for name, value in policy.items())


#: Of a page and what belongs to it: previews are pictures from memory (blob:), and workers are scripts of ours.
PAGE = _text(_PAGE)
#: Of the worker that reads HDF5 files: it compiles WebAssembly, and evaluates nothing else.
WORKER = _text({**_BOTH, "script-src": "'self' 'wasm-unsafe-eval'"})
