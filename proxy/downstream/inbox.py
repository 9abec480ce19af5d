"""Bytes of a client that belong to no request yet: an unfinished head, and requests that wait for
their turn.
"""

from __future__ import annotations

from proxy.core.http.heads import MalformedMessage, find_end
from proxy.net.budget import Budget

#: Bytes of whole requests that wait behind the one in progress before the client is not read from.
_PIPELINE = 1 << 16


class Inbox:
    """The waiting bytes of one client. All clients share `budget`, in bytes (CONTRACT §12)."""

    __slots__ = ("_budget", "_found", "_searched", "waiting")

    def __init__(self, budget: Budget) -> None:
        self._budget = budget
        self.waiting = bytearray()
        self._searched = 0
        #: What `find_head` has found, which holds until bytes are dropped.
        self._found: tuple[int, int] | MalformedMessage | None = None

    def __len__(self) -> int:
        return len(self.waiting)

    @property
    def full(self) -> bool:
        """Enough is here. An unfinished head is never enough: its time runs, so it must be able to
        come.
        """
        return len(self.waiting) >= _PIPELINE and self._found is not None

    def keep(self, data: bytes) -> bool:
        """Append `data`; False, and nothing is kept, if the budget has less room."""
        if not self._budget.take(len(data)):
            return False
        self.waiting += data
        return True

    def find_head(self) -> tuple[int, int]:
        """Start and end of the first head; the end is -1 if it is not whole. Raises
        `MalformedMessage`.

        However often it is called, every byte is searched once.
        """
        if self._found is None:
            start = (
                2 if self.waiting.startswith(b"\r\n") else 0
            )  # RFC 9112 §2.2: one empty line may come first
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
        """The bytes from `start` to `end`, which stay."""
        return bytes(self.waiting[start:end])

    def drop(self, count: int) -> None:
        """Forget the first `count` bytes. Takes no time that depends on how many stay."""
        del self.waiting[:count]
        self._searched = 0
        self._found = None
        self._budget.give(count)

    def clear(self) -> None:
        """Forget everything."""
        self.drop(len(self.waiting))
