"""The proxy's own calls to VB365 (`ports.Upstream`): jobs, preflight, access checks."""

from __future__ import annotations

import asyncio
from collections import deque

from proxy.core.http.authority import origin_form
from proxy.core.http.bodies import Body, body_of
from proxy.core.http.fields import end_to_end, value_of
from proxy.core.http.heads import (
    MAX_INTERIM,
    Framing,
    Head,
    MalformedMessage,
    ResponseHead,
    find_answer_end,
    parse_request,
    parse_response,
)
from proxy.core.http.reuse import Outgoing, outgoing
from proxy.ports import (
    Fields,
    Response,
    UpstreamBroken,
    UpstreamFailure,
    UpstreamTimedOut,
    UpstreamUnreachable,
)
from proxy.upstream.connection import Connection
from proxy.upstream.pool import Pool

#: Bytes of a body that wait for `read` before U is made to wait.
_HIGH = 1 << 20


class HttpUpstream:
    """`ports.Upstream` over a pool of connections of its own: waiting exports starve nobody.

    Without `preserve_host` the Host of every request is U's own (CONTRACT §12
    `upstream.preserve_host`). With `questions` no body and no unsafe method is ever sent: no caller
    writes on these connections (CONTRACT §2).
    """

    def __init__(self, pool: Pool, *, preserve_host: bool = True, questions: bool = False) -> None:
        self._pool = pool
        self._preserve_host = preserve_host
        self._questions = questions

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
        """See `ports.Upstream.send`. Raises ValueError for a head that the proxy would not accept
        itself.
        """
        if not self._preserve_host:
            fields = [field for field in fields if field[0].lower() != b"host"]
        # a kick-off's absolute-form target names the Host of the kick-off, and its job may be
        # resumed under another
        head, read = _head(method, origin_form(method, target), fields, body, self._pool.authority)
        request, message = outgoing(read), head + body
        if self._questions and not request.repeatable:
            raise ValueError("a question has a safe method and no body")
        answer: _Answer | None = None
        try:
            async with asyncio.timeout(timeout):
                if (reused := self._pool.take(request)) is not None:
                    answer = _Answer(reused, request, stall)
                    if await answer.ask(message):
                        return answer
                answer = _Answer(await self._pool.connect(), request, stall)
                await answer.ask(message)
                return answer
        except TimeoutError as why:
            raise UpstreamTimedOut(
                f"no answer within {timeout:g} s", delivered=answer is not None
            ) from why

    async def close(self) -> None:
        """Close idle connections."""
        await self._pool.close()


