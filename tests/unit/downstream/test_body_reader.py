"""Bodies that take long to decode are handed on in parts (CONTRACT §12)."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Awaitable, Callable
from typing import Any

import pytest
from aiohttp import web

from proxy.core.http.heads import Head
from proxy.core.routing import Decision
from proxy.downstream.bridge import Bridge
from proxy.downstream.reading import Reading
from tests.support.proxies import Proxy, through
from tests.support.wire import Peer, eventually
from tests.unit.downstream.test_server import decide, echo, silent

CHUNKED = b"POST /_own HTTP/1.1\r\nHost: h\r\nTransfer-Encoding: chunked\r\n\r\n"
COUNT = 30_000
#: The payload of `SMALL`, no two neighbours of which are equal.
PAYLOAD = b"0123456789" * (COUNT // 10)
SMALL = b"".join(b"1\r\n%c\r\n" % byte for byte in PAYLOAD)
END = b"0\r\n\r\n"
GET = b"GET /_own?next HTTP/1.1\r\nHost: h\r\n\r\n"


def shared(proxy: Proxy) -> int:
    """Bytes of the memory that clients share which are in use."""
    return proxy.server.waiting.taken


@pytest.mark.parametrize("chunk", [b"", b"1\r\na\r\n", b"ffff\r\n" + bytes(0xFFFF) + b"\r\n"])
async def test_12_what_is_behind_a_body_in_small_chunks_is_not_lost(chunk: bytes) -> None:
    """Neither the rest of the body nor the requests that arrive with it."""
    body = PAYLOAD + b"".join(chunk.split(b"\r\n")[1:2])
    async with through(silent, decide=decide, handler=echo) as (proxy, _):
        client = await proxy.ask((CHUNKED + SMALL + chunk + END + GET) * 3)
        for _ in range(3):
            assert (await client.response())[1] == b"POST /_own " + body
            assert (await client.response())[1] == b"GET /_own?next "
        assert shared(proxy) == 0


@pytest.mark.parametrize("step", [1_000, 5_000, 100_000])
async def test_12_small_chunks_that_arrive_in_parts_keep_their_order(step: int) -> None:
    data = CHUNKED + SMALL + END
    async with through(silent, decide=decide, handler=echo) as (proxy, _):
        client = await proxy.connect()
        for at in range(0, len(data), step):
            await client.send(data[at : at + step])
            await asyncio.sleep(0)
        assert (await client.response())[1] == b"POST /_own " + PAYLOAD


async def test_12_a_client_that_shuts_its_sending_side_gets_its_response() -> None:
    async with through(silent, decide=decide, handler=echo) as (proxy, _):
        client = await proxy.ask(CHUNKED + SMALL + END)
        client.writer.write_eof()
        assert (await client.response())[1] == b"POST /_own " + PAYLOAD
        client = await proxy.ask(CHUNKED + SMALL)
        client.writer.write_eof()
        assert await client.closed()
        assert shared(proxy) == 0


async def test_12_a_handler_that_waits_gets_no_more_of_small_chunks() -> None:
    """aiohttp keeps 512 KiB of what a handler does not read; the rest stays unread."""
    go, kept = asyncio.Event(), []

    async def handler(
        request: web.BaseRequest, head: Head, decision: Decision
    ) -> web.StreamResponse:
        await go.wait()
        kept.append(request.content.total_bytes)
        return await echo(request, head, decision)

    async with through(silent, decide=decide, handler=handler) as (proxy, _):
        client = await proxy.connect()
        sending = asyncio.create_task(client.send(CHUNKED + SMALL * 30 + END))
        await eventually(lambda: shared(proxy) > 0)
        await asyncio.sleep(0.3)
        assert shared(proxy) <= 256 << 10
        go.set()
        assert (await client.response())[1] == b"POST /_own " + PAYLOAD * 30
        await sending
        assert kept[0] < 600_000
        assert shared(proxy) == 0


def held(
    go: asyncio.Event,
) -> Callable[[web.BaseRequest, Head, Decision], Awaitable[web.StreamResponse]]:
    """A handler that responds once `go` is set."""

    async def handler(
        request: web.BaseRequest, head: Head, decision: Decision
    ) -> web.StreamResponse:
        await go.wait()
        return await echo(request, head, decision)

    return handler


async def test_12_the_time_for_a_head_does_not_run_within_a_body() -> None:
    """What waits of the body would be dropped at its end, and what follows be taken for the next
    part. The head is in two parts, so that the body is in the inbox from its first byte.
    """
    go = asyncio.Event()
    async with through(silent, decide=decide, handler=held(go), head_timeout=0.3) as (proxy, _):
        client = await proxy.ask(CHUNKED[:20])
        await asyncio.sleep(0.05)
        sending = asyncio.create_task(client.send(CHUNKED[20:] + SMALL * 20 + END))
        await eventually(lambda: shared(proxy) > 20_000)
        await asyncio.sleep(0.5)
        go.set()
        assert (await client.response())[1] == b"POST /_own " + PAYLOAD * 20
        await sending
        await client.send(GET)
        assert (await client.response())[1] == b"GET /_own?next "


@pytest.mark.parametrize("parts", [1, 2])
@pytest.mark.parametrize("body", [SMALL, b"3\r\nabc\r\n"])
async def test_12_the_time_for_a_head_runs_once_the_body_before_it_is_whole(
    parts: int, body: bytes
) -> None:
    """Also if both waited for their turns, and while the request before it is served."""
    go = asyncio.Event()
    async with through(silent, decide=decide, handler=held(go), head_timeout=0.3) as (proxy, _):
        client = await proxy.ask(CHUNKED[:20] if parts > 1 else b"")
        await asyncio.sleep(0.05)
        await client.send((CHUNKED[20:] if parts > 1 else CHUNKED) + body + END + GET[:-3])
        await eventually(lambda: shared(proxy) == len(GET[:-3]))
        await eventually(lambda: shared(proxy) == 0)
        go.set()
        assert b"\r\nConnection: close\r\n" in (await client.response())[0]


async def test_12_a_body_for_which_there_is_no_memory_is_refused() -> None:
    async with through(silent, decide=decide, handler=echo) as (proxy, _):
        budget = proxy.server.waiting
        taken = budget.limit - budget.taken - 5_000
        assert budget.take(taken)
        client = await proxy.ask(CHUNKED)
        await client.send(SMALL + END)
        head, body = await client.response()
        assert head.startswith(b"HTTP/1.1 503 ")
        assert b"\r\nConnection: close\r\n" in head
        assert json.loads(body)["type"] == "urn:vb365-async:problem:capacity-exhausted"
        client = await proxy.ask(CHUNKED + b"3\r\nabc\r\n" + END)
        assert (await client.response())[1] == b"POST /_own abc"
        budget.give(taken)
        assert shared(proxy) == 0


@pytest.mark.parametrize("free", [0, 40_000])
@pytest.mark.parametrize("step", [1_000, 100_000, 10_000_000])
async def test_12_an_upload_needs_no_memory_that_strangers_have_used_up(
    monkeypatch: pytest.MonkeyPatch, free: int, step: int
) -> None:
    """Unless its chunks are small: to scan all that was read of many clients takes seconds. Others
    have their turns between the parts that are scanned.
    """
    got, turns = b"", 0
    give_way = Reading.give_way

    def counted(self: Reading, then: Callable[[], None]) -> None:
        nonlocal turns
        turns += 1
        give_way(self, then)

    async def upstream(peer: Peer) -> None:
        nonlocal got
        await peer.head()
        while not got.endswith(END):
            got += await peer.some()
        await peer.send(b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok")

    monkeypatch.setattr(Reading, "give_way", counted)
    data = b"".join(b"200\r\n%b\r\n" % (b"%04x" % at * 128) for at in range(8192)) + END
    async with through(upstream, decide=decide, handler=echo) as (proxy, _):
        budget = proxy.server.waiting
        assert budget.take(budget.limit - free)
        client = await proxy.ask(CHUNKED.replace(b"_own", b"other"))
        for at in range(0, len(data), step):
            await client.send(data[at : at + step])
        assert (await client.response())[1] == b"ok"
        assert shared(proxy) == budget.limit - free
        assert turns >= 8
        client = await proxy.ask(CHUNKED.replace(b"_own", b"other"))
        await client.send(SMALL)
        assert (await client.response())[0].startswith(b"HTTP/1.1 503 ")
        assert shared(proxy) == budget.limit - free
    assert got == data


async def test_12_a_malformed_chunk_behind_small_ones_is_refused() -> None:
    async with through(silent, decide=decide, handler=echo) as (proxy, _):
        client = await proxy.ask(CHUNKED + SMALL + b"1\r\nab\r\n" + END + GET)
        response = await client.rest()
        assert response.startswith(b"HTTP/1.1 400 ")
        assert response.count(b"HTTP/1.1") == 1
        assert shared(proxy) == 0


@pytest.mark.parametrize("error", [MemoryError, ValueError])
async def test_12_a_part_of_a_body_that_cannot_be_handed_on_ends_the_connection(
    monkeypatch: pytest.MonkeyPatch, error: type[Exception]
) -> None:
    """A part may be missing then: what follows must not be taken for its continuation."""
    feed, bodies, calls = Bridge.feed, [], 0

    async def handler(
        request: web.BaseRequest, head: Head, decision: Decision
    ) -> web.StreamResponse:
        bodies.append(await request.read())
        return web.Response()

    def failing(bridge: Bridge, data: bytes) -> None:
        nonlocal calls
        calls += 1
        if calls == 10:
            raise error
        feed(bridge, data)

    monkeypatch.setattr(Bridge, "feed", failing)
    errors: list[dict[str, Any]] = []
    asyncio.get_running_loop().set_exception_handler(lambda _, context: errors.append(context))
    async with through(silent, decide=decide, handler=handler) as (proxy, _):
        client = await proxy.ask(CHUNKED + SMALL + END)
        with pytest.raises(ConnectionError):
            await client.rest()
        assert (calls, bodies) == (10, [])
        assert [type(each["exception"]) for each in errors] == [error] * (error is ValueError)
        await eventually(lambda: not proxy.server._clients)
        assert shared(proxy) == 0
