"""The admin listener: its application and its connections (CONTRACT §16)."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable, Collection, Iterable
from functools import partial

from aiohttp import web
from aiohttp.http import HttpProcessingError

from proxy.admin.admission import Admission
from proxy.admin.connections import Connections
from proxy.admin.guard import TokenGuard
from proxy.admin.login import Login
from proxy.admin.responses import SEALED, bad_request, json_response
from proxy.admin.sessions import Sessions
from proxy.net.descriptors import MAX_ADMIN

#: Returns the reason why a check failed by the check's name, None if it succeeded.
Checks = Callable[[], Awaitable[dict[str, str | None]]]
#: Returns the metrics and their Content-Type, given the Accept field of the request.
Rendered = Callable[[str], Awaitable[tuple[bytes, str]]]
#: Seconds that each request of a connection may take to arrive, counted from the last response.
REQUEST_TIMEOUT = 10.0
#: Seconds to read the rest of a body after the response, so that this arrives. A stop waits for it.
_LINGER = 1.0
#: Bytes of a request's body.
_MAX_BODY = 64 << 10


class Admin:
    """The admin application.

    `hosts` are its names beside localhost and IP addresses. `guard` protects all paths but the
    health checks and the login page; its sessions are `sessions`. `notes` returns, by the check's
    name, what an operator should correct although the check succeeds. `metrics` renders /metrics,
    `routes` are those of /api and of the pages, and `closing` is called when the listener closes.
    At most `max_connections` are open.
    """

    def __init__(
        self,
        *,
        checks: Checks,
        hosts: Collection[str],
        guard: TokenGuard | None,
        sessions: Sessions | None = None,
        notes: Callable[[], dict[str, str | None]] = dict,
        metrics: Rendered | None = None,
        routes: Iterable[web.RouteDef] = (),
        closing: Callable[[web.Application], Awaitable[None]] | None = None,
        max_connections: int = MAX_ADMIN,
    ) -> None:
        self._metrics = metrics
        self._notes = notes
        self._checks = checks
        self._routes = routes
        self._closing = closing
        sessions = sessions or Sessions(asyncio.get_running_loop().time)
        self._login = Login(guard, sessions)
        #: For `listen`.
        self.connections = Connections(max_connections)
        self._admission = Admission(
            hosts=hosts,
            guard=guard,
            sessions=sessions,
            login=self._login.response,
            connections=self.connections,
        )
        self.draining = False

    def application(self) -> web.Application:
        """Return the application to serve."""
        application = web.Application(
            middlewares=[self._admission.admit], client_max_size=_MAX_BODY
        )
        application.router.add_get("/healthz", self._health)
        application.router.add_get("/readyz", self._ready)
        if self._metrics is not None:
            application.router.add_get("/metrics", partial(self._show_metrics, self._metrics))
        application.router.add_routes([*self._login.routes(), *self._routes])
        if self._closing is not None:
            application.on_shutdown.append(self._closing)
        return application

    async def _health(self, request: web.Request) -> web.Response:
        return json_response({"status": "alive"})

    async def _show_metrics(self, metrics: Rendered, request: web.Request) -> web.Response:
        body, content_type = await metrics(", ".join(request.headers.getall("Accept", ())))
        return web.Response(body=body, headers=SEALED | {"Content-Type": content_type})

    async def _ready(self, request: web.Request) -> web.Response:
        """Return 503 as soon as shutdown begins, so that load balancers use other replicas before
        the listener closes.

        With `?exclude=NAME,NAME` these checks are reported and not counted, for balancers: while
        VB365 or a store is away, all replicas fail alike, and none of them is to be taken out.
        """
        if self.draining:
            reasons: dict[str, str | None] = {"shutdown": "the proxy is stopping"}
        else:
            reasons = await self._checks()
        excluded = {
            name for names in request.query.getall("exclude", ()) for name in names.split(",")
        }
        if not self.draining and (unknown := excluded - reasons.keys()):
            known = ", ".join(sorted(reasons))
            raise bad_request(f"exclude={min(unknown)} is none of the checks: {known}.")
        ready = not self.draining and not any(
            why for name, why in reasons.items() if name not in excluded
        )
        notes = self._notes()
        checks = {name: _shown(why, notes.get(name)) for name, why in reasons.items()}
        return json_response({"ready": ready, "checks": checks}, 200 if ready else 503)


def runner(application: web.Application) -> web.AppRunner:
    """Return a runner for `listen`."""
    logger = logging.getLogger(__name__)
    logger.addFilter(_is_no_message_error)
    return web.AppRunner(
        application,
        access_log=None,
        keepalive_timeout=REQUEST_TIMEOUT,
        lingering_time=_LINGER,
        logger=logger,
    )


def _is_no_message_error(record: logging.LogRecord) -> bool:
    """Report whether the error is to be logged. Any client can cause any number of those of
    malformed messages, which quote them, perhaps with a token, and of connections that have ended.
    """
    why = (record.exc_info or (None, None))[1]
    return not isinstance(why, HttpProcessingError | web.RequestPayloadError | ConnectionError)


async def listen(
    runner: web.AppRunner, connections: Connections, host: str, port: int
) -> asyncio.Server:
    """Serve the application of a runner that has been set up. Raises OSError."""
    server = runner.server
    assert server is not None  # noqa: S101  # set up
    accept = partial(connections.accept, server)
    return await asyncio.get_running_loop().create_server(accept, host, port)


def _shown(why: str | None, note: str | None) -> dict[str, bool | str]:
    """Return a check's result as JSON; a note is the reason of a check that succeeded."""
    reason = note if why is None else why
    return {"ok": why is None} | ({} if reason is None else {"reason": reason})
