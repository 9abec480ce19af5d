"""One connection to VB365: who receives its bytes, and whether it is reused (CONTRACT §12)."""

from __future__ import annotations

import asyncio
import ssl
from collections.abc import Callable
from typing import Protocol, cast

from proxy.core.http.heads import Head, ResponseHead
from proxy.core.http.reuse import Fate, fate
from proxy.net.sockets import enable_keepalive, has_proper_end, poller, unread
from proxy.net.thread_reads import ThreadReader
from proxy.net.tls_transport import TlsTransport
from proxy.ports.counts import UpstreamCounts

# Module globals: an enum member look-up is too slow for the hot path.
_CLOSED, _PRIVATE = Fate.CLOSED, Fate.PRIVATE
#: RFC 9112 §9.8: a response that ends with such a connection is incomplete.
_CUT_OFF = "the connection ended without a close_notify, or with its process"
#: Seconds to send what is written on a connection that is closed.
_FLUSH = 30.0


class ConnectionPool(Protocol):
    """What a connection needs from its pool."""

    counts: UpstreamCounts

    def put(self, connection: Connection, *, private: bool = False) -> bool:
        """Keep an idle connection for reuse. Return True if it is `private` and still open."""

    def drop(self, connection: Connection) -> None:
        """Remove a closed connection from the pool."""

    def flushing(self, connection: Connection) -> None:
        """Count a closed connection until `drop`: it still sends what is written."""


class Receiver(Protocol):
    """The receiver of a connection's bytes, one per request.

    It must not use the connection after `connection_ended`.
    """

    def data_received(self, data: bytes) -> None:
        """Receive bytes from VB365."""

    def connection_ended(self, why: Exception | None) -> None:
        """Handle the end of the connection: a close by VB365 (None) or an error."""

    def pause_writing(self) -> None:
        """Stop writing: VB365 reads more slowly than the proxy writes."""

    def resume_writing(self) -> None:
        """Write again."""


