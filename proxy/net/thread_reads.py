"""Reads of a connection in a thread, while its transport does not read.

A thread reads, hashes and writes the same buffer again and again. On the event loop every read
would allocate memory, which is cold again by the time that it is written.
"""

from __future__ import annotations

import asyncio
import os
import select
import sys
import threading

from proxy.net.tls_transport import TlsTransport

#: Bytes that are read at a time without TLS and with it, and of encrypted bytes received at a time.
#: Larger pieces need fewer system calls, as long as all that is touched fits into a core's cache.
_PLAIN, _DECRYPTED, _ENCRYPTED = 1 << 19, 1 << 18, 1 << 17


class _Buffers(threading.local):
    """The buffers of one thread: their number does not grow with that of the connections."""

    def __init__(self) -> None:
        self.filled = memoryview(bytearray(_PLAIN))
        self.encrypted = memoryview(bytearray(_ENCRYPTED))


_buffers = _Buffers()


class ThreadReader:
    """Reads the connection of a transport whose reading is paused. `close` it before that ends."""

    def __init__(self, descriptor: int, tls: TlsTransport | None) -> None:
        self._descriptor = descriptor
        self._tls = tls
        self._poll = select.poll()
        self._poll.register(descriptor, select.POLLIN)

    @classmethod
    def of(cls, transport: asyncio.Transport) -> ThreadReader | None:
        """Return a reader. None on Windows, or if the system has no descriptor left."""
        sock = transport.get_extra_info("socket")
        tls = transport if isinstance(transport, TlsTransport) else None
        if sock is None or sys.platform == "win32":
            return None
        try:
            return cls(os.dup(sock.fileno()), tls)
        except OSError:
            return None

    def buffer(self) -> memoryview:
        """Return the buffer of this thread to read into."""
        return _buffers.filled if self._tls is None else _buffers.filled[:_DECRYPTED]

    def read_into(self, view: memoryview) -> int:
        """Read at least one byte and return how many; 0 at the end of the connection, which the
        transport reports as well.

        Raises `BlockingIOError` if nothing has arrived, `ssl.SSLError`, and `OSError` for a broken
        connection, which the transport does not report again.
        """
        if self._tls is None:
            return os.readv(self._descriptor, [view])
        tls, encrypted = self._tls, _buffers.encrypted
        while not (count := tls.decrypt_into(view)) and not tls.closed_by_peer:
            received = os.readv(self._descriptor, [encrypted])
            if not received:
                break
            tls.encrypted(encrypted[:received])
        return count

    def wait(self, seconds: float) -> bool:
        """Wait until something arrives. Return False if nothing does within the time."""
        return bool(self._poll.poll(seconds * 1000))

    def close(self) -> None:
        """Release the descriptor."""
        os.close(self._descriptor)
