"""The phases of the bridge to aiohttp."""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import Callable
from typing import cast

import pytest
from aiohttp import web

from proxy.core.http.bodies import Chunks
from proxy.core.http.heads import Head
from proxy.core.routing import Decision, Own
from proxy.downstream.bridge import Bridge
from proxy.downstream.connection import ClientConnection
from proxy.downstream.duplex import ClientSide
from tests.support.proxies import through
from tests.support.wire import Peer, eventually
from tests.unit.downstream.test_server import decide, silent


async def test_a_bridge_shows_each_phase_of_its_request() -> None:
    """A response that is written before the request is complete ends the request when that is."""
    responding, finishing = asyncio.Event(), asyncio.Event()

    async def handler(
        request: web.BaseRequest, head: Head, decision: Decision
    ) -> web.StreamResponse:
        await responding.wait()
        response = web.StreamResponse(headers={"Content-Length": "2"})
        await response.prepare(request)
        await response.write(b"o")
        await finishing.wait()
        await response.write(b"k")
        return response

    async with through(silent, decide=decide, handler=handler) as (proxy, _):
        client = await proxy.ask(
            b"POST /_own?secret=1 HTTP/1.1\r\nHost: h\r\nContent-Length: 3\r\n\r\na"
        )
        await eventually(lambda: proxy.server.busy == 1)
        (connection,) = proxy.server._clients

        async def shows(what: str) -> None:
            await eventually(lambda: repr(connection).endswith(f" serving={what}>"))

        await shows("<Bridge POST /_own handling>")
        responding.set()
        await shows("<Bridge POST /_own responding>")
        finishing.set()
        await shows("<Bridge POST /_own responded>")
        await client.send(b"bc")
        assert (await client.response())[1] == b"ok"
        await shows("None")
        assert repr(cast("ClientConnection", connection)._bridge) == "<Bridge idle>"
        client.reset()


@pytest.mark.parametrize("chunked", [False, True])
async def test_12_a_body_that_no_handler_reads_is_not_kept(chunked: bool) -> None:
    """Anybody can send one to a resource of the proxy, and VB365 may take its time to say who is
    asking. The next request is served behind it, also if it ends after the response.
    """
    responding = asyncio.Event()
    bodies: list[bool] = []

    async def handler(
        request: web.BaseRequest, head: Head, decision: Decision
    ) -> web.StreamResponse:
        bodies.append(request.body_exists)
        await responding.wait()
        return web.Response(text="ok")

    size = 8 << 20
    framing = b"Transfer-Encoding: chunked" if chunked else b"Content-Length: %d" % (size + 1)
    body = b"%x\r\n%b\r\n" % (size, bytes(size)) if chunked else bytes(size)
    async with through(silent, decide=lambda _: Own("/_own", None, "/", None), handler=handler) as (
        proxy,
        _,
    ):
        client = await proxy.ask(b"POST /_own HTTP/1.1\r\nHost: h\r\n%b\r\n\r\n" % framing)
        await client.send(body)  # all of it is taken
        await eventually(lambda: proxy.server.busy == 1)
        (connection,) = proxy.server._clients
        await eventually(lambda: connection.received > size)
        assert bodies == [False]
        responding.set()
        assert (await client.response())[1] == b"ok"
        await client.send(b"0\r\n\r\n" if chunked else b"x")
        await client.send(b"GET /_own HTTP/1.1\r\nHost: h\r\n\r\n")
        assert (await client.response())[1] == b"ok"


