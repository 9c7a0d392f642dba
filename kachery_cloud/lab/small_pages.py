"""Pages that work without scripts: an invitation, and what a browser is told where it cannot go on.

All other pages are those of `static`, whose styles these use.
"""

from __future__ import annotations

from collections.abc import Mapping
from html import escape
from urllib.parse import quote

from starlette.requests import Request
from starlette.responses import Response

from kachery_p2p.text import printable


def wants_page(request: Request) -> bool:
    """Whether a browser asks for something to be shown; the API always answers in JSON."""
    return "text/html" in request.headers.get("accept", "") and not request.url.path.startswith("/api/")


def page(
    title: str, body: str, *, status: int = 200, headers: Mapping[str, str] | None = None, onward: str | None = None
) -> Response:
    """A page.

    Args:
        title: as text.
        body: as HTML.
        status: of HTTP.
        headers: further ones.
        onward: where the browser goes by itself.
    """
    # Not by a redirect: the answer to a form may lead to no other site by one (form-action of our own policy).
    refresh = "" if onward is None else f'<meta http-equiv="refresh" content="0; url={escape(onward)}">'
    text = (
        '<!doctype html>\n<html lang="en">\n<head>\n<meta charset="utf-8">\n'
        '<meta name="viewport" content="width=device-width, initial-scale=1">\n'
        f'<meta name="color-scheme" content="light dark">{refresh}\n<title>{escape(title)}</title>\n'
        '<link rel="stylesheet" href="/static/current/style.css">\n</head>\n<body>\n<main id="main">\n'
        f'<div class="reading card">\n<h1>{escape(title)}</h1>\n{body}\n</div>\n</main>\n</body>\n</html>\n'
    )
    # With the policy of all other answers, a browser sends a form with "Origin: null" (Fetch, section 3.2), and it
    # would be taken for one of somebody else. With this one, what it tells goes to ourselves alone.
    headers = {"referrer-policy": "same-origin", **(headers or {})}
    return Response(text, status, headers, "text/html; charset=utf-8")


def refusal_page(status: int, details: str, headers: Mapping[str, str]) -> Response:
    """What is told where something is refused."""
    title = {401: "Not signed in", 403: "Not allowed", 404: "Not found", 429: "Too many requests"}.get(
        status, "This did not work"
    )
    return page(
        title, f'<p>{said(details)}</p>\n<p><a href="/">To the overview</a></p>', status=status, headers=headers
    )


def invitation_page(lab: str, name: str, secret: str, *, openid: str | None) -> Response:
    """What an invitation says, with a button that uses it. `openid` is the host of the provider, where there is one."""
    how = "" if openid is None else f"<p>You then sign in at {said(openid)}, and from then on always do so.</p>\n"
    body = (
        f"<p>You were invited to {said(lab)} as <strong>{said(name)}</strong>. This link works once.</p>\n{how}"
        f'<form method="post" action="/invitation/{quote(secret, safe="")}">\n<p><button>Come in</button></p>\n</form>'
    )
    return page("An invitation", body)


def onward_page(path: str) -> Response:
    """The browser is to go on to a path of ours."""
    return page("Just a moment", f'<p><a class="button" href="{escape(path)}">Go on</a></p>', onward=path)


def said(text: str) -> str:
    """Words of somebody as HTML, in which nothing does anything."""
    return escape(printable(text))
