"""The connections of the admin listener: strangers cannot use all of them for long."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from aiohttp import web


class Connections:
    """Makes room for new connections beyond `limit`: of those that wait for their client, the
    oldest one is closed. Such a connection has no whole request, its client does not read the
    response, or its request waits for a check that all requests share.
    """

    def __init__(self, limit: int) -> None:
        self._limit = limit
        #: Those whose whole request is being handled.
        self._served: set[asyncio.BaseProtocol] = set()
        #: The tasks of the requests that wait for a check, by connection.
        self._waiting: dict[asyncio.BaseProtocol, asyncio.Task[Any]] = {}

    @contextmanager
    def serving(self, request: web.Request) -> Iterator[None]:
        """Keep the connection of a request while it is handled, if all of the request is there."""
        if not request.content.is_eof():
            yield
            return
        served = request.protocol
        self._served.add(served)
        try:
            yield
        finally:
            self._served.discard(served)

    @contextmanager
    def waiting(self, request: web.Request) -> Iterator[None]:
        """Allow that the connection is closed and the task cancelled, while the request waits for a
        result that other requests wait for too.
        """
        connection, task = request.protocol, asyncio.current_task()
        if task is None or connection not in self._served:
            yield
            return
        self._served.discard(connection)
        self._waiting[connection] = task
        try:
            yield
        finally:
            del self._waiting[connection]
            self._served.add(connection)

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
            if each not in self._served or transport.get_write_buffer_size():
                transport.abort()
                if (task := self._waiting.get(each)) is not None:
                    task.cancel()  # else strangers could make any number of them
                return True
        return False


class _Refused(asyncio.Protocol):
    """Closes its connection at once."""

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Called by the loop."""
        transport.close()
