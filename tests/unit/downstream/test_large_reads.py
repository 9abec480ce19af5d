"""What TLS connections keep in memory after large reads: all of them share one limit (CONTRACT §12
leaves it to the proxy).
"""

from __future__ import annotations

import ssl
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import pytest
import trustme

from proxy.downstream import server
from tests.support.proxies import Proxy, through
from tests.support.tls_peers import server_side
from tests.support.upstreams import Script
from tests.support.wire import Peer, eventually

SIZE = 200 << 10
GET = b"GET /v8/Jobs HTTP/1.1\r\nHost: h\r\n\r\n"


def post(size: int = SIZE) -> bytes:
    return b"POST /v8/Jobs HTTP/1.1\r\nHost: h\r\nContent-Length: %d\r\n\r\n" % size + bytes(size)


async def upstream(peer: Peer) -> None:
    """Respond once the request is complete."""
    while True:
        head = await peer.head()
        if head.startswith(b"POST"):
            size = int(head.lower().partition(b"content-length: ")[2].partition(b"\r\n")[0])
            await peer.reader.readexactly(size)
        await peer.send(b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok")


@asynccontextmanager
async def over_tls(
    localhost: trustme.LeafCert, authority: trustme.CA, script: Script = upstream
) -> AsyncIterator[Proxy]:
    trust = ssl.create_default_context()
    authority.configure_trust(trust)
    tls = {"server_tls": server_side(localhost), "client_tls": trust}
    async with through(script, **tls) as (proxy, _):
        yield proxy


async def ok(client: Peer, request: bytes) -> None:
    await client.send(request)
    assert (await client.response())[1] == b"ok"


async def test_15_idle_connections_with_the_oldest_large_reads_are_closed(
    localhost: trustme.LeafCert, authority: trustme.CA, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Beyond the limit; those with small requests, and without TLS, keep no memory."""
    monkeypatch.setattr(server, "GROWN", 1 << 20)
    async with over_tls(localhost, authority) as proxy:
        small = await proxy.connect()
        await ok(small, post(10 << 10))
        clients = [await proxy.connect() for _ in range(40)]
        for client in clients:
            await ok(client, post())
        assert await clients[0].closed()
        assert proxy.server.grown._size <= 1 << 20
        await ok(clients[-1], GET)
        await ok(small, GET)
        for client in [small, *clients]:
            client.abort()
        await eventually(lambda: proxy.server.open == 0)
        assert proxy.server.grown._size == 0


async def test_15_requests_on_connections_with_the_oldest_large_reads_are_broken_off(
    localhost: trustme.LeafCert, authority: trustme.CA, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Those that are incomplete, so that VB365 cannot take one for whole."""
    monkeypatch.setattr(server, "GROWN", 1 << 20)
    async with over_tls(localhost, authority) as proxy:
        stuck = [await proxy.connect() for _ in range(20)]
        for client in stuck:
            await client.send(post()[:-1])
        await eventually(lambda: proxy.server.counters.broken > 0)
        assert await stuck[0].closed()
        await ok(stuck[-1], b"\0")
        assert proxy.server.grown._size <= 1 << 20


async def unread(peer: Peer) -> None:
    """Respond with more than a client takes that does not read, and less than the system."""
    size = 300_000
    while True:
        await peer.head()
        await peer.exactly(SIZE)
        await peer.send(b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n" % size + bytes(size))


async def stalled(proxy: Proxy) -> Peer:
    """A client that does not read its response, which is written."""
    codes = proxy.server.counters.relay.codes
    responses = codes[200]
    client = await proxy.connect(limit=1, receive_buffer=2048)
    await client.send(post())
    await eventually(lambda: codes[200] > responses)
    return client


async def test_15_unread_responses_keep_no_memory_of_large_reads(
    localhost: trustme.LeafCert, authority: trustme.CA, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A connection that is closed counts no more."""
    monkeypatch.setattr(server, "GROWN", 1 << 20)
    async with over_tls(localhost, authority, unread) as proxy:
        clients = [await stalled(proxy) for _ in range(20)]
        assert proxy.server.grown._size <= 1 << 20
        await eventually(lambda: proxy.server.open < 10)
        for client in clients:
            client.abort()
        await eventually(lambda: proxy.server.open == 0)


async def test_15_a_connection_that_is_closed_twice_can_be_broken_off(
    localhost: trustme.LeafCert, authority: trustme.CA
) -> None:
    """As one that is idle for too long, and is closed again by a stop of the proxy."""
    async with over_tls(localhost, authority, unread) as proxy:
        client = await stalled(proxy)
        [connection] = proxy.server._clients
        connection.drain()
        await proxy.server.drain(0.1)
        await eventually(lambda: proxy.server.open == 0)
        client.abort()


async def test_15_connections_without_tls_keep_no_memory(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(server, "GROWN", 0)
    async with through(upstream) as (proxy, _):
        clients = [await proxy.connect() for _ in range(4)]
        for client in clients:
            await ok(client, post())
        for client in clients:
            await ok(client, GET)
