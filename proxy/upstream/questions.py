"""The requests of access checks (CONTRACT §2: nothing of the caller's but Authorization and
Cookie).
"""

from __future__ import annotations

import asyncio

from proxy.ports import Upstream, UpstreamFailure
from proxy.upstream.credentials import Credentials
from proxy.upstream.problems import unreachable

#: VB365's statuses by credentials and target, shared by the checks of one request. Denials are
#: included, so that a list checks each session once however many jobs it has.
Statuses = dict[tuple[Credentials, str], "asyncio.Task[int]"]


class Questions:
    """Sends GET requests to VB365 of which only the status counts. `timeout` is in seconds."""

    def __init__(self, upstream: Upstream, *, timeout: float) -> None:
        self._upstream = upstream
        self._timeout = timeout
        self._pending: Statuses = {}

    async def status(
        self, target: str, credentials: Credentials, statuses: Statuses | None = None
    ) -> int:
        """Return VB365's status for a GET. Equal concurrent requests are sent once. Raises
        `Problem` 503.
        """
        key = (credentials, target)
        task = (statuses or {}).get(key) or self._pending.get(key)
        if task is None:
            task = asyncio.create_task(self._get(target.encode("latin-1"), credentials))
            self._pending[key] = task
            task.add_done_callback(lambda done: self._finished(key, done))
        if statuses is not None:
            statuses[key] = task
        try:
            return await asyncio.shield(task)
        except UpstreamFailure as why:
            raise unreachable() from why

    def _finished(self, key: tuple[Credentials, str], task: asyncio.Task[int]) -> None:
        del self._pending[key]
        if not task.cancelled():
            task.exception()  # mark it as retrieved: all waiters may have been cancelled

    async def _get(self, target: bytes, credentials: Credentials) -> int:
        response = await self._upstream.send(
            b"GET", target, credentials.fields, timeout=self._timeout, stall=self._timeout
        )
        try:
            # read a short body to its end, so that the connection can be reused
            async with asyncio.timeout(self._timeout):
                for _ in range(8):
                    if not await response.read():
                        break
        except (UpstreamFailure, TimeoutError):
            pass  # only the status matters; close() drops the connection
        finally:
            response.close()
        return response.status
