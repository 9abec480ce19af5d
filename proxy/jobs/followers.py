"""The requests that follow the run of a rescued export (CONTRACT §14), and what they get of it.

Theory of operation. A request that follows a run first waits for `Attendance.first`: a response
other than 200 goes to all of them, and there is no job. Otherwise it waits here until VB365's 200
can be repeated (`reply`), is handed over because it cannot be stored (`handed`), or the run is
over.
"""

from __future__ import annotations

import asyncio
from dataclasses import dataclass

from proxy.core.job import FileFacts
from proxy.ports import Response

#: Seconds within which a response that is handed over must be taken. Followers do so at once.
_PATIENCE = 1.0


@dataclass(frozen=True, slots=True)
class Reply:
    """The head of VB365's 200: its reason phrase and its field lines, without the hop-by-hop
    ones.
    """

    reason: bytes
    lines: bytes

    @classmethod
    def stored(cls, facts: FileFacts) -> Reply | None:
        """The head in a record, None if it was too long to be stored."""
        if facts.lines is None:
            return None
        return cls((facts.reason or "").encode("latin-1"), facts.lines.encode("latin-1"))


class HandedOver:
    """An open response that is not stored. One follower gets it. `first` are the bytes of its body
    that have been read.
    """

    def __init__(self, response: Response, first: bytes = b"") -> None:
        self.response = response
        self.first = first
        self._taken = False

    def take(self) -> Response | None:
        """The response for the first caller, who closes it; None for the others."""
        taken, self._taken = self._taken, True
        return None if taken else self.response

    def expire(self) -> None:
        """Close the response unless a follower has taken it."""
        if self.take() is not None:
            self.response.close()


class Followers:
    """See the theory of operation. `count` requests follow the run."""

    def __init__(self) -> None:
        self.count = 0
        self.reply: Reply | None = None
        #: The export has started again from zero, before `reply`.
        self.restarted = False
        self.handed: HandedOver | None = None
        self.over = False
        #: The job was taken out of the queue because no slot became free in time.
        self.withdrawn = False
        self._news = asyncio.Event()

    def replied(self, reply: Reply | None, *, restarted: bool) -> None:
        """Note the head of VB365's 200; None when the export starts again from zero. `restarted`:
        it has done so before.
        """
        self.reply, self.restarted = reply, restarted
        self._wake()

    def hand_over(self, response: Response, first: bytes = b"") -> bool:
        """Give an open response to one of the followers. Return False if there are none. `first`
        are the bytes of its body that have been read.
        """
        if not self.count:
            return False
        self.handed = HandedOver(response, first)
        self._wake()
        return True

    def has(self, response: Response) -> bool:
        """Whether the response is handed over."""
        return self.handed is not None and self.handed.response is response

    def finish(self) -> None:
        """Note that the run is over. Idempotent."""
        if self.over:
            return
        self.over = True
        if self.handed is not None:
            asyncio.get_running_loop().call_later(_PATIENCE, self.handed.expire)
        self._wake()

    async def answered(self) -> None:
        """Wait until there is a reply, a response is handed over, or the run is over."""
        while not self.over and self.reply is None and self.handed is None:
            await self._news.wait()

    async def finished(self) -> None:
        """Wait until the run is over."""
        while not self.over:
            await self._news.wait()

    def _wake(self) -> None:
        self._news.set()
        self._news.clear()
