"""What is asked of and told to the socket below a transport: vanished peers, bytes not read yet,
resets.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import select
import socket
import struct
import sys
from collections.abc import Callable, Iterator
from functools import partial

#: Linux: the first byte of TCP_INFO is the state; CLOSE and CLOSE_WAIT are those after the peer's
#: end.
_TCP_INFO = getattr(socket, "TCP_INFO", None)
_LEFT = (7, 8)
_RESET = struct.pack("ii", 1, 0)
_PROBES = [
    (socket.IPPROTO_TCP, getattr(socket, name), seconds)
    for name, seconds in (("TCP_KEEPIDLE", 60), ("TCP_KEEPINTVL", 20), ("TCP_KEEPCNT", 3))
    if hasattr(socket, name)
]
#: Bytes read at a time of what a broken connection has left.
_PIECE = 1 << 18


def probe(transport: asyncio.BaseTransport) -> None:
    """Have the kernel notice a peer that has vanished without a word, within about two minutes."""
    sock = transport.get_extra_info("socket")
    if sock is None or sock.family not in (socket.AF_INET, socket.AF_INET6):
        return
    with contextlib.suppress(OSError):
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
        for level, option, seconds in _PROBES:
            sock.setsockopt(level, option, seconds)


def has_left(transport: asyncio.BaseTransport) -> bool:
    """Whether the peer has closed its side: for connections that nobody reads from, where the loop
    cannot tell.
    """
    sock = transport.get_extra_info("socket")
    if sock is None or _TCP_INFO is None:
        return False
    try:
        return sock.getsockopt(socket.IPPROTO_TCP, _TCP_INFO, 1)[0] in _LEFT
    except OSError:
        return True


def reset(transport: asyncio.Transport) -> None:
    """Abort so that the peer sees a broken connection, whatever ends its message: RST instead of
    FIN.
    """
    sock = transport.get_extra_info("socket")
    if sock is not None:
        with contextlib.suppress(OSError):
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, _RESET)
    transport.abort()


def look(transport: asyncio.BaseTransport) -> Callable[[], object]:
    """A function that returns something true if the peer has sent bytes, an end or a reset that is
    not read yet.
    """
    sock = transport.get_extra_info("socket")
    descriptor = -1 if sock is None else sock.fileno()
    if descriptor < 0:
        return lambda: True
    if sys.platform == "win32":
        return lambda: select.select([descriptor], [], [], 0)[0]
    poll = select.poll()
    poll.register(descriptor, select.POLLIN)
    return partial(poll.poll, 0)


def unread(transport: asyncio.BaseTransport) -> Iterator[bytes]:
    """What the peer had sent before a write to it failed; call in `connection_lost`, without TLS
    only.
    """
    sock = transport.get_extra_info("socket")
    descriptor = -1 if sock is None or sys.platform == "win32" else sock.fileno()
    with contextlib.suppress(OSError):
        while descriptor >= 0 and (data := os.read(descriptor, _PIECE)):
            yield data
