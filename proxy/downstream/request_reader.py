"""Finds the heads of requests in what a client sends; see `downstream.connection`."""

from __future__ import annotations

from abc import abstractmethod

from proxy.core.errors import Problem
from proxy.core.http.bodies import NOTHING, Body
from proxy.core.http.heads import Head, HeadTooLarge, MalformedMessage, find_end, parse_request
from proxy.downstream.base import NO_MEMORY, BaseConnection, ConnectionOwner
from proxy.downstream.endings import Ending
from proxy.downstream.lingering import LINGER
from proxy.downstream.phases import Limit, Phase

#: Looking an enumeration's member up costs more than it should on the hot path.
_READY, _IDLE = Phase.READY, Limit.IDLE


class RequestReader(BaseConnection):
    """A client connection that calls `_begin` for each request, once its head is complete and the
    one before it has its response.
    """

    __slots__ = ("_body", "_held")

    def __init__(self, owner: ConnectionOwner) -> None:
        super().__init__(owner)
        #: Of the request in progress. Until it is done, what is in the inbox is a part of it.
        self._body: Body = NOTHING
        #: Bytes of the shared memory that the head of the request in progress uses.
        self._held = 0

    @abstractmethod
    def _begin(self, head: Head, rest: bytes) -> None:
        """Start the request. `rest` arrived with its head and is not in the inbox."""

    def _next(self, data: bytes) -> None:
        """Start the request that begins `data` if its head is complete, else queue `data`."""
        # RFC 9112 §2.2: one empty line before a request is ignored
        start = 2 if data.startswith(b"\r\n") else 0
        try:
            end = find_end(data, start)
            if end < 0:
                self._queue(data)
                return
            head = parse_request(data[start:end])
        except MalformedMessage as why:
            self._refuse(data[start : start + 4096], why)
            return
        self._begin(head, data[end:])

    def _queue(self, data: bytes) -> None:
        """Keep input of the next requests."""
        if self.closing:
            return
        if not self._arrived:
            self._arrived = self._owner.now()
        if self._inbox.keep(data):
            self._proceed()
            return
        self.counters.refused += 1
        if self._phase is _READY:
            self._refuse_connection(NO_MEMORY)
        else:
            self._last_response()

    def _proceed(self) -> None:
        """Start the next request of the inbox if possible, else wait for what is missing."""
        try:
            self._take_requests()
        except MemoryError:
            # a part of a request may be missing, and not everyone who calls ends the connection
            self.break_off(Ending.ABORTED)

    def _take_requests(self) -> None:
        inbox = self._inbox
        while inbox and self._body.done:
            turn = self._phase is _READY and not self.slow
            try:
                start, end = inbox.find_head()
                head = parse_request(inbox.peek(start, end)) if turn and end >= 0 else None
            except MalformedMessage as why:
                self._deadlines.clear(Limit.HEAD)
                if turn:
                    self._refuse(inbox.peek(0, 4096), why)
                break
            if end < 0:
                self._wait_for_head()
                break
            self._deadlines.clear(Limit.HEAD)
            if head is None:
                break
            inbox.drop(end)
            self._begin(head, b"")
        if self._phase is _READY and not self.slow and not inbox:
            self._rest()
        self._reading.update()

    def _hold(self, size: int) -> bool:
        """Count a large head until its request is answered. Return False if memory is exhausted."""
        if not self._owner.waiting.take(size):
            return False
        self._held = size
        return True

    def _release(self) -> None:
        self._owner.waiting.give(self._held)
        self._held = 0

    def _wait_for_head(self) -> None:
        if self._reading.ended:
            self._inbox.clear()  # a request in progress still gets its response
        elif not self._deadlines.is_set(Limit.HEAD):
            self._deadlines.clear(_IDLE)
            self._deadlines.set(Limit.HEAD, self._owner.head_timeout)

    def _rest(self) -> None:
        """Wait for the first byte of the next request."""
        if self._reading.ended:
            self._end()
        elif not self._lingering.handed_over:  # the other process decides when its client is idle
            self._deadlines.set(_IDLE, self._owner.idle_timeout)

    def _refuse(self, begun: bytes, why: MalformedMessage) -> None:
        """Respond 400, or 431 for a head of more than 256 KiB, and close (CONTRACT §12)."""
        self.counters.refused += 1
        status = 431 if isinstance(why, HeadTooLarge) else 400
        problem = Problem("bad-request", f"The request is refused: {why}.", status=status)
        self._write_refusal(problem, None, begun=begun, since=self._arrived)
        self._close(LINGER)
