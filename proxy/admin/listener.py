"""The admin listener: /healthz, /readyz and /metrics (CONTRACT §16)."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Collection
from functools import partial

from aiohttp import web

from proxy.admin.guard import TokenGuard, is_served

#: Returns the reason why a check failed by the check's name, None if it succeeded.
Checks = Callable[[], Awaitable[dict[str, str | None]]]
#: Returns the metrics and their Content-Type, given the Accept field of the request.
Rendered = Callable[[str], Awaitable[tuple[bytes, str]]]
_OPEN = ("/healthz", "/readyz")
_FIELDS = {"Cache-Control": "no-store"}
#: The maximum number of open connections. Further ones are closed at once.
MAX_CONNECTIONS = 256
#: Seconds within which each request of a connection arrives, counted from the last response.
REQUEST_TIMEOUT = 10.0


class Admin:
    """The admin application.

    `hosts` are its names beside localhost and IP addresses. `guard` protects all paths but the
    health checks. `notes` returns, by the check's name, what an operator should correct although
    the check succeeds. `metrics` renders /metrics.
    """

    def __init__(
        self,
        *,
        checks: Checks,
        hosts: Collection[str],
        guard: TokenGuard | None,
        notes: Callable[[], dict[str, str | None]] = dict,
        metrics: Rendered | None = None,
    ) -> None:
        self._metrics = metrics
        self._notes = notes
        self._checks = checks
        self._hosts = hosts
        self._guard = guard
        self.draining = False

    def application(self) -> web.Application:
        """Return the application to serve."""
        application = web.Application(middlewares=[self._admit])
        application.router.add_get("/healthz", self._health)
        application.router.add_get("/readyz", self._ready)
        if self._metrics is not None:
            application.router.add_get("/metrics", partial(self._show_metrics, self._metrics))
        return application

    @web.middleware
    async def _admit(
        self, request: web.Request, handler: Callable[[web.Request], Awaitable[web.StreamResponse]]
    ) -> web.StreamResponse:
        hosts = request.headers.getall("Host", [])
        # the authority of an absolute-form target would override Host (RFC 9112 §3.2.2)
        if (
            len(hosts) != 1
            or not is_served(hosts[0], self._hosts)
            or not request.raw_path.startswith("/")
        ):
            return _error(
                421, "Ask by IP address, as localhost, or by a name that admin.hosts lists."
            )
        if self._guard is not None and request.path not in _OPEN:
            return self._denial(self._guard, request) or await handler(request)
        return await handler(request)

    def _denial(self, guard: TokenGuard, request: web.Request) -> web.Response | None:
        """Return the error for a request without a valid token, None with one."""
        sent, address = request.headers.get("Authorization"), request.remote or ""
        if sent is not None and (wait := guard.wait(address)):
            return _error(
                429, "Too many wrong tokens. Try again later.", {"Retry-After": str(wait)}
            )
        if sent is None or not guard.accepts(sent, address):
            return _error(
                401, "Send the admin token: Authorization: Bearer …", {"WWW-Authenticate": "Bearer"}
            )
        return None

    async def _health(self, request: web.Request) -> web.Response:
        return web.json_response({"status": "alive"}, headers=_FIELDS)

    async def _show_metrics(self, metrics: Rendered, request: web.Request) -> web.Response:
        body, content_type = await metrics(", ".join(request.headers.getall("Accept", ())))
        return web.Response(body=body, headers=_FIELDS | {"Content-Type": content_type})

    async def _ready(self, request: web.Request) -> web.Response:
        """Return 503 as soon as shutdown begins, so that load balancers use other replicas before
        the listener closes.

        With `?exclude=NAME,NAME` these checks are reported and not counted, for balancers: while
        VB365 or a store is away, all replicas fail alike, and none of them is to be taken out.
        """
        reasons = {"shutdown": "the proxy is stopping"} if self.draining else await self._checks()
        excluded = {
            name for names in request.query.getall("exclude", ()) for name in names.split(",")
        }
        if not self.draining and (unknown := excluded - reasons.keys()):
            known = ", ".join(sorted(reasons))
            return _error(400, f"exclude={min(unknown)} is none of the checks: {known}.")
        ready = not self.draining and not any(
            why for name, why in reasons.items() if name not in excluded
        )
        notes = self._notes()
        checks = {name: _shown(why, notes.get(name)) for name, why in reasons.items()}
        return web.json_response(
            {"ready": ready, "checks": checks}, status=200 if ready else 503, headers=_FIELDS
        )


async def listen(runner: web.AppRunner, host: str, port: int) -> asyncio.Server:
    """Serve the application of a runner that has been set up. Raises OSError."""
    server = runner.server
    assert server is not None  # noqa: S101  # set up

    def accept() -> asyncio.Protocol:
        return server() if len(server.connections) < MAX_CONNECTIONS else _Refused()

    return await asyncio.get_running_loop().create_server(accept, host, port)


class _Refused(asyncio.Protocol):
    """Closes its connection at once."""

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Called by the loop."""
        transport.close()


def _shown(why: str | None, note: str | None) -> dict[str, bool | str]:
    """Return a check's result as JSON; a note is the reason of a check that succeeded."""
    reason = note if why is None else why
    return {"ok": why is None} | ({} if reason is None else {"reason": reason})


def _error(status: int, text: str, fields: dict[str, str] | None = None) -> web.Response:
    return web.json_response({"error": text}, status=status, headers=_FIELDS | (fields or {}))
