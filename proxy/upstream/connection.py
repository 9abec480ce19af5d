"""One connection to VB365: whose bytes it carries now, and what becomes of it afterwards (CONTRACT
§12).
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Protocol, cast

from proxy.core.http.heads import ResponseHead
from proxy.core.http.reuse import Fate, Outgoing, fate
from proxy.net.shared_reads import Buffered, share_reads
from proxy.net.sockets import look, probe, unread

_CLOSED, _PRIVATE = (
    Fate.CLOSED,
    Fate.PRIVATE,
)  # looking a member up costs more than it should on the hot path


class Keeper(Protocol):
    """What a connection needs of its pool."""

    def put(self, connection: Connection, *, private: bool = False) -> bool:
        """Keep an idle connection for the next taker. True: it is `private` and open."""

    def drop(self, connection: Connection) -> None:
        """Forget a connection that is closed."""


class User(Protocol):
    """Who a connection's bytes are for. After `connection_ended` the connection is no longer
    theirs.
    """

    def data_received(self, data: bytes) -> None:
        """Bytes of U."""

    def connection_ended(self, why: Exception | None) -> None:
        """U has closed (None) or the connection broke."""

    def pause_writing(self) -> None:
        """U reads slower than we write."""

    def resume_writing(self) -> None:
        """U has caught up."""


class Connection(asyncio.Protocol):
    """One connection to VB365. While nobody uses it, any byte or end from VB365 closes it."""

    __slots__ = (
        "_look",
        "_pool",
        "_private",
        "_reads",
        "_request",
        "closed",
        "idle_since",
        "paused",
        "transport",
        "used",
        "user",
    )

    def __init__(self, pool: Keeper) -> None:
        self._pool = pool
        self.transport = cast(asyncio.Transport, None)
        self.user: User | None = None
        self.used = False
        self.paused = False
        self.closed = True  # until the pool has adopted it
        self.idle_since = 0
        self._request: Outgoing | None = None
        self._private = False
        self._look: Callable[[], object] | None = None
        self._reads: Buffered | None = None

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Called by the loop."""
        self.transport = cast(asyncio.Transport, transport)
        self._reads = share_reads(self.transport, self)
        probe(transport)

    def data_received(self, data: bytes) -> None:
        """Called by the loop."""
        if self.user is not None:
            self.user.data_received(data)
        else:
            self.close()

    def eof_received(self) -> None:
        """Called by the loop."""
        self._end(None)

    def connection_lost(self, exc: Exception | None) -> None:
        """Called by the loop, also when a write failed before the loop has read what VB365
        answered.
        """
        if exc is not None and self._reads is None:
            for data in unread(self.transport):
                if self.user is None:
                    break
                self.user.data_received(data)
        self._end(exc)

    def pause_writing(self) -> None:
        """Called by the loop."""
        if self.user is not None:
            self.user.pause_writing()

    def resume_writing(self) -> None:
        """Called by the loop."""
        if self.user is not None:
            self.user.resume_writing()

    def adopt(self) -> None:
        """Count as open from now on. Raises `ConnectionResetError` if U was faster."""
        if self.transport.is_closing():
            raise ConnectionResetError("closed by the peer at once")
        self.closed = False

    def _end(self, why: Exception | None) -> None:
        user, self.user = self.user, None
        self.close()
        if user is not None:
            user.connection_ended(why)

    def ask(self, user: User, request: Outgoing, message: bytes) -> None:
        """Send `message`, the request and what has come of its body; its answer goes to `user`."""
        self.user = user
        self._request = request
        self.transport.write(message)

    def give_back(self, answer: ResponseHead, *, leftover: bool) -> bool:
        """The answer was read to its end, `leftover` if more came: keep the connection for another
        request or close it.

        True: it is kept open for its user's client alone, who takes it again (`Pool.take`) or
        closes it.
        """
        self.user = None
        if self.closed:
            return False
        request = self._request
        outcome = Fate.CLOSED if request is None else fate(request, answer, private=self._private)
        if leftover or outcome is _CLOSED or self._unclear():
            self.close()
            return False
        self.used = True
        self._private = outcome is _PRIVATE
        return self._pool.put(self, private=self._private)

    def _unclear(self) -> bool:
        """Something may be left in a buffer, in either direction."""
        filled = self._reads is not None and self._reads.filled
        return self.paused or filled or bool(self.transport.get_write_buffer_size())

    @property
    def speaking(self) -> bool:
        """VB365 has sent something that the loop has not read yet."""
        if self._look is None:
            self._look = look(self.transport)
        return bool(self._look())

    def pause(self) -> None:
        """Stop reading until `resume`."""
        if not self.paused and not self.transport.is_closing():
            self.paused = True
            self.transport.pause_reading()

    def resume(self) -> None:
        """Read again. Has no effect on a connection that was not paused."""
        if self.paused and not self.transport.is_closing():
            self.paused = False
            self.transport.resume_reading()

    def close(self, *, flush: bool = False) -> None:
        """Close at once, so that U sees it; with `flush` after everything written is out.
        Idempotent.
        """
        self.user = None
        if not self.closed:
            self.closed = True
            self._pool.drop(self)
            if flush:
                self.transport.close()
            else:
                self.transport.abort()
