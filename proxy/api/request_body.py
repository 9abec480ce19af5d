"""Bodies of kick-offs, received into memory that all of them share (CONTRACT §3.1)."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from aiohttp import web

from proxy.api.responses import ApiRequest
from proxy.core.errors import Problem
from proxy.core.pace import Pace
from proxy.net.budget import Budget

#: Seconds after which a client may try again when the memory is taken.
_RETRY_AFTER = 5
_CLOSE = (("Connection", "close"),)


class RequestBodies:
    """Receives bodies of at most `max_body` bytes, `memory` bytes of all clients at a time."""

    def __init__(self, *, max_body: int, memory: int) -> None:
        self._max_body = max_body
        self.memory = Budget(memory)

    @asynccontextmanager
    async def receive(self, asked: ApiRequest) -> AsyncIterator[bytes]:
        """The whole body, whose memory is the caller's until the context ends. Raises `Problem`.

        What is announced is reserved before a byte is read, a chunked body as it grows. A client
        that leaves before the end of its body ends this.
        """
        reserved = _Reserved(self.memory)
        try:
            yield await self._body(asked, reserved)
        finally:
            reserved.release()

    async def _body(self, asked: ApiRequest, reserved: _Reserved) -> bytes:
        announced = asked.head.content_length
        if announced is not None:
            self._admit(announced)
            reserved.grow_to(announced)
        content = asked.request.content
        loop = asyncio.get_running_loop()
        pace = Pace(loop.time())
        pieces: list[bytes] = []
        size = 0
        try:
            while not content.at_eof():
                async with asyncio.timeout_at(pace.due):
                    piece = await content.readany()
                size += len(piece)
                self._admit(size)
                reserved.grow_to(size)
                pace.arrived(len(piece), loop.time())
                pieces.append(piece)
        except TimeoutError as why:
            detail = "The body of an export must arrive with 1 KiB/s, over any 60 s."
            raise Problem(
                "bad-request", detail, headers=_CLOSE, status=web.HTTPRequestTimeout.status_code
            ) from why
        return b"".join(pieces)

    def _admit(self, size: int) -> None:
        if size > self._max_body:
            raise Problem(
                "request-too-large",
                (
                    f"The body of an export may have {self._max_body} bytes "
                    "(exports.max_request_body)."
                ),
                headers=_CLOSE,
            )


class _Reserved:
    """Bytes of `memory` that are taken for one body."""

    __slots__ = ("_memory", "_size")

    def __init__(self, memory: Budget) -> None:
        self._memory = memory
        self._size = 0

    def grow_to(self, size: int) -> None:
        """Take more if `size` is more than is taken. Raises `Problem`."""
        more = size - self._size
        if more <= 0:
            return
        if not self._memory.take(more):
            detail = (
                "The bodies of exports that are being received take all of "
                "exports.body_memory. Try again."
            )
            raise Problem("capacity-exhausted", detail, retry_after=_RETRY_AFTER, headers=_CLOSE)
        self._size = size

    def release(self) -> None:
        """Give everything back."""
        self._memory.give(self._size)
        self._size = 0
