"""The routes of the pages: the dashboard at / and the files below /static (CONTRACT §16)."""

from __future__ import annotations

import json
from collections.abc import Awaitable, Callable, Iterable
from typing import Any

from aiohttp import web

from proxy.admin.pages.assets import Assets, page
from proxy.admin.pages.dashboard import PARAMETERS, dashboard
from proxy.admin.responses import Refusal


class Site:
    """Serves the pages. What they show is what /api returns: `status` reads its state, `jobs` the
    page of rows for a query, and `job` one row; both raise a `Refusal`. `guarded`: readers sign in.
    `now` returns Unix seconds.
    """

    def __init__(
        self,
        *,
        status: Callable[[], Awaitable[dict[str, Any]]],
        jobs: Callable[[Iterable[tuple[str, str]]], Awaitable[bytes]],
        job: Callable[[str], Awaitable[bytes]],
        guarded: bool,
        now: Callable[[], float],
    ) -> None:
        self._status = status
        self._jobs = jobs
        self._job = job
        self._guarded = guarded
        self._now = now

    def routes(self) -> list[web.RouteDef]:
        """Return the routes."""
        return [web.get("/", self._show), web.get("/static/{name:.+}", Assets().serve)]

    async def _show(self, request: web.Request) -> web.Response:
        query = {name: value for name, value in request.query.items() if name in PARAMETERS}
        jobs = json.loads(await self._jobs(query.items()))
        shown = (await self._row(request.query["job"]),) if request.query.get("job") else None
        status = await self._status()
        text = dashboard(
            status,
            jobs,
            query,
            self._now(),
            shown=shown,
            guarded=self._guarded,
        )
        return page(text)

    async def _row(self, id: str) -> Any:
        """Return the row of a job, None if there is no such job."""
        try:
            return json.loads(await self._job(id))
        except Refusal:
            return None
