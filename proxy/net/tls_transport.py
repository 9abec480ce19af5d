"""TLS for the connections of clients and those to VB365.

The TLS transports of asyncio and uvloop do not show the state behind them, so only the event loop
could read from them (`net.thread_reads`). They pause for what they have not sent only once it is
64 KiB, and read hundreds of kilobytes while they are paused. Their buffers, and OpenSSL's, stay as
large as the largest read or write: up to 600 KiB.
"""

from __future__ import annotations

import asyncio
import contextlib
import ssl
from collections.abc import Iterator
from itertools import chain
from typing import Any, cast

from proxy.net.sockets import unread
from proxy.net.tls_records import BoundedObject

#: Bytes to receive from VB365 and from a client, and to encrypt, at a time. OpenSSL's buffers stay
#: a third larger than the most that they once had. There are more clients, and they send little.
_RECEIVED, _FROM_CLIENT, _WRITTEN = 1 << 18, 1 << 16, 1 << 16
#: Bytes of OpenSSL's responses to messages without data that the peer may leave unread.
_RESPONSES = 1 << 14
#: Bytes beside the data that a peer may send before others have their turn: more than a part of a
#: record has, or a thousand headers. uvloop would read 2 MiB, which takes 0.2 s if each byte has a
#: record of its own.
_OVERHEAD = 1 << 15
#: Filled and emptied within one callback of the loop: what is received, and what is decrypted.
_encrypted, _decrypted = (memoryview(bytearray(_RECEIVED)) for _ in range(2))