def _head(
    method: bytes, target: bytes, fields: Fields, body: bytes, authority: bytes
) -> tuple[bytes, Head]:
    """The head of a request as bytes, and as a server reads it.

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
        read = parse_request(head)
    except MalformedMessage as why:
        raise ValueError(f"not a request: {why}") from why
    meant = tuple([(name, value.strip(b" \t")) for name, value in fields])
    if (read.method, read.target, read.fields) != (method, target, meant):
        raise ValueError("not a request: a value reads as something else")
    return head, read


class _Answer:
    """One request's answer: takes a connection's bytes in, hands the body out, makes U wait when
    nobody reads.
    """

    def __init__(self, connection: Connection, request: Outgoing, stall: float) -> None:
        self._connection = connection
        self._request = request
        self._stall = stall
        #: See `ports.Response`; they mean something once `ask` has returned.
        self.status = 0
        self.reason = b""
        self.fields: Fields = ()
        self.length: int | None = None
        self.delimited = False
        self._buffer = bytearray()
        self._interims = 0
        self._head: ResponseHead | None = None
        self._body: Body | None = None
        self._pieces: deque[bytes] = deque()
        self._held = 0
        self._over = False
        self._failure: UpstreamFailure | None = None
        self._waiter: asyncio.Future[None] | None = None

    async def ask(self, message: bytes) -> bool:
        """Send the request and wait for the head. False: the reused connection was gone before U
        could answer.
        """
        connection = self._connection
        connection.ask(self, self._request, message)
        try:
            while self._body is None:
                await self._change()
        except UpstreamUnreachable:
            if connection.used and not self._interims and not self._buffer:
                return False
            raise
        except BaseException:
            connection.close()
            raise
        return True

    async def read(self) -> bytes:
        """See `ports.Response.read`. What came before U broke is handed out first."""
        while not self._pieces:
            if self._over and self._failure is None:
                return b""
            try:
                async with asyncio.timeout(self._stall):
                    await self._change()
            except TimeoutError as why:
                self.close()
                self._failure = UpstreamTimedOut(f"no byte for {self._stall:g} s", delivered=True)
                raise self._failure from why
        data = self._pieces.popleft() if len(self._pieces) == 1 else b"".join(self._pieces)
        self._pieces.clear()
        self._held = 0
        if not self._over:
            self._connection.resume()
        return data

    def close(self) -> None:
        """Close the connection unless the body was received to its end."""
        if not self._over:
            self._over = True
            self._connection.close()

    def data_received(self, data: bytes) -> None:
        """Bytes of U."""
        if self._body is None:
            data = self._heads(data)
        if data and self._body is not None:
            self._feed(data)
        elif self._body is not None and self._body.done:
            self._finish(b"")

    def connection_ended(self, why: Exception | None) -> None:
        """U has closed or broken the connection."""
        if self._body is None:
            said = "" if why is None else f": {why}"
            text = f"the upstream closed the connection before its answer's head{said}"
            self._fail(UpstreamUnreachable(text, delivered=True))
        elif not self.delimited and why is None:
            self._over = True
        else:
            self._fail(UpstreamBroken("the upstream broke its answer's body", delivered=True))
        self._wake()

    def pause_writing(self) -> None:
        """The request is in memory as a whole; there is nobody to slow down."""

    def resume_writing(self) -> None:
        """See `pause_writing`."""

    def _heads(self, data: bytes) -> bytes:
        """Take heads up to and with the final one; returns what follows it."""
        searched = len(self._buffer)
        self._buffer += data
        try:
            while (end := find_answer_end(self._buffer, searched)) >= 0:
                head = parse_response(bytes(self._buffer[:end]), self._request.method)
                del self._buffer[:end]
                if head.status >= 200:
                    return self._begin(head)
                if head.status == 101:
                    raise MalformedMessage("protocols were switched without being asked")  # noqa: TRY301
                searched = 0
                self._interims += 1
                if self._interims > MAX_INTERIM:
                    raise MalformedMessage("it has too many interim answers")  # noqa: TRY301
        except MalformedMessage as why:
            self._connection.close()
            self._fail(
                UpstreamBroken(f"the upstream's answer is not valid HTTP: {why}", delivered=True)
            )
        return b""

    def _begin(self, head: ResponseHead) -> bytes:
        rest = bytes(self._buffer)
        self._buffer.clear()
        self.status = head.status
        self.reason = head.reason
        self.fields = end_to_end(head.fields)
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
            self._connection.close()
            self._fail(UpstreamBroken(f"the upstream's body is malformed: {why}", delivered=True))
            return
        if forward:
            self._pieces.append(forward)
            self._held += len(forward)
        if self._body.done:
            self._finish(rest)
        elif self._held > _HIGH:
            self._connection.pause()
        self._wake()

    def _finish(self, rest: bytes) -> None:
        """The body is whole. The connection ends unless it serves any other request."""
        assert self._head is not None  # noqa: S101
        self._over = True
        if self._connection.give_back(self._head, leftover=bool(rest)):
            self._connection.close()

    def _fail(self, failure: UpstreamFailure) -> None:
        self._over = True
        self._failure = failure
        self._wake()

    async def _change(self) -> None:
        """Wait until something has happened. Raises what cannot be waited out."""
        if self._failure is not None:
            raise self._failure
        self._waiter = asyncio.get_running_loop().create_future()
        try:
            await self._waiter
        finally:
            self._waiter = None

    def _wake(self) -> None:
        if self._waiter is not None and not self._waiter.done():
            self._waiter.set_result(None)
