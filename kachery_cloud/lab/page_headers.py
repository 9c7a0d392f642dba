"""The headers that every answer of the lab has, so that a browser does what its pages need and nothing else.

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

#: Of a page, and of everything else: previews are pictures from memory (blob:), and workers are scripts of ours.
PAGE = "; ".join(f"{name} {value}" for name, value in _PAGE.items())
#: Of the worker that reads HDF5 files: it compiles WebAssembly, and evaluates nothing else.
WORKER = "; ".join(f"{name} {value}" for name, value in {**_BOTH, "script-src": "'self' 'wasm-unsafe-eval'"}.items())
#: Of what members stored: no script runs in it, whatever it is, and it belongs to no origin.
STORED = "sandbox; default-src 'none'; frame-ancestors 'none'"

_ALWAYS = {
    "cross-origin-opener-policy": "same-origin",
    "cross-origin-resource-policy": "same-origin",
    "permissions-policy": "camera=(), geolocation=(), microphone=(), payment=(), usb=()",
    "referrer-policy": "no-referrer",
    "x-content-type-options": "nosniff",
    # For browsers that do not know frame-ancestors.
    "x-frame-options": "DENY",
}


def security_headers(policy: str = PAGE) -> dict[str, str]:
    """The headers of an answer; `policy` is its Content-Security-Policy."""
    return {"content-security-policy": policy, **_ALWAYS}
