"""The proxy's own requests to VB365 (`ports.Upstream`): jobs, preflight, access checks."""

from __future__ import annotations

import asyncio
import contextlib
from collections import deque
from collections.abc import Awaitable, Callable, Iterator
from dataclasses import replace

from proxy.core.http.authority import origin_form
from proxy.core.http.bodies import Body, body_of
from proxy.core.http.fields import end_to_end, value_of
from proxy.core.http.heads import (
    MAX_FIELDS,
    MAX_INTERIM,
    Framing,
    Head,
    MalformedMessage,
    ResponseHead,
    find_response_end,
    parse_request,
    parse_response,
)
from proxy.core.http.reuse import is_repeatable
from proxy.ports import (
    Fields,
    Response,
    ResponseLost,
    UpstreamBroken,
    UpstreamFailure,
    UpstreamTimedOut,
    UpstreamUnreachable,
)
from proxy.ports.counts import UpstreamCounts
from proxy.upstream.connection import Connection
from proxy.upstream.pool import Pool
from proxy.upstream.prepared import EarlyConnection
from proxy.upstream.source import BodySource

#: Buffered bytes of a body beyond which reading is paused.
_HIGH_WATER = 1 << 20


class HttpUpstream:
    """`ports.Upstream` over a connection pool of its own, so that exports starve no other requests.

    With `checks_only` neither a body nor an unsafe method can be sent, so that no caller writes to
    these connections (CONTRACT §2).
    """

    def __init__(self, pool: Pool, *, checks_only: bool = False) -> None:
        self._pool = pool
        self._checks_only = checks_only

    async def send(
        self,
        method: bytes,
        target: bytes,
        fields: Fields,
        body: bytes = b"",
        *,
        timeout: float,
        stall: float,
    ) -> Response:
        """See `ports.Sender.send`. Raises ValueError for a head that the proxy would reject."""
        return await self.send_over(
            self._pool.connect, method, target, fields, body, timeout=timeout, stall=stall
        )

    def prepare(self) -> PreparedRequest:
        """Begin to connect, for a request that is sent soon."""
        return PreparedRequest(self, self._pool)

    async def send_over(
        self,
        connect: Callable[[], Awaitable[Connection]],
        method: bytes,
        target: bytes,
        fields: Fields,
        body: bytes,
        *,
        timeout: float,
        stall: float,
    ) -> Response:
        """As `send`; `connect` is called if no idle connection can be reused."""
        if self._pool.imposed_host is not None:  # `_head` adds it
            fields = [field for field in fields if field[0].lower() != b"host"]
        # a kick-off's absolute-form target holds its Host, and another call with another Host may
        # resume the job
        target = origin_form(method, target)
        head, request = _head(method, target, fields, body, self._pool.authority)
        if self._checks_only and not is_repeatable(request):
            raise ValueError("a check has a safe method and no body")
        response: _StreamedResponse | None = None
        try:
            async with asyncio.timeout(timeout):
                if (reused := self._pool.take(request)) is not None:
                    response = _StreamedResponse(reused, request, stall, self._pool.counts)
                    response.send(head)
                    if await response.begun():
                        return response
                connection = await connect()
                response = _StreamedResponse(connection, request, stall, self._pool.counts)
                response.send(head, body)
                del head  # VB365 may take an hour to respond
                await response.begun()
                return response
        except TimeoutError:
            self._pool.counts.timeout += 1
        # not from the TimeoutError: by way of its `asyncio.Timeout` it refers to the task, which
        # would keep the request until the garbage collector runs
        raise UpstreamTimedOut(f"no response within {timeout:g} s", delivered=response is not None)

    async def close(self) -> None:
        """Close idle connections."""
        await self._pool.close()


class PreparedRequest:
    """`ports.Prepared`: a request of `upstream` over a connection of its own."""

    def __init__(self, upstream: HttpUpstream, pool: Pool) -> None:
        self._upstream = upstream
        self._connection = EarlyConnection(pool)

    async def send(
        self,
        method: bytes,
        target: bytes,
        fields: Fields,
        body: bytes = b"",
        *,
        timeout: float,
        stall: float,
    ) -> Response:
        """As `HttpUpstream.send`."""
        take = self._connection.take
        return await self._upstream.send_over(
            take, method, target, fields, body, timeout=timeout, stall=stall
        )

    def close(self) -> None:
        """See `ports.Prepared.close`."""
        self._connection.close()


