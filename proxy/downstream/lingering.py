"""The end of a client's connection: closed so that its last answer arrives."""

from __future__ import annotations

import asyncio

from proxy.downstream.phases import Limit
from proxy.net.deadline import Deadlines

#: A client that takes nothing of its answer is left alone for this many times `head_timeout`.
SLOW = 5
#: Seconds for which a client may go on sending after its last answer, so that it can read it: after
#: a refusal, and after an early answer of VB365 (a body on its way is a lot of bytes).
LINGER = 2.0
LINGER_EARLY = 30.0
#: Seconds of silence that end a lingering connection.
QUIET = 2.0


class Lingering:
    """Closes `transport`. `patience` is in seconds: the client may take nothing of its answer for
    that long.

    Closing with bytes unread makes TCP reset the connection, and the client loses the answer: a
    client that is still sending may go on for a while, and what it sends is dropped.
    """

    __slots__ = ("_deadlines", "_loop", "_patience", "_transport", "_until")

    def __init__(self, transport: asyncio.Transport, deadlines: Deadlines, patience: float) -> None:
        self._transport = transport
        self._deadlines = deadlines
        self._patience = patience
        self._loop = asyncio.get_running_loop()
        self._until = 0.0

    def close(self) -> None:
        """Close once all that is written is out."""
        self._deadlines.set(Limit.READER, self._patience)
        self._transport.close()

    def begin(self, seconds: float) -> None:
        """Let the client go on sending for that many seconds, or until it is quiet for `QUIET`."""
        self._until = self._loop.time() + seconds
        self._deadlines.set(Limit.LINGER, QUIET)
        self._deadlines.set(Limit.READER, self._patience)
        if self._transport.can_write_eof():
            self._transport.write_eof()

    def heard(self) -> None:
        """The client has sent something."""
        left = self._until - self._loop.time()
        if left <= 0:
            self._transport.abort()
        else:
            self._deadlines.set(Limit.LINGER, min(left, QUIET))

    def expired(self) -> None:
        """The client is quiet. If it has not taken its answer yet, `Limit.READER` ends it."""
        if self._transport.get_write_buffer_size():
            self._deadlines.set(Limit.LINGER, QUIET)
        else:
            self._transport.abort()
