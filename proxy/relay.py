"""Pass-through: one request of a client to VB365 and its response back, byte for byte (§12).

Everything happens in callbacks of the two connections: what arrives on one is written to the other
at once, and a slow reader pauses the other side. Framing is parsed only as far as needed to find
the end.
"""

from __future__ import annotations

import asyncio
import logging

from proxy.core.errors import Problem
from proxy.core.http.authority import origin_form
from proxy.core.http.bodies import Body, body_of
from proxy.core.http.heads import (
    MAX_INTERIM,
    Framing,
    Head,
    MalformedMessage,
    ResponseHead,
    find_response_end,
    parse_response,
)
from proxy.core.http.outbound import (
    CLOSE,
    KEEP_ALIVE,
    Forwarding,
    asks_tunnel,
    request_bytes,
    response_bytes,
    websocket,
)
from proxy.core.http.reuse import Outgoing, outgoing
from proxy.downstream.duplex import ClientSide
from proxy.ports import LocalShortage, UpstreamFailure, UpstreamTimedOut
from proxy.upstream.connection import Connection
from proxy.upstream.pool import Pool

#: Looking an enumeration's member up costs more than it should on the hot path.
_CHUNKED, _UNTIL_CLOSE = Framing.CHUNKED, Framing.CLOSE
#: Retry-After in seconds when this machine cannot open another connection.
_SHORTAGE_RETRY = 5

_log = logging.getLogger(__name__)


class Relay:
    """Passes requests through to the origin of `pool`.

    `preserve_host` keeps the client's Host; `forwarded` appends X-Forwarded-* and Via.
    """

    def __init__(self, pool: Pool, *, preserve_host: bool = True, forwarded: bool = False) -> None:
        self.pool = pool
        self._host = None if preserve_host else pool.authority
        self._forwarded = forwarded

    def start(self, client: ClientSide, head: Head, target: bytes, *, whole: bool) -> Exchange:
        """Forward the request with this target. `whole`: no byte of a body follows."""
        forwarding = Forwarding(client.peer, client.scheme) if self._forwarded else None
        if self._host is not None:
            # the absolute form would name the host that the client wrote
            target = origin_form(head.method, target)
        message = request_bytes(head, target, host=self._host, forwarding=forwarding)
        request = outgoing(head)
        exchange = Exchange(self.pool, client, head, request, message, whole=whole)
        private, client.private = client.private, None
        connection = self.pool.take(request, private if isinstance(private, Connection) else None)
        if connection is not None:
            exchange.send_on(connection)
        else:
            exchange.dial()
        return exchange


