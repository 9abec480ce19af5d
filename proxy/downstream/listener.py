"""Accepts client connections and counts them from that moment on (CONTRACT §15).

The servers of the event loops do not show the connections that they have accepted and not attached
yet, and uvloop's stops for good when descriptors run out.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import socket
import ssl
from collections.abc import Coroutine, Sequence
from functools import partial
from typing import Any

from proxy.downstream.connection import ClientConnection
from proxy.downstream.introduction import Introduction
from proxy.downstream.server import Server
from proxy.net.listening import listen
from proxy.net.tls_transport import TlsTransport

_log = logging.getLogger(__name__)

#: Seconds before accepting again after accept() failed, as in asyncio.
RETRY = 1.0
#: Connections that are accepted before the loop serves others.
_TOGETHER = 64

pause = asyncio.sleep


async def accept(listening: socket.socket, limit: int) -> list[socket.socket]:
    """Wait for a connection, and accept up to `limit` that are there. Raises OSError and
    MemoryError.
    """
    sock, _ = await asyncio.get_running_loop().sock_accept(listening)
    accepted = [sock]
    # no more are there, or the next call fails, too
    with contextlib.suppress(OSError, MemoryError):
        while len(accepted) < limit:
            sock, _ = listening.accept()
            sock.setblocking(False)
            accepted.append(sock)
    return accepted


class Listener:
    """Listens for clients of `server`, with TLS if `tls` is given.

    `handshake_timeout` is in seconds. With `introduced`, the clients' scheme, the connections come
    from other processes of the proxy and begin with a PROXY protocol line.
    """

    def __init__(
        self,
        server: Server,
        *,
        tls: ssl.SSLContext | None = None,
        handshake_timeout: float = 10.0,
        introduced: bytes | None = None,
    ) -> None:
        self._server = server
        self._tls = tls
        self._handshake_timeout = handshake_timeout
        self._introduced = introduced
        #: Each with the connection that it attaches, if any.
        self._tasks: dict[asyncio.Task[None], ClientConnection | None] = {}

    async def open(self, host: str, port: int) -> tuple[str, int]:
        """Listen on every address of `host`. Return the first. Raises OSError."""
        found = await asyncio.get_running_loop().getaddrinfo(
            host or None, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE
        )
        return self.serve(listen(found))

    def serve(self, sockets: Sequence[socket.socket]) -> tuple[str, int]:
        """Accept connections of listening sockets, which are closed with the listener. Return host
        and port of the first.
        """
        for sock in sockets:
            self._run(self._accept(sock)).add_done_callback(partial(_close, sock))
        name = sockets[0].getsockname()
        return (name[0], name[1]) if isinstance(name, tuple) else (name, 0)

    def close(self) -> None:
        """Stop accepting and abort unfinished handshakes. Established connections stay open.

        A listening socket is closed when its task has ended: until then asyncio watches its
        descriptor, whose number may already belong to another file.
        """
        # a task that is cancelled before its first step runs none of its clean-up: those that exist
        # have made it by then
        for task in list(self._tasks):
            task.get_loop().call_soon(self._end, task)

    def _end(self, task: asyncio.Task[None]) -> None:
        """Cancel the task, unless a request may have begun: its connection would be closed without
        the response. Without a handshake the task ends by itself.
        """
        client = self._tasks.get(task)
        if client is None or (self._tls is not None and self._server.is_arriving(client)):
            task.cancel()

    def _run(
        self, work: Coroutine[Any, Any, None], client: ClientConnection | None = None
    ) -> asyncio.Task[None]:
        try:
            task = asyncio.get_running_loop().create_task(work)
        except MemoryError:
            work.close()
            raise
        self._tasks[task] = client
        task.add_done_callback(self._tasks.pop)
        return task

    async def _accept(self, listening: socket.socket) -> None:
        # More each time, while as many are there: clients with many requests make each turn of the
        # loop long. Not at once, so that other processes get their part of a burst.
        limit = 1
        while True:
            with contextlib.suppress(MemoryError):  # whatever finds none, the next client may
                limit = await self._accept_some(listening, limit)

    async def _accept_some(self, listening: socket.socket, limit: int) -> int:
        """Accept up to `limit` connections. Return how many to accept the next time."""
        try:
            accepted = await accept(listening, limit)
        except ConnectionError:
            return limit  # the client has already closed
        except (OSError, MemoryError) as why:
            _log.error("cannot accept connections: %s", _reason(why))
            await pause(RETRY)
            return 1
        for sock in accepted:
            self._admit(sock)
        await asyncio.sleep(0)  # asyncio's loop does not wait for connections that are there
        return min(2 * limit, _TOGETHER) if len(accepted) == limit else 1

    def _admit(self, sock: socket.socket) -> None:
        client = None
        try:
            client = self._server()
            if self._server.arrive(client, handed_over=self._introduced is not None):
                self._run(self._connect(client, sock), client)
                return
        except MemoryError:
            if client is not None:
                self._server.leave(client)
        sock.close()

    async def _connect(self, client: ClientConnection, sock: socket.socket) -> None:
        """Attach the socket to the client connection, after the TLS handshake if there is one."""
        loop = asyncio.get_running_loop()
        try:
            if (scheme := self._introduced) is not None:
                await loop.connect_accepted_socket(lambda: Introduction(client, scheme), sock)
                return
            sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            if self._tls is None:
                await loop.connect_accepted_socket(lambda: client, sock)
                return
            transport = TlsTransport(self._tls, client)
            await loop.connect_accepted_socket(lambda: transport, sock)
            try:
                async with asyncio.timeout(self._handshake_timeout):
                    await transport.connected()
            except BaseException:
                transport.abort()
                raise
        except OSError as why:  # ssl.SSLError and time-outs are among them
            _log.debug("client connection failed: %s", why)
            # asyncio's future has it, and is in a frame of its traceback, with the TLS connection
            why.__traceback__ = why.__context__ = None
            self._server.leave(client)
        except BaseException:
            self._server.leave(client)
            raise


def _reason(why: OSError | MemoryError) -> object:
    return "no memory" if isinstance(why, MemoryError) else why.strerror or why


def _close(listening: socket.socket, accepting: asyncio.Task[None]) -> None:
    listening.close()
