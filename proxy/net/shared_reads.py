"""TLS read into one buffer that all connections share.

Otherwise each read of a TLS connection, however few its bytes, allocates 256 KiB and gives them
back: three system calls and the page faults of fresh memory, which is more than all the rest of a
small request.
"""

from __future__ import annotations

import asyncio
import sys

#: Filled and emptied within one callback of the loop. Windows fills it between callbacks, so
#: nothing is shared there.
_SHARED = memoryview(bytearray(1 << 18))
_SHAREABLE = sys.platform != "win32"


class Buffered(asyncio.BufferedProtocol):
    """Hands what is read to `protocol`, as bytes of their true size."""

    __slots__ = ("_protocol", "filled")

    def __init__(self, protocol: asyncio.Protocol) -> None:
        self._protocol = protocol
        #: The last read filled the buffer: more may be decrypted already, where no look at the
        #: socket finds it.
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
        """Called by the loop."""
        self._protocol.connection_lost(exc)

    def pause_writing(self) -> None:
        """Called by the loop."""
        self._protocol.pause_writing()

    def resume_writing(self) -> None:
        """Called by the loop."""
        self._protocol.resume_writing()


def share_reads(transport: asyncio.Transport, protocol: asyncio.Protocol) -> Buffered | None:
    """Call in `connection_made`: reads of a TLS connection go through the shared buffer from now
    on.
    """
    if not _SHAREABLE or transport.get_extra_info("sslcontext") is None:
        return None
    buffered = Buffered(protocol)
    transport.set_protocol(buffered)
    return buffered