class TlsTransport(asyncio.Transport, asyncio.BufferedProtocol):
    """One side of a TLS connection: the protocol of a plain transport, and the transport of
    `protocol`, which is paused and resumed by the plain one. It is the client's side, and `host`
    the server's name, or the server's without `host`.

    While reading is paused, one thread may call `decrypt_into`, and nothing else may be called but
    `abort`.
    """

    def __init__(
        self, context: ssl.SSLContext, protocol: asyncio.Protocol, *, host: str | None = None
    ) -> None:
        super().__init__()
        self._loop = asyncio.get_running_loop()
        self._context = context
        self._incoming, self._outgoing = ssl.MemoryBIO(), ssl.MemoryBIO()
        self._tls = context.wrap_bio(
            self._incoming, self._outgoing, server_side=host is None, server_hostname=host
        )
        self._buffer = _encrypted[:_FROM_CLIENT] if host is None else _encrypted
        self._protocol = protocol
        self._plain: asyncio.Transport
        self._connected: asyncio.Future[None] = self._loop.create_future()
        self._established = False
        self._paused = False
        #: `write_eof` was called.
        self._shut = False
        #: Bytes of OpenSSL's responses since everything was sent.
        self._responses = 0
        #: Bytes beside the data since others had their turn.
        self._overhead = 0
        #: The peer has sent a close_notify.
        self.closed_by_peer = False
        #: What broke the connection behind the last bytes that were decrypted.
        self._broken: ssl.SSLError | None = None
        self._ended = False
        self._failure: Exception | None = None

    async def connected(self) -> None:
        """Wait for the end of the handshake. Raises `ssl.SSLError` or another `OSError`."""
        await self._connected
        why, self._failure = self._failure, None
        if why is not None:
            try:
                raise why
            finally:
                del why  # it refers to this frame: only the garbage collector would find them

    # As a protocol

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Called by the loop."""
        self._plain = cast("asyncio.Transport", transport)
        self._shake_hands()

    def get_buffer(self, sizehint: int) -> memoryview:
        """Called by the loop."""
        return self._buffer

    def buffer_updated(self, nbytes: int) -> None:
        """Called by the loop."""
        self._incoming.write(_encrypted[:nbytes])
        if not self._established:
            self._shake_hands()
            return
        self._overhead += nbytes - self._read()
        if self._overhead > _OVERHEAD and not (self._paused or self._plain.is_closing()):
            self._overhead = 0
            self._loop.call_soon(self._read_on)
            self._plain.pause_reading()

    def _read_on(self) -> None:
        if not (self._paused or self._plain.is_closing()):
            self._plain.resume_reading()

    def eof_received(self) -> None:
        """Called by the loop, which closes the plain transport afterwards."""
        if self._established:
            self._read()
            self._end()

    def connection_lost(self, exc: Exception | None) -> None:
        """Called by the loop."""
        why, self._failure = self._failure or exc, None
        protocol = self._protocol
        del self._protocol  # it refers to this, too
        if not self._connected.done():
            text = "the peer closed the connection within the TLS handshake"
            self._failure = why or ConnectionResetError(text)
            self._connected.set_result(None)
        if self._established:
            protocol.connection_lost(why)

    def pause_writing(self) -> None:
        """Called by the loop."""
        self._protocol.pause_writing()

    def resume_writing(self) -> None:
        """Called by the loop."""
        self._protocol.resume_writing()

    def _shake_hands(self) -> None:
        try:
            self._tls.do_handshake()
        except ssl.SSLWantReadError:
            self._flush()
            return
        except ssl.SSLError as why:
            self._failure = why.with_traceback(None)  # which refers to this
            self._flush()  # the peer gets an alert
            self._plain.close()
            return
        self._flush()
        self._established = True
        self._protocol.connection_made(self)
        if not self._connected.done():
            self._connected.set_result(None)
        self._read()

    def _read(self) -> int:
        """Pass on what can be decrypted. Return how many bytes."""
        count = 0
        try:
            while not (self._paused or self._ended or self._plain.is_closing()):
                filled = self.decrypt_into(_decrypted)
                count += filled
                if filled:
                    self._protocol.data_received(_decrypted[:filled].tobytes())
                if self.closed_by_peer:
                    self._end()
                if filled < len(_decrypted) and self._broken is None:
                    break
        except ssl.SSLError as why:
            self._failure = why
            self._flush()
            self._plain.abort()
            return count
        except Exception as why:
            # what the protocol did not take is missing: no byte may follow
            self._failure = why
            self._plain.abort()
            raise
        if self._outgoing.pending and not self._plain.is_closing():
            self._respond()
        return count

    def _respond(self) -> None:
        """Send what OpenSSL responds to messages without data. `protocol` does not know of them, so
        that nothing else ends a peer that sends more and more of them and reads nothing.
        """
        unsent = self._plain.get_write_buffer_size()
        self._responses = (self._responses if unsent else 0) + self._outgoing.pending
        if self._responses > _RESPONSES:
            self._failure = ssl.SSLError(1, "the peer does not read the responses of TLS")
            self._plain.abort()
        else:
            self._flush()

    def _end(self) -> None:
        """Report the end of what the peer sends, once, and close."""
        if not self._ended:
            self._ended = True
            self._protocol.eof_received()
            self.close()

    def _flush(self) -> None:
        data = self._outgoing.read()
        if data and not self._shut:  # OpenSSL responds to a KeyUpdate after its close_notify, too
            self._plain.write(data)

    # In a thread

    def decrypt_into(self, buffer: memoryview) -> int:
        """Decrypt as many bytes as are there and as the buffer takes; return how many. Raises
        `ssl.SSLError`: for what follows such bytes, by the next call.
        """
        if self._broken is not None:
            raise self._broken
        filled, size, read, incoming = 0, len(buffer), self._tls.read, self._incoming
        try:
            # not once more than necessary: an exception costs more than all else
            while incoming.pending or self._tls.pending():
                count = cast("int", read(size - filled, buffer[filled:] if filled else buffer))
                if not count:
                    self.closed_by_peer = True
                    break
                filled += count
                if filled == size:
                    break
        except ssl.SSLWantReadError:
            pass
        except ssl.SSLZeroReturnError:  # in place of 0 after `write_eof`
            self.closed_by_peer = True
        except ssl.SSLError as why:
            if not filled:
                raise
            self._broken = why.with_traceback(None)  # which refers to this
        return filled

    def encrypted(self, data: bytes | memoryview) -> None:
        """Add bytes that were received from the peer."""
        self._incoming.write(data)

    # As a transport

    def get_extra_info(self, name: str, default: Any = None) -> Any:
        """As of asyncio's transports."""
        if name == "ssl_object":
            return self._tls
        return self._context if name == "sslcontext" else self._plain.get_extra_info(name, default)

    def write(self, data: bytes | bytearray | memoryview) -> None:
        """As of asyncio's transports."""
        if self._plain.is_closing():
            return
        try:
            if len(data) <= _WRITTEN:
                self._tls.write(data)
                self._flush()
                return
            # in one write: the protocol is paused once, when all of it counts
            parts = []
            with memoryview(data) as rest:
                for at in range(0, len(data), _WRITTEN):
                    self._tls.write(rest[at : at + _WRITTEN])
                    parts.append(self._outgoing.read())
            self._plain.writelines(parts)
        except (ssl.SSLError, MemoryError) as why:
            self._failure = why
            self._plain.abort()

    def pause_reading(self) -> None:
        """As of asyncio's transports."""
        self._paused = True
        self._plain.pause_reading()

    def resume_reading(self) -> None:
        """As of asyncio's transports. Bytes may have arrived before reading was paused."""
        self._paused = False
        self._plain.resume_reading()
        self._loop.call_soon(self._read)

    def set_write_buffer_limits(self, high: int | None = None, low: int | None = None) -> None:
        """As of asyncio's transports."""
        self._plain.set_write_buffer_limits(high, low)

    def unread(self) -> Iterator[bytes]:
        """Yield what the peer sent before a write to it failed. Call in `connection_lost`."""
        with contextlib.suppress(ssl.SSLError):
            for data in chain((b"",), unread(self._plain)):
                self.encrypted(data)
                while filled := self.decrypt_into(_decrypted):
                    yield _decrypted[:filled].tobytes()

    @property
    def holds_unread(self) -> bool:
        """Whether bytes that the peer has sent are here that `protocol` has not got, perhaps a part
        of a record only.
        """
        tls = self._tls
        return bool(
            self._incoming.pending
            or tls.pending()
            or (isinstance(tls, BoundedObject) and tls.unfinished)
        )

    def get_write_buffer_size(self) -> int:
        """As of asyncio's transports."""
        return self._plain.get_write_buffer_size()

    def is_closing(self) -> bool:
        """As of asyncio's transports."""
        return self._plain.is_closing()

    def can_write_eof(self) -> bool:
        """As of asyncio's transports."""
        return True

    def write_eof(self) -> None:
        """As of asyncio's transports. The peer gets a close_notify; what it has sent, and
        `protocol` has not got, is dropped.
        """
        if not self._plain.is_closing():
            self._notify()
            self._shut = True
            self._plain.write_eof()

    def close(self) -> None:
        """As of asyncio's transports. The peer gets a close_notify, whose own is not waited for."""
        if not self._plain.is_closing():
            try:
                self._notify()
            finally:
                self._plain.close()

    def _notify(self) -> None:
        with contextlib.suppress(ssl.SSLError):
            # OpenSSL would read no more after an `unwrap` with something to read
            while self.decrypt_into(_decrypted):
                pass
            self._tls.unwrap()
        self._flush()

    def abort(self) -> None:
        """As of asyncio's transports."""
        self._plain.abort()
