"""TLS for a connection that a thread may read (`net.thread_reads`).

The transports of asyncio and uvloop do not show the TLS state behind them, so only the event loop
could read from them.
"""

from __future__ import annotations

import asyncio
import contextlib
import ssl
from typing import Any, cast


class TlsTransport(asyncio.Transport, asyncio.Protocol):
    """The client's side of a TLS connection: the protocol of a plain transport, and the transport
    of `protocol`, which must use a buffered protocol (`net.shared_reads`) once it is connected.

    While reading is paused, one thread may call `decrypt_into`, and nothing else may be called but
    `abort`.
    """

    def __init__(self, context: ssl.SSLContext, host: str, protocol: asyncio.BaseProtocol) -> None:
        super().__init__()
        self._loop = asyncio.get_running_loop()
        self._context = context
        self._incoming, self._outgoing = ssl.MemoryBIO(), ssl.MemoryBIO()
        self._tls = context.wrap_bio(self._incoming, self._outgoing, server_hostname=host)
        self._protocol = protocol
        self._plain: asyncio.Transport
        self._connected: asyncio.Future[None] = self._loop.create_future()
        self._established = False
        self._paused = False
        #: The peer has sent a close_notify.
        self.closed_by_peer = False
        self._ended = False
        self._failure: Exception | None = None

    async def connected(self) -> None:
        """Wait for the end of the handshake. Raises `ssl.SSLError` or another `OSError`."""
        await self._connected

    # As a protocol

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Called by the loop."""
        self._plain = cast("asyncio.Transport", transport)
        self._shake_hands()

    def data_received(self, data: bytes) -> None:
        """Called by the loop."""
        self._incoming.write(data)
        if self._established:
            self._read()
        else:
            self._shake_hands()

    def eof_received(self) -> None:
        """Called by the loop, which closes the plain transport afterwards."""
        if self._established:
            self._read()
            self._end()

    def connection_lost(self, exc: Exception | None) -> None:
        """Called by the loop."""
        why, self._failure = self._failure or exc, None
        if self._established:
            self._protocol.connection_lost(why)
        elif not self._connected.done():
            text = "the peer closed the connection within the TLS handshake"
            self._connected.set_exception(why or ConnectionResetError(text))

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
            self._failure = why
            self._flush()  # the peer gets an alert
            self._plain.close()
            return
        self._flush()
        self._established = True
        self._protocol.connection_made(self)
        if not self._connected.done():
            self._connected.set_result(None)
        self._read()

    def _read(self) -> None:
        """Pass on what can be decrypted."""
        try:
            while not (self._paused or self._ended or self._plain.is_closing()):
                protocol = cast("asyncio.BufferedProtocol", self._protocol)
                buffer = memoryview(protocol.get_buffer(-1))
                filled = self.decrypt_into(buffer)
                if filled:
                    protocol.buffer_updated(filled)
                if self.closed_by_peer:
                    self._end()
                if filled < len(buffer):
                    break
        except ssl.SSLError as why:
            self._failure = why
            self._flush()
            self._plain.abort()
            return
        except Exception as why:
            # what the protocol did not take is missing: no byte may follow
            self._failure = why
            self._plain.abort()
            raise
        if not self._plain.is_closing():
            self._flush()

    def _end(self) -> None:
        """Report the end of what the peer sends, once."""
        if not self._ended:
            self._ended = True
            cast("asyncio.BufferedProtocol", self._protocol).eof_received()

    def _flush(self) -> None:
        if self._outgoing.pending:
            self._plain.write(self._outgoing.read())

    # In a thread

    def decrypt_into(self, buffer: memoryview) -> int:
        """Decrypt as many bytes as are there and as the buffer takes; return how many. Raises
        `ssl.SSLError`.
        """
        filled, size, read = 0, len(buffer), self._tls.read
        try:
            while filled < size:
                count = cast("int", read(size - filled, buffer[filled:]))
                if not count:
                    self.closed_by_peer = True
                    break
                filled += count
        except ssl.SSLWantReadError:
            pass
        return filled

    def encrypted(self, data: memoryview) -> None:
        """Add bytes that were received from the peer."""
        self._incoming.write(data)

    # As a transport

    def get_extra_info(self, name: str, default: Any = None) -> Any:
        """As of asyncio's transports."""
        if name == "ssl_object":
            return self._tls
        return self._context if name == "sslcontext" else self._plain.get_extra_info(name, default)

    def set_protocol(self, protocol: asyncio.BaseProtocol) -> None:
        """As of asyncio's transports."""
        self._protocol = protocol

    def get_protocol(self) -> asyncio.BaseProtocol:
        """As of asyncio's transports."""
        return self._protocol

    def write(self, data: bytes | bytearray | memoryview) -> None:
        """As of asyncio's transports."""
        if self._plain.is_closing():
            return
        rest = memoryview(data)
        while rest:
            rest = rest[self._tls.write(rest) :]
        self._flush()

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

    def get_write_buffer_size(self) -> int:
        """As of asyncio's transports."""
        return self._plain.get_write_buffer_size()

    def is_closing(self) -> bool:
        """As of asyncio's transports."""
        return self._plain.is_closing()

    def close(self) -> None:
        """As of asyncio's transports. The peer gets a close_notify, which is not waited for."""
        if not self._plain.is_closing():
            with contextlib.suppress(ssl.SSLError):
                self._tls.unwrap()
            self._flush()
            self._plain.close()

    def abort(self) -> None:
        """As of asyncio's transports."""
        self._plain.abort()
