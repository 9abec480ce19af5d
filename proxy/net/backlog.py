"""What the other ends of connections have not read: those of one direction share one limit."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable
from itertools import chain
from typing import Protocol

_log = logging.getLogger(__name__)


class Slow(Protocol):
    """A connection, or what waits for one, as `Backlog` uses it."""

    @property
    def unsent(self) -> int:
        """The number of bytes in memory that are not sent yet."""

    def make_room(self) -> None:
        """Abort, so that neither end can take its message for whole, and release the memory."""


class Backlog:
    """The connections whose other end reads more slowly than the proxy writes.

    Each may leave some 100 KiB unread for minutes, and nobody needs credentials for that: the
    description of the API is for everyone, and a body is passed through before VB365 knows who
    sends it. So when they leave more than the `limit` (bytes) together, one that has not moved for
    longest is broken off: first of those that never did, because a burst of these must not end a
    transfer that is slow but advances. None that has moved within `patience` seconds is broken off.
    `now` returns seconds.
    """

    def __init__(self, now: Callable[[], float], *, limit: int, patience: float) -> None:
        self._now = now
        self.limit = limit
        self._patience = patience
        #: When each one became slow, and what it left unread then, the first one first: those that
        #: have never moved, and the others.
        self._slow: tuple[dict[Slow, tuple[float, int]], ...] = ({}, {})
        self._size = 0
        self._check: asyncio.TimerHandle | None = None
        self._making_room = False

    def add(self, slow: Slow, *, moved: bool = False) -> None:
        """Note that nothing more is written until the other end has read.

        `moved` says that it was slow before, and has read then.
        """
        self.discard(slow)
        now, size = self._now(), slow.unsent
        self._slow[moved][slow] = now, size
        self._size += size
        # not if that one's end has begun the request behind it: there may be a thousand of these
        if self._check is None and not self._making_room:
            # at once: one turn of the loop can read from hundreds of connections
            self._make_room()

    def _make_room(self) -> None:
        self._check = None
        self._making_room = True
        try:
            self._end_some()
        finally:
            self._making_room = False

    def _end_some(self) -> None:
        while self._size > self.limit and sum(map(len, self._slow)) > 1:
            oldest, (since, _) = next(chain.from_iterable(each.items() for each in self._slow))
            left = since + self._patience - self._now()
            if left > 0:
                self._check = asyncio.get_running_loop().call_later(left, self._make_room)
                return
            self.discard(oldest)
            try:
                oldest.make_room()
            except Exception:  # noqa: BLE001  # it must not break off the one that is being added
                _log.exception("a slow connection was not broken off properly")

    def discard(self, slow: Slow) -> None:
        """Note that the other end has read, or has left. Idempotent."""
        for each in self._slow:
            _, size = each.pop(slow, (0.0, 0))
            self._size -= size
