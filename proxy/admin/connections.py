"""The connections of the admin listener: strangers cannot use all of them for long."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Iterator, Sequence
from collections.abc import Set as AbstractSet
from contextlib import asynccontextmanager, contextmanager

from aiohttp import web


class Connections:
    """Makes room for new connections beyond `limit`: the oldest one is closed that waits for its
    client, which has sent no whole request or does not read the response, or whose request is not
    `kept`. Streams are kept, and a quarter of the limit for requests that change something. Other
    requests that are being handled are spared, unless most of the connections have one: /readyz
    may wait for VB365 for longer than a storm of connections needs to use all of them.

    aiohttp counts a connection until its task ends, also one without a client, and waits for the
    rest of a body after the response. Such tasks are cancelled.
    """

    def __init__(self, limit: int) -> None:
        self._limit = limit
        #: For requests that change something. With streams they leave a quarter of the connections.
        self._turns = asyncio.Semaphore(max(limit // 4, 1))
        #: Bytes that clients have sent. aiohttp keeps those of malformed requests in reference
        #: cycles: see `parts.garbage`.
        self.returned = 0
        #: Those whose whole request is being handled and kept.
        self._kept: set[asyncio.BaseProtocol] = set()
        #: Those whose whole request is being handled, but for the kept ones.
        self._handled: set[asyncio.BaseProtocol] = set()
        #: The tasks of connections that may be cancelled.
        self._tasks: dict[asyncio.BaseProtocol, asyncio.Task[None]] = {}
        #: Those that were closed and that aiohttp still counts.
        self._closed: set[asyncio.BaseProtocol] = set()

    @contextmanager
    def serving(self, request: web.Request, *, kept: bool) -> Iterator[None]:
        """Note a request while it is handled. One that is `kept` is not cancelled, and its
        connection is kept if all of it is there.
        """
        connection = request.protocol
        if not kept:
            self._tasks[connection] = request.task
            if request.content.is_eof():
                self._handled.add(connection)
            try:
                yield
            finally:
                self._handled.discard(connection)
            return
        self._tasks.pop(connection, None)
        if request.content.is_eof():
            self._kept.add(connection)
        try:
            yield
        finally:
            self._kept.discard(connection)
            self._tasks[connection] = request.task

    @asynccontextmanager
    async def changing(self, request: web.Request) -> AsyncIterator[None]:
        """Keep a request that changes something, once it has a turn. Until then nothing has
        changed, and it may be cancelled.
        """
        async with self._turns:
            with self.serving(request, kept=True):
                yield

    def accept(self, server: web.Server) -> asyncio.Protocol:
        """Make the protocol of a new connection."""
        connections = server.connections
        self._closed.intersection_update(connections)
        for each in self._tasks.keys() - connections:
            del self._tasks[each]
        if self._open(connections) < self._limit or self._close_one(connections):
            return _Counted(server(), self)
        return _Refused()

    def _open(self, connections: Sequence[web.RequestHandler]) -> int:
        """Count the connections, and end those without a client."""
        for each in connections:
            if each.transport is None:
                self._cancel(each)
        return len(connections) - len(self._closed)

    def _close_one(self, connections: Sequence[web.RequestHandler]) -> bool:
        handled = self._handled - self._kept
        if 2 * len(handled) <= self._limit - len(self._kept):
            return self._close_oldest(connections, self._kept | handled)
        return self._close_oldest(connections, self._kept)

    def _close_oldest(
        self, connections: Sequence[web.RequestHandler], spared: AbstractSet[asyncio.BaseProtocol]
    ) -> bool:
        for each in connections:
            transport = each.transport
            # not isinstance(transport, asyncio.Transport): uvloop's transports are no instances
            if transport is None or each in self._closed:
                continue
            if each not in spared or transport.get_write_buffer_size():
                transport.abort()
                self._closed.add(each)
                self._cancel(each)
                return True
        return False

    def _cancel(self, connection: asyncio.BaseProtocol) -> None:
        """Cancel the connection's task, else strangers could make any number of them."""
        if (task := self._tasks.pop(connection, None)) is not None:
            task.cancel()
            self._closed.add(connection)


class _Counted(asyncio.Protocol):
    """Passes everything to `handler`, and counts what arrives."""

    def __init__(self, handler: asyncio.Protocol, connections: Connections) -> None:
        self._connections = connections
        self.handler = handler
        self.connection_made = handler.connection_made  # type: ignore[method-assign]
        self.eof_received = handler.eof_received  # type: ignore[method-assign]
        self.connection_lost = handler.connection_lost  # type: ignore[method-assign]
        self.pause_writing = handler.pause_writing  # type: ignore[method-assign]
        self.resume_writing = handler.resume_writing  # type: ignore[method-assign]

    def data_received(self, data: bytes) -> None:
        """Called by the loop."""
        self._connections.returned += len(data)
        self.handler.data_received(data)


class _Refused(asyncio.Protocol):
    """Closes its connection at once."""

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Called by the loop."""
        transport.close()
