"""Operations on the connection below a transport: keep-alive, unread bytes, ends, resets."""

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

if sys.platform != "win32":
    import fcntl
    import termios

#: Linux: the first byte of TCP_INFO is the TCP state.
_TCP_INFO = getattr(socket, "TCP_INFO", None)
#: TCP_CLOSE after a reset, and TCP_CLOSE_WAIT after an end.
_RESET_BY_PEER, _ENDED_BY_PEER = 7, 8
#: struct linger: on, zero seconds.
_RESET = struct.pack("ii", 1, 0)
_KEEPALIVE = [
    (socket.IPPROTO_TCP, getattr(socket, name), seconds)
    for name, seconds in (("TCP_KEEPIDLE", 60), ("TCP_KEEPINTVL", 20), ("TCP_KEEPCNT", 3))
    if hasattr(socket, name)
]
#: Bytes per read from a broken connection.
_PIECE = 1 << 18


def enable_keepalive(transport: asyncio.BaseTransport) -> None:
    """Turn on TCP keep-alive, so that a vanished peer is detected within about two minutes."""
    sock = transport.get_extra_info("socket")
    if sock is None or sock.family not in (socket.AF_INET, socket.AF_INET6):
        return
    with contextlib.suppress(OSError):
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
        for level, option, seconds in _KEEPALIVE:
            sock.setsockopt(level, option, seconds)


def peer_closed(transport: asyncio.BaseTransport, *, half: bool = True) -> bool:
    """Report whether the peer has closed its side of a connection that is not being read; unless
    `half`, whether it has reset it, or closed both sides of a Unix socket.
    """
    sock = transport.get_extra_info("socket")
    if sock is None or _TCP_INFO is None:
        return False
    if sock.family not in (socket.AF_INET, socket.AF_INET6):
        return _unix_peer_closed(sock.fileno()) if half else _unix_closed(transport)
    try:
        state = sock.getsockopt(socket.IPPROTO_TCP, _TCP_INFO, 1)[0]
        return state == _RESET_BY_PEER or (half and state == _ENDED_BY_PEER)
    except OSError:
        return True


def _unix_closed(transport: asyncio.BaseTransport) -> bool:
    """Report whether the peer has closed both directions of a Unix socket. False for other sockets,
    and where poll(2) does not tell that from a peer that only sends nothing more.
    """
    sock = transport.get_extra_info("socket")
    linux = sys.platform.startswith("linux")
    if sock is None or not linux or sock.family != socket.AF_UNIX or sock.fileno() < 0:
        return False
    poll = select.poll()
    poll.register(sock.fileno(), 0)
    return any(event & select.POLLHUP for _, event in poll.poll(0))


def _unix_peer_closed(descriptor: int) -> bool:
    if descriptor < 0:
        return True
    poll = select.poll()
    poll.register(descriptor, select.POLLRDHUP)
    return bool(poll.poll(0))


def has_proper_end(transport: asyncio.BaseTransport) -> bool:
    """Report whether the peer itself has ended a connection without TLS whose `eof_received` is
    called. A Unix socket knows no reset: there a process that breaks off, or is killed, closes its
    socket, and one that has sent everything shuts its sending side first.
    """
    return not _unix_closed(transport)


def is_sent(transport: asyncio.Transport) -> bool:
    """Report whether the peer has acknowledged everything that was written. Where the system does
    not say, whether it was handed to the system.
    """
    return not (transport.get_write_buffer_size() or unsent(transport))


def unsent(transport: asyncio.Transport) -> int:
    """The number of bytes written that the peer has not acknowledged; more than 0 if the socket is
    closed. Where the system does not say, those that were not handed to it.
    """
    size = transport.get_write_buffer_size()
    sock = transport.get_extra_info("socket")
    if sock is None or not sys.platform.startswith("linux"):
        return size
    try:
        queued = fcntl.ioctl(sock.fileno(), termios.TIOCOUTQ, bytes(4))
    except (OSError, ValueError):
        return size + 1
    return size + int.from_bytes(queued, sys.byteorder)


def duplicated(transport: asyncio.BaseTransport) -> int | None:
    """A new descriptor of the transport's socket, to be closed by the caller. None over TLS, and
    where the system has no sendfile(2) that can be used with it.

    The transport may close its own descriptor while a thread still writes to it; the number then
    belongs to another connection.
    """
    sock = transport.get_extra_info("socket")
    tls = transport.get_extra_info("sslcontext") is not None
    if tls or sock is None or transport.is_closing() or not sys.platform.startswith("linux"):
        return None
    try:
        return os.dup(sock.fileno())
    except OSError:  # there are too many
        return None


def shut(descriptor: int) -> None:
    """End both directions of the connection, which has other descriptors too. It stays open."""
    with contextlib.suppress(OSError), socket.socket(fileno=os.dup(descriptor)) as same:
        same.shutdown(socket.SHUT_RDWR)


def reset(transport: asyncio.Transport) -> None:
    """Abort with RST instead of FIN, so that the peer sees an error whatever its framing."""
    sock = transport.get_extra_info("socket")
    if sock is not None:
        with contextlib.suppress(OSError):
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, _RESET)
    transport.abort()


def poller(transport: asyncio.BaseTransport) -> Callable[[], object]:
    """Return a function whose result is true if bytes, an end or a reset are waiting to be read."""
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
    """Yield what the peer sent before a write to it failed, over TLS as it was sent. Call in
    `connection_lost`.
    """
    sock = transport.get_extra_info("socket")
    descriptor = -1 if sock is None or sys.platform == "win32" else sock.fileno()
    with contextlib.suppress(OSError):
        while descriptor >= 0 and (data := os.read(descriptor, _PIECE)):
            yield data
