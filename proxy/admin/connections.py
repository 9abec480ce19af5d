"""The connections of the admin listener: strangers cannot use all of them for long."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from aiohttp import web


class Connections:
    """Makes room for new connections beyond `limit`: the oldest one is closed that waits for its
    client, which has sent no whole request or does not read the response, or whose request is not
    `kept`. The task of such a request is cancelled.
    """

    def __init__(self, limit: int) -> None:
        self._limit = limit
        #: Those whose whole request is being handled and kept.
        self._kept: set[asyncio.BaseProtocol] = set()
        #: The tasks of the other requests that are being handled, by connection.
        self._tasks: dict[asyncio.BaseProtocol, asyncio.Task[Any]] = {}

    @contextmanager
    def serving(self, request: web.Request, *, kept: bool) -> Iterator[None]:
        """Note a request while it is handled. Its connection is `kept` if all of it is there."""
        connection, task = request.protocol, asyncio.current_task()
        if task is None or not request.content.is_eof():
            yield
        elif kept:
            self._kept.add(connection)
            try:
                yield
            finally:
                self._kept.discard(connection)
        else:
            self._tasks[connection] = task
            try:
                yield
            finally:
                del self._tasks[connection]

    def accept(self, server: web.Server) -> asyncio.Protocol:
        """Make the protocol of a new connection."""
        if len(server.connections) < self._limit or self._close_one(server):
            return server()
        return _Refused()

    def _close_one(self, server: web.Server) -> bool:
        for each in server.connections:
            transport = each.transport
            # not isinstance(transport, asyncio.Transport): uvloop's transports are no instances
            if transport is None or transport.is_closing():
                continue
            if each not in self._kept or transport.get_write_buffer_size():
                transport.abort()
                if (task := self._tasks.get(each)) is not None:
                    task.cancel()  # else strangers could make any number of them
                return True
        return False


class _Refused(asyncio.Protocol):
    """Closes its connection at once."""

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Called by the loop."""
        transport.close()
