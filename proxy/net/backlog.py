"""What the other ends of connections have not read: those of one kind share one limit."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Iterator
from typing import NamedTuple

_log = logging.getLogger(__name__)

#: Bytes per second at which the other end reads steadily: the pace of a body (CONTRACT §3.1).
PACE = 1 << 10


class _Entry(NamedTuple):
    since: float
    size: int
    make_room: Callable[[], None]
    unsent: Callable[[], int] | None
    #: What `unsent` returned then.
    before: int
    #: Bytes per second that the other end must read from then on.
    pace: int = PACE


def is_steady(read: int, seconds: float, pace: int = PACE) -> bool:
    """Report whether an end that has read so many bytes in so many seconds keeps the pace."""
    return read > 0 and read >= seconds * pace


class Backlog:
    """The connections, or what waits for one, that keep what the other end has not read.

    Each may keep hundreds of kilobytes for minutes, and nobody needs credentials for that: the
    description of the API is for everyone, and a body is passed through before VB365 knows who
    sends it. So when they keep more than the `limit` (bytes) together, one that has not moved for
    longest makes room: first of those that never did, because a burst of these must not end a
    transfer that is slow but advances. None does that has moved within `patience` seconds. One that
    was read at the `PACE` in that time has moved, but must be read twice as fast the next time:
    else there were no limit for those that are read just enough. `now` returns seconds.
    """

    def __init__(self, now: Callable[[], float], *, limit: int, patience: float) -> None:
        self._now = now
        self.limit = limit
        self._patience = patience
        #: The one that was added, or found to have moved, first comes first: those that have never
        #: moved, and the others.
        self._slow: tuple[dict[object, _Entry], ...] = ({}, {})
        #: The last one: it does not make room, because whoever adds it is still using it.
        self._newest: object = None
        self._size = 0
        self._check: asyncio.TimerHandle | None = None
        self._making_room = False

    def add(
        self,
        slow: object,
        size: int,
        make_room: Callable[[], None],
        *,
        unsent: Callable[[], int] | None = None,
        moved: bool = False,
    ) -> None:
        """Count `size` bytes until `discard`, in place of what counts for it already.

        `make_room` must release them, so that neither end can take its message for whole. `moved`
        says that it was slow before, and has advanced then. `unsent` returns the bytes that the
        other end has not taken, those in the system included: these go first, perhaps megabytes.
        """
        self.discard(slow)
        before = 0 if unsent is None else unsent()
        self._slow[moved][slow] = _Entry(self._now(), size, make_room, unsent, before)
        self._size += size
        self._use(slow)

    def grow(self, slow: object, size: int, *, written: int) -> None:
        """Count `size` bytes for it, with `written` more, if anything counts: it has not moved."""
        for each in self._slow:
            if (entry := each.get(slow)) is not None:
                each[slow] = entry._replace(size=size, before=entry.before + written)
                self._size += size - entry.size
                self._use(slow)
                return

    def _use(self, slow: object) -> None:
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
            now, oldest = self._now(), list(self._oldest())
            due = [each for each in oldest if each[1].since + self._patience <= now]
            if not due:
                left = min(entry.since for _, entry in oldest) + self._patience - now
                self._check = asyncio.get_running_loop().call_later(left, self._make_room)
                return
            slow, entry = due[0]
            self.discard(slow)
            if self._has_read(slow, entry, now):
                continue
            try:
                entry.make_room()
            except Exception:  # noqa: BLE001  # it must not break off the one that is being added
                _log.exception("a slow connection was not broken off properly")

    def _oldest(self) -> Iterator[tuple[object, _Entry]]:
        for each in self._slow:
            for slow, entry in each.items():
                if slow is not self._newest:
                    yield slow, entry
                    break

    def _has_read(self, slow: object, entry: _Entry, now: float) -> bool:
        """Count it again if its other end is steady."""
        if entry.unsent is None:
            return False
        before = entry.unsent()
        if not is_steady(entry.before - before, now - entry.since, entry.pace):
            return False
        self._slow[True][slow] = entry._replace(since=now, before=before, pace=2 * entry.pace)
        self._size += entry.size
        return True

    def discard(self, slow: object) -> None:
        """Note that it keeps nothing any more. Idempotent."""
        if slow is self._newest:
            self._newest = None
        for each in self._slow:
            if (entry := each.pop(slow, None)) is not None:
                self._size -= entry.size
