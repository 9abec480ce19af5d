"""Connections to the upstream: dialled, kept while idle, handed out for reuse (CONTRACT §12).

Who may reuse one is decided by its taker; a connection knows only whether it has served before.
"""

from __future__ import annotations

import asyncio
import contextlib
import errno
import socket
import ssl
import struct
from collections import deque
from collections.abc import Awaitable, Callable
from typing import Any, Protocol, cast

from proxy.buffered import share_reads
from proxy.ports import LocalShortage, UpstreamTimedOut, UpstreamUnreachable
from proxy.tls import explain

#: RFC 9110 §9.2.1. Only these go out on a reused connection, where a race with its end is possible (CONTRACT §12).
SAFE = frozenset({b"GET", b"HEAD", b"OPTIONS", b"TRACE"})
#: An idle connection is dropped after once to twice as many seconds: before any known server closes it by itself.
IDLE = 15.0
#: A resolved name is asked for again after this many seconds, and after every failure to connect.
RESOLVED = 60.0

#: Failures to connect that say nothing of VB365: this machine has no descriptor, port or memory left.
_SHORTAGES = frozenset({errno.EMFILE, errno.ENFILE, errno.ENOBUFS, errno.ENOMEM, errno.EADDRNOTAVAIL})

#: Linux: the first byte of TCP_INFO is the state; CLOSE and CLOSE_WAIT are those after the peer's end.
_TCP_INFO = getattr(socket, "TCP_INFO", None)
_LEFT = (7, 8)
_RESET = struct.pack("ii", 1, 0)
_PROBES = [
    (socket.IPPROTO_TCP, getattr(socket, name), seconds)
    for name, seconds in (("TCP_KEEPIDLE", 60), ("TCP_KEEPINTVL", 20), ("TCP_KEEPCNT", 3))
    if hasattr(socket, name)
]

#: Family, protocol and host of one address of the upstream.
_Address = tuple[int, int, str]


class User(Protocol):
    """Who a connection's bytes are for. After `connection_ended` the connection is no longer theirs."""

    def data_received(self, data: bytes) -> None:
        """Bytes of U."""

    def connection_ended(self, why: Exception | None) -> None:
        """U has closed (None) or the connection broke."""

    def pause_writing(self) -> None:
        """U reads slower than we write."""

    def resume_writing(self) -> None:
        """U has caught up."""


