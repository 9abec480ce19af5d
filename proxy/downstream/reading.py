"""When a client's connection is read from, and the look after a client that is not."""

from __future__ import annotations

import asyncio

from proxy.downstream.inbox import Inbox
from proxy.downstream.phases import Limit
from proxy.net.deadline import Deadlines
from proxy.net.sockets import peer_closed

#: Seconds between looks at a client that is not read from: has it left?
LOOK = 2.0


class Reading:
    """Reads from `transport` unless the body is `held` or `inbox` is full; the owner calls `update`
    after a change.
    """

    __slots__ = ("_deadlines", "_inbox", "_transport", "ended", "held", "stopped")

    def __init__(self, transport: asyncio.Transport, inbox: Inbox, deadlines: Deadlines) -> None:
        self._transport = transport
        self._inbox = inbox
        self._deadlines = deadlines
        #: The exchange takes no more of the request's body now.
        self.held = False
        #: Nothing is read.
        self.stopped = False
        #: The client has sent its last byte.
        self.ended = False

    def update(self) -> None:
        """Stop or resume reading."""
        stop = self.held or self._inbox.full
        if stop == self.stopped or self.ended or self._transport.is_closing():
            return
        self.stopped = stop
        if stop:
            self._transport.pause_reading()
            self._deadlines.set(Limit.LOOK, LOOK)
        else:
            self._transport.resume_reading()
            self._deadlines.clear(Limit.LOOK)

    def gone(self) -> bool:
        """`Limit.LOOK` has expired: whether the client has left. If not, there will be another
        look.
        """
        if peer_closed(self._transport):
            return True
        self._deadlines.set(Limit.LOOK, LOOK)
        return False
