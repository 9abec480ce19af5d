"""Flow control of a TLS connection by what is not sent.

The TLS transports of asyncio and uvloop count only what they have not handed to the transport below
them, which takes one write of any length before it is full, and 64 KiB without being full.
"""

from __future__ import annotations

import asyncio
import ssl


class _Below(asyncio.BufferedProtocol):
    """The TLS protocol of a loop, but `protocol` is told what the transport says about writing."""

    def __init__(self, tls: asyncio.BufferedProtocol, protocol: asyncio.BaseProtocol) -> None:
        # not methods of this class, which would make each read slower
        for name in ("get_buffer", "buffer_updated", "eof_received", "connection_lost"):
            setattr(self, name, getattr(tls, name))
        for name in ("pause_writing", "resume_writing"):
            setattr(self, name, getattr(protocol, name))


class _Silence(asyncio.Protocol):
    """Notes whether the peer sends anything, which it should not do before it gets a request."""

    broken = False

    def data_received(self, data: bytes) -> None:
        """Called by the loop."""
        self.broken = True


async def start_tls(
    below: asyncio.Transport, context: ssl.SSLContext, host: str, protocol: asyncio.Protocol
) -> asyncio.Transport:
    """Shake hands as a client over `below`, and return the transport of `protocol`. It hands on all
    that is written to it; `protocol` is paused and resumed by `below`. Raises `OSError`.
    """
    if below.is_closing():  # uvloop would begin the handshake after `connection_lost`
        raise ConnectionResetError("closed by the peer at once")
    silence = _Silence()
    try:
        transport = await asyncio.get_running_loop().start_tls(
            below, silence, context, server_hostname=host
        )
    except OSError as why:
        # asyncio's frames refer to it: only the garbage collector would find the TLS state
        raise why.with_traceback(None) from None
    if transport is None or transport.is_closing():
        raise ConnectionResetError("closed by the peer at once")
    if silence.broken:  # what follows would be taken for the beginning of a response
        raise ConnectionResetError("the peer sent data before it was asked")
    below.set_protocol(_Below(below.get_protocol(), protocol))  # type: ignore[arg-type]
    transport.set_protocol(protocol)
    return transport
