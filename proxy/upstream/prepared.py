"""A connection to VB365 that is opened while the request for it is still being prepared."""

from __future__ import annotations

import asyncio

from proxy.upstream.connection import Connection
from proxy.upstream.pool import Pool


class EarlyConnection:
    """Begins to connect at once. Whoever creates one calls `take` or `close`."""

    def __init__(self, pool: Pool) -> None:
        self._pool = pool
        self._opening: asyncio.Task[Connection] | None = asyncio.create_task(pool.connect())

    async def take(self) -> Connection:
        """The connection, or a new one if VB365 has closed it. To be called once. Raises as
        `Pool.connect`.
        """
        opening, self._opening = self._opening, None
        if opening is None:
            return await self._pool.connect()
        try:
            connection = await asyncio.shield(opening)
        except BaseException:
            _abandon(opening)
            raise
        finally:
            # its exception refers to this frame, and to those that have the request
            del opening
        if not connection.closed and not connection.readable():
            return connection
        connection.close()
        return await self._pool.connect()

    def close(self) -> None:
        """Close the connection unless it was taken. Idempotent."""
        opening, self._opening = self._opening, None
        if opening is not None:
            _abandon(opening)


def _abandon(opening: asyncio.Task[Connection]) -> None:
    opening.add_done_callback(_close)
    opening.cancel()


def _close(opening: asyncio.Task[Connection]) -> None:
    if not opening.cancelled() and opening.exception() is None:
        opening.result().close()