class Exchange:
    """One request and its response, between a client connection and a connection to VB365."""

    __slots__ = (
        "_answer",
        "_blocked",
        "_body",
        "_buffer",
        "_client",
        "_connection",
        "_early",
        "_head",
        "_interims",
        "_keep",
        "_message",
        "_pool",
        "_request",
        "_task",
        "_tunnel",
        "_whole",
    )

    def __init__(
        self,
        pool: Pool,
        client: ClientSide,
        head: Head,
        request: Outgoing,
        message: bytes,
        *,
        whole: bool,
    ) -> None:
        self._pool = pool
        self._client = client
        self._head = head
        self._request = request
        self._message = message
        self._whole = whole
        self._early: list[bytes] = []
        self._connection: Connection | None = None
        self._task: asyncio.Task[None] | None = None
        self._buffer: bytearray | None = None
        self._answer: ResponseHead | None = None
        self._body: Body | None = None
        self._interims = 0
        self._keep = False
        self._blocked = False
        self._tunnel = False

    def __repr__(self) -> str:
        """Request line without the query, and how far the exchange is."""
        if self._tunnel:
            state = "tunnel"
        elif self._answer is not None:
            state = f"responding {self._answer.status}"
        else:
            state = "dialling" if self._connection is None else "waiting for VB365"
        path = self._head.target.partition(b"?")[0].decode("latin-1")
        return f"<Exchange {self._head.method.decode('latin-1')} {path} {state}>"

    # Called by the client connection; see `duplex.Exchange`.

    @property
    def begun(self) -> bool:
        """Whether bytes of the final response are written."""
        return self._body is not None or self._tunnel

    def feed(self, data: bytes) -> None:
        """Forward bytes of the request's body."""
        connection = self._connection
        if connection is None:
            self._early.append(data)
            self._client.hold()
        elif self._early or self._is_answering(connection):
            # a write that fails would lose a response that is not read yet
            self._early.append(data)
            self._client.hold()
            if len(self._early) == 1:
                asyncio.get_running_loop().call_soon(self._feed_on)
        else:
            connection.transport.write(data)

    @staticmethod
    def _is_answering(connection: Connection) -> bool:
        return not connection.paused and connection.readable

    def _feed_on(self) -> None:
        """Send the delayed bytes once everything that VB365 has sent is read."""
        connection = self._connection
        if connection is None or not self._early:
            return
        if self._is_answering(connection):
            asyncio.get_running_loop().call_soon(self._feed_on)
            return
        connection.transport.write(b"".join(self._early))
        self._early.clear()
        if not self._blocked:
            self._client.unhold()

    def end(self) -> None:
        """Note that the request is complete."""
        self._whole = True

    def client_left(self) -> None:
        """Close VB365's connection: the client has left."""
        if self._task is not None:
            self._task.cancel()
        if self._connection is not None:
            self._connection.close(flush=self._tunnel)
            self._connection = None

    def client_slow(self) -> None:
        """Pause reading from VB365 for a client that reads slowly."""
        if self._connection is not None:
            self._connection.pause()

    def client_ready(self) -> None:
        """Resume reading from VB365."""
        if self._connection is not None:
            self._connection.resume()

    # Requests to VB365.

    def dial(self) -> None:
        """Send the request on a new connection."""
        self._task = asyncio.get_running_loop().create_task(self._dial())

    async def _dial(self) -> None:
        try:
            connection = await self._pool.connect()
        except UpstreamFailure as failure:
            self._task = None
            self._fail(failure)
        else:
            self._task = None
            self.send_on(connection)
            if not self._blocked:
                self._client.unhold()

    def send_on(self, connection: Connection) -> None:
        """Send the request and the part of its body that has arrived on `connection`."""
        self._connection = connection
        message = b"".join((self._message, *self._early)) if self._early else self._message
        self._early.clear()
        connection.ask(self, self._request, message)

    def _fail(self, failure: UpstreamFailure) -> None:
        _log.warning("pass-through failed: %s", failure)
        if isinstance(failure, UpstreamTimedOut):
            problem = Problem(
                "upstream-timeout", "Veeam Backup for Microsoft 365 could not be reached in time."
            )
        elif isinstance(failure, LocalShortage):
            text = "The proxy has no descriptor, port or memory for another connection. Try again."
            problem = Problem("capacity-exhausted", text, retry_after=_SHORTAGE_RETRY)
        else:
            problem = Problem(
                "upstream-unreachable", "Veeam Backup for Microsoft 365 could not be reached."
            )
        self._client.problem(problem)

    # Called by VB365's connection; see `upstream.connection.Receiver`.

    def pause_writing(self) -> None:
        """Pause the request's body: VB365 reads slowly."""
        self._blocked = True
        self._client.hold()

    def resume_writing(self) -> None:
        """Resume the request's body."""
        self._blocked = False
        if not self._early:
            self._client.unhold()

    def data_received(self, data: bytes) -> None:
        """Forward bytes of the response."""
        if self._tunnel:
            self._client.transport.write(data)
            return
        try:
            if self._body is None:
                self._heads(data)
            else:
                forward, rest = self._body.feed(data)
                if forward:
                    self._client.transport.write(forward)
                if self._body.done:
                    self._finish(rest)
        except MalformedMessage as why:
            self._malformed(why)

    def connection_ended(self, why: Exception | None) -> None:
        """Finish, repeat or fail the request: VB365 closed or broke the connection."""
        connection, self._connection = self._connection, None
        if self._tunnel:
            self._client.answered(keep=False)
        elif self._body is not None:
            if self._answer is not None and self._answer.framing is _UNTIL_CLOSE and why is None:
                self._client.answered(keep=False)
            else:
                _log.warning("the upstream broke its answer's body: %s", why or "closed")
                self._client.break_off()
        elif (
            connection is not None
            and connection.used
            and self._request.repeatable
            and not self._heard
        ):
            self.dial()  # RFC 9112 §9.3.1: the keep-alive race
        else:
            _log.warning("the upstream closed before its answer: %s", why or "closed")
            self._client.problem(
                Problem(
                    "upstream-unreachable",
                    "Veeam Backup for Microsoft 365 closed the connection unanswered.",
                )
            )

    @property
    def _heard(self) -> bool:
        """Whether VB365 has sent anything."""
        return bool(self._interims or self._buffer)

    def _heads(self, data: bytes) -> None:
        """Forward interim responses, then begin the final one."""
        searched = 0
        held = self._buffer
        if held is not None:
            searched = len(held)
            held += data
        while True:
            end = find_response_end(data if held is None else held, searched)
            if end < 0:
                self._buffer = bytearray(data) if held is None else held
                return
            head, data = (
                (data[:end], data[end:]) if held is None else (bytes(held[:end]), bytes(held[end:]))
            )
            searched, held, self._buffer = 0, None, None
            answer = parse_response(head, self._head.method)
            if answer.status >= 200:
                self._begin(answer, data)
                return
            self._interims += 1
            if answer.status == 101:
                self._switch(answer, data)
                return
            if self._interims > MAX_INTERIM:
                raise MalformedMessage("it has too many interim answers")
            if self._head.minor:
                self._client.interim(response_bytes(answer))
            if not data:
                return

    def _begin(self, answer: ResponseHead, rest: bytes) -> None:
        """Write the final head and the part of the body that arrived with it."""
        old = self._head.minor == 0
        dechunked = old and answer.framing is _CHUNKED
        body = body_of(answer.framing, answer.length, decode=old)
        delimited = answer.framing is not _UNTIL_CLOSE and not dechunked
        self._keep = (
            self._whole and self._head.keep_alive and delimited and not self._client.closing
        )
        connection = (KEEP_ALIVE if old else b"") if self._keep else CLOSE
        out = response_bytes(answer, connection, dechunked=dechunked)
        if rest and not body.done:
            forward, rest = body.feed(rest)
            out += forward
        self._answer = answer
        self._body = body
        self._client.transport.write(out)
        if body.done:
            self._finish(rest)

    def _switch(self, answer: ResponseHead, rest: bytes) -> None:
        if not (asks_tunnel(self._head) and websocket(answer)):
            raise MalformedMessage("protocols were switched without being asked")
        self._tunnel = True
        self._client.transport.write(response_bytes(answer) + rest)
        self._client.tunnel()

    def _finish(self, rest: bytes) -> None:
        """End the exchange: the response is complete."""
        connection, self._connection = self._connection, None
        if connection is not None and self._answer is not None:
            private = connection.give_back(self._answer, leftover=bool(rest))
            self._client.private = connection if private else None
        self._client.answered(keep=self._keep)

    def _malformed(self, why: MalformedMessage) -> None:
        _log.warning("the upstream's answer is malformed: %s", why)
        connection, self._connection = self._connection, None
        if connection is not None:
            connection.close()
        if self._body is None:
            self._client.problem(
                Problem(
                    "upstream-unreachable",
                    "Veeam Backup for Microsoft 365 sent a malformed answer.",
                )
            )
        else:
            self._client.break_off()
