"""One request of a client to VB365 and its response back, byte for byte (CONTRACT §12).

Theory of operation. Everything happens in callbacks of the two connections: what arrives on one is
written to the other at once, and a slow reader pauses the other side. Framing is parsed only as far
as needed to find the end. An `Exchange` is in one `Phase`; it begins in WAITING if an idle
connection to VB365 may be used, else in DIALLING:

    DIALLING ── connected, request sent ──> WAITING
    WAITING ── a used connection closes without a byte, the request is repeatable ──> DIALLING
    WAITING ── head of the final response ──> RESPONDING ── end of its body ──> ENDED
    WAITING ── 101 ──> TUNNEL ── either side closes ──> ENDED
    every phase ── a failure, or the client leaves ──> ENDED

The request's body is forwarded in every phase but DIALLING, since VB365 may respond early. It is
held for each reason of `Hold`, and read again when none is left.
"""

from __future__ import annotations

import asyncio
import logging

from proxy.core.errors import Problem
from proxy.core.http.bodies import NOTHING, Body, body_of
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
    asks_tunnel,
    response_bytes,
    websocket,
)
from proxy.core.http.reuse import is_repeatable
from proxy.downstream.duplex import ClientSide
from proxy.downstream.endings import Ending
from proxy.ports import UpstreamFailure
from proxy.relay.phases import Hold, Phase
from proxy.relay.waiting import WaitingBody
from proxy.upstream.connection import Connection
from proxy.upstream.pool import Pool
from proxy.upstream.problems import malformed_response, no_response, not_connected, not_taken

#: Looking an enumeration's member up costs more than it should on the hot path.
_LENGTH, _CHUNKED, _UNTIL_CLOSE = Framing.LENGTH, Framing.CHUNKED, Framing.CLOSE

_log = logging.getLogger(__name__)

_DIALLING, _WAITING, _RESPONDING, _TUNNEL, _ENDED = Phase


