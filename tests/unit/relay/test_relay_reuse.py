"""Which requests use which connections (CONTRACT §12)."""

from __future__ import annotations

import asyncio
from collections import Counter

import pytest

from tests.support.proxies import through
from tests.support.wire import LIMIT, Peer, eventually

OK = b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok"
GET = b"GET / HTTP/1.1\r\nHost: h\r\n\r\n"
POST = b"POST / HTTP/1.1\r\nHost: h\r\nContent-Length: 0\r\n\r\n"


async def answer_all(peer: Peer) -> None:
    while True:
        await peer.head()
        await peer.send(OK)


async def test_12_safe_requests_share_a_connection_and_others_get_a_new_one() -> None:
    async with through(answer_all) as (proxy, origin):
        client = await proxy.connect()
        for raw, connections in ((GET, 1), (GET, 1), (POST, 2), (GET, 2), (POST, 3), (GET, 3)):
            await client.send(raw)
            await client.response()
            assert origin.accepted == connections


@pytest.mark.parametrize("method", [b"PUT", b"DELETE", b"PATCH", b"FOO"])
async def test_12_unsafe_requests_are_not_sent_on_a_used_connection(
    method: bytes,
) -> None:
    async with through(answer_all) as (proxy, origin):
        client = await proxy.ask(GET)
        await client.response()
        await client.send(method + b" / HTTP/1.1\r\nHost: h\r\n\r\n")
        await client.response()
        assert origin.accepted == 2


async def test_12_a_safe_request_is_repeated_once_after_the_keep_alive_race() -> None:
    """The upstream reads the second request on the connection and closes it without a response."""
    heads = 0

    async def script(peer: Peer) -> None:
        nonlocal heads
        await peer.head()
        heads += 1
        await peer.send(OK)
        await peer.head()
        heads += 1
        await peer.close()

    async with through(script) as (proxy, origin):
        client = await proxy.ask(GET)
        await client.response()
        await client.send(GET)
        assert (await client.response())[1] == b"ok"
        assert (origin.accepted, heads) == (2, 3)


async def test_12_a_request_on_a_new_connection_is_not_repeated() -> None:
    async def script(peer: Peer) -> None:
        await peer.head()
        await peer.close()

    async with through(script) as (proxy, origin):
        client = await proxy.ask(GET)
        assert (await client.response())[0].startswith(b"HTTP/1.1 502 ")
        assert origin.accepted == 1


async def test_12_a_request_with_a_partial_response_is_not_repeated() -> None:
    async def script(peer: Peer) -> None:
        await peer.head()
        await peer.send(OK)
        await peer.head()
        await peer.send(b"HTT")
        await peer.close()

    async with through(script) as (proxy, origin):
        client = await proxy.ask(GET)
        await client.response()
        await client.send(GET)
        assert (await client.response())[0].startswith(b"HTTP/1.1 502 ")
        assert origin.accepted == 1


async def test_12_no_spurious_502_and_no_double_delivery_in_150_posts() -> None:
    """The upstream closes 0 to 6 ms after each response."""
    heard: Counter[bytes] = Counter()

    async def script(peer: Peer) -> None:
        heard[(await peer.head()).split(b" ")[1]] += 1
        await peer.send(OK)
        await asyncio.sleep(origin.accepted % 7 / 1000)

    async with through(script) as (proxy, origin):
        client = await proxy.connect()
        for n in range(150):
            await client.send(b"POST /%d HTTP/1.1\r\nHost: h\r\nContent-Length: 0\r\n\r\n" % n)
            assert (await client.response())[1] == b"ok"
            await client.send(b"GET /g%d HTTP/1.1\r\nHost: h\r\n\r\n" % n)
            assert (await client.response())[1] == b"ok"
    assert {n for target, n in heard.items() if not target.startswith(b"/g")} == {1}
    assert len(heard) == 300


async def test_12_a_connection_with_unread_bytes_is_not_reused() -> None:
    """A second response after the first belongs to no request."""

    async def script(peer: Peer) -> None:
        while True:
            await peer.head()
            await peer.send(OK + b"HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\nwrong")

    async with through(script) as (proxy, origin):
        client = await proxy.connect()
        for n in range(3):
            await client.send(GET)
            assert (await client.response())[1] == b"ok"
            await eventually(lambda: proxy.pool.open == 0)
            assert origin.accepted == n + 1


async def test_12_bytes_on_an_idle_connection_close_it() -> None:
    late = asyncio.Event()

    async def script(peer: Peer) -> None:
        await peer.head()
        await peer.send(OK)
        await asyncio.wait_for(late.wait(), LIMIT)
        await peer.send(b"HTTP/1.1 408 Time-out\r\n\r\n")
        await peer.closed()

    async with through(script) as (proxy, _):
        client = await proxy.ask(GET)
        await client.response()
        assert proxy.pool.idle == 1
        late.set()
        await eventually(lambda: proxy.pool.open == 0)


async def test_12_connections_closed_by_the_upstream_or_idle_are_removed() -> None:
    async with through(answer_all, pool={"idle": 0.05}) as (proxy, _):
        client = await proxy.ask(GET)
        await client.response()
        await eventually(lambda: proxy.pool.open == 0)
        await client.send(GET)
        assert (await client.response())[1] == b"ok"


async def test_12_the_pool_limit_bounds_connections_and_every_request_is_served() -> None:
    most = 0

    async def script(peer: Peer) -> None:
        nonlocal most
        while True:
            await peer.head()
            most = max(most, proxy.pool.open)
            await asyncio.sleep(0.001)
            await peer.send(OK)

    async def visit(raw: bytes) -> None:
        client = await proxy.connect()
        for _ in range(5):
            await client.send(raw)
            assert (await client.response())[1] == b"ok"

    async with through(script, pool={"limit": 2}) as (proxy, _):
        await asyncio.gather(*[visit(GET if n % 2 else POST) for n in range(12)])
    assert most == 2
