"""Who may ask and what a page may do: one host, a token where it is not the loopback, and a strict policy.

A page of another site can send requests to a local server; it is stopped by the host's name (rebinding), by the origin
and by a secret that only our own forms carry. Record text is untrusted: should an escape ever be forgotten, the policy
lets no inline script run.
"""

from __future__ import annotations

import hmac
from threading import Event
from urllib.parse import parse_qs, parse_qsl, quote, unquote, urlencode, urlsplit

from starlette.datastructures import Headers, MutableHeaders
from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import PlainTextResponse, RedirectResponse, Response
from starlette.types import ASGIApp, Message, Receive, Scope, Send

LOOPBACK = ("127.0.0.1", "localhost", "::1")
TOKEN_LETTERS = 16
"""A token has at least so many."""
_COOKIE = "evolvent_token"
_MOST_BYTES = 1_000_000
"""Of a form."""
_HEADERS = {
    # Plotly writes style elements of its own; scripts come from our files alone.
    "content-security-policy": (
        "default-src 'none'; script-src 'self'; style-src 'self' 'unsafe-inline'; img-src 'self' data:; "
        "connect-src 'self'; form-action 'self'; base-uri 'none'; frame-ancestors 'none'"
    ),
    "x-content-type-options": "nosniff",
    "referrer-policy": "same-origin",  # without any, a browser calls the origin of our own forms null
    "cross-origin-opener-policy": "same-origin",
    "cross-origin-resource-policy": "same-origin",
}


class Guard:
    """Around the whole application, its pages for errors too."""

    def __init__(self, app: ASGIApp, *, host: str, token: str, ending: Event) -> None:
        self._app = app
        self.ending = ending
        """Set once the server ends: who waits for news is told that there will be none."""
        self._hosts = LOOPBACK if host in LOOPBACK or not token else None
        """Names a request may give the server; None where the token decides."""
        self._token = token

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        refusal = self._refusal(scope)
        if refusal is not None:
            await refusal(scope, receive, _with_headers(send))
        else:
            await self._app(scope, receive, _with_headers(send))

    def _refusal(self, scope: Scope) -> Response | None:
        headers = Headers(scope=scope)
        name = _host_of(f"//{headers.get('host', '')}")[0]
        if self._hosts is not None and name not in self._hosts:
            return PlainTextResponse(f"This server does not answer to the name {name!r}.", 421)
        if scope["method"] not in ("GET", "HEAD") and not _of_our_own(headers):
            return PlainTextResponse("This request comes from another site and was not carried out.", 403)
        if not self._token:
            return None
        query = parse_qsl(scope.get("query_string", b"").decode("latin-1"), keep_blank_values=True)
        asked = next((value for key, value in query if key == "token"), "")
        if self._is_token(asked):  # the address bar forgets it at once, the browser keeps it
            path = "/" + scope.get("raw_path", b"/").decode("latin-1").partition("?")[0].lstrip("/")  # of this server
            rest = urlencode([(key, value) for key, value in query if key != "token"])
            onward = RedirectResponse(path + (f"?{rest}" if rest else ""), 303)
            onward.set_cookie(_COOKIE, quote(asked, safe=""), httponly=True, samesite="strict")
            return onward
        bearer = headers.get("authorization", "").removeprefix("Bearer ")
        kept = unquote(Request(scope).cookies.get(_COOKIE, ""))
        if self._is_token(bearer) or self._is_token(kept):
            return None
        return PlainTextResponse("A token is needed: open /?token=… with the one the server was started with.", 401)

    def _is_token(self, given: str) -> bool:
        return hmac.compare_digest(given.encode(), self._token.encode())


def _of_our_own(headers: Headers) -> bool:
    """Whether a browser sends it from one of our pages; a program sends no origin and needs the secret all the same."""
    if headers.get("sec-fetch-site", "same-origin") not in ("same-origin", "none"):
        return False
    origin = headers.get("origin")
    return origin is None or _host_of(origin)[1] == headers.get("host")


def _host_of(address: str) -> tuple[str, str]:
    """Its name, and the name with its port; both empty where it is no address."""
    try:
        parts = urlsplit(address)
        return parts.hostname or "", parts.netloc
    except ValueError:
        return "", ""


async def form(request: Request) -> dict[str, str] | None:
    """The fields of a form of ours; None where it lacks the secret or nothing may be written.

    Raises:
        HTTPException: it is larger than any of ours.
    """
    body = b""
    async for part in request.stream():
        body += part
        if len(body) > _MOST_BYTES:
            raise HTTPException(413, f"This form is larger than {_MOST_BYTES:,} bytes, so nothing was changed.")
    fields = {key: values[-1] for key, values in parse_qs(body.decode("utf-8", "replace")).items()}
    known = hmac.compare_digest(fields.pop("csrf", "").encode(), request.app.state.csrf.encode())
    return fields if known and request.app.state.write else None


def _with_headers(send: Send) -> Send:
    async def sent(message: Message) -> None:
        if message["type"] == "http.response.start":
            headers = MutableHeaders(scope=message)
            for name, value in _HEADERS.items():
                headers.setdefault(name, value)
            headers.setdefault("cache-control", "no-store")
        await send(message)

    return sent
