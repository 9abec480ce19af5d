"""A connection that has ended is freed at once. In a reference cycle it would wait for the garbage
collector, which counts objects and not bytes: 1,500 TLS connections of 300 KiB each were not enough
for it.
"""

from __future__ import annotations

import asyncio
import contextlib
import gc
import ssl
from collections.abc import Iterator

import pytest
import trustme
from aiohttp import web

from proxy.core.http.heads import Head
from proxy.core.routing import Decision, Own, PassThrough
from proxy.downstream.connection import ClientConnection
from proxy.net.tls import upstream_context
from proxy.net.tls_transport import TlsTransport
from proxy.ports import UpstreamFailure, UpstreamUnreachable
from proxy.upstream.client import HttpUpstream
from proxy.upstream.connection import Connection
from proxy.upstream.pool import Pool
from tests.support.proxies import through
from tests.support.tls_peers import server_side
from tests.support.upstreams import Origin
from tests.support.wire import LIMIT, Peer, eventually

COUNT = 5
FIELDS = b" HTTP/1.1\r\nHost: h\r\nContent-Length: 2\r\n\r\n"


@contextlib.contextmanager
def uncollected() -> Iterator[None]:
    gc.collect()
    gc.disable()
    try:
        yield
    finally:
        gc.enable()


def alive(kind: type) -> int:
    return sum(type(each) is kind for each in gc.get_objects())