class Exchange(WaitingBody):
    """One request and its response, between a client connection and a connection to VB365."""

    __slots__ = (
        "_body",
        "_buffer",
        "_client",
        "_head",
        "_interims",
        "_keep",
        "_message",
        "_phase",
        "_response",
        "_task",
        "_whole",
    )

    #: The problems for a request that has no response.
    not_connected = staticmethod(not_connected)
    no_response = staticmethod(no_response)

    def __init__(
        self, pool: Pool, client: ClientSide, head: Head, message: bytes, *, whole: bool
    ) -> None:
        super().__init__(pool)
        self._client = client
        self._head = head
        self._message = message
        self._phase = _DIALLING
        #: True once the request is complete.
        self._whole = whole
        self._task: asyncio.Task[None] | None = None
        self._buffer: bytearray | None = None
        self._response: ResponseHead | None = None
        self._body: Body | None = None
        self._interims = 0
        #: Whether the response says that the client's connection is kept.
        self._keep = False

    def __repr__(self) -> str:
        """Request line without the query, phase and status, and why the body is held."""
        method, path = self._head.method, self._head.target.partition(b"?")[0]
        words = [method.decode("latin-1"), path.decode("latin-1"), self._phase.value]
        if self._response is not None:
            words.append(str(self._response.status))
        if held := [str(reason.name).lower() for reason in Hold if reason in self._held]:
            words.append(f"held={','.join(held)}")
        return f"<Exchange {' '.join(words)}>"

    # Called by the client connection; see `duplex.Exchange`.

    @property
    def begun(self) -> bool:
        """Whether bytes of the final response are written."""
        return self._phase in (_RESPONDING, _TUNNEL)

    def feed(self, data: bytes) -> None:
        """Forward bytes of the request's body."""
        connection = self._connection
        if connection is None:
            self._early.append(data)
            self._hold(Hold.DIALLING)
            self._wait()
        elif self._early or connection.has_unread():
            # a write that fails would lose a response that is not read yet
            self._early.append(data)
            self._hold(Hold.RESPONSE)
            if len(self._early) == 1:
                asyncio.get_running_loop().call_soon(self._feed_on)
        else:
            connection.write(data)

    def _feed_on(self) -> None:
        """Send the delayed bytes once everything that VB365 has sent is read."""
        connection = self._connection
        if connection is None or not self._early:
            return
        if connection.has_unread():
            asyncio.get_running_loop().call_soon(self._feed_on)
        else:
            try:
                connection.write(b"".join(self._early))
                self._early.clear()
                self._unhold(Hold.RESPONSE)
            except MemoryError:  # a part may be sent
                self._client.break_off(Ending.ABORTED)

    def _hold(self, reason: Hold) -> None:
        self._held |= reason
        self._client.hold()

    def _unhold(self, reason: Hold) -> None:
        self._held &= ~reason
        if not self._held:
            self._taken()
            self._client.unhold()

    def release(self) -> None:
        """Read the request's body again, whatever held it."""
        if self._held:
            self._unhold(self._held)

    def end(self) -> None:
        """Note that the request is complete."""
        self._whole = True

    def client_left(self) -> None:
        """Close VB365's connection: the client has left."""
        if self._task is not None:
            self._task.cancel()
            # cancelled, it refers to this: the cycle would keep the head
            self._task = None
        self._disconnect(flush=self._phase is _TUNNEL)
        self._phase = _ENDED
        self._taken()

    def make_room(self) -> None:
        """Give up: VB365 has taken nothing of the request's body for longest."""
        self._disconnect()
        if self.begun:
            self._client.break_off(Ending.ABORTED)
        else:
            self.client_left()
            self.fail(not_taken())

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
        self._phase = _DIALLING
        self._task = asyncio.get_running_loop().create_task(self._dial())

    async def _dial(self) -> None:
        try:
            connection = await self._pool.connect()
            self._task = None
            self.send_on(connection)
            self._unhold(Hold.DIALLING)
        except UpstreamFailure as failure:
            self._task = None
            self._phase = _ENDED
            _log.warning("request failed: %s", failure)
            self.fail(self.not_connected(failure))
        except MemoryError:  # a part of the request may be sent
            self._client.break_off(Ending.ABORTED)

    def send_on(self, connection: Connection) -> None:
        """Send the request and the part of its body that has arrived on `connection`."""
        self._connection = connection
        self._phase = _WAITING
        message = self._message
        if not connection.used:  # the request is not sent again
            self._message = b""
        try:
            if self._early:
                message = b"".join((message, *self._early))
                self._early.clear()
            connection.ask(self, self._head, message)
            if self._client.slow:
                connection.pause()
        except BaseException:  # no memory: nobody else would close it
            self._disconnect()
            raise

    # Called by VB365's connection; see `upstream.connection.Receiver`.

    def pause_writing(self) -> None:
        """Pause the request's body: VB365 reads slowly."""
        self._hold(Hold.SLOW)
        self._wait()

    def resume_writing(self) -> None:
        """Resume the request's body."""
        self._moved = True
        self._pool.unread.discard(self)
        self._unhold(Hold.SLOW)

    def data_received(self, data: bytes) -> None:
        """Forward bytes of the response."""
        if self._phase is _TUNNEL:
            self._client.write(data)
            return
        try:
            if self._body is None:
                self._heads(data)
            else:
                forward, rest = self._body.feed(data)
                if forward:
                    self._client.write(forward)
                if self._body.done:
                    self._finish(rest)
        except MalformedMessage as why:
            self._malformed(why)

    def connection_ended(self, why: Exception | None) -> None:
        """Finish, repeat or fail the request: VB365 closed or broke the connection."""
        try:
            self._disconnected(why)
        except MemoryError:  # the client would wait for ever
            self._client.break_off(Ending.ABORTED)

    def _disconnected(self, why: Exception | None) -> None:
        connection, self._connection = self._connection, None
        phase, self._phase = self._phase, _ENDED
        self._taken()
        if phase is _TUNNEL:
            self._client.answered(keep=False)
        elif self._response is not None:
            if self._response.framing is _UNTIL_CLOSE and why is None:
                self._client.answered(keep=False)
            else:
                self._pool.counts.truncated += 1
                self._warn("broke off the body of its response", why)
                self._client.break_off(Ending.UPSTREAM_CUT)
        elif (
            connection is not None
            and connection.used
            and is_repeatable(self._head)
            and not (self._interims or self._buffer)  # VB365 has sent nothing
        ):
            self.dial()  # RFC 9112 §9.3.1: the keep-alive race
        else:
            self._pool.counts.reset += 1
            self._warn("closed before its response", why)
            self.no_answer()

    def _warn(self, fault: str, why: Exception | None) -> None:
        _log.warning("%s %s: %s", self._pool.label, fault, why or "closed")

    def no_answer(self) -> None:
        """End: the request was sent, and its connection closed without a response."""
        self.fail(self.no_response())

    def fail(self, problem: Problem) -> None:
        """End: the request has no response."""
        self._taken()
        self._client.problem(problem)

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
            response = parse_response(head, self._head.method)
            if response.status >= 200:
                self._begin(response, data)
                return
            self._interims += 1
            if response.status == 101:
                self._switch(response, data)
                return
            if self._interims > MAX_INTERIM:
                raise MalformedMessage("it has too many interim responses")
            if self._head.minor:
                self._client.interim(response_bytes(response))
            if not data:
                return

    def _begin(self, response: ResponseHead, rest: bytes) -> None:
        """Write the final head and the part of the body that arrived with it."""
        old = self._head.minor == 0
        dechunked = old and response.framing is _CHUNKED
        if response.framing is _LENGTH and response.length == len(rest):  # as most responses arrive
            body: Body = NOTHING
            forward, rest = rest, b""
        else:
            body, forward = body_of(response.framing, response.length, decode=old), b""
            if rest and not body.done:
                forward, rest = body.feed(rest)
        delimited = response.framing is not _UNTIL_CLOSE and not dechunked
        client = self._client
        self._keep = self._whole and self._head.keep_alive and delimited and not client.closing
        connection = (KEEP_ALIVE if old else b"") if self._keep else CLOSE
        self._phase = _RESPONDING
        self._response, self._body = response, body
        out = response_bytes(response, connection, dechunked=dechunked) + forward
        client.code = response.status
        client.write(out)
        if body.done:
            self._finish(rest)
        else:
            client.responding()

    def _switch(self, response: ResponseHead, rest: bytes) -> None:
        if not (asks_tunnel(self._head) and websocket(response)):
            raise MalformedMessage("protocols were switched without being asked")
        self._phase = _TUNNEL
        self._client.code = response.status
        self._client.write(response_bytes(response) + rest)
        self._client.responding()
        self._client.tunnel()

    def _finish(self, rest: bytes) -> None:
        """End the exchange: the response is complete."""
        self._phase = _ENDED
        if self._held:
            self._taken()
        connection, self._connection = self._connection, None
        if connection is not None and self._response is not None:
            if connection.paused:  # for a slow client, but the response is whole
                connection.resume()
            private = connection.give_back(self._response, leftover=bool(rest))
            self._client.private = connection if private else self._client.private
        self._client.answered(keep=self._keep)

    def _malformed(self, why: MalformedMessage) -> None:
        self._phase = _ENDED
        self._taken()
        self._pool.counts.malformed += 1
        self._warn("sent a malformed response", why)
        self._disconnect()
        if self._body is None:
            self._client.problem(malformed_response())
        else:
            self._client.break_off(Ending.UPSTREAM_CUT)
