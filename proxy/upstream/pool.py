"""A pool of connections to the upstream (CONTRACT §12).

The relay and the proxy's own requests each use pools; `core.http.reuse` decides which connections
may be reused.
"""

from __future__ import annotations

import asyncio
import contextlib
import errno
import os
import socket
import ssl
import time
from collections.abc import Awaitable, Callable
from typing import Any

from proxy.core.http.heads import Head
from proxy.core.http.reuse import is_repeatable
from proxy.net.backlog import Backlog
from proxy.net.tls import explain
from proxy.net.tls_transport import TlsTransport
from proxy.ports import LocalShortage, UpstreamTimedOut, UpstreamUnreachable
from proxy.ports.counts import UpstreamCounts
from proxy.upstream.connection import Connection

#: An idle connection is closed after one to two times this many seconds, sooner than any known
#: server closes it.
IDLE = 15.0
#: Addresses are resolved again after this many seconds, and after every failure to connect.
RESOLVED = 60.0

#: Errors that are local and say nothing about VB365: no descriptor, port or memory left.
_SHORTAGES = frozenset(
    {errno.EMFILE, errno.ENFILE, errno.ENOBUFS, errno.ENOMEM, errno.EADDRNOTAVAIL}
)

#: Seconds that a name server has to respond if addresses are known.
_LOOKUP = 3.0
#: Errors of the resolver if no name server responds; None is that of a TimeoutError.
_UNRESOLVED = frozenset({socket.EAI_AGAIN, socket.EAI_FAIL, None})

#: Bytes of bodies that VB365 may leave unread. Most bodies are a few kilobytes of JSON.
UNREAD = 64 << 20

#: Address family, protocol and IP address.
_Address = tuple[int, int, str]


