"""The clients' side: makes and counts client connections, and runs the handler of own requests.

What `decide` calls a `PassThrough` goes to the relay; every other request goes to the handler.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable
from typing import cast

from aiohttp import web
from multidict import CIMultiDict
from structlog.contextvars import bound_contextvars

from proxy.core.errors import internal_error
from proxy.core.http.heads import Head
from proxy.core.routing import Decision
from proxy.downstream.access_log import AccessLog
from proxy.downstream.base import BaseConnection
from proxy.downstream.bridge import OPTIONS, AtOnce, Bridge
from proxy.downstream.connection import ClientConnection
from proxy.downstream.duplex import ClientSide, Forwarder, Rescuing
from proxy.downstream.endings import Ending
from proxy.downstream.request_ids import request_id
from proxy.net.backlog import Backlog
from proxy.net.budget import Budget
from proxy.net.descriptors import EXTRA_CONNECTIONS
from proxy.ports.counts import ClientCounts

_log = logging.getLogger(__name__)

#: Bytes of responses that all clients may leave unread; more than a thousand slow downloads do not
#: reach it. Beyond it, those that have read nothing for `PATIENCE` seconds are broken off.
UNREAD, PATIENCE = 256 << 20, 30.0

#: Responds to a request of the proxy's own, given aiohttp's view of it, its head as the client sent
#: it and the decision on it.
Handler = Callable[[web.BaseRequest, Head, Decision], Awaitable[web.StreamResponse]]


class Server:
    """Makes a `ClientConnection` for each connection that a `Listener` accepts.

    `handler` responds to the requests that `decide` does not pass through, unless `exports`
    forwards them to the process that does. `head_timeout` bounds a request's head and each pause of
    its body, `idle_timeout` the wait for the next request, both in seconds. `max_connections` 0
    means no limit. `waiting` is memory in bytes for the unfinished heads, pipelined requests and
    large heads of all clients (CONTRACT §12). `access` logs each request. `at_once` responds to
    some of the handler's requests before it.
    """

    def __init__(
        self,
        *,
        handler: Handler | None,
        relay: Forwarder,
        decide: Callable[[Head], Decision],
        waiting: Budget,
        head_timeout: float = 60.0,
        idle_timeout: float = 150.0,
        max_connections: int = 0,
        exports: Forwarder | None = None,
        rescue: Rescuing | None = None,
        access: AccessLog | None = None,
        at_once: AtOnce | None = None,
    ) -> None:
        self.relay = relay
        self.access = access
        self.exports = exports
        self.rescue = rescue
        self.decide = decide
        self.head_timeout = head_timeout
        self.idle_timeout = idle_timeout
        self.counters = ClientCounts()
        self.uncounted = ClientCounts()
        self.now = asyncio.get_running_loop().time
        self.waiting = waiting
        self.unread = Backlog(self.now, limit=UNREAD, patience=PATIENCE)
        self.draining = False
        self._max_connections = max_connections
        self._handler = handler or _no_handler
        self._at_once = at_once
        self._server = web.Server(self._serve, **OPTIONS)
        self._clients: set[BaseConnection] = set()
        #: Connections that another process has accepted, within its limit. Strangers who fill this
        #: one must not stop the requests of the clients of others.
        self._handed_over: set[BaseConnection] = set()
        #: Accepted connections before `enter`, and whether they are within the limit.
        self._arriving: dict[BaseConnection, bool] = {}
        self._empty: asyncio.Future[None] | None = None

    def __call__(self) -> ClientConnection:
        """Make the protocol of a new connection."""
        return ClientConnection(self)

    @property
    def open(self) -> int:
        """The number of client connections, unfinished TLS handshakes included."""
        return len(self._clients) + len(self._arriving)

    @property
    def busy(self) -> int:
        """The number of client connections with a request in progress."""
        return sum(client.busy for client in self._clients)

    def connections(self) -> tuple[int, int]:
        """The numbers of client connections with and without a request in progress. Those that
        another process has accepted are its own.
        """
        here = [client.busy for client in self._clients if client.counters is self.counters]
        return sum(here), len(here) - sum(here) + len(self._arriving)

    def settle(self) -> None:
        """Bring the counts up to date: the bytes of open connections, and pending durations."""
        for client in self._clients:
            client.settle()
        self.counters.settle()
        self.uncounted.settle()

    def bridge(self, client: ClientSide) -> Bridge:
        """Make the bridge between a client connection and aiohttp."""
        return Bridge(client, self._server, self._at_once)

    def arrive(self, client: BaseConnection, *, handed_over: bool = False) -> bool:
        """Count an accepted connection; `enter` or `leave` must follow.

        Return False if it must be closed without a response. A few connections over the limit are
        let in to receive a 503.
        """
        if self.draining or not (handed_over or self._within(EXTRA_CONNECTIONS)):
            self.counters.rejected += 1
            return False
        self._arriving[client] = handed_over or self._within()
        if handed_over:
            self._handed_over.add(client)
        return True

    def _within(self, extra: int = 0) -> bool:
        """Whether another client may connect."""
        limit = self._max_connections
        return not limit or self.open - len(self._handed_over) < limit + extra

    def enter(self, client: BaseConnection) -> bool:
        """Count a new connection. Return False if it is over the limit."""
        admitted = self._arriving.pop(client, None)
        if admitted is None:
            admitted = self._within()
        self._clients.add(client)
        self.counters.accepted += 1
        if self.draining or not admitted:
            self.counters.rejected += 1
            return False
        return True

    def is_arriving(self, client: BaseConnection) -> bool:
        """Whether the accepted connection is neither used nor forgotten yet."""
        return client in self._arriving

    def leave(self, client: BaseConnection) -> None:
        """Forget a connection that has ended."""
        client.settle()
        self._clients.discard(client)
        self.unread.discard(client)
        self._arriving.pop(client, None)
        self._handed_over.discard(client)
        if self._empty is not None and not self._clients and not self._empty.done():
            self._empty.set_result(None)

    async def drain(self, deadline: float) -> None:
        """Close idle connections now, busy ones after their response, all after `deadline`
        seconds.
        """
        self.draining = True
        for client in list(self._clients):
            client.drain()
        if self._clients:
            self._empty = asyncio.get_running_loop().create_future()
            await asyncio.wait([self._empty], timeout=deadline)
        for client in list(self._clients):
            client.break_off(Ending.ABORTED)
        await self._server.shutdown(1.0)

    async def _serve(self, request: web.BaseRequest) -> web.StreamResponse:
        """Run the handler, write its response, and hand the connection back."""
        bridge = cast("Bridge", request.transport)
        response = await self._respond(request, *bridge.request)
        if bridge.begun and not response.prepared:
            # it is about a failure within another response, and must not become part of its body
            bridge.abort()
            return response
        # RFC 9112 §9.6: nothing behind a response that says so is served
        closes = bridge.closing or response.headers.get("Connection") == "close"
        if closes and not response.prepared:
            response.force_close()
        await response.prepare(request)
        await response.write_eof()
        if _short(request, response):
            raise RuntimeError("the response is shorter than its Content-Length")
        bridge.answered(keep=bool(response.keep_alive))
        return response

    async def _respond(
        self, request: web.BaseRequest, head: Head, decision: Decision
    ) -> web.StreamResponse:
        try:
            return await self._handler(request, head, decision)
        except web.HTTPException as error:
            return web.Response(
                status=error.status, reason=error.reason, headers=error.headers, body=error.body
            )
        except Exception:
            if request.writer.output_size:
                raise  # aiohttp logs it and closes, so that the response looks broken
            named = request_id(head)
            with bound_contextvars(request_id=named):
                _log.exception("a handler failed")
            return _failed(named)


def _short(request: web.BaseRequest, response: web.StreamResponse) -> bool:
    """Report whether a streamed response is shorter than its Content-Length."""
    if (
        isinstance(response, web.Response)
        or request.method == "HEAD"
        or response.status in (204, 304)
    ):
        return False
    return bool(request.writer.length)


async def _no_handler(
    request: web.BaseRequest, head: Head, decision: Decision
) -> web.StreamResponse:
    raise RuntimeError("this process hands such requests on")


def _failed(request_id: str) -> web.Response:
    status, headers, content = internal_error(request_id)
    return web.Response(status=status, headers=CIMultiDict(headers), body=content)
