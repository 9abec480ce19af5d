"""The jobs below /api, as rows (CONTRACT §16)."""

from __future__ import annotations

import asyncio
from collections.abc import Iterable

from aiohttp import web

from proxy.admin.job_index import JobIndex
from proxy.admin.job_query import parse
from proxy.admin.lookup import Lookup
from proxy.admin.responses import encoded
from proxy.admin.rows import Rows

#: Rows that are made before other tasks run: making one takes a tenth of a millisecond.
_TOGETHER = 50
#: Bytes of rows after which they run too: one with a long error of VB365 takes up to 30 ms.
_LONG = 1 << 17


class JobsApi:
    """Handles GET of /api/jobs, and of one job below it."""

    def __init__(self, index: JobIndex, lookup: Lookup, rows: Rows) -> None:
        self._index = index
        self._lookup = lookup
        self._rows = rows

    def routes(self) -> list[web.RouteDef]:
        """Return the routes."""
        return [web.get("/api/jobs", self._list), web.get("/api/jobs/{id}", self._show)]

    async def page(self, parameters: Iterable[tuple[str, str]]) -> bytes:
        """Return the page of rows that the parameters of a request select, as JSON. Raises a
        `Refusal`, and `StoreUnavailable`.
        """
        query = parse(parameters)
        await self._index.refresh()
        total, ids = self._index.select(query)
        rows, looked, long = [], 0, 0
        for each in ids:
            looked += 1
            if (row := await self._index.row(each)) is not None:
                rows.append(row)
                long += len(row)
            if looked >= _TOGETHER or long >= _LONG:
                looked = long = 0
                await asyncio.sleep(0)
        head = b'{"offset":%d,"limit":%d,"total":%d,"results":['
        return head % (query.offset, query.limit, total) + b",".join(rows) + b"]}"

    async def row(self, id: str) -> bytes:
        """Return the row of the job as JSON. Raises a `Refusal`, and `StoreUnavailable`."""
        return self._rows.encoded(await self._lookup.existing(id))

    async def _list(self, request: web.Request) -> web.Response:
        return encoded(await self.page(request.query.items()))

    async def _show(self, request: web.Request) -> web.Response:
        return encoded(await self.row(request.match_info["id"]))
