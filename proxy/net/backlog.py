"""What the other ends of connections have not read: those of one kind share one limit."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable
from itertools import chain

_log = logging.getLogger(__name__)

_Entry = tuple[float, int, Callable[[], None]]


class Backlog:
    """The connections, or what waits for one, that keep what the other end has not read.

    Each may keep hundreds of kilobytes for minutes, and nobody needs credentials for that: the
    description of the API is for everyone, and a body is passed through before VB365 knows who
    sends it. So when they keep more than the `limit` (bytes) together, one that has not moved for
    longest makes room: first of those that never did, because a burst of these must not end a
    transfer that is slow but advances. None does that has moved within `patience` seconds. `now`
    returns seconds.
    """

    def __init__(self, now: Callable[[], float], *, limit: int, patience: float) -> None:
        self._now = now
        self.limit = limit
        self._patience = patience
        #: When each one was added, its size and how it makes room, the first one first: those that
        #: have never moved, and the others.
        self._slow: tuple[dict[object, _Entry], ...] = ({}, {})
        #: The last one: it does not make room, because whoever adds it is still using it.
        self._newest: object = None
        self._size = 0
        self._check: asyncio.TimerHandle | None = None
        self._making_room = False

    def add(
        self, slow: object, size: int, make_room: Callable[[], None], *, moved: bool = False
    ) -> None:
        """Count `size` bytes until `discard`, in place of what counts for it already.

        `make_room` must release them, so that neither end can take its message for whole. `moved`
        says that it was slow before, and has advanced then.
        """
        self.discard(slow)
        self._slow[moved][slow] = self._now(), size, make_room
        self._size += size
        # it may be behind one that makes room now: there may be a thousand of these
        if self._making_room:
            return
        self._newest = slow
        if self._check is None:
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
            oldest, (since, _, make_room) = next(
                entry
                for entry in chain.from_iterable(each.items() for each in self._slow)
                if entry[0] is not self._newest
            )
            left = since + self._patience - self._now()
            if left > 0:
                self._check = asyncio.get_running_loop().call_later(left, self._make_room)
                return
            self.discard(oldest)
            try:
                make_room()
            except Exception:  # noqa: BLE001  # it must not break off the one that is being added
                _log.exception("a slow connection was not broken off properly")

    def discard(self, slow: object) -> None:
        """Note that it keeps nothing any more. Idempotent."""
        if slow is self._newest:
            self._newest = None
        for each in self._slow:
            if (entry := each.pop(slow, None)) is not None:
                self._size -= entry[1]