def _head(
    method: bytes, target: bytes, fields: Fields, body: bytes, authority: bytes
) -> tuple[bytes, Head]:
    """The head of a request as bytes, and as a server reads it, without its target and fields.

    Raises ValueError if that is another request than was meant.
    """
    fields = list(fields)
    if value_of(fields, b"host") is None:
        fields.insert(0, (b"Host", authority))
    if body or method == b"POST":
        fields.append((b"Content-Length", b"%d" % len(body)))
    lines = b"".join([b"%b: %b\r\n" % field for field in fields])
    head = b"%b %b HTTP/1.1\r\n%b\r\n" % (method, target, lines)
    try:
        parsed = parse_request(head, most=MAX_FIELDS + 16)  # few are added to those of a client
    except MalformedMessage as why:
        raise ValueError(f"malformed request: {why}") from why
    expected = tuple([(name, value.strip(b" \t")) for name, value in fields])
    if (parsed.method, parsed.target, parsed.fields) != (method, target, expected):
        raise ValueError("malformed request: a value parses as something else")
    # what is kept until the response ends must not be another copy of the credentials
    return head, replace(parsed, target=b"", block=b"", kept=b"")


class _StreamedResponse:
    """The response to one request: parses a connection's bytes and buffers the body until `read`.

    Reading from the connection pauses while the buffer is full.
    """

    def __init__(
        self, connection: Connection, request: Head, stall: float, counts: UpstreamCounts
    ) -> None:
        self._counts = counts
        self._connection = connection
        self._request = request
        self._stall = stall
        #: See `ports.Response`; valid once `begun` has returned.
        self.status = 0
        self.reason = b""
        self.fields: Fields = ()
        self.lines = b""
        self.length: int | None = None
        self.delimited = False
        self._buffer = bytearray()
        self._interims = 0
        self._head: ResponseHead | None = None
        self._body: Body | None = None
        self._pieces: deque[bytes] = deque()
        self._buffered = 0
        self._over = False
        self._failure: UpstreamFailure | None = None
        self._waiter: asyncio.Future[None] | None = None

    def send(self, head: bytes, body: bytes = b"") -> None:
        """Send the request, or close the connection: there may be no memory."""
        try:
            self._connection.ask(self, self._request, head + body)
        except BaseException:
            self.close()
            raise

    async def begun(self) -> bool:
        """Wait for the head. Return False if a reused connection ended before VB365 sent a byte."""
        try:
            while self._body is None:
                await self._change()
        except UpstreamUnreachable:
            if self._connection.used and not self._interims and not self._buffer:
                return False
            self._counts.reset += 1
            raise
        except BaseException:
            # not `connection.close()`: after a whole response another request may be using it
            self.close()
            raise
        return True

    async def read(self) -> bytes:
        """See `ports.Response.read`. Bytes that arrived before a failure are returned first."""
        while not self._pieces:
            if self._over and self._failure is None:
                return b""
            try:
                async with asyncio.timeout(self._stall):
                    await self._change()
            except TimeoutError as why:
                self._counts.timeout += 1
                self.close()
                self._failure = UpstreamTimedOut(f"no byte for {self._stall:g} s", delivered=True)
                raise self._failure.again() from why
        data = self._pieces.popleft() if len(self._pieces) == 1 else b"".join(self._pieces)
        self._pieces.clear()
        self._buffered = 0
        if not self._over:
            self._connection.resume()
        return data

    @contextlib.contextmanager
    def source(self) -> Iterator[BodySource | None]:
        """See `ports.Sourced`."""
        ready = not (self._over or self._pieces or self._body is None)
        reader = self._connection.lend() if ready else None
        if reader is None or self._body is None:
            yield None
            return
        source = BodySource(reader, self._body)
        try:
            yield source
        finally:
            source.close()
            self._take_back(source, self._body)

    def _take_back(self, source: BodySource, body: Body) -> None:
        """Continue to read on the event loop."""
        self._counts.received += source.received
        if self._over:
            return
        if source.held:
            self._connection.close()
            self._fail(UpstreamBroken("a part of the body was dropped", delivered=True))
        elif isinstance(source.failure, MalformedMessage):
            self._malformed(source.failure)
        elif body.done:
            self._finish(source.rest)
        elif source.failure is not None:
            self._connection.fail(source.failure)
        else:
            self._connection.resume()

    def close(self) -> None:
        """Close the connection, unless the body has been received to its end."""
        if not self._over:
            self._over = True
            self._connection.close()

    def data_received(self, data: bytes) -> None:
        """See `upstream.connection.Receiver`."""
        if self._body is None:
            data = self._heads(data)
        if data and self._body is not None:
            self._feed(data)
        elif self._body is not None and self._body.done:
            self._finish(b"")

    def connection_ended(self, why: Exception | None) -> None:
        """See `upstream.connection.Receiver`."""
        if self._body is None:
            reason = "" if why is None else f": {why}"
            text = f"the upstream closed the connection before its response's head{reason}"
            kind = ResponseLost if isinstance(why, MemoryError) else UpstreamUnreachable
            self._fail(kind(text, delivered=True))
        elif not self.delimited and why is None:
            self._over = True
        else:
            self._counts.truncated += 1
            text = "the upstream ended the connection within its response's body"
            self._fail(UpstreamBroken(text, delivered=True))
        self._wake()

    def pause_writing(self) -> None:
        """Do nothing: the whole request is in memory."""

    resume_writing = pause_writing

    def _heads(self, data: bytes) -> bytes:
        """Parse heads up to the final one. Return the bytes that follow it."""
        searched = len(self._buffer)
        self._buffer += data
        try:
            while (end := find_response_end(self._buffer, searched)) >= 0:
                head = parse_response(bytes(self._buffer[:end]), self._request.method)
                del self._buffer[:end]
                if head.status >= 200:
                    return self._begin(head)
                if head.status == 101:
                    raise MalformedMessage("it switches protocols unasked")  # noqa: TRY301
                searched = 0
                self._interims += 1
                if self._interims > MAX_INTERIM:
                    raise MalformedMessage("it has too many interim responses")  # noqa: TRY301
        except MalformedMessage as why:
            self._counts.malformed += 1
            self._connection.close()
            text = f"the upstream's response is not valid HTTP: {why}"
            self._fail(UpstreamBroken(text, delivered=True))
        return b""

    def _begin(self, head: ResponseHead) -> bytes:
        rest = bytes(self._buffer)
        self._buffer.clear()
        self.status = head.status
        self.reason = head.reason
        self.fields = end_to_end(head.fields)
        self.lines = head.kept
        self.length = head.length if head.framing in (Framing.LENGTH, Framing.NONE) else None
        self.delimited = head.framing is not Framing.CLOSE
        self._head = head
        self._body = body_of(head.framing, head.length, decode=True)
        self._wake()
        return rest

    def _feed(self, data: bytes) -> None:
        assert self._body is not None  # noqa: S101
        if self._body.done:
            self._finish(data)
            return
        try:
            forward, rest = self._body.feed(data)
        except MalformedMessage as why:
            self._malformed(why)
            return
        if forward:
            self._pieces.append(forward)
            self._buffered += len(forward)
        if self._body.done:
            self._finish(rest)
        elif self._buffered > _HIGH_WATER:
            self._connection.pause()
        self._wake()

    def _malformed(self, why: MalformedMessage) -> None:
        self._counts.malformed += 1
        self._connection.close()
        self._fail(UpstreamBroken(f"the upstream's body is malformed: {why}", delivered=True))

    def _finish(self, rest: bytes) -> None:
        """Give the connection back at the end of the body."""
        assert self._head is not None  # noqa: S101
        self._over = True
        if self._connection.give_back(self._head, leftover=bool(rest)):
            self._connection.close()

    def _fail(self, failure: UpstreamFailure) -> None:
        self._over = True
        self._failure = failure
        self._wake()

    async def _change(self) -> None:
        """Wait for the next event of the connection. Raises its failure, if it has failed."""
        if self._failure is not None:
            raise self._failure.again()
        self._waiter = asyncio.get_running_loop().create_future()
        try:
            await self._waiter
        finally:
            self._waiter = None

    def _wake(self) -> None:
        if self._waiter is not None and not self._waiter.done():
            self._waiter.set_result(None)
