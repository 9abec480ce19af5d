"""Closes a client connection in such a way that its last response arrives."""

from __future__ import annotations

import asyncio
import contextlib

from proxy.downstream.phases import Limit
from proxy.net.deadline import Deadlines
from proxy.net.sockets import is_sent

#: A client may read nothing of its response for this many times `head_timeout`.
SLOW = 5
#: Seconds for which a client may keep sending after its last response: after an error of the proxy,
#: and after an early response of VB365, when a large body may be on its way.
LINGER = 2.0
LINGER_EARLY = 30.0
#: Seconds of silence that end a lingering connection.
QUIET = 2.0


class Lingering:
    """Closes `transport`. The client may read nothing for `patience` seconds.

    Closing a socket with unread input resets the connection, and the client may lose the response.
    So input is read and dropped for a while first.

    With `handed_over` the client is another process of the proxy, which closes the connection
    whatever happens to its own client. It takes a response without a length for whole only if this
    one shuts its sending side and waits for that (`net.sockets.has_proper_end`).
    """

    __slots__ = ("_deadlines", "_loop", "_patience", "_transport", "_until", "handed_over")

    def __init__(
        self,
        transport: asyncio.Transport,
        deadlines: Deadlines,
        patience: float,
        *,
        handed_over: bool,
    ) -> None:
        self.handed_over = handed_over
        self._transport = transport
        self._deadlines = deadlines
        self._patience = patience
        self._loop = asyncio.get_running_loop()
        self._until = 0.0

    def close(self) -> None:
        """Close once everything written is sent. Idempotent."""
        self._deadlines.set(Limit.READER, self._patience)
        self._transport.close()

    def begin(self, seconds: float) -> None:
        """Drop input until none has come for `QUIET` seconds, or for that many seconds and until
        the response has arrived.
        """
        if self.handed_over:
            self._deadlines.clear(Limit.READER)
        else:
            self._until = self._loop.time() + seconds
            self._deadlines.set(Limit.LINGER, QUIET)
            self._deadlines.set(Limit.READER, self._patience)
        if self._transport.can_write_eof():
            with contextlib.suppress(OSError):  # the client has reset the connection already
                self._transport.write_eof()

    def heard(self) -> None:
        """Note that the client has sent something."""
        if self.handed_over:
            return
        if self._loop.time() >= self._until and is_sent(self._transport):
            self._transport.abort()
        else:
            self._deadlines.set(Limit.LINGER, QUIET)

    def wait(self) -> None:
        """Let the client be silent for another `QUIET` seconds. `Limit.READER` bounds that."""
        self._deadlines.set(Limit.LINGER, QUIET)

    def expired(self) -> None:
        """Close, unless part of the response is still unsent: `Limit.READER` bounds that."""
        closing = self._transport.is_closing()
        if self._transport.get_write_buffer_size() or (closing and not is_sent(self._transport)):
            self._deadlines.set(Limit.LINGER, QUIET)
        elif closing:
            self._transport.abort()
        else:
            # not `abort`: over TLS a response that ends with its connection is whole only after a
            # close_notify (RFC 9112 §9.8)
            self.close()
