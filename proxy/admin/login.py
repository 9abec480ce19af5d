"""Sign in and out of the admin pages with the admin token (CONTRACT §16)."""

from __future__ import annotations

import asyncio
from urllib.parse import parse_qs

import structlog
from aiohttp import web

from proxy.admin.admission import check_guesses, log_guess
from proxy.admin.guard import TokenGuard
from proxy.admin.pages.assets import page
from proxy.admin.pages.dashboard import login
from proxy.admin.responses import FIELDS, Refusal, bad_request
from proxy.admin.sessions import Sessions, cookie_of, drop_cookie, set_cookie

log = structlog.get_logger(__name__)

#: The maximum of bytes of a form, and of seconds until it has arrived.
_LONGEST, _PATIENCE = 4096, 10.0


class Login:
    """Handles /login and /logout."""

    def __init__(self, guard: TokenGuard | None, sessions: Sessions) -> None:
        self._guard = guard
        self._sessions = sessions

    def routes(self) -> list[web.RouteDef]:
        """Return the routes."""
        return [
            web.get("/login", self._show),
            web.post("/login", self._sign_in),
            web.post("/logout", self._sign_out),
        ]

    def response(self, status: int, failure: str = "") -> web.Response:
        """Return the login page as a response."""
        fields = {"WWW-Authenticate": "Bearer"} if status == 401 else {}
        return page(login(failure), status, fields)

    async def _show(self, request: web.Request) -> web.Response:
        return _to("/") if self._guard is None else self.response(200)

    async def _sign_in(self, request: web.Request) -> web.Response:
        if self._guard is None:
            return _to("/")
        address = request.remote or ""
        check_guesses(self._guard, address)
        token = await _token(request)
        # others may have arrived meanwhile
        check_guesses(self._guard, address)
        if not self._guard.accepts_token(token, address):
            log_guess(self._guard, address)
            return self.response(401, "This token is wrong.")
        log.info("operator.signed_in", address=address)
        response = _to("/")
        value = self._sessions.begin()
        response.headers["Set-Cookie"] = set_cookie(value, secure=_is_secure(request))
        return response

    async def _sign_out(self, request: web.Request) -> web.Response:
        self._sessions.end(cookie_of(request.headers.getall("Cookie", [])))
        response = _to("/login")
        response.headers["Set-Cookie"] = drop_cookie(secure=_is_secure(request))
        return response


def _to(path: str) -> web.Response:
    return web.Response(status=303, headers=FIELDS | {"Location": path})


def _is_secure(request: web.Request) -> bool:
    """Report whether the browser uses TLS, to this listener or to a server in front of it."""
    return request.secure or request.headers.get("Origin", "").lower().startswith("https://")


async def _token(request: web.Request) -> str:
    """Read the token of the form."""
    length = request.content_length
    if length is None or length > _LONGEST:
        raise bad_request(f"A form has a Content-Length of at most {_LONGEST} bytes.")
    try:
        async with asyncio.timeout(_PATIENCE):
            body = await request.read()
        form = parse_qs(body.decode(), keep_blank_values=True, max_num_fields=16)
    except TimeoutError as why:
        detail = f"The form did not arrive within {_PATIENCE:g} s."
        raise Refusal(detail, status=408) from why
    except ValueError as why:
        raise bad_request("The body is no form (application/x-www-form-urlencoded).") from why
    found = form.get("token", [])
    if len(found) != 1:
        raise bad_request("The form needs the field token, once.")
    return found[0]
