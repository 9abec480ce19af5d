"""Accepts client connections and counts them from that moment on (CONTRACT §15).

`loop.create_server` reports a TLS connection only after its handshake, so that any number of
clients could start one and never finish it; and uvloop's server stops for good when descriptors
run out.
"""

from __future__ import annotations

import asyncio
import logging
import os
import socket
import ssl
from collections.abc import Coroutine
from typing import Any

from proxy.downstream.connection import ClientConnection
from proxy.downstream.server import Server

_log = logging.getLogger(__name__)

_BACKLOG = 1024
#: Seconds before accepting again after accept() failed, as in asyncio.
RETRY = 1.0

pause = asyncio.sleep


async def accept_one(listening: socket.socket) -> socket.socket:
    """Accept one connection. Raises OSError."""
    sock, _ = await asyncio.get_running_loop().sock_accept(listening)
    return sock


class Listener:
    """Listens for clients of `server`, with TLS if `tls` is given.

    `handshake_timeout` is in seconds.
    """

    def __init__(
        self, server: Server, *, tls: ssl.SSLContext | None = None, handshake_timeout: float = 10.0
    ) -> None:
        self._server = server
        self._tls = tls
        self._handshake_timeout = handshake_timeout if tls is not None else None
        self._sockets: list[socket.socket] = []
        self._tasks: set[asyncio.Task[None]] = set()

    async def open(self, host: str, port: int) -> tuple[str, int]:
        """Listen on every address of `host`. Return the first. Raises OSError."""
        loop = asyncio.get_running_loop()
        found = await loop.getaddrinfo(
            host or None, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE
        )
        try:
            for family, _, _, _, address in dict.fromkeys(found):
                self._sockets.append(_listening(family, address))
        except OSError:
            self.close()
            raise
        for sock in self._sockets:
            self._run(self._accept(sock))
        name = self._sockets[0].getsockname()
        return name[0], name[1]

    def close(self) -> None:
        """Stop accepting and abort unfinished handshakes. Established connections stay open."""
        for task in list(self._tasks):
            task.cancel()
        for sock in self._sockets:
            sock.close()
        self._sockets.clear()

    def _run(self, work: Coroutine[Any, Any, None]) -> None:
        task = asyncio.get_running_loop().create_task(work)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    async def _accept(self, listening: socket.socket) -> None:
        while True:
            try:
                sock = await accept_one(listening)
            except ConnectionError:
                continue  # the client has already closed
            except OSError as why:
                _log.error("cannot accept connections: %s", why.strerror or why)
                await pause(RETRY)
                continue
            self._admit(sock)

    def _admit(self, sock: socket.socket) -> None:
        client = self._server()
        if self._server.arrive(client):
            self._run(self._connect(client, sock))
        else:
            sock.close()

    async def _connect(self, client: ClientConnection, sock: socket.socket) -> None:
        """Attach the socket to the client connection, after the TLS handshake if there is one."""
        loop = asyncio.get_running_loop()
        try:
            sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            await loop.connect_accepted_socket(
                lambda: client, sock, ssl=self._tls, ssl_handshake_timeout=self._handshake_timeout
            )
        except OSError as why:  # ssl.SSLError and time-outs are among them
            _log.debug("client connection failed: %s", why)
            self._server.leave(client)
        except BaseException:
            self._server.leave(client)
            raise


def _listening(family: int, address: tuple[Any, ...]) -> socket.socket:
    sock = socket.socket(family, socket.SOCK_STREAM)
    try:
        if os.name == "posix":
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        if family == socket.AF_INET6:
            sock.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 1)
        sock.setblocking(False)
        sock.bind(address)
        sock.listen(_BACKLOG)
    except OSError as why:
        sock.close()
        raise OSError(
            why.errno, f"cannot listen on {address[0]} port {address[1]}: {why.strerror}"
        ) from why
    return sock
