"""Changes as they happen: /api/events, a stream of Server-Sent Events (CONTRACT §16)."""

from __future__ import annotations

import asyncio
import contextlib
import json
import socket
from collections.abc import Awaitable, Callable
from typing import Any

import structlog
from aiohttp import web

from proxy.admin.job_index import INTERVAL, JobIndex
from proxy.admin.responses import SEALED, Refusal
from proxy.core.amounts import plural
from proxy.ports import Changes, StoreUnavailable

log = structlog.get_logger(__name__)

#: Streams at a time, at most: they take no more than half of the listener's connections.
MAX_STREAMS = 32
#: Seconds between two comments, which keep proxies in between from closing the stream.
COMMENT = 15.0
#: Seconds after which a client that does not read is dropped.
_PATIENCE = 10.0
#: Seconds between two looks at the state, and looks from one that asks VB365 and the stores to the
#: next.
_LOOK, _PROBE = 1.0, 5
#: Bytes that may be on their way to a client, in the system and in the process.
_SENT, _UNSENT = 32 << 10, 16 << 10


class _Client:
    """What one stream has not sent yet."""

    def __init__(self, jobs: Changes) -> None:
        self.jobs = jobs
        self.status: bytes | None = None


class Stream:
    """Serves streams, and sends them the state while `run` runs. `status` reads the state;
    `admitted` returns whether the session of a request has not ended. `max_connections` is the
    listener's limit.
    """

    def __init__(
        self,
        *,
        index: JobIndex,
        status: Callable[..., Awaitable[dict[str, Any]]],
        admitted: Callable[[web.Request], bool],
        max_connections: int,
    ) -> None:
        self._index = index
        self._status = status
        self._admitted = admitted
        self._max_connections = max_connections
        self._clients: set[_Client] = set()
        self._tasks: set[asyncio.Task[Any]] = set()
        self._closed = False

    def routes(self) -> list[web.RouteDef]:
        """Return the routes."""
        return [web.get("/api/events", self._serve, allow_head=False)]

    async def run(self) -> None:
        """Send the state when it changes, until cancelled."""
        last: dict[str, Any] = {}
        looks = 0
        while True:
            await asyncio.sleep(_LOOK)
            if not self._clients:
                continue
            looks += 1
            try:
                found = await self._status(probe=looks % _PROBE == 0)
            except Exception:
                # streams must outlive a failure to read the state
                log.exception("state not read")
                continue
            if found | {"now": ""} != last:
                last = found | {"now": ""}
                data = _event("status", json.dumps(found).encode())
                for client in self._clients:
                    client.status = data

    async def close(self, application: web.Application) -> None:
        """End all streams: otherwise the listener would wait for them to end."""
        self._closed = True
        for task in self._tasks:
            task.cancel()

    async def _serve(self, request: web.Request) -> web.StreamResponse:
        limit = min(MAX_STREAMS, self._max_connections // 2)
        if self._closed or len(self._tasks) >= limit:
            detail = f"There are {plural(limit, 'stream')} of events already. Close one of them."
            fields = {"Retry-After": "15"}
            raise Refusal(detail, name="capacity-exhausted", fields=fields)
        task = asyncio.current_task()
        assert task is not None  # noqa: S101  # a handler runs in one
        self._tasks.add(task)
        try:
            return await self._stream(request)
        finally:
            self._tasks.discard(task)

    async def _stream(self, request: web.Request) -> web.StreamResponse:
        response = web.StreamResponse(headers=SEALED | {"X-Accel-Buffering": "no"})
        response.content_type = "text/event-stream"
        response.charset = "utf-8"
        # before the head is sent: what its client reads after it misses no change
        with self._index.watch() as jobs:
            client = _Client(jobs)
            first = _event("status", json.dumps(await self._status()).encode())
            self._clients.add(client)
            try:
                _bound(request)
                await response.prepare(request)
                await _send(response, b"retry: 2000\n\n" + first)
                await self._follow(request, response, client)
            except (ConnectionError, asyncio.CancelledError):
                _abort(request)  # its client has left, or the proxy stops
            except TimeoutError:
                log.info(
                    "event stream dropped", reason="the client does not read", client=request.remote
                )
                _abort(request)
            except Exception:
                log.exception("event stream failed")
                _abort(request)  # its head is sent: there can be no other response
            finally:
                self._clients.discard(client)
        return response

    async def _follow(
        self, request: web.Request, response: web.StreamResponse, client: _Client
    ) -> None:
        """Send what changes, until the session ends. Raises TimeoutError and ConnectionError."""
        loop = asyncio.get_running_loop()
        comment = loop.time() + COMMENT
        while self._admitted(request):
            # a job that changes often is one event in each interval
            await asyncio.sleep(INTERVAL)
            if loop.time() >= comment:
                comment += COMMENT
                await _send(response, b": still here\n\n")
            if client.status is not None:
                data, client.status = client.status, None
                await _send(response, data)
            for changed in client.jobs.take():
                if changed is None:
                    raise TimeoutError
                await _send(response, await self._changed(client, changed))

    async def _changed(self, client: _Client, id: str) -> bytes:
        try:
            row = await self._index.row(id)
        except StoreUnavailable:
            client.jobs.put(id)  # sent when the store is back
            return b""
        if row is None:
            return _event("removed", json.dumps({"id": id}).encode())
        return _event("job", row)


def _event(name: str, data: bytes) -> bytes:
    return b"event: %b\ndata: %b\n\n" % (name.encode(), data)


async def _send(response: web.StreamResponse, data: bytes) -> None:
    if data:  # a chunk without data would end the body
        async with asyncio.timeout(_PATIENCE):
            await response.write(data)


def _bound(request: web.Request) -> None:
    """Bound what the system and the process keep for a client that does not read."""
    transport = request.transport
    if transport is None:
        raise ConnectionResetError
    found = transport.get_extra_info("socket")
    if found is not None:
        with contextlib.suppress(OSError):
            found.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, _SENT)
    transport.set_write_buffer_limits(high=_UNSENT)


def _abort(request: web.Request) -> None:
    if request.transport is not None:
        request.transport.abort()
