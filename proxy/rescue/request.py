"""The body of a request that may be rescued, until it is whole or must be relayed."""

from __future__ import annotations

import asyncio
from collections.abc import Callable

from proxy.core.http.bodies import Chunks
from proxy.core.http.heads import Framing, Head, MalformedMessage
from proxy.core.pace import Pace
from proxy.net.budget import Budget, Share
from proxy.ports import Fields

#: Bytes that are decoded before other requests have their turn: a few milliseconds if the chunks
#: have one byte each.
_PIECE = 32 << 10
#: Returns what bounds the bodies of all requests of callers like the one with these fields.
Memory = Callable[[Fields], Budget]


class GatheredBody:
    """The bytes of a body, as they were sent. All such bodies share `memory`; `limit` is
    `exports.max_request_body`.
    """

    def __init__(self, head: Head, memory: Memory, limit: int, now: float) -> None:
        self._chunked = head.framing is Framing.CHUNKED
        self.memory = Share(memory(head.fields))
        self._limit = limit
        self._pace = Pace(now)
        self.raw = bytearray()

    def add(self, data: bytes, now: float) -> bool:
        """Append `data`. Return False if the body is too large, the memory is used up, or the body
        arrives too slowly to stay in memory: then the request is relayed, with `data`.
        """
        self.raw += data
        if len(self.raw) > self._limit or now > self._pace.due or not self.memory.take(len(data)):
            return False
        self._pace.arrived(len(data), now)
        return True

    async def content(self) -> bytes | None:
        """The whole body without its framing, None if it is not one."""
        raw = bytes(self.raw)
        if not self._chunked or not raw:
            return raw
        chunks, content = Chunks(decode=True), bytearray()
        try:
            for start in range(0, len(raw), _PIECE):
                payload, rest = chunks.feed(raw[start : start + _PIECE])
                content += payload
                if chunks.done:
                    return bytes(content) if not rest and start + _PIECE >= len(raw) else None
                await asyncio.sleep(0)
        except MalformedMessage:
            pass
        return None

    def taken(self) -> bytes:
        """What has arrived, as it was sent. Its memory counts until `memory` is released."""
        raw, self.raw = bytes(self.raw), bytearray()
        return raw

    def release(self) -> None:
        """Release the memory, unless it is held elsewhere. Idempotent."""
        self.memory.release()
        self.raw = bytearray()
