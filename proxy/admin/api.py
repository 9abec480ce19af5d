"""The routes of /api (CONTRACT §16)."""

from __future__ import annotations

from aiohttp import web

from proxy.admin.acts import Acts
from proxy.admin.history import History, minutes_of
from proxy.admin.jobs_api import JobsApi
from proxy.admin.responses import json_response
from proxy.admin.status import Status
from proxy.admin.stream import Stream
from proxy.admin.webhooks_api import WebhooksApi


class Api:
    """Everything below /api. `replica` is the id of this process among replicas, if there are
    any: the history is its own.
    """

    def __init__(
        self,
        *,
        status: Status,
        history: History,
        jobs: JobsApi,
        acts: Acts,
        webhooks: WebhooksApi,
        stream: Stream,
        replica: str | None,
    ) -> None:
        self.status = status
        self.history = history
        self.jobs = jobs
        self.stream = stream
        self._acts = acts
        self._webhooks = webhooks
        self._replica = replica

    def routes(self) -> list[web.RouteDef]:
        """Return the routes."""
        return [
            web.get("/api/status", self._status),
            web.get("/api/history", self._history),
            *self.jobs.routes(),
            *self._acts.routes(),
            *self._webhooks.routes(),
            *self.stream.routes(),
        ]

    async def _status(self, request: web.Request) -> web.Response:
        return json_response(await self.status())

    async def _history(self, request: web.Request) -> web.Response:
        minutes = minutes_of(request.query.get("minutes"))
        found = self.history.read(minutes)
        return json_response({"replica": self._replica, "results": found})