async def test_11_a_body_that_no_handler_reads_is_not_decoded(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """To decode small chunks takes ten times as long as to find their end."""
    fed: list[bytes] = []

    def feed(_: Bridge, data: bytes) -> None:
        fed.append(data)

    async def handler(
        request: web.BaseRequest, head: Head, decision: Decision
    ) -> web.StreamResponse:
        return web.Response(text="ok")

    monkeypatch.setattr(Bridge, "feed", feed)
    chunks = b"1\r\na\r\n" * 1000 + b"0\r\n\r\n"
    own = Own("/_own", None, "/", None)
    async with through(silent, decide=lambda _: own, handler=handler) as (proxy, _):
        head = b"POST /_own HTTP/1.1\r\nHost: h\r\nTransfer-Encoding: chunked\r\n\r\n"
        client = await proxy.ask(head + chunks + b"GET /_own HTTP/1.1\r\nHost: h\r\n\r\n")
        assert (await client.response())[1] == b"ok"
        assert (await client.response())[1] == b"ok"
    assert b"".join(fed) == chunks


async def test_a_response_after_its_client_has_left_is_dropped() -> None:
    """The bridge stays closed, and the client's connection hears nothing."""

    class Protocol:
        def connection_made(self, transport: object) -> None:
            pass

        def connection_lost(self, why: Exception | None) -> None:
            pass

    bridge = Bridge(cast("ClientSide", None), cast("Callable[[], web.RequestHandler]", Protocol))
    bridge.client_left()
    bridge.answered(keep=True)
    bridge.write(b"late")
    assert (bridge.closed, bridge.begun, repr(bridge)) == (True, False, "<Bridge closed>")


async def test_the_target_of_a_request_is_not_remembered() -> None:
    """yarl, which aiohttp's parser uses, keeps the last URLs, with their queries."""
    targets: list[tuple[bytes, str]] = []

    async def handler(
        request: web.BaseRequest, head: Head, decision: Decision
    ) -> web.StreamResponse:
        targets.append((head.target, str(request.rel_url)))
        return web.Response(text="ok")

    async with through(silent, decide=decide, handler=handler) as (proxy, _):
        client = await proxy.ask(b"GET /_own?secret=1 HTTP/1.1\r\nHost: h\r\n\r\n")
        assert (await client.response())[1] == b"ok"
    assert targets == [(b"/_own?secret=1", "/")]


async def test_a_slow_reader_of_a_response_made_at_once_gets_the_next_one() -> None:
    """The handler of the next request does not wait for the reader of the last response."""
    large = b"x" * (8 << 20)

    def at_once(head: Head, decision: Decision, info: object) -> tuple[int, bytes] | None:
        if head.target != b"/_own/large":
            return None
        return 200, b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n%b" % (len(large), large)

    async def handler(
        request: web.BaseRequest, head: Head, decision: Decision
    ) -> web.StreamResponse:
        response = web.StreamResponse(headers={"Content-Length": str(len(large))})
        await response.prepare(request)
        for start in range(0, len(large), 1 << 20):
            await response.write(large[start : start + (1 << 20)])
        return response

    async with through(silent, decide=decide, handler=handler, at_once=at_once) as (proxy, _):
        client = await proxy.ask(b"GET /_own/large HTTP/1.1\r\nHost: h\r\n\r\n")
        await eventually(lambda: proxy.server.connections() == (0, 1))
        assert (await client.response())[1] == large
        await client.send(b"GET /_own HTTP/1.1\r\nHost: h\r\n\r\n")
        assert (await client.response())[1] == large


async def test_11_many_small_chunks_reach_the_handler_as_few() -> None:
    """aiohttp takes a microsecond for each, all of a read in one go."""
    pieces: list[bytes] = []

    async def handler(
        request: web.BaseRequest, head: Head, decision: Decision
    ) -> web.StreamResponse:
        while not request.content.at_eof():
            pieces.append((await request.content.readchunk())[0])
        return web.Response(text="ok")

    chunked = b"POST /_own HTTP/1.1\r\nHost: h\r\nTransfer-Encoding: chunked\r\n\r\n"
    async with through(silent, decide=decide, handler=handler) as (proxy, _):
        client = await proxy.ask(chunked + b"1\r\na\r\n" * 500 + b"0\r\nX: y\r\n\r\n")
        assert (await client.response())[1] == b"ok"
        assert b"".join(pieces) == b"a" * 500
        assert len(pieces) < 50
        await client.send(chunked + b"0\r\n\r\n" + b"GET /_own HTTP/1.1\r\nHost: h\r\n\r\n")
        for _ in range(2):
            assert (await client.response())[1] == b"ok"


@pytest.mark.parametrize("own", [True, False])
@pytest.mark.parametrize(
    ("chunk", "count"),
    [
        (b"1\r\na\r\n", 400_000),
        (b"000000000000001\r\na\r\n", 400_000),
        (b"20\r\n" + b"a" * 32 + b"\r\n", 12_500),
    ],
)
def test_11_small_chunks_are_read_once_in_a_turn_of_the_loop(
    monkeypatch: pytest.MonkeyPatch, own: bool, chunk: bytes, count: int
) -> None:
    """uvloop would read megabytes of them at a time, and other clients would wait meanwhile. Of
    one read, only some are in each turn: it may take 70 ms, and each client has one.
    """
    turns, reads, decoded, scanned = 0, Counter[int](), Counter[int](), Counter[int]()
    read, feed, scan = ClientConnection.data_received, Bridge.feed, Chunks.feed

    def scans(chunks: Chunks, data: bytes) -> tuple[bytes, bytes]:
        forward, rest = scan(chunks, data)
        scanned[turns] += len(data) - len(rest)
        return forward, rest

    def counted(connection: ClientConnection, data: bytes) -> None:
        reads[turns] += 1
        read(connection, data)

    def fed(bridge: Bridge, data: bytes) -> None:
        decoded[turns] += len(data)
        feed(bridge, data)

    async def handler(
        request: web.BaseRequest, head: Head, decision: Decision
    ) -> web.StreamResponse:
        return web.Response(text=str(len(await request.read())))

    async def upstream(peer: Peer) -> None:
        end = b""
        while end != b"\r\n0\r\n\r\n":
            end = (end + await peer.some())[-7:]
        await peer.send(b"HTTP/1.1 200 OK\r\nContent-Length: 6\r\n\r\n400000")

    async def count_turns() -> None:
        nonlocal turns
        while True:
            turns += 1
            await asyncio.sleep(0)

    async def scenario() -> None:
        target = b"/_own" if own else b"/other"
        chunked = b"POST %b HTTP/1.1\r\nHost: h\r\nTransfer-Encoding: chunked\r\n\r\n" % target
        async with through(upstream, decide=decide, handler=handler) as (proxy, _):
            counting = asyncio.create_task(count_turns())
            client = await proxy.ask(chunked + chunk * count + b"0\r\n\r\n")
            assert (await client.response())[1] == b"400000"
            counting.cancel()

    monkeypatch.setattr(ClientConnection, "data_received", counted)
    monkeypatch.setattr(Bridge, "feed", fed)
    monkeypatch.setattr(Chunks, "feed", scans)
    uvloop = pytest.importorskip("uvloop")
    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        runner.run(scenario())
    assert len(reads) > 1
    assert max(reads.values()) == 1
    assert sum(decoded.values()) == 400_000 * own
    assert sum(scanned.values()) >= count * len(chunk)
    assert max(scanned.values()) < 64_000
