"""Raw bytes on both sides of the proxy: a scripted upstream, a client that reads answers, the proxy
in between.
"""

from __future__ import annotations

import asyncio
import contextlib
import ssl
from collections.abc import AsyncIterator, Awaitable, Callable
from typing import Any, cast

from aiohttp import web

from proxy.core.http.heads import Head
from proxy.core.routing import Decision, PassThrough
from proxy.downstream.listener import Listener
from proxy.downstream.server import Handler, Server
from proxy.net.sockets import reset
from proxy.relay import Relay as Relaying
from proxy.upstream.pool import Pool

#: Bounds every wait of these tests, in seconds.
LIMIT = 20


class Peer:
    """One end of a TCP connection. Every wait is bounded."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.reader = reader
        self.writer = writer

    async def send(self, data: bytes) -> None:
        if self.writer.is_closing():  # uvloop would raise RuntimeError
            raise ConnectionResetError
        self.writer.write(data)
        await asyncio.wait_for(self.writer.drain(), LIMIT)

    async def until(self, mark: bytes) -> bytes:
        return await asyncio.wait_for(self.reader.readuntil(mark), LIMIT)

    async def head(self) -> bytes:
        return await self.until(b"\r\n\r\n")

    async def exactly(self, count: int) -> bytes:
        return await asyncio.wait_for(self.reader.readexactly(count), LIMIT)

    async def rest(self) -> bytes:
        """Everything up to a clean end; raises `ConnectionError` if there is none."""
        return await asyncio.wait_for(self.reader.read(), LIMIT)

    async def gone(self) -> bool:
        """Wait for the other side to end the connection, in whatever way."""
        with contextlib.suppress(ConnectionError):
            while await asyncio.wait_for(self.reader.read(1 << 16), LIMIT):
                pass
        return True

    async def response(self) -> tuple[bytes, bytes]:
        """One answer that Content-Length frames: head and body."""
        head = await self.head()
        length = 0
        for line in head.lower().split(b"\r\n"):
            if line.startswith(b"content-length:"):
                length = int(line.partition(b":")[2])
        return head, await self.exactly(length)

    async def close(self) -> None:
        self.writer.close()
        with contextlib.suppress(ConnectionError, ssl.SSLError):
            await asyncio.wait_for(self.writer.wait_closed(), LIMIT)

    def abort(self) -> None:
        self.writer.transport.abort()

    def reset(self) -> None:
        reset(cast("asyncio.Transport", self.writer.transport))


Script = Callable[[Peer], Awaitable[None]]


class Origin:
    """An upstream that runs `script` on each connection, and keeps what went wrong in it."""

    def __init__(self, script: Script) -> None:
        self.script = script
        self.port = 0
        self.accepted = 0
        self.errors: list[BaseException] = []
        self._peers: list[Peer] = []

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.accepted += 1
        peer = Peer(reader, writer)
        self._peers.append(peer)
        try:
            await self.script(peer)
        except (ConnectionError, asyncio.IncompleteReadError):
            pass
        except Exception as why:  # noqa: BLE001  # shown when the upstream stops
            self.errors.append(why)
        finally:
            writer.close()

    @contextlib.asynccontextmanager
    async def running(self, tls: ssl.SSLContext | None = None) -> AsyncIterator[Origin]:
        server = await asyncio.start_server(self._serve, "127.0.0.1", 0, ssl=tls, limit=1 << 21)
        self.port = server.sockets[0].getsockname()[1]
        try:
            yield self
        finally:
            server.close()
            for peer in self._peers:
                peer.abort()
            await asyncio.wait_for(server.wait_closed(), LIMIT)
            await asyncio.sleep(0)
        assert not self.errors, self.errors


async def not_ours(request: web.BaseRequest, head: Head, decision: Decision) -> web.StreamResponse:
    raise AssertionError("nothing of this test is for our handlers")


def relay_all(head: Head) -> Decision:
    return PassThrough(head.target)


class Proxy:
    """A proxy that listens on loopback."""

    def __init__(self, server: Server, pool: Pool, port: int, tls: ssl.SSLContext | None) -> None:
        self.server = server
        self.pool = pool
        self.port = port
        self._tls = tls
        self._clients: list[Peer] = []

    async def connect(self, *, limit: int = 1 << 21) -> Peer:
        host = "localhost" if self._tls else None
        opened = asyncio.open_connection(
            "127.0.0.1", self.port, limit=limit, ssl=self._tls, server_hostname=host
        )
        peer = Peer(*await asyncio.wait_for(opened, LIMIT))
        self._clients.append(peer)
        return peer

    async def ask(self, raw: bytes) -> Peer:
        peer = await self.connect()
        await peer.send(raw)
        return peer

    def abandon(self) -> None:
        for peer in self._clients:
            peer.abort()


@contextlib.asynccontextmanager
async def proxy_to(
    port: int,
    *,
    decide: Callable[[Head], Decision] = relay_all,
    handler: Handler = not_ours,
    pool: dict[str, Any] | None = None,
    relay: dict[str, Any] | None = None,
    server_tls: ssl.SSLContext | None = None,
    client_tls: ssl.SSLContext | None = None,
    handshake_timeout: float = LIMIT,
    **options: Any,
) -> AsyncIterator[Proxy]:
    connections = Pool("127.0.0.1", port, **(pool or {}))
    front = Server(
        handler=handler, relay=Relaying(connections, **(relay or {})), decide=decide, **options
    )
    listener = Listener(front, tls=server_tls, handshake_timeout=handshake_timeout)
    proxy = Proxy(front, connections, (await listener.open("127.0.0.1", 0))[1], client_tls)
    try:
        yield proxy
    finally:
        listener.close()
        await asyncio.wait_for(front.drain(0.0), LIMIT)
        await connections.close()
        proxy.abandon()


@contextlib.asynccontextmanager
async def through(script: Script, **options: Any) -> AsyncIterator[tuple[Proxy, Origin]]:
    """The proxy in front of an upstream that runs `script`."""
    async with (
        Origin(script).running(options.pop("origin_tls", None)) as origin,
        proxy_to(origin.port, **options) as proxy,
    ):
        yield proxy, origin


async def eventually(fact: Callable[[], bool]) -> None:
    """Let the loop run until `fact` holds."""
    async with asyncio.timeout(LIMIT):
        while not fact():  # noqa: ASYNC110  # the facts are counters, without events
            await asyncio.sleep(0.001)
