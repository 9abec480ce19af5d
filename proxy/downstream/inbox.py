"""Input of a client that belongs to no request yet: an unfinished head, and pipelined requests."""

from __future__ import annotations

from proxy.core.http.heads import MalformedMessage, find_end
from proxy.net.budget import Budget

#: Reading pauses when this many bytes of pipelined requests are waiting.
_PIPELINE = 1 << 16


class Inbox:
    """The waiting bytes of one client. All clients share `budget` (CONTRACT §12)."""

    __slots__ = ("_budget", "_found", "_searched", "waiting")

    def __init__(self, budget: Budget) -> None:
        self._budget = budget
        self.waiting = bytearray()
        self._searched = 0
        #: The result of `find_head`, valid until bytes are dropped.
        self._found: tuple[int, int] | MalformedMessage | None = None

    def __len__(self) -> int:
        return len(self.waiting)

    @property
    def full(self) -> bool:
        """Whether reading should pause. Never within a head, which must arrive in time."""
        return len(self.waiting) >= _PIPELINE and self._found is not None

    def keep(self, data: bytes) -> bool:
        """Append `data`. Return False, keeping nothing, if the budget is exhausted."""
        if not self._budget.take(len(data)):
            return False
        try:
            self.waiting += data
        except MemoryError:
            self._budget.give(len(data))
            raise
        return True

    def find_head(self) -> tuple[int, int]:
        """Return start and end of the first head; the end is -1 while it is incomplete.

        Raises `MalformedMessage`. Repeated calls search every byte once.
        """
        if self._found is None:
            # RFC 9112 §2.2: one empty line may come first
            start = 2 if self.waiting.startswith(b"\r\n") else 0
            try:
                end = find_end(self.waiting, start, self._searched)
            except MalformedMessage as why:
                self._found = why
            else:
                self._searched = len(self.waiting)
                if end < 0:
                    return start, end
                self._found = start, end
        if isinstance(self._found, MalformedMessage):
            raise self._found
        return self._found

    def peek(self, start: int, end: int) -> bytes:
        """Return the bytes from `start` to `end` without removing them."""
        return bytes(self.waiting[start:end])

    def drop(self, count: int) -> None:
        """Remove the first `count` bytes, in time independent of how many remain."""
        del self.waiting[:count]
        self._searched = 0
        self._found = None
        self._budget.give(count)

    def clear(self) -> None:
        """Remove everything."""
        self.drop(len(self.waiting))