class Pool:
    """Connections to one origin.

    `host` is ASCII; `tls` is None for plain TCP. `limit` is the maximum number of connections,
    idle ones included, and `max_idle` that of idle ones; 0 means no limit. `authority` is the
    origin's own Host, if it differs from `host` and `port`; without `preserve_host` every request
    through the pool has that Host.
    """

    #: What the log calls the other end.
    label = "the upstream"

    def __init__(
        self,
        host: str,
        port: int,
        *,
        tls: ssl.SSLContext | None = None,
        connect_timeout: float = 10.0,
        limit: int = 0,
        max_idle: int = 0,
        idle: float = IDLE,
        authority: str | None = None,
        preserve_host: bool = True,
    ) -> None:
        self.host = host
        self.port = port
        self.counts = UpstreamCounts()
        #: What the origin has not read of the bodies that clients send.
        self.unread = Backlog(time.monotonic, limit=UNREAD, patience=0.0)
        #: The certificate (DER) that the origin presented last.
        self.certificate: bytes | None = None
        #: The origin's own Host field value, without a default port.
        self.authority = (authority or _authority(host, port, tls)).encode("ascii")
        #: The Host that every request must have; None if a request keeps its own (CONTRACT §12
        #: `upstream.preserve_host`).
        self.imposed_host = None if preserve_host else self.authority
        self._tls = tls
        self._connect_timeout = connect_timeout
        self._limit = limit
        self._max_idle = max_idle
        self._idle_for = idle
        self._idle: list[Connection] = []
        self._private: dict[Connection, None] = {}
        #: Closed ones that still send what is written.
        self._flushing: dict[Connection, None] = {}
        self._open = 0
        self._waiters: dict[asyncio.Future[None], None] = {}
        self._addresses: list[_Address] = []
        self._resolved = 0.0
        self._sweeps = 0
        self._shut = False
        #: Resolves names like `loop.getaddrinfo`; tests replace it.
        self.lookup: Callable[..., Awaitable[Any]] = _lookup
        self._sweep: asyncio.TimerHandle | None = None

    @property
    def open(self) -> int:
        """The number of connections that are open or being opened."""
        return self._open

    @property
    def idle(self) -> int:
        """The number of idle connections."""
        return len(self._idle) + len(self._private)

    def take(self, request: Head, private: Connection | None = None) -> Connection | None:
        """Return an idle connection for `request`: `private` if it is idle, else the one most
        recently used, None without one.

        A request that cannot be repeated gets an authenticated one, or none.
        """
        repeatable = is_repeatable(request)
        if private is not None and private in self._private:
            del self._private[private]
            if (repeatable or private.authenticated) and private.is_quiet():
                return private
            private.close()
        if not self._idle or not repeatable:
            return None
        while self._idle:
            connection = self._idle.pop()
            if connection.is_quiet():
                return connection
            connection.close()
        return None

    async def connect(self) -> Connection:
        """Open a new connection.

        Raises `UpstreamUnreachable`, `LocalShortage` or `UpstreamTimedOut`; nothing was sent.
        """
        try:
            async with asyncio.timeout(self._connect_timeout):
                await self._acquire()
                try:
                    return await self._dial()
                except BaseException:
                    self._release()
                    raise
        except TimeoutError:
            self.counts.timeout += 1
            self._resolved = -RESOLVED  # VB365 may have moved
        except OSError as why:
            kind = self._kind(why)
            raise kind(
                f"no connection to {self._name}: {self._reason(why)}", delivered=False
            ) from why
        except MemoryError as why:
            raise LocalShortage(f"no connection to {self._name}: there is no memory") from why
        # not from the TimeoutError, as in `HttpUpstream.send_over`
        raise UpstreamTimedOut(f"no connection to {self._name} in time", delivered=False)

    def _kind(self, why: OSError) -> type[UpstreamUnreachable]:
        """Count a failure to connect, and return what it is. A shortage is not VB365's failure."""
        if _is_shortage(why):
            return LocalShortage
        if isinstance(why, ssl.SSLError):
            self.counts.tls += 1
        else:
            self.counts.connect += 1
        return UpstreamUnreachable

    def put(self, connection: Connection, *, private: bool = False) -> bool:
        """Keep an idle connection for reuse. Return True if it is `private` and still open."""
        if self._waiters or self._shut:
            connection.close()
            return False
        if 0 < self._max_idle <= len(self._idle) + len(self._private):
            next(iter(self._idle or self._private)).close()
        connection.idle_since = self._sweeps
        if private:
            self._private[connection] = None
        else:
            self._idle.append(connection)
        if self._sweep is None and not connection.authenticated:
            self._sweep = asyncio.get_running_loop().call_later(self._idle_for, self._evict)
        return private

    def drop(self, connection: Connection) -> None:
        """Remove a closed connection from the pool."""
        self._private.pop(connection, None)
        self._flushing.pop(connection, None)
        with contextlib.suppress(ValueError):
            self._idle.remove(connection)
        self._release()

    def flushing(self, connection: Connection) -> None:
        """Count a closed connection until `drop`: it still sends what is written. It makes room for
        another one, so that clients that leave cannot use all of them.
        """
        self._flushing[connection] = None
        if self._waiters:
            connection.give_up()

    async def close(self) -> None:
        """Close idle connections now and all others when they are given back."""
        self._shut = True
        if self._sweep is not None:
            self._sweep.cancel()
            self._sweep = None
        for connection in [*self._idle, *self._private]:
            connection.close()

    @property
    def _name(self) -> str:
        return f"{self.host}:{self.port}"

    async def _acquire(self) -> None:
        """Wait until another connection may be opened, and count it."""
        while self._limit and self._open >= self._limit:
            if oldest := next(iter(self._idle or self._private), None):
                oldest.close()
                continue
            if leaving := next(iter(self._flushing), None):
                leaving.give_up()
                continue
            waiter = asyncio.get_running_loop().create_future()
            self._waiters[waiter] = None
            try:
                await waiter
            except asyncio.CancelledError:
                if not waiter.cancelled():  # it had been chosen already
                    self._release()
                raise
            finally:
                self._waiters.pop(waiter, None)
            return
        self._open += 1

    def _release(self) -> None:
        # whoever has waited longest is next, and counted now: nobody can come before it
        while self._waiters:
            waiter = next(iter(self._waiters))
            del self._waiters[waiter]
            if not waiter.done():
                waiter.set_result(None)
                return
        self._open -= 1

    def _evict(self) -> None:
        """Close connections that have been idle since before the last sweep, but none that a client
        has authenticated: it need not authenticate each of its requests.
        """
        self._sweep = None
        while self._idle and self._idle[0].idle_since < self._sweeps:
            self._idle[0].close()
        offered = [connection for connection in self._private if not connection.authenticated]
        for connection in offered:
            if connection.idle_since < self._sweeps:
                connection.close()
        self._sweeps += 1
        if self._idle or offered:
            self._sweep = asyncio.get_running_loop().call_later(self._idle_for, self._evict)

    async def _dial(self) -> Connection:
        """Try each address. If all remembered ones fail, resolve again and retry once, unless this
        machine has run out of a resource.
        """
        remembered = (
            asyncio.get_running_loop().time() - self._resolved < RESOLVED and self._addresses
        )
        if remembered:
            try:
                return await self._try(list(remembered))
            except OSError as why:
                if _is_shortage(why):  # the addresses are good, and a look-up needs a descriptor
                    raise
                self._addresses = []
        addresses = await self._resolve()
        connection = await self._try(addresses)
        self._resolved = asyncio.get_running_loop().time()
        return connection

    async def _resolve(self) -> list[_Address]:
        """The addresses of the host. While no name server responds, those that were found last, as
        RFC 8767 recommends.
        """
        known = self._addresses
        patience = min(_LOOKUP, self._connect_timeout / 2) if known else None
        try:
            async with asyncio.timeout(patience):
                found = await self.lookup(self.host, self.port, type=socket.SOCK_STREAM)
        except (socket.gaierror, TimeoutError) as why:
            if not known or why.errno not in _UNRESOLVED:
                raise
            return known
        return [(family, protocol, str(address[0])) for family, _, protocol, _, address in found]

    def _reason(self, why: OSError) -> str:
        if isinstance(why, ssl.SSLError):
            return explain(why, self.host)
        number = why.errno
        if (
            number is not None
            and number in errno.errorcode
            and not isinstance(why, socket.gaierror)
        ):
            # asyncio's own text is "Connect call failed ('10.0.0.1', 4443)"
            return os.strerror(number)
        return why.strerror or str(why) or type(why).__name__

    async def _try(self, addresses: list[_Address]) -> Connection:
        """Connect to the first address that accepts. The remaining time is divided equally among
        the addresses not tried yet.
        """
        loop = asyncio.get_running_loop()
        until = loop.time() + self._connect_timeout
        failures = []
        for at, address in enumerate(addresses):
            last = at == len(addresses) - 1
            try:
                async with asyncio.timeout(
                    None if last else (until - loop.time()) / (len(addresses) - at)
                ):
                    connection = await self._open_to(address)
            except OSError as why:  # a TimeoutError is one
                failures.append(why)
            else:
                self._addresses = [address, *addresses[:at], *addresses[at + 1 :]]
                return connection
        try:
            raise max(reversed(failures), key=_telling, default=OSError("the name has no address"))
        finally:
            # they refer to this frame: only the garbage collector would find them
            del failures

    async def _open_to(self, address: _Address) -> Connection:
        connection = Connection(self)
        if self._tls is None:
            await self._dial_to(address, connection)
        else:
            transport = TlsTransport(self._tls, connection, host=self.host)
            await self._dial_to(address, transport)
            try:
                await transport.connected()
            except BaseException:
                transport.abort()
                raise
        try:
            connection.adopt()
        except ConnectionResetError:
            connection.transport.abort()
            raise
        if self._tls is not None:
            session = connection.transport.get_extra_info("ssl_object")
            self.certificate = session.getpeercert(binary_form=True)
        return connection

    async def _dial_to(
        self, address: _Address, protocol: asyncio.BaseProtocol
    ) -> asyncio.Transport:
        family, number, host = address
        transport, _ = await asyncio.get_running_loop().create_connection(
            lambda: protocol, host, self.port, family=family, proto=number
        )
        return transport


