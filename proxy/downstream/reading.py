"""Decides when a client connection is read from, and checks whether a paused client has left."""

from __future__ import annotations

import asyncio
from collections.abc import Callable

from proxy.downstream.inbox import Inbox
from proxy.downstream.phases import Limit
from proxy.net.deadline import Deadlines
from proxy.net.sockets import peer_closed

#: Seconds between checks whether a client that is not read from has closed its connection.
LOOK = 2.0


class Reading:
    """Pauses reading from `transport` while the body is `held` or `inbox` is full, and to give way.

    The owner calls `update` after a change.
    """

    __slots__ = ("_deadlines", "_inbox", "_transport", "ended", "held", "stopped", "yields")

    def __init__(self, transport: asyncio.Transport, inbox: Inbox, deadlines: Deadlines) -> None:
        self._transport = transport
        self._inbox = inbox
        self._deadlines = deadlines
        #: True until the loop's next turn, if others have their turns first.
        self.yields = False
        #: True while the exchange accepts no more of the request's body.
        self.held = False
        #: True while reading is paused.
        self.stopped = False
        #: True once the client has shut its sending side.
        self.ended = False

    def update(self) -> None:
        """Pause or resume reading."""
        stop = self.held or self.yields or self._inbox.full
        if stop == self.stopped or self.ended or self._transport.is_closing():
            return
        self.stopped = stop
        if stop:
            self._transport.pause_reading()
            self._deadlines.set(Limit.LOOK, LOOK)
        else:
            self._transport.resume_reading()
            self._deadlines.clear(Limit.LOOK)

    def give_way(self, then: Callable[[], None]) -> None:
        """Read nothing more in this turn of the loop, in which uvloop would read up to 32 times.
        Call `then` in the next one.
        """
        if not self.yields:
            self.yields = True
            asyncio.get_running_loop().call_soon(self._go_on, then)
            self.update()

    def _go_on(self, then: Callable[[], None]) -> None:
        self.yields = False
        then()
        self.update()

    def gone(self, *, half: bool) -> bool:
        """Report whether the client has left, for which it is enough to shut its sending side if
        `half`. If not, schedule the next check.
        """
        if peer_closed(self._transport, half=half):
            return True
        self._deadlines.set(Limit.LOOK, LOOK)
        return False
