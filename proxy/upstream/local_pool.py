"""Connections to another process of this proxy, over a Unix socket."""

from __future__ import annotations

import asyncio
import contextlib
import os
import socket
from collections.abc import Callable
from pathlib import Path

from proxy.net.sockets import has_proper_end
from proxy.upstream.connection import Connection
from proxy.upstream.pool import Pool

#: Tells the other process that the client has received the whole response. An HTTP server ignores
#: an empty line before a request (RFC 9112 §2.2).
_RECEIVED = b"\r\n"
#: Seconds before another try while the other process does not keep up with accepting.
_RETRY = 0.02


class LocalConnection(Connection):
    """A connection to another process. It can stay open after the response until the client has
    received that, or has not: then it closes without a word.
    """

    __slots__ = ("_kept",)

    def __init__(self, pool: LocalPool) -> None:
        super().__init__(pool)
        self._kept = False

    def keep(self) -> Callable[[bool], None]:
        """Keep it open until the returned function is called with whether the client has received
        the whole response.
        """
        self._kept, self._receiver = True, None
        return self._conclude

    def _conclude(self, received: bool) -> None:  # the only argument of a callback
        if received and not self.closed:
            self.write(_RECEIVED)
        self.close(flush=received)

    def eof_received(self) -> bool | None:
        """Called by the loop. True keeps it open."""
        if not self._kept and has_proper_end(self.transport):
            receiver, self._receiver = self._receiver, None
            if receiver is not None:
                receiver.connection_ended(None)
        if not self._kept:
            return super().eof_received()
        return not self.closed


class LocalPool(Pool):
    """Connections to the Unix socket at `path`. Each belongs to one client, which its first line
    names, so that none is used again.
    """

    label = "the worker that runs the exports"

    def __init__(self, path: Path, *, connect_timeout: float) -> None:
        super().__init__("localhost", 0, connect_timeout=connect_timeout)
        self._path = os.fspath(path)
        self._turn = asyncio.Lock()

    def put(self, connection: Connection, *, private: bool = False) -> bool:
        """Close the connection."""
        connection.close()
        return False

    @property
    def _name(self) -> str:
        return self.label

    async def _dial(self) -> Connection:
        connection = await self._in_turn()
        try:
            connection.adopt()
        except ConnectionResetError:
            connection.transport.abort()
            raise
        return connection

    async def _in_turn(self) -> LocalConnection:
        """Connect. One request at a time tries again while too many wait to be accepted: a Unix
        socket then rejects a connection, where TCP would wait.
        """
        if not self._turn.locked():
            with contextlib.suppress(BlockingIOError):
                return await self._connect()
        async with self._turn:
            while True:
                with contextlib.suppress(BlockingIOError):
                    return await self._connect()
                await asyncio.sleep(_RETRY)

    async def _connect(self) -> LocalConnection:
        """Raises BlockingIOError if too many wait. asyncio would take the socket for connected."""
        sock = socket.socket(socket.AF_UNIX)
        try:
            sock.setblocking(False)
            sock.connect(self._path)
            _, connection = await asyncio.get_running_loop().create_unix_connection(
                lambda: LocalConnection(self), sock=sock
            )
        except BaseException:
            sock.close()
            raise
        return connection
