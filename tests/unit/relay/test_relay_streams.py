"""Streams through the proxy: back-pressure, early responses, and the end of either side (CONTRACT
§12).
"""

from __future__ import annotations

import asyncio
import ssl

import pytest
import trustme

from proxy.downstream import reading
from proxy.upstream import connection as upstream_connection
from proxy.upstream.connection import Connection
from tests.support.proxies import through
from tests.support.tls_peers import server_side
from tests.support.wire import LIMIT, Peer, eventually

GET = b"GET / HTTP/1.1\r\nHost: h\r\n\r\n"
BIG = 24 << 20
#: More than the system keeps of a connection on both sides of the proxy, where it may be 32 MiB for
#: each socket that was read for a while.
HUGE = 128 << 20
PIECE = bytes(range(256)) * 256


async def pour(peer: Peer, size: int) -> None:
    for _ in range(size // len(PIECE)):
        await peer.send(PIECE)


async def drink(peer: Peer, size: int) -> None:
    for _ in range(size // len(PIECE)):
        assert await peer.exactly(len(PIECE)) == PIECE


def contexts(
    leaf: trustme.LeafCert, authority: trustme.CA
) -> tuple[ssl.SSLContext, ssl.SSLContext]:
    client = ssl.create_default_context()
    authority.configure_trust(client)
    return server_side(leaf), client


@pytest.mark.parametrize("chunked", [False, True])
@pytest.mark.parametrize("tls", [False, True])
async def test_12_large_bodies_pass_in_both_directions(
    chunked: bool, tls: bool, localhost: trustme.LeafCert, authority: trustme.CA
) -> None:
    framing = b"Transfer-Encoding: chunked" if chunked else b"Content-Length: %d" % (1 << 22)

    async def send(peer: Peer) -> None:
        for _ in range((1 << 22) // len(PIECE)):
            await peer.send(b"10000\r\n" + PIECE + b"\r\n" if chunked else PIECE)
        if chunked:
            await peer.send(b"0\r\n\r\n")

    async def receive(peer: Peer) -> None:
        for _ in range((1 << 22) // len(PIECE)):
            if chunked:
                assert await peer.exactly(7) == b"10000\r\n"
            assert await peer.exactly(len(PIECE)) == PIECE
            if chunked:
                assert await peer.exactly(2) == b"\r\n"
        if chunked:
            assert await peer.exactly(5) == b"0\r\n\r\n"

    async def script(peer: Peer) -> None:
        await peer.head()
        await receive(peer)
        await peer.send(b"HTTP/1.1 200 OK\r\n" + framing + b"\r\n\r\n")
        await send(peer)

    server, client_context = contexts(localhost, authority)
    options = (
        {"server_tls": server, "client_tls": client_context, "origin_tls": server} if tls else {}
    )
    pool = {"tls": client_context} if tls else {}
    async with through(script, pool=pool, **options) as (proxy, _):
        client = await proxy.ask(b"POST / HTTP/1.1\r\nHost: h\r\n" + framing + b"\r\n\r\n")
        await send(client)
        assert await client.head() == b"HTTP/1.1 200 OK\r\n" + framing + b"\r\n\r\n"
        await receive(client)


async def test_12_a_slow_client_slows_the_upstream_down() -> None:
    """The proxy buffers a bounded amount and loses nothing."""
    sent = 0

    async def script(peer: Peer) -> None:
        nonlocal sent
        await peer.head()
        await peer.send(b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n" % HUGE)
        while sent < HUGE:
            await peer.send(PIECE)
            sent += len(PIECE)

    async with through(script) as (proxy, _):
        client = await proxy.connect(limit=1 << 16)
        await client.send(GET)
        await client.head()
        await settled(lambda: sent)
        assert sent < HUGE
        await drink(client, HUGE)


async def test_12_a_slow_upstream_slows_the_client_down() -> None:
    sent = 0
    read = asyncio.Event()

    async def script(peer: Peer) -> None:
        await peer.head()
        peer.writer.transport.pause_reading()  # type: ignore[attr-defined]
        await asyncio.wait_for(read.wait(), LIMIT)
        peer.writer.transport.resume_reading()  # type: ignore[attr-defined]
        await drink(peer, HUGE)
        await peer.send(b"HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n")

    async with through(script, head_timeout=0.3) as (proxy, _):
        client = await proxy.ask(b"POST / HTTP/1.1\r\nHost: h\r\nContent-Length: %d\r\n\r\n" % HUGE)

        async def upload() -> None:
            nonlocal sent
            while sent < HUGE:
                await client.send(PIECE)
                sent += len(PIECE)

        task = asyncio.create_task(upload())
        await settled(lambda: sent)
        assert sent < HUGE
        read.set()
        await task
        assert (await client.response())[0].startswith(b"HTTP/1.1 200 ")


async def settled(amount: object) -> None:
    """Wait until the amount has not changed for half a second."""
    assert callable(amount)
    async with asyncio.timeout(LIMIT):
        last = -1
        while last != amount() or not last:
            last = amount()
            await asyncio.sleep(0.5)


async def test_12_the_response_may_start_before_the_body_is_complete() -> None:
    """An echo: each piece returns before the next one is sent."""

    async def script(peer: Peer) -> None:
        await peer.head()
        await peer.send(b"HTTP/1.1 200 OK\r\nContent-Length: 30\r\n\r\n")
        for _ in range(10):
            await peer.send(await peer.exactly(3))

    async with through(script) as (proxy, _):
        client = await proxy.ask(b"POST / HTTP/1.1\r\nHost: h\r\nContent-Length: 30\r\n\r\n")
        assert b"Connection: close\r\n" in await client.head()
        for _ in range(10):
            await client.send(b"abc")
            assert await client.exactly(3) == b"abc"
        assert await client.rest() == b""


async def test_12_an_early_response_reaches_a_client_that_still_sends() -> None:
    """The upstream closes without reading the body; the client can read the response before its
    connection closes.
    """

    async def script(peer: Peer) -> None:
        await peer.head()
        await peer.send(
            b"HTTP/1.1 413 Too Large\r\nContent-Length: 5\r\nConnection: close\r\n\r\nlarge"
        )
        await peer.closed()

    async with through(script) as (proxy, _):
        client = await proxy.ask(b"POST / HTTP/1.1\r\nHost: h\r\nContent-Length: %d\r\n\r\n" % BIG)
        await pour(client, BIG)  # many clients read only when they have sent everything
        head, body = await client.response()
        assert head.startswith(b"HTTP/1.1 413 ")
        assert body == b"large"


@pytest.mark.parametrize(
    "after",
    [b"", b"HTTP/1.1 200 OK\r\nContent-Length: 9\r\n\r\nsome"],
    ids=["unanswered", "answered"],
)
async def test_12_a_client_that_disconnects_closes_the_upstreams_connection(after: bytes) -> None:
    gone = asyncio.Event()

    async def script(peer: Peer) -> None:
        await peer.head()
        await peer.send(after)
        await peer.closed()
        gone.set()

    async with through(script) as (proxy, origin):
        client = await proxy.ask(GET)
        if after:
            await client.until(b"some")
        else:
            await eventually(lambda: origin.accepted == 1)
        await client.close()
        await asyncio.wait_for(gone.wait(), LIMIT)
        assert proxy.pool.open == 0


async def test_12_a_client_that_disconnects_within_its_body_aborts_the_request() -> None:
    gone = asyncio.Event()

    async def script(peer: Peer) -> None:
        await peer.head()
        with pytest.raises((asyncio.IncompleteReadError, ConnectionError)):
            await peer.exactly(10)
        gone.set()

    async with through(script) as (proxy, _):
        client = await proxy.ask(b"POST / HTTP/1.1\r\nHost: h\r\nContent-Length: 10\r\n\r\nabc")
        await client.close()
        await asyncio.wait_for(gone.wait(), LIMIT)


BROKEN = [
    b"HTTP/1.1 200 OK\r\nContent-Length: 10\r\n\r\nsome",
    b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n4\r\nsome\r\n",
    b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n9\r\nsome",
    b"HTTP/1.1 200 OK\r\n\r\nsome",
]
#: A response that ends with the connection is broken by a reset only.
CUTS = [(raw, reset) for raw in BROKEN for reset in (False, True) if reset or b"-" in raw]


@pytest.mark.parametrize(
    ("raw", "reset"), CUTS, ids=[f"{raw[17:]!r}-{reset}" for raw, reset in CUTS]
)
@pytest.mark.parametrize("version", [b"1.1", b"1.0"])
async def test_12_a_broken_response_is_never_a_short_success(
    raw: bytes, reset: bool, version: bytes
) -> None:
    """Even if the end of the connection would end the response: the client's connection
    is reset.
    """
    cut = asyncio.Event()

    async def script(peer: Peer) -> None:
        await peer.head()
        await peer.send(raw)
        await asyncio.wait_for(cut.wait(), LIMIT)
        if reset:
            peer.reset()
        else:
            peer.abort()

    async with through(script) as (proxy, _):
        client = await proxy.ask(b"GET / HTTP/1." + version[2:] + b"\r\nHost: h\r\n\r\n")
        await client.until(b"some")
        cut.set()
        with pytest.raises(ConnectionResetError):
            await client.rest()


async def test_12_malformed_chunks_of_a_response_reset_the_connection() -> None:
    read = asyncio.Event()

    async def script(peer: Peer) -> None:
        await peer.head()
        await peer.send(b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n4\r\nsome\r\n")
        await asyncio.wait_for(read.wait(), LIMIT)
        await peer.send(b"nonsense\r\n")
        await peer.closed()

    async with through(script) as (proxy, _):
        client = await proxy.ask(GET)
        await client.until(b"some\r\n")
        read.set()
        with pytest.raises(ConnectionResetError):
            await client.rest()


async def test_12_malformed_chunks_of_a_request_get_400() -> None:
    gone = asyncio.Event()

    async def script(peer: Peer) -> None:
        await peer.head()
        assert not (await peer.rest()).endswith(b"0\r\n\r\n")
        gone.set()

    async with through(script) as (proxy, origin):
        client = await proxy.ask(
            b"POST / HTTP/1.1\r\nHost: h\r\nTransfer-Encoding: chunked\r\n\r\n3\r\nabc\r\n"
        )
        await eventually(lambda: origin.accepted == 1)
        await client.send(b"0x0\r\n\r\n")
        assert (await client.rest()).startswith(b"HTTP/1.1 400 ")
        await asyncio.wait_for(gone.wait(), LIMIT)


async def test_12_a_silent_upstream_never_times_out() -> None:
    """Long-polls and exports are silent for long; every time-out of the proxy is far
    shorter here.
    """

    async def script(peer: Peer) -> None:
        await peer.head()
        await asyncio.sleep(0.5)
        await peer.send(b"HTTP/1.1 200 OK\r\nContent-Length: 4\r\n\r\nlo")
        await asyncio.sleep(0.5)
        await peer.send(b"ng")

    async with through(script, head_timeout=0.1, idle_timeout=0.1) as (proxy, _):
        client = await proxy.ask(GET)
        assert (await client.response())[1] == b"long"


async def test_12_a_disconnect_is_noticed_while_the_upstream_reads_nothing(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """The proxy does not read from the client then, so the loop cannot notice it."""
    monkeypatch.setattr(reading, "LOOK", 0.1)
    gone = asyncio.Event()

    async def script(peer: Peer) -> None:
        await peer.head()
        peer.writer.transport.pause_reading()  # type: ignore[attr-defined]
        await eventually(lambda: proxy.server.open == 0)
        gone.set()

    async with through(script) as (proxy, _):
        client = await proxy.ask(b"POST / HTTP/1.1\r\nHost: h\r\nContent-Length: %d\r\n\r\n" % BIG)
        client.writer.write(bytes(BIG))
        await eventually(lambda: proxy.server.busy == 1)
        await asyncio.sleep(0.2)
        client.reset()
        await asyncio.wait_for(gone.wait(), LIMIT)
        assert proxy.pool.open == 0


async def test_12_a_tunnel_whose_client_has_left_does_not_wait_for_the_upstream(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """VB365 gets the rest of what the client has sent only if it reads that in time: nothing else
    would end such a connection.
    """
    monkeypatch.setattr(reading, "LOOK", 0.1)
    monkeypatch.setattr(upstream_connection, "_FLUSH", 0.3)
    lost = asyncio.Event()
    connection_lost = Connection.connection_lost

    def noticed(connection: Connection, exc: Exception | None) -> None:
        connection_lost(connection, exc)
        lost.set()

    monkeypatch.setattr(Connection, "connection_lost", noticed)
    switch = b"HTTP/1.1 101 S\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n\r\n"

    async def script(peer: Peer) -> None:
        await peer.head()
        await peer.send(switch)
        peer.writer.transport.pause_reading()  # type: ignore[attr-defined]
        await lost.wait()

    async with through(script) as (proxy, _):
        client = await proxy.ask(
            b"GET / HTTP/1.1\r\nHost: h\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n\r\n"
        )
        await client.head()
        client.writer.write(bytes(BIG))
        await asyncio.sleep(0.2)
        client.reset()
        await asyncio.wait_for(lost.wait(), LIMIT)


async def test_12_a_disconnect_is_noticed_behind_a_full_pipeline(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(reading, "LOOK", 0.1)

    async def script(peer: Peer) -> None:
        await peer.closed()

    async with through(script) as (proxy, _):
        client = await proxy.ask(GET)
        await eventually(lambda: proxy.server.busy == 1)
        await client.send(GET * 3000)
        await asyncio.sleep(0.1)
        await client.close()
        await eventually(lambda: proxy.server.open == proxy.pool.open == 0)


async def test_12_a_body_that_arrives_before_the_connection_is_open_waits() -> None:
    """Back-pressure of the upstream applies from its first byte on."""
    size = 2 << 20

    async def script(peer: Peer) -> None:
        await peer.head()
        assert await peer.exactly(size) == bytes(size)
        await peer.send(b"HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n")

    async with through(script) as (proxy, _):
        client = await proxy.ask(
            b"PUT / HTTP/1.1\r\nHost: h\r\nContent-Length: %d\r\n\r\n" % size + bytes(size)
        )
        assert (await client.response())[0].startswith(b"HTTP/1.1 200 ")
