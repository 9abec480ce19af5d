"""Receives the bodies of kick-offs within one shared memory limit (CONTRACT §3.1)."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass

from aiohttp import web

from proxy.api.request import ApiRequest
from proxy.core.errors import Problem
from proxy.core.pace import Pace
from proxy.net.budget import Budget, Share

#: Seconds after which a client may retry when all memory is in use.
_RETRY_AFTER = 5
_CLOSE = (("Connection", "close"),)


@dataclass(frozen=True, slots=True)
class RequestBody:
    """A whole body, and the memory that counts for it."""

    content: bytes
    memory: Share


class RequestBodies:
    """Receives bodies of at most `max_body` bytes each, those of all clients within
    `memory`.
    """

    def __init__(self, *, max_body: int, memory: Budget) -> None:
        self._max_body = max_body
        self.memory = memory

    @asynccontextmanager
    async def receive(self, request: ApiRequest) -> AsyncIterator[RequestBody]:
        """Receive the whole body. Its memory counts until the context ends, and as long as it is
        held. Raises `Problem`.

        A client that disconnects before the end of its body cancels this.
        """
        memory = Share(self.memory)
        try:
            yield RequestBody(await self._body(request, memory), memory)
        finally:
            memory.release()

    async def _body(self, request: ApiRequest, memory: Share) -> bytes:
        self._admit(request.head.content_length or 0)
        # Memory is reserved as bytes arrive, not as announced: an announcement costs a client
        # nothing. Bodies that together exceed the memory do not wait for each other: the one that
        # cannot grow gets 503, which releases what it has, so that the others can.
        content = request.inner.content
        loop = asyncio.get_running_loop()
        pace = Pace(loop.time())
        # not a list of pieces, each of which takes 50 bytes more than it contains
        body = bytearray()
        try:
            while not content.at_eof():
                async with asyncio.timeout_at(pace.due):
                    piece = await content.readany()
                self._admit(len(body) + len(piece))
                _take(memory, len(piece))
                pace.arrived(len(piece), loop.time())
                body += piece
        except TimeoutError as why:
            detail = "The body of an export must arrive at 1 KiB/s or more, over any 60 s."
            raise Problem(
                "bad-request", detail, headers=_CLOSE, status=web.HTTPRequestTimeout.status_code
            ) from why
        return bytes(body)

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


def _take(memory: Share, size: int) -> None:
    """Count `size` more bytes. Raises `Problem` if there are not enough."""
    if not memory.take(size):
        detail = (
            "The bodies of exports that are being received use all of exports.body_memory. "
            "Try again."
        )
        raise Problem("capacity-exhausted", detail, retry_after=_RETRY_AFTER, headers=_CLOSE)
