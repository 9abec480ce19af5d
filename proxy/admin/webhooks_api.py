"""The receivers of webhooks below /api, and the redelivery of notifications (CONTRACT §16, §17)."""

from __future__ import annotations

from typing import Any, Protocol

from aiohttp import web

from proxy.admin.admission import HOW
from proxy.admin.lookup import Lookup
from proxy.admin.responses import bad_request, json_response
from proxy.jobs import events


class Receivers(Protocol):
    """What delivers webhooks. Both methods may raise `StoreUnavailable`."""

    async def show(self) -> list[dict[str, Any]]:
        """Return each receiver as JSON, without the path and the query of its URL."""

    async def again(self, id: str) -> str | None:
        """Send the last notification of the job to all receivers again, and return its type. None
        if there is no such job.
        """


class WebhooksApi:
    """Handles /api/webhooks, and the redelivery of a job's notification. `receivers` is None if
    there are none.
    """

    def __init__(self, receivers: Receivers | None, lookup: Lookup) -> None:
        self._receivers = receivers
        self._lookup = lookup

    def routes(self) -> list[web.RouteDef]:
        """Return the routes."""
        return [
            web.get("/api/webhooks", self._list),
            web.post("/api/jobs/{id}/webhooks/redeliver", self._redeliver),
        ]

    async def _list(self, request: web.Request) -> web.Response:
        results = [] if self._receivers is None else await self._receivers.show()
        return json_response({"results": results})

    async def _redeliver(self, request: web.Request) -> web.Response:
        """202: the notification is in the outbox again, with the id that it had."""
        job = await self._lookup.existing(request.match_info["id"])
        if self._receivers is None:
            raise bad_request("webhooks.urls is empty: there are no receivers.")
        found = await self._receivers.again(job.id)
        if found is None:
            await self._lookup.existing(job.id)  # it has been removed meanwhile
        events.operated("redeliver", job, how=request[HOW])
        return json_response({"id": job.id, "type": found}, 202)
