"""What an exchange of the relay has in memory of its request until VB365 has taken it."""

from __future__ import annotations

from abc import ABC, abstractmethod

from proxy.net.budget import Share
from proxy.relay.phases import Hold
from proxy.upstream.connection import Connection
from proxy.upstream.pool import Pool

_NOTHING_HELD = Hold(0)


class WaitingBody(ABC):
    """The bytes of a request's body that wait for a connection to `pool`'s origin, for its response
    to be read, or in the buffer of the connection.
    """

    __slots__ = ("_connection", "_early", "_held", "_memory", "_moved", "_pool")

    def __init__(self, pool: Pool) -> None:
        self._pool = pool
        self._connection: Connection | None = None
        #: Parts that are not written yet.
        self._early: list[bytes] = []
        #: Why no more of it is read.
        self._held = _NOTHING_HELD
        #: Counts for a part of the body that is not sent yet.
        self._memory: Share | None = None
        #: True once VB365 has read, after it had not for a while.
        self._moved = False

    @abstractmethod
    def feed(self, data: bytes) -> None:
        """Forward bytes of it."""

    def feed_counted(self, data: bytes, memory: Share) -> None:
        """As `feed`, once. `memory` counts for the bytes until they are sent, or this ends."""
        self._memory = memory
        self.feed(data)
        if not self._held:
            self._taken()

    @abstractmethod
    def make_room(self) -> None:
        """Give up, and release the memory."""

    def _disconnect(self, *, flush: bool = False) -> None:
        """Close the connection, as `Connection.close` does."""
        connection, self._connection = self._connection, None
        if connection is not None:
            connection.close(flush=flush)

    def _wait(self) -> None:
        """Note that no more of the body is read until VB365 has taken what there is."""
        connection = self._connection
        written = 0 if connection is None else connection.unsent
        unsent = written + sum(map(len, self._early))
        self._pool.unread.add(self, unsent, self.make_room, moved=self._moved)

    def _taken(self) -> None:
        """Note that VB365 has taken it, or will not. Idempotent."""
        self._pool.unread.discard(self)
        memory, self._memory = self._memory, None
        if memory is not None:
            memory.release()
