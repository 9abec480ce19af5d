"""Receives the bodies of kick-offs within one shared memory limit (CONTRACT §3.1)."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass

from aiohttp import web

from proxy.api.request import ApiRequest
from proxy.core.errors import Problem
from proxy.core.pace import Pace
from proxy.net.budget import Part, Share
from proxy.ports import Fields

#: Seconds after which a client may retry when all memory is in use.
_RETRY_AFTER = 5
_CLOSE = (("Connection", "close"),)


@dataclass(frozen=True, slots=True)
class RequestBody:
    """A whole body, and the memory that counts for it."""

    content: bytes
    memory: Share


class _Arriving:
    """A body that is being received, and the memory that counts for it."""

    __slots__ = ("content", "ended", "memory", "pace", "timeout")

    def __init__(self, memory: Share) -> None:
        now = asyncio.get_running_loop().time()
        self.memory = memory
        self.pace = Pace(now)
        # not a list of pieces, each of which takes 50 bytes more than it contains
        self.content = bytearray()
        self.timeout = asyncio.timeout_at(self.pace.due)
        #: True once it has made room for others.
        self.ended = False

    def make_room(self) -> None:
        """Release the memory at once, and let whoever receives the body find that."""
        self.ended = True
        self.memory.release()
        self.content = bytearray()
        if not self.timeout.expired():
            self.timeout.reschedule(0)


class RequestBodies:
    """Receives bodies of at most `max_body` bytes each, those of callers whom the proxy does not
    know within `part` of the memory for all. `knows` reports whether VB365 has accepted the
    credentials in a request's fields.
    """

    def __init__(self, *, max_body: int, part: Part, knows: Callable[[Fields], bool]) -> None:
        self._max_body = max_body
        self._part = part
        self._knows = knows
        #: Those of unknown callers.
        self._strangers: dict[_Arriving, None] = {}

    @asynccontextmanager
    async def receive(self, request: ApiRequest) -> AsyncIterator[RequestBody]:
        """Receive the whole body. Its memory counts until the context ends, and as long as it is
        held. Raises `Problem`.

        A client that disconnects before the end of its body cancels this.
        """
        memory = Share(self._part.whole if self._knows(request.fields) else self._part)
        try:
            yield RequestBody(await self._body(request, memory), memory)
        finally:
            memory.release()

    async def _body(self, request: ApiRequest, memory: Share) -> bytes:
        self._admit(request.head.content_length or 0)
        arriving = _Arriving(memory)
        if memory.budget is self._part:
            self._strangers[arriving] = None
        try:
            async with arriving.timeout:
                await self._receive(request, arriving)
        except TimeoutError as why:
            if arriving.ended:
                raise _exhausted() from why
            detail = "The body of an export must arrive at 1 KiB/s or more, over any 60 s."
            raise Problem(
                "bad-request", detail, headers=_CLOSE, status=web.HTTPRequestTimeout.status_code
            ) from why
        finally:
            self._strangers.pop(arriving, None)
        return bytes(arriving.content)

    async def _receive(self, request: ApiRequest, arriving: _Arriving) -> None:
        content, now = request.inner.content, asyncio.get_running_loop().time
        while not content.at_eof():
            piece = await content.readany()
            if arriving.ended:
                raise _exhausted()
            self._admit(len(arriving.content) + len(piece))
            arriving.pace.arrived(len(piece), now())
            self._take(arriving, len(piece))
            arriving.content += piece
            arriving.timeout.reschedule(arriving.pace.due)

    def _take(self, arriving: _Arriving, size: int) -> None:
        """Count `size` more bytes of the body. Raises `Problem` if there are not enough.

        Memory is reserved as bytes arrive, not as announced: an announcement costs a client
        nothing. Bodies that together exceed the memory do not wait for each other: those of unknown
        callers end, the one first whose last 60 KiB took longest. So nobody who keeps to the pace
        that is asked for, and no more, holds the memory for hours.
        """
        if arriving.memory.take(size):
            return
        for slowest in sorted(self._strangers, key=lambda each: each.pace.due):
            if slowest is arriving:
                break
            del self._strangers[slowest]
            slowest.make_room()
            if arriving.memory.take(size):
                return
        raise _exhausted()

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


def _exhausted() -> Problem:
    detail = (
        "The bodies of exports that are being received use all of exports.body_memory. Try again."
    )
    return Problem("capacity-exhausted", detail, retry_after=_RETRY_AFTER, headers=_CLOSE)
