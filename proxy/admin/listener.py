"""Health for operators and orchestrators: /healthz and /readyz (CONTRACT §15)."""

from __future__ import annotations

import hmac
from collections.abc import Awaitable, Callable

from aiohttp import web

#: The names of what is checked, with what is wrong about each; None when it is well.
Checks = Callable[[], Awaitable[dict[str, str | None]]]
_OPEN = ("/healthz", "/readyz")


class Admin:
    """The admin application. `token` is asked for on all but the health paths; `checks` tells readiness."""

    def __init__(self, *, checks: Checks, token: str | None) -> None:
        self._checks = checks
        self._token = token
        self.draining = False

    def application(self) -> web.Application:
        """What to serve."""
        application = web.Application(middlewares=[self._guard])
        application.router.add_get("/healthz", self._health)
        application.router.add_get("/readyz", self._ready)
        return application

    @web.middleware
    async def _guard(
        self, request: web.Request, handler: Callable[[web.Request], Awaitable[web.StreamResponse]]
    ) -> web.StreamResponse:
        if self._token is not None and request.path not in _OPEN:
            sent = request.headers.get("Authorization", "")
            if not hmac.compare_digest(sent.encode(), f"Bearer {self._token}".encode()):
                return web.json_response(
                    {"error": "Send the admin token: Authorization: Bearer …"},
                    status=401,
                    headers={"WWW-Authenticate": "Bearer"},
                )
        return await handler(request)

    async def _health(self, request: web.Request) -> web.Response:
        return web.json_response({"status": "alive"})

    async def _ready(self, request: web.Request) -> web.Response:
        """503 first thing on shutdown, so that balancers look elsewhere before the listener closes."""
        problems = {"shutdown": "the proxy is stopping"} if self.draining else await self._checks()
        ready = not any(problems.values())
        return web.json_response({"ready": ready, "checks": problems}, status=200 if ready else 503)