class Connection(asyncio.Protocol):
    """One connection to U. While nobody uses it, any byte or end of U closes it."""

    __slots__ = ("_pool", "closed", "idle_since", "transport", "used", "user")

    def __init__(self, pool: Pool) -> None:
        self._pool = pool
        self.transport = cast(asyncio.Transport, None)
        self.user: User | None = None
        self.used = False
        self.closed = True  # until the pool has adopted it
        self.idle_since = 0

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Called by the loop."""
        self.transport = cast(asyncio.Transport, transport)
        share_reads(self.transport, self)
        probe(transport)

    def data_received(self, data: bytes) -> None:
        """Called by the loop."""
        if self.user is not None:
            self.user.data_received(data)
        else:
            self.close()

    def eof_received(self) -> None:
        """Called by the loop."""
        self._end(None)

    def connection_lost(self, exc: Exception | None) -> None:
        """Called by the loop."""
        self._end(exc)

    def pause_writing(self) -> None:
        """Called by the loop."""
        if self.user is not None:
            self.user.pause_writing()

    def resume_writing(self) -> None:
        """Called by the loop."""
        if self.user is not None:
            self.user.resume_writing()

    def adopt(self) -> None:
        """Count as open from now on. Raises `ConnectionResetError` if U was faster."""
        if self.transport.is_closing():
            raise ConnectionResetError("closed by the peer at once")
        self.closed = False

    def _end(self, why: Exception | None) -> None:
        user, self.user = self.user, None
        self.close()
        if user is not None:
            user.connection_ended(why)

    def release(self) -> None:
        """Hand the connection back for reuse: its answer was read to the end and nothing follows."""
        self.user = None
        self.used = True
        if not self.closed:
            self._pool.put(self)

    def close(self, *, flush: bool = False) -> None:
        """Close at once, so that U sees it; with `flush` after everything written is out. Idempotent."""
        self.user = None
        if not self.closed:
            self.closed = True
            self._pool.drop(self)
            if flush:
                self.transport.close()
            else:
                self.transport.abort()


class Pool:
    """Connections to one origin.

    `host` is ASCII; `tls` is None for plain TCP; `verify_peer` gets the certificate (DER) after the handshake and
    raises `ssl.SSLError` to refuse it. `limit` bounds the connections, idle ones included; 0 is no limit.
    """

    def __init__(
        self,
        host: str,
        port: int,
        *,
        tls: ssl.SSLContext | None = None,
        verify_peer: Callable[[bytes], None] | None = None,
        connect_timeout: float = 10.0,
        limit: int = 0,
        idle: float = IDLE,
    ) -> None:
        self.host = host
        self.port = port
        self._tls = tls
        self._verify_peer = verify_peer
        self._connect_timeout = connect_timeout
        self._limit = limit
        self._idle_for = idle
        self._idle: list[Connection] = []
        self._open = 0
        self._waiters: deque[asyncio.Future[None]] = deque()
        self._addresses: list[_Address] = []
        self._resolved = 0.0
        self._sweeps = 0
        self._shut = False
        #: Resolves names, like `loop.getaddrinfo`.
        self.lookup: Callable[..., Awaitable[Any]] = _lookup
        self._sweep: asyncio.TimerHandle | None = None

    @property
    def authority(self) -> bytes:
        """Host and port as a Host field names them; a default port is left out."""
        host = f"[{self.host}]" if ":" in self.host else self.host
        default = 443 if self._tls is not None else 80
        return (host if self.port == default else f"{host}:{self.port}").encode("ascii")

    @property
    def open(self) -> int:
        """Connections that are open or being opened."""
        return self._open

    @property
    def idle(self) -> int:
        """Connections that wait for reuse."""
        return len(self._idle)

    def take(self) -> Connection | None:
        """The idle connection used last, if there is one."""
        return self._idle.pop() if self._idle else None

    async def connect(self) -> Connection:
        """A fresh connection. Raises `UpstreamUnreachable`, `LocalShortage`, `UpstreamTimedOut`: nothing was sent."""
        try:
            async with asyncio.timeout(self._connect_timeout):
                await self._room()
                try:
                    return await self._dial()
                except BaseException:
                    self._gone()
                    raise
        except TimeoutError as why:
            raise UpstreamTimedOut(f"no connection to {self._name} in time", delivered=False) from why
        except OSError as why:
            kind = LocalShortage if _is_shortage(why) else UpstreamUnreachable
            raise kind(f"no connection to {self._name}: {self._said(why)}", delivered=False) from why

    def put(self, connection: Connection) -> None:
        """Keep an idle connection for the next taker."""
        if self._waiters or self._shut:
            connection.close()
            return
        connection.idle_since = self._sweeps
        self._idle.append(connection)
        if self._sweep is None:
            self._sweep = asyncio.get_running_loop().call_later(self._idle_for, self._evict)

    def drop(self, connection: Connection) -> None:
        """Forget a connection that is closed."""
        with contextlib.suppress(ValueError):
            self._idle.remove(connection)
        self._gone()

    async def close(self) -> None:
        """Close idle connections, and from now on every one that is handed back."""
        self._shut = True
        if self._sweep is not None:
            self._sweep.cancel()
            self._sweep = None
        while self._idle:
            self._idle[-1].close()

    @property
    def _name(self) -> str:
        return f"{self.host}:{self.port}"

    async def _room(self) -> None:
        """Wait until one more connection may be opened, and count it."""
        while self._limit and self._open >= self._limit:
            if self._idle:
                self._idle[0].close()
                continue
            waiter = asyncio.get_running_loop().create_future()
            self._waiters.append(waiter)
            try:
                await waiter
            except asyncio.CancelledError:
                if not waiter.cancelled():  # it had been woken: the room goes to the next one
                    self._wake()
                raise
        self._open += 1

    def _gone(self) -> None:
        self._open -= 1
        self._wake()

    def _wake(self) -> None:
        while self._waiters:
            waiter = self._waiters.popleft()
            if not waiter.done():
                waiter.set_result(None)
                return

    def _evict(self) -> None:
        """Close what has been idle since before the last sweep, so for one to two periods."""
        self._sweep = None
        while self._idle and self._idle[0].idle_since < self._sweeps:
            self._idle[0].close()
        self._sweeps += 1
        if self._idle:
            self._sweep = asyncio.get_running_loop().call_later(self._idle_for, self._evict)

    async def _dial(self) -> Connection:
        """Try each address; when all that were remembered fail, resolve once more and try again."""
        remembered = asyncio.get_running_loop().time() - self._resolved < RESOLVED and self._addresses
        if remembered:
            try:
                return await self._try(list(remembered))
            except OSError:
                self._addresses = []
        addresses = await self._resolve()
        connection = await self._try(addresses)
        self._resolved = asyncio.get_running_loop().time()
        return connection

    async def _resolve(self) -> list[_Address]:
        found = await self.lookup(self.host, self.port, type=socket.SOCK_STREAM)
        return [(family, protocol, str(address[0])) for family, _, protocol, _, address in found]

    def _said(self, why: OSError) -> str:
        if isinstance(why, ssl.SSLError):
            return explain(why, self.host)
        return why.strerror or str(why) or type(why).__name__

    async def _try(self, addresses: list[_Address]) -> Connection:
        """The first address that answers; the time left is shared among those still to try."""
        loop = asyncio.get_running_loop()
        until = loop.time() + self._connect_timeout
        failures = []
        for at, address in enumerate(addresses):
            last = at == len(addresses) - 1
            try:
                async with asyncio.timeout(None if last else (until - loop.time()) / (len(addresses) - at)):
                    connection = await self._open_to(address)
            except OSError as why:  # a TimeoutError is one
                failures.append(why)
            else:
                self._addresses = [address, *addresses[:at], *addresses[at + 1 :]]
                return connection
        # A machine without IPv6 has no port for ::1 (EADDRNOTAVAIL): what another address answered says more.
        told = [why for why in failures if why.errno != errno.EADDRNOTAVAIL] or failures
        raise told[-1] if told else OSError("the name has no address")

    async def _open_to(self, address: _Address) -> Connection:
        family, protocol, host = address
        _, connection = await asyncio.get_running_loop().create_connection(
            lambda: Connection(self),
            host,
            self.port,
            family=family,
            proto=protocol,
            ssl=self._tls,
            server_hostname=self.host if self._tls is not None else None,
        )
        try:
            if self._verify_peer is not None:
                self._verify_peer(connection.transport.get_extra_info("ssl_object").getpeercert(binary_form=True))
            connection.adopt()
        except OSError:  # ssl.SSLError is one
            connection.transport.abort()
            raise
        return connection


def _is_shortage(why: OSError) -> bool:
    """Whether connecting failed for want of something on this machine."""
    if not isinstance(why, socket.gaierror):
        return why.errno in _SHORTAGES
    if why.errno == socket.EAI_MEMORY:
        return True
    try:  # a resolver without a descriptor says that there is no such name
        socket.socket(socket.AF_INET, socket.SOCK_DGRAM).close()
    except OSError as now:
        return now.errno in _SHORTAGES
    return False


async def _lookup(host: str, port: int, **hints: Any) -> Any:
    return await asyncio.get_running_loop().getaddrinfo(host, port, **hints)


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
    """Whether the peer has closed its side: for connections that nobody reads from, where the loop cannot tell."""
    sock = transport.get_extra_info("socket")
    if sock is None or _TCP_INFO is None:
        return False
    try:
        return sock.getsockopt(socket.IPPROTO_TCP, _TCP_INFO, 1)[0] in _LEFT
    except OSError:
        return True


def reset(transport: asyncio.Transport) -> None:
    """Abort so that the peer sees a broken connection, whatever ends its message: RST instead of FIN."""
    sock = transport.get_extra_info("socket")
    if sock is not None:
        with contextlib.suppress(OSError):
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, _RESET)
    transport.abort()