async def upstream(peer: Peer) -> None:
    while True:
        await peer.message()
        await peer.send(b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok")


def decide(head: Head) -> Decision:
    if head.target == b"/own":
        return Own("/_async", None, "/", None)
    return PassThrough(head.target)


async def handler(request: web.BaseRequest, head: Head, decision: Decision) -> web.StreamResponse:
    return web.Response(body=b"ok")


@pytest.mark.parametrize("tls", [False, True])
@pytest.mark.parametrize("abort", [False, True])
@pytest.mark.parametrize("request_line", [b"GET /own", b"GET /", b"POST /", b""])
async def test_15_a_clients_connection_and_its_connection_to_vb365_are_freed(
    request_line: bytes, abort: bool, tls: bool, localhost: trustme.LeafCert, authority: trustme.CA
) -> None:
    trusting = ssl.create_default_context()
    authority.configure_trust(trusting)
    sides = {"server_tls": server_side(localhost), "client_tls": trusting} if tls else {}
    options = {"pool": {"tls": trusting}, "origin_tls": server_side(localhost)} if tls else {}
    if tls:
        trusting.check_hostname = False  # the origin is known by its address here
    with uncollected():
        async with through(upstream, decide=decide, handler=handler, **sides, **options) as (
            proxy,
            _,
        ):
            for _ in range(COUNT):
                client = await proxy.connect()
                if request_line:
                    await client.send(request_line + FIELDS + b"{}")
                    assert (await client.response())[1] == b"ok"
                if abort:
                    client.abort()
                else:
                    await client.close()
            await eventually(lambda: proxy.server.open == 0)
            await eventually(lambda: alive(ClientConnection) == 0)
            await eventually(lambda: alive(Connection) <= proxy.pool.idle)


@pytest.mark.parametrize("sent", [b"no TLS or HTTP", b"\x16\x03\x01"])
async def test_15_a_connection_whose_handshake_fails_is_freed(
    sent: bytes, localhost: trustme.LeafCert
) -> None:
    """It has read buffers of 256 KiB."""
    with uncollected():
        async with through(upstream, server_tls=server_side(localhost)) as (proxy, _):
            for _ in range(COUNT):
                peer = Peer(*await asyncio.open_connection("127.0.0.1", proxy.port))
                await eventually(lambda: proxy.server.open == 1)
                await peer.send(sent)
                if sent.startswith(b"\x16"):
                    peer.abort()
                else:
                    assert await peer.closed()
                    await peer.close()
                await eventually(lambda: proxy.server.open == 0)
            await eventually(lambda: alive(ssl.SSLObject) == 0)


async def test_15_a_connection_to_vb365_whose_handshake_fails_is_freed() -> None:
    """Anybody can have one begin."""

    async def speaks_no_tls(peer: Peer) -> None:
        await peer.some()
        await peer.send(b"HTTP/1.1 400 Bad Request\r\n\r\n")

    with uncollected():
        async with Origin(speaks_no_tls).running() as origin:
            pool = Pool("127.0.0.1", origin.port, tls=upstream_context(verify=False))
            for _ in range(COUNT):
                with pytest.raises(UpstreamUnreachable):
                    await pool.connect()
            await eventually(lambda: alive(Connection) + alive(TlsTransport) == 0)


async def test_15_a_connection_of_a_job_is_freed(
    localhost: trustme.LeafCert, authority: trustme.CA
) -> None:
    trusting = ssl.create_default_context()
    authority.configure_trust(trusting)
    trusting.check_hostname = False
    with uncollected():
        async with Origin(upstream).running(server_side(localhost)) as origin:
            pool = Pool("127.0.0.1", origin.port, tls=trusting)
            sender = HttpUpstream(pool)
            for _ in range(COUNT):
                response = await sender.send(b"POST", b"/", [], b"{}", timeout=LIMIT, stall=LIMIT)
                while await response.read():
                    pass
                response.close()
                del response
            await eventually(lambda: pool.open == 0)
            await eventually(lambda: alive(Connection) == 0)
            await asyncio.wait_for(sender.close(), LIMIT)


@pytest.mark.parametrize("response", [b"", b"no HTTP\r\n\r\n"])
async def test_15_a_request_of_the_proxy_that_fails_is_freed(response: bytes) -> None:
    """It has the credentials of a client, and the body of its export."""

    async def failing(peer: Peer) -> None:
        await peer.message()
        await peer.send(response)

    with uncollected():
        async with Origin(failing).running() as origin:
            sender = HttpUpstream(Pool("127.0.0.1", origin.port))
            before = alive(Head)
            for _ in range(COUNT):
                with pytest.raises(UpstreamFailure):
                    await sender.send(b"POST", b"/", [], b"{}", timeout=LIMIT, stall=LIMIT)
            await eventually(lambda: alive(Head) == before)
            await asyncio.wait_for(sender.close(), LIMIT)


async def test_15_a_request_whose_client_leaves_while_vb365_is_connected_to_is_freed() -> None:
    """Its head may have 256 KiB, and anybody may send it."""
    waiting = asyncio.Event()
    with uncollected():
        async with through(upstream, decide=decide, handler=handler) as (proxy, _):
            proxy.pool.lookup = lambda *_, **__: waiting.wait()
            before = alive(Head)
            for _ in range(COUNT):
                client = await proxy.connect()
                await client.send(b"POST /" + FIELDS + b"{}")
                await eventually(lambda: proxy.pool.open == 1)
                client.abort()
                await eventually(lambda: proxy.pool.open == 0)
            await eventually(lambda: proxy.server.open == 0)
            await eventually(lambda: alive(Head) == before)


@pytest.mark.parametrize("failure", ["no response", "refused", "not connected in time"])
async def test_15_a_request_of_a_job_that_fails_is_freed(failure: str) -> None:
    """It is sent by a task of its own, and may have a body of 16 MiB."""
    never = asyncio.Event()

    async def silent(peer: Peer) -> None:
        await never.wait()

    async def fail(sender: HttpUpstream) -> None:
        prepared = sender.prepare()
        limit = 0.05 if failure == "no response" else LIMIT
        sending = prepared.send(b"POST", b"/", [], b"{}", timeout=limit, stall=LIMIT)
        task = asyncio.create_task(sending)
        await asyncio.wait([task])
        assert isinstance(task.exception(), UpstreamFailure)
        prepared.close()

    with uncollected():
        async with Origin(silent).running() as origin:
            limit = 0.05 if failure == "not connected in time" else LIMIT
            port = 1 if failure == "refused" else origin.port
            pool = Pool("127.0.0.1", port, connect_timeout=limit)
            if failure == "not connected in time":
                pool.lookup = lambda *_, **__: never.wait()
            sender = HttpUpstream(pool)
            before = alive(Head)
            for _ in range(COUNT):
                await fail(sender)
            await eventually(lambda: alive(Head) == before)
            await eventually(lambda: alive(Connection) == 0)
            await asyncio.wait_for(sender.close(), LIMIT)
            never.set()
