"""The clients' side: one protocol per connection that frames one request at a time and hands it on.

What `decide` calls a `Relay` is passed through by `proxy.relay`; everything else is ours and goes
to the handler.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable
from typing import cast

from aiohttp import web
from multidict import CIMultiDict

from proxy.core.errors import internal_error
from proxy.core.http.heads import Head
from proxy.core.routing import Decision
from proxy.downstream.base import BaseConnection, Counters
from proxy.downstream.bridge import OPTIONS, Bridge
from proxy.downstream.connection import ClientConnection
from proxy.downstream.duplex import ClientSide, Forwarder
from proxy.downstream.whole_response import Verbatim
from proxy.net.budget import Budget
from proxy.net.descriptors import CROWD
from proxy.ports import WholeResponse

_log = logging.getLogger(__name__)

#: CONTRACT §12: bytes of all clients' unfinished heads and waiting requests together.
_WAITING = 64 << 20

#: Answers a request of the proxy's own, given aiohttp's view of it, its head as the client sent it
#: and the decision on it.
Handler = Callable[[web.BaseRequest, Head, Decision], Awaitable[web.StreamResponse | WholeResponse]]


class Server:
    """Makes the protocol of each client connection, for a `proxy.downstream.listener.Listener`.
    Needs a running loop.

    `handler` answers what `decide` does not relay. `head_timeout` bounds in seconds a request's
    head and every stall of its body, `idle_timeout` the wait for a next request. `max_connections`
    0 is no limit.
    """

    def __init__(
        self,
        *,
        handler: Handler,
        relay: Forwarder,
        decide: Callable[[Head], Decision],
        head_timeout: float = 60.0,
        idle_timeout: float = 150.0,
        max_connections: int = 0,
    ) -> None:
        self.relay = relay
        self.decide = decide
        self.head_timeout = head_timeout
        self.idle_timeout = idle_timeout
        self.counters = Counters()
        self.waiting = Budget(_WAITING)
        self.draining = False
        self._max_connections = max_connections
        self._handler = handler
        self._server = web.Server(self._serve, **OPTIONS)
        self._clients: set[BaseConnection] = set()
        #: Accepted connections that are not made yet, and whether they may be served.
        self._arriving: dict[BaseConnection, bool] = {}
        self._empty: asyncio.Future[None] | None = None

    def __call__(self) -> ClientConnection:
        """A protocol for a new connection."""
        return ClientConnection(self)

    @property
    def open(self) -> int:
        """Client connections that are open, unfinished TLS handshakes included."""
        return len(self._clients) + len(self._arriving)

    @property
    def busy(self) -> int:
        """Client connections with a request in progress."""
        return sum(client.busy for client in self._clients)

    def lane(self, client: ClientSide) -> Bridge:
        """aiohttp's half of a client connection."""
        return Bridge(client, self._server)

    def arrive(self, client: BaseConnection) -> bool:
        """Count a connection that is accepted; `enter` or `leave` follows. False: it is to be
        closed without an answer.

        A few beyond the limit may enter, so that they can be told.
        """
        if self.draining or (self._max_connections and self.open >= self._max_connections + CROWD):
            self.counters.turned_away += 1
            return False
        self._arriving[client] = not self._max_connections or self.open < self._max_connections
        return True

    def enter(self, client: BaseConnection) -> bool:
        """Count a new connection; False if it is one too many."""
        welcome = self._arriving.pop(client, None)
        if welcome is None:
            welcome = not self._max_connections or self.open < self._max_connections
        self._clients.add(client)
        self.counters.accepted += 1
        if self.draining or not welcome:
            self.counters.turned_away += 1
            return False
        return True

    def leave(self, client: BaseConnection) -> None:
        """A connection is gone."""
        self._clients.discard(client)
        self._arriving.pop(client, None)
        if self._empty is not None and not self._clients and not self._empty.done():
            self._empty.set_result(None)

    async def drain(self, deadline: float) -> None:
        """Close idle connections now, busy ones after their answer, what is left after `deadline`
        seconds at once.
        """
        self.draining = True
        for client in list(self._clients):
            client.drain()
        if self._clients:
            self._empty = asyncio.get_running_loop().create_future()
            await asyncio.wait([self._empty], timeout=deadline)
        for client in list(self._clients):
            client.break_off()
        await self._server.shutdown(1.0)

    async def _serve(self, request: web.BaseRequest) -> web.StreamResponse:
        """Run the handler, send its answer to the end, and give the connection back."""
        lane = cast(Bridge, request.transport)
        response = await self._answer(request, *lane.request)
        if lane.closing and not response.prepared:
            response.force_close()
        await response.prepare(request)
        await response.write_eof()
        if _short(request, response):
            raise RuntimeError("the answer is shorter than its Content-Length")
        lane.answered(keep=bool(response.keep_alive))
        return response

    async def _answer(
        self, request: web.BaseRequest, head: Head, decision: Decision
    ) -> web.StreamResponse:
        try:
            response = await self._handler(request, head, decision)
            return Verbatim(response) if isinstance(response, WholeResponse) else response
        except web.HTTPException as answer:
            return web.Response(
                status=answer.status, reason=answer.reason, headers=answer.headers, body=answer.body
            )
        except Exception:
            if request.writer.output_size:
                raise  # aiohttp logs it and closes: the client sees a broken answer
            _log.exception("a handler failed")
            return _failed()


def _short(request: web.BaseRequest, response: web.StreamResponse) -> bool:
    """A streamed answer must have been written as long as it was announced (with `write`, not
    `write_eof`).
    """
    if (
        isinstance(response, web.Response)
        or request.method == "HEAD"
        or response.status in (204, 304)
    ):
        return False
    return bool(request.writer.length)


def _failed() -> web.Response:
    status, headers, content = internal_error()
    return web.Response(status=status, headers=CIMultiDict(headers), body=content)
