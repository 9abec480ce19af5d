"""Who may use the admin listener (CONTRACT §16): the middleware of its application."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Collection

import structlog
from aiohttp import web
from structlog.contextvars import bound_contextvars

from proxy.admin.connections import Connections
from proxy.admin.guard import TokenGuard, is_same_origin, is_served
from proxy.admin.responses import Refusal, bad_request, problem, request_id
from proxy.admin.sessions import Sessions, cookie_of
from proxy.core.request_id import FIELD as REQUEST_ID
from proxy.ports import StoreUnavailable

log = structlog.get_logger(__name__)

#: Paths that need no token: the health checks, and what the login page consists of.
OPEN = ("/healthz", "/readyz", "/login")
OPEN_BELOW = "/static/"
#: Paths of forms, which a page without scripts sends without the field.
_FORMS = ("/login", "/logout")
#: The field that no page of another site can send.
FIELD = "X-VB365-Admin"
_SAFE = ("GET", "HEAD", "OPTIONS")
#: Paths of streams. They are bounded in number.
_STREAMS = ("/api/events",)
#: How a request proves who sends it: its key, and the values.
HOW = web.RequestKey("how", str)
_RETRY_AFTER = "5"

Handler = Callable[[web.Request], Awaitable[web.StreamResponse]]


class Admission:
    """Admits requests. `hosts` are the listener's names beside localhost and IP addresses; `guard`
    is None if no token is set. `login` returns the login page for a browser, with its status.
    `connections` are those of the listener.
    """

    def __init__(
        self,
        *,
        hosts: Collection[str],
        guard: TokenGuard | None,
        sessions: Sessions,
        login: Callable[[int], web.Response],
        connections: Connections,
    ) -> None:
        self._hosts = hosts
        self._guard = guard
        self._sessions = sessions
        self._login = login
        self._connections = connections

    @web.middleware
    async def admit(self, request: web.Request, handler: Handler) -> web.StreamResponse:
        """Handle an admitted request; a `Refusal` becomes a response. What is logged meanwhile has
        the request's id and the client's address.

        One that only reads makes room for others, and few that change something are handled at a
        time: many wait for VB365 or for the stores, and must not keep the health checks away.
        """
        own = request_id(request)
        kept = request.path in _STREAMS
        with (
            bound_contextvars(request_id=own, client=request.remote),
            self._connections.serving(request, kept=kept),
        ):
            response = await self._respond(request, handler, own)
        if not response.prepared:
            response.headers[REQUEST_ID] = own
        return response

    async def _respond(self, request: web.Request, handler: Handler, id: str) -> web.StreamResponse:
        try:
            self._check_host(request)
            if (page := self._check_token(request)) is not None:
                return page
            self._check_origin(request)
            if request.method in _SAFE or request.path in _FORMS:
                # forms wait for their clients only, which may be strangers
                return await handler(request)
            async with self._connections.changing(request):
                return await handler(request)
        except Refusal as why:
            return problem(request, why, id)
        except StoreUnavailable as why:
            log.warning("store not available", reason=str(why))
            detail = "The proxy cannot read or write its jobs now. Try again."
            fields = {"Retry-After": _RETRY_AFTER}
            return problem(request, Refusal(detail, name="store-unavailable", fields=fields), id)
        except web.HTTPException as why:
            return problem(request, _refusal(request, why), id)
        except web.RequestPayloadError:
            return problem(request, bad_request("The body is malformed."), id)
        except Exception as why:
            if request.transport is None and isinstance(why, ConnectionError):
                # its client has left before the end of its body, as any number of strangers can
                return problem(request, bad_request("The body is not complete."), id)
            log.exception("admin request failed", path=request.path)
            detail = "The proxy failed to answer. Its log says why."
            return problem(request, Refusal(detail, status=500), id)

    def _check_host(self, request: web.Request) -> None:
        hosts = request.headers.getall("Host", [])
        # the authority of an absolute-form target would override Host (RFC 9112 §3.2.2)
        if (
            len(hosts) != 1
            or not is_served(hosts[0], self._hosts)
            or not request.raw_path.startswith("/")
        ):
            detail = "Ask by IP address, as localhost, or by a name that admin.hosts lists."
            raise Refusal(detail, status=421)

    def _check_token(self, request: web.Request) -> web.Response | None:
        """Check that the request may use its path. Return the login page for a browser that opens
        a page without a session.
        """
        request[HOW] = "none"
        if self._guard is None or request.path in OPEN or request.path.startswith(OPEN_BELOW):
            return None
        if self._sessions.valid(cookie_of(request.headers.getall("Cookie", []))):
            request[HOW] = "session"
            return None
        sent, address = request.headers.get("Authorization"), request.remote or ""
        if sent is not None:
            check_guesses(self._guard, address)
            if self._guard.accepts(sent, address):
                request[HOW] = "token"
                return None
            log_guess(self._guard, address)
        elif request.method == "GET" and "text/html" in request.headers.get("Accept", ""):
            return self._login(401)
        fields = {"WWW-Authenticate": "Bearer"}
        detail = "Send the admin token: Authorization: Bearer …, or sign in at /login."
        raise Refusal(detail, name="unauthorized", fields=fields)

    def _check_origin(self, request: web.Request) -> None:
        """Check that no page of another site sends a request that changes something (CSRF)."""
        if request.method in _SAFE:
            return
        origin = request.headers.get("Origin")
        host = request.headers["Host"]
        if origin is not None and not is_same_origin(origin, host, request.scheme, self._hosts):
            raise Refusal("Requests from pages of another origin are not accepted.", status=403)
        if request.path not in _FORMS and request.headers.get(FIELD) != "1":
            detail = f"A request that changes something needs the field {FIELD}: 1."
            raise Refusal(detail, status=403)


def is_still_admitted(request: web.Request, sessions: Sessions) -> bool:
    """Report whether the session of a request that was admitted, if it has one, has not ended."""
    if request[HOW] != "session":
        return True
    return sessions.valid(cookie_of(request.headers.getall("Cookie", [])))


def check_guesses(guard: TokenGuard, address: str) -> None:
    """Raise a `Refusal` if the address has sent too many wrong tokens."""
    if wait := guard.wait(address):
        detail = "Too many wrong tokens. Try again later."
        raise Refusal(detail, status=429, fields={"Retry-After": str(wait)})


def log_guess(guard: TokenGuard, address: str) -> None:
    """Log it if the address has just sent one wrong token too many."""
    if guard.wait(address):
        log.warning("operator.locked", address=address)


def _refusal(request: web.Request, why: web.HTTPException) -> Refusal:
    if isinstance(why, web.HTTPMethodNotAllowed):
        allow = ", ".join(sorted(why.allowed_methods))
        detail = f"Allowed methods: {allow}."
        return Refusal(detail, name="method-not-allowed", fields={"Allow": allow})
    if why.status == 404:
        return Refusal(f"There is nothing at {request.path}.", status=404)
    return Refusal(why.text or why.reason, status=why.status)
