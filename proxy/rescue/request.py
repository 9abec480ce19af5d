"""The body of a request that may be rescued, until it is whole or must be relayed."""

from __future__ import annotations

from proxy.core.http.bodies import Chunks
from proxy.core.http.heads import Framing, Head, MalformedMessage
from proxy.core.pace import Pace
from proxy.net.budget import Budget, Share


class GatheredBody:
    """The bytes of a body, as they were sent. All such bodies share `memory`; `limit` is
    `exports.max_request_body`.
    """

    def __init__(self, head: Head, memory: Budget, limit: int, now: float) -> None:
        self._chunked = head.framing is Framing.CHUNKED
        self.memory = Share(memory)
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

    def content(self) -> bytes | None:
        """The whole body without its framing, None if it is not one."""
        if not self._chunked or not self.raw:
            return bytes(self.raw)
        chunks = Chunks(decode=True)
        try:
            content, rest = chunks.feed(bytes(self.raw))
        except MalformedMessage:
            return None
        return content if chunks.done and not rest else None

    def release(self) -> None:
        """Release the memory, unless it is held elsewhere. Idempotent."""
        self.memory.release()
        self.raw = bytearray()
