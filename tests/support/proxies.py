"""The proxy's connections and relay, without jobs, between raw bytes on both sides."""

from __future__ import annotations

import asyncio
import contextlib
import ssl
from collections.abc import AsyncIterator, Callable
from typing import Any

from aiohttp import web

from proxy.core.http.heads import Head
from proxy.core.routing import Decision, PassThrough
from proxy.downstream.listener import Listener
from proxy.downstream.server import Handler, Server
from proxy.net.budget import Budget
from proxy.relay.relay import Relay
from proxy.upstream.pool import Pool
from tests.support.upstreams import Origin, Script
from tests.support.wire import LIMIT, Peer


async def no_handler(
    request: web.BaseRequest, head: Head, decision: Decision
) -> web.StreamResponse:
    raise AssertionError("no request of this test is for a handler of the proxy")


def relay_all(head: Head) -> Decision:
    return PassThrough(head.target)


class Proxy:
    """A proxy that listens on loopback."""

    def __init__(
        self,
        server: Server,
        listener: Listener,
        pool: Pool,
        port: int,
        tls: ssl.SSLContext | None,
    ) -> None:
        self.server = server
        self.listener = listener
        self.pool = pool
        self.port = port
        self._tls = tls
        self._clients: list[Peer] = []

    async def connect(self, *, limit: int = 1 << 21, receive_buffer: int = 0) -> Peer:
        url = f"http://127.0.0.1:{self.port}"
        peer = await Peer.to(url, limit=limit, tls=self._tls, receive_buffer=receive_buffer)
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
    handler: Handler = no_handler,
    pool: dict[str, Any] | None = None,
    relay: dict[str, Any] | None = None,
    server_tls: ssl.SSLContext | None = None,
    client_tls: ssl.SSLContext | None = None,
    handshake_timeout: float = LIMIT,
    **options: Any,
) -> AsyncIterator[Proxy]:
    connections = Pool("127.0.0.1", port, **(pool or {}))
    front = Server(
        handler=handler,
        relay=Relay(connections, **(relay or {})),
        decide=decide,
        waiting=Budget(64 << 20),
        **options,
    )
    listener = Listener(front, tls=server_tls, handshake_timeout=handshake_timeout)
    _, own_port = await listener.open("127.0.0.1", 0)
    proxy = Proxy(front, listener, connections, own_port, client_tls)
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