class Connection(asyncio.Protocol):
    """One connection to VB365. An idle connection closes itself on any byte or end from VB365."""

    __slots__ = (
        "_counts",
        "_flushing",
        "_pool",
        "_private",
        "_receiver",
        "_request",
        "_tls",
        "authenticated",
        "closed",
        "idle_since",
        "paused",
        "readable",
        "transport",
        "used",
    )

    #: Set by `connection_made`, before anything else can use the connection.
    transport: asyncio.Transport
    #: Returns something true if VB365 has sent bytes, or an end, that the loop has not read yet.
    readable: Callable[[], object]

    def __init__(self, pool: ConnectionPool) -> None:
        self._pool = pool
        self._counts = pool.counts
        self._receiver: Receiver | None = None
        #: True once the connection has served a request.
        self.used = False
        self.paused = False
        #: True until `adopt`, so that closing a connection that was never counted does nothing.
        self.closed = True
        self.idle_since = 0
        self._flushing = False
        self._request: Head | None = None
        self._private = False
        #: Whether a request had credentials that may have authenticated the connection.
        self.authenticated = False
        #: The transport, if it is one.
        self._tls: TlsTransport | None = None

    @property
    def unsent(self) -> int:
        """The number of bytes written that are not sent yet."""
        return self.transport.get_write_buffer_size()

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Called by the loop."""
        self.transport = cast("asyncio.Transport", transport)
        if isinstance(transport, TlsTransport):
            self._tls = transport
        # what VB365 has not read is counted from the first byte: there are thousands of connections
        self.transport.set_write_buffer_limits(high=1, low=0)
        self.readable = poller(transport)
        enable_keepalive(transport)

    def data_received(self, data: bytes) -> None:
        """Called by the loop."""
        self._counts.received += len(data)
        if self._receiver is not None:
            self._receiver.data_received(data)
        else:
            self.close()
            self.transport.abort()  # also before `adopt`, which raises then

    def eof_received(self) -> bool | None:
        """Called by the loop."""
        # without a close_notify, anybody on the way may have cut it off
        proper = has_proper_end(self.transport) if self._tls is None else self._tls.closed_by_peer
        self._end(None if proper else ConnectionAbortedError(_CUT_OFF))
        return False

    def connection_lost(self, exc: Exception | None) -> None:
        """Called by the loop, also when a write fails before the loop has read VB365's response."""
        try:
            # after any other exception than a write's, the receiver may lack the bytes before these
            if isinstance(exc, OSError) and not isinstance(exc, ssl.SSLError):
                for data in unread(self.transport) if self._tls is None else self._tls.unread():
                    if self._receiver is None:
                        break
                    self._counts.received += len(data)
                    self._receiver.data_received(data)
        finally:
            if self._flushing:
                self._flushing = False
                self._pool.drop(self)
            # `eof_received` has reported every proper end
            self._end(exc or ConnectionAbortedError(_CUT_OFF))

    def pause_writing(self) -> None:
        """Called by the loop."""
        if self._receiver is not None:
            self._receiver.pause_writing()

    def resume_writing(self) -> None:
        """Called by the loop."""
        if self._receiver is not None:
            self._receiver.resume_writing()

    def adopt(self) -> None:
        """Mark the connection as open. Raises `ConnectionResetError` if VB365 has already closed
        it.
        """
        if self.transport.is_closing():
            raise ConnectionResetError("closed by the peer at once")
        self.closed = False

    def _end(self, why: Exception | None) -> None:
        receiver, self._receiver = self._receiver, None
        self.close()
        if receiver is not None:
            receiver.connection_ended(why)

    def ask(self, receiver: Receiver, request: Head, message: bytes) -> None:
        """Send `message`: the head of `request`, as it is sent, and the part of its body that has
        arrived. The response goes to `receiver`.
        """
        self._receiver = receiver
        self._request = request
        self.write(message)

    def write(self, data: bytes) -> None:
        """Send more of the request."""
        self._counts.sent += len(data)
        self.transport.write(data)

    def give_back(self, response: ResponseHead, *, leftover: bool) -> bool:
        """Keep the connection for another request, or close it. Call at the end of the response.

        `leftover`: bytes followed the response. Returns True if the connection stays open for one
        client alone, which must take it again (`Pool.take`) or close it.
        """
        request, self._receiver, self._request = self._request, None, None
        if self.closed:
            return False
        private = self._private
        outcome = _CLOSED if request is None else fate(request, response, private=private)
        # a buffer may hold data, in either direction
        if (
            leftover
            or outcome is _CLOSED
            or self.paused
            or (self._tls is not None and self._tls.holds_unread)
            or self.unsent
        ):
            self.close()
            return False
        self.used = True
        self._private = private = outcome is _PRIVATE
        if private and request is not None and request.binds:
            self.authenticated = True
        return self._pool.put(self, private=private)

    def is_quiet(self) -> bool:
        """Report whether VB365 has sent nothing after its response: no byte, no end and, over TLS,
        no part of a record.
        """
        return not (self.readable() or (self._tls is not None and self._tls.holds_unread))

    def has_unread(self) -> bool:
        """Report whether VB365 has sent something that the loop will read next."""
        return not self.paused and bool(self.readable())

    def pause(self) -> None:
        """Stop reading until `resume` is called."""
        if not self.paused and not self.transport.is_closing():
            self.paused = True
            self.transport.pause_reading()

    def resume(self) -> None:
        """Read again. Does nothing unless the connection is paused."""
        if self.paused and not self.transport.is_closing():
            self.paused = False
            self.transport.resume_reading()

    def lend(self) -> ThreadReader | None:
        """Stop reading, so that a thread can read until `resume`. Return None if it cannot."""
        # a failure to write would make the transport report, or read, what the thread misses
        if self.closed or self.transport.is_closing() or self.unsent:
            return None
        reader = ThreadReader.of(self.transport)
        if reader is not None:
            self.pause()
        return reader

    def fail(self, why: Exception) -> None:
        """Note that a thread that was reading has found the connection broken."""
        self._end(why)

    def close(self, *, flush: bool = False) -> None:
        """Close at once, or with `flush` once all written data is sent, if VB365 reads it in time.
        Idempotent.
        """
        self._receiver = None
        if self.closed:
            return
        self.closed = True
        if flush:
            if self.unsent:
                asyncio.get_running_loop().call_later(_FLUSH, self.transport.abort)
            self.transport.close()
            self._flushing = True
            self._pool.flushing(self)
        else:
            self._pool.drop(self)
            self.transport.abort()

    def give_up(self) -> None:
        """Send no more of what a closed connection has still to send."""
        if self._flushing:
            self._flushing = False
            self._pool.drop(self)
            self.transport.abort()
