"""Reads of TLS connections into one shared buffer.

Otherwise every read of a TLS connection allocates and frees 256 KiB. The system calls and page
faults of that cost more than the rest of a small request.
"""

from __future__ import annotations

import asyncio
import sys

#: Filled and emptied within one callback of the loop. Windows fills it between callbacks, so
#: nothing is shared there.
_SHARED = memoryview(bytearray(1 << 18))
_SHAREABLE = sys.platform != "win32"


class Buffered(asyncio.BufferedProtocol):
    """Passes the bytes of each read to `protocol`, copied from the shared buffer."""

    __slots__ = ("_protocol", "filled")

    def __init__(self, protocol: asyncio.Protocol) -> None:
        self._protocol = protocol
        #: The last read filled the buffer: more may be decrypted already, which polling the socket
        #: does not show.
        self.filled = False

    def get_buffer(self, sizehint: int) -> memoryview:
        """Called by the loop."""
        return _SHARED

    def buffer_updated(self, nbytes: int) -> None:
        """Called by the loop."""
        self.filled = nbytes == len(_SHARED)
        self._protocol.data_received(bytes(_SHARED[:nbytes]))

    def eof_received(self) -> bool | None:
        """Called by the loop."""
        return self._protocol.eof_received()

    def connection_lost(self, exc: Exception | None) -> None:
        """Called by the loop, whose TLS protocol keeps this one. With its buffers it would stay in
        memory until the garbage collector finds the cycle.
        """
        protocol = self._protocol
        del self._protocol
        protocol.connection_lost(exc)

    def pause_writing(self) -> None:
        """Called by the loop."""
        self._protocol.pause_writing()

    def resume_writing(self) -> None:
        """Called by the loop."""
        self._protocol.resume_writing()


def share_reads(transport: asyncio.Transport, protocol: asyncio.Protocol) -> Buffered | None:
    """Make a TLS connection use the shared buffer. Call in `connection_made`.

    Returns None, and changes nothing, without TLS.
    """
    if not _SHAREABLE or transport.get_extra_info("sslcontext") is None:
        return None
    buffered = Buffered(protocol)
    transport.set_protocol(buffered)
    return buffered