def _authority(host: str, port: int, tls: ssl.SSLContext | None) -> str:
    host = f"[{host}]" if ":" in host else host
    return host if port == (80 if tls is None else 443) else f"{host}:{port}"


def _telling(why: OSError) -> int:
    """How much a failure to connect to one address tells about the others."""
    if why.errno == errno.EADDRNOTAVAIL:  # without IPv6 there is no port for ::1
        return 0
    return 2 if _is_shortage(why) else 1  # an address that refuses may not be the only one


def _is_shortage(why: OSError) -> bool:
    """Report whether connecting failed because this machine has run out of a resource."""
    if not isinstance(why, socket.gaierror):
        return why.errno in _SHORTAGES
    if why.errno == socket.EAI_MEMORY:
        return True
    try:  # without a descriptor the resolver reports that the name does not exist
        socket.socket(socket.AF_INET, socket.SOCK_DGRAM).close()
    except OSError as now:
        return now.errno in _SHORTAGES
    return False


async def _lookup(host: str, port: int, **hints: Any) -> Any:
    try:
        return await asyncio.get_running_loop().getaddrinfo(host, port, **hints)
    except UnicodeError as why:  # a label is empty or too long
        raise socket.gaierror(socket.EAI_NONAME, f"{host!r} is not a host name") from why
