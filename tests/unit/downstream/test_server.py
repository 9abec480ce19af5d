"""Requests for the proxy's own resources, between relayed ones on the same connection (CONTRACT §3,
§4, §12).
"""

from __future__ import annotations

import asyncio
import json
import ssl
from typing import Any, cast

import pytest
import trustme
from aiohttp import web

from proxy.core.http.heads import Head
from proxy.core.routing import Decision, PassThrough
from proxy.downstream import reading
from proxy.downstream.bridge import OPTIONS
from proxy.downstream.duplex import Exchange
from tests.support.proxies import through
from tests.support.tls_peers import server_side
from tests.support.wire import LIMIT, Peer, eventually

GET = b"GET / HTTP/1.1\r\nHost: h\r\n\r\n"
OWN = b"GET /_own HTTP/1.1\r\nHost: h\r\n\r\n"
OURS = cast("Decision", "ours")


def decide(head: Head) -> Decision:
    return OURS if b"_own" in head.target else PassThrough(head.target)


async def upstream(peer: Peer) -> None:
    while True:
        target = (await peer.head()).split(b" ")[1]
        await peer.send(b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n%b" % (len(target), target))


async def silent(peer: Peer) -> None:
    await peer.closed()


async def echo(request: web.BaseRequest, head: Head, decision: Decision) -> web.StreamResponse:
    assert decision is OURS
    return web.Response(body=b"%b %b %b" % (head.method, head.target, await request.read()))


async def test_relayed_and_own_requests_share_a_connection() -> None:
    async with through(upstream, decide=decide, handler=echo) as (proxy, origin):
        client = await proxy.connect()
        for n in range(100):
            await client.send(b"GET /%d HTTP/1.1\r\nHost: h\r\n\r\n" % n)
            assert (await client.response())[1] == b"/%d" % n
            await client.send(
                b"POST /_own/%d HTTP/1.1\r\nHost: h\r\nContent-Length: 3\r\n\r\nabc" % n
            )
            assert (await client.response())[1] == b"POST /_own/%d abc" % n
        assert origin.accepted == 1
        lanes = proxy.server.counters.lanes
        counted = {name: dict(lane.codes) for name, lane in lanes.items() if lane.codes}
        assert counted == {"relay": {200: 100}, "kickoff": {200: 100}}


async def test_pipelined_relayed_and_own_requests_are_served_in_order() -> None:
    async with through(upstream, decide=decide, handler=echo) as (proxy, _):
        mix = [
            (b"GET /1 HTTP/1.1\r\nHost: h\r\n\r\n", b"/1"),
            (b"GET /_own/2 HTTP/1.1\r\nHost: h\r\n\r\n", b"GET /_own/2 "),
            (
                (
                    b"POST /_own/3 HTTP/1.1\r\nHost: h\r\nTransfer-Encoding: "
                    b"chunked\r\n\r\n2;x\r\nab\r\n0\r\n\r\n"
                ),
                None,
            ),
            (b"PUT /_own/4 HTTP/1.1\r\nHost: h\r\nContent-Length: 2\r\n\r\ncd", b"PUT /_own/4 cd"),
            (b"\r\nGET /5 HTTP/1.1\r\nHost: h\r\n\r\n", b"/5"),
        ] * 20
        client = await proxy.ask(b"".join(raw for raw, _ in mix))
        for _, body in mix:
            assert (await client.response())[1] == (b"POST /_own/3 ab" if body is None else body)


async def test_12_a_pipelined_request_that_finds_no_memory_ends_its_connection(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """It is started when the response before it is complete, by VB365's connection."""
    async with through(upstream, decide=decide, handler=echo) as (proxy, _):
        start, found = proxy.server.relay.start, [False, True]

        def lacking(*args: Any, **kwargs: Any) -> Exchange:
            if not found.pop():
                raise MemoryError
            return start(*args, **kwargs)

        monkeypatch.setattr(proxy.server.relay, "start", lacking)
        await proxy.ask(b"GET /1 HTTP/1.1\r\nHost: h\r\n\r\n" * 2)
        await eventually(lambda: proxy.server.counters.accepted == 1)
        await eventually(lambda: proxy.server.open == 0)


async def test_own_requests_may_be_split_anywhere() -> None:
    raw = (
        b"POST /_own HTTP/1.1\r\nHost: h\r\nTransfer-Encoding: "
        b"chunked\r\n\r\n3\r\nabc\r\n1;e\r\nd\r\n0\r\nX: y\r\n\r\n"
    )
    async with through(silent, decide=decide, handler=echo) as (proxy, _):
        client = await proxy.connect()
        for at in range(len(raw)):
            await client.send(raw[at : at + 1])
            await asyncio.sleep(0)
        assert (await client.response())[1] == b"POST /_own abcd"


@pytest.mark.parametrize(
    ("method", "target"),
    [
        (b"FOO", b"/_own"),
        (b"TRACE", b"//x/_own/%2F"),
        (b"GET", b"/_own?" + b"a" * 60000),
        (b"GET", b"http://h/_own"),
        (b"GET", b'/_own\xff"<>{}|\\^`#'),
        (b"OPTIONS", b"/_own?"),
    ],
)
async def test_handlers_get_the_head_as_received(method: bytes, target: bytes) -> None:
    async with through(silent, decide=decide, handler=echo) as (proxy, _):
        fields = b"Host: h\r\nX: \xff\r\n" + b"".join(b"X-%d: v\r\n" % n for n in range(1000))
        client = await proxy.ask(b"%b %b HTTP/1.1\r\n%b\r\n" % (method, target, fields))
        assert (await client.response())[1] == b"%b %b " % (method, target)


async def test_a_method_unknown_to_aiohttp_is_passed_on_as_received() -> None:
    async def method(
        request: web.BaseRequest, head: Head, decision: Decision
    ) -> web.StreamResponse:
        return web.Response(text=request.method)

    async with through(silent, decide=decide, handler=method) as (proxy, _):
        client = await proxy.ask(b"FOO /_own HTTP/1.1\r\nHost: h\r\n\r\n")
        assert (await client.response())[1] == b"TRACE"


async def test_handlers_get_the_connection_of_the_client(
    localhost: trustme.LeafCert, authority: trustme.CA
) -> None:
    async def facts(request: web.BaseRequest, head: Head, decision: Decision) -> web.StreamResponse:
        transport = request.transport
        assert transport is not None
        peer, local = transport.get_extra_info("peername"), transport.get_extra_info("sockname")
        return web.json_response([request.scheme, request.remote, peer[0], local[1]])

    trust = ssl.create_default_context()
    authority.configure_trust(trust)
    async with through(
        silent, decide=decide, handler=facts, server_tls=server_side(localhost), client_tls=trust
    ) as (
        proxy,
        _,
    ):
        client = await proxy.ask(OWN)
        assert json.loads((await client.response())[1]) == [
            "https",
            "127.0.0.1",
            "127.0.0.1",
            proxy.port,
        ]
        await client.close()


async def test_4_100_continue_is_sent_only_if_expected() -> None:
    async with through(silent, decide=decide, handler=echo) as (proxy, _):
        head = b"POST /_own HTTP/1.1\r\nHost: h\r\nContent-Length: 2\r\n"
        client = await proxy.ask(head + b"Expect: 100-continue\r\n\r\n")
        assert await client.head() == b"HTTP/1.1 100 Continue\r\n\r\n"
        await client.send(b"ab")
        assert (await client.response())[1] == b"POST /_own ab"
        for raw in (head + b"\r\nab", head + b"Expect: 100-continue\r\n\r\nab"):
            await client.send(raw)
            response, body = await client.response()
            assert response.startswith(b"HTTP/1.1 200 ")
            assert body == b"POST /_own ab"


async def test_the_connection_field_says_whether_the_connection_closes() -> None:
    async with through(silent, decide=decide, handler=echo) as (proxy, _):
        client = await proxy.ask(b"GET /_own HTTP/1.1\r\nHost: h\r\nConnection: close\r\n\r\n")
        assert b"\r\nConnection: close\r\n" in await client.rest()
        client = await proxy.ask(b"GET /_own HTTP/1.0\r\nConnection: keep-alive\r\n\r\n")
        assert b"\r\nConnection: keep-alive\r\n" in (await client.response())[0]
        await client.send(b"GET /_own HTTP/1.0\r\n\r\n")
        response = await client.rest()
        assert response.startswith(b"HTTP/1.1 200 OK\r\n")
        assert response.count(b"\r\nConnection: close\r\n") == 1


@pytest.mark.parametrize("read", [False, True])
async def test_nothing_behind_a_response_that_closes_is_served(read: bool) -> None:
    """RFC 9112 §9.6: its client repeats the requests behind it."""

    async def closing(
        request: web.BaseRequest, head: Head, decision: Decision
    ) -> web.StreamResponse:
        if read:
            await request.read()
        return web.Response(status=413, headers={"Connection": "close"})

    post = b"POST /_own HTTP/1.1\r\nHost: h\r\nTransfer-Encoding: chunked\r\n\r\n"
    async with through(silent, decide=decide, handler=closing) as (proxy, _):
        client = await proxy.ask(post + b"1\r\na\r\n0\r\n\r\n" + OWN)
        assert (await client.rest()).count(b"HTTP/1.1 ") == 1


async def test_http_exceptions_become_responses() -> None:
    async def missing(
        request: web.BaseRequest, head: Head, decision: Decision
    ) -> web.StreamResponse:
        raise web.HTTPNotFound(text="nothing")

    async with through(silent, decide=decide, handler=missing) as (proxy, _):
        client = await proxy.ask(OWN + OWN)
        for _ in range(2):
            head, body = await client.response()
            assert head.startswith(b"HTTP/1.1 404 ")
            assert body == b"nothing"


async def test_11_a_failing_handler_gets_a_problem_without_details() -> None:
    async def failing(
        request: web.BaseRequest, head: Head, decision: Decision
    ) -> web.StreamResponse:
        raise ValueError("secret")

    async with through(upstream, decide=decide, handler=failing) as (proxy, _):
        client = await proxy.ask(OWN + GET)
        head, body = await client.response()
        assert head.startswith(b"HTTP/1.1 500 ")
        assert b"secret" not in body
        assert json.loads(body)["message"]
        assert (await client.response())[1] == b"/"


@pytest.mark.parametrize("length", [None, 100])
async def test_a_handler_that_fails_within_its_response_resets_the_connection(
    length: int | None,
) -> None:
    async def failing(
        request: web.BaseRequest, head: Head, decision: Decision
    ) -> web.StreamResponse:
        response = web.StreamResponse()
        response.content_length = length
        await response.prepare(request)
        await response.write(b"some")
        raise ValueError("no more")

    async with through(silent, decide=decide, handler=failing) as (proxy, _):
        client = await proxy.ask(OWN)
        await client.until(b"some")
        with pytest.raises(ConnectionResetError):
            await client.rest()


async def test_a_stream_shorter_than_announced_resets_the_connection() -> None:
    async def short(request: web.BaseRequest, head: Head, decision: Decision) -> web.StreamResponse:
        response = web.StreamResponse()
        response.content_length = 100
        await response.prepare(request)
        await response.write(b"some")
        return response

    async with through(silent, decide=decide, handler=short) as (proxy, _):
        client = await proxy.ask(OWN)
        await client.until(b"some")
        with pytest.raises(ConnectionResetError):
            await client.rest()


async def test_a_client_that_disconnects_cancels_its_handler() -> None:
    began, cancelled = asyncio.Event(), asyncio.Event()

    async def waiting(
        request: web.BaseRequest, head: Head, decision: Decision
    ) -> web.StreamResponse:
        began.set()
        try:
            await asyncio.sleep(LIMIT)
        except asyncio.CancelledError:
            cancelled.set()
            raise
        return web.Response()

    async with through(silent, decide=decide, handler=waiting) as (proxy, _):
        client = await proxy.ask(OWN)
        await asyncio.wait_for(began.wait(), LIMIT)
        client.reset()
        await asyncio.wait_for(cancelled.wait(), LIMIT)
        await eventually(lambda: proxy.server.open == 0)


def half_close(client: Peer) -> None:
    client.writer.write_eof()


@pytest.mark.parametrize("behind", [b"", b"\r\n", b"GET /_own?next HT"])
@pytest.mark.parametrize("requests", [1, 3])
async def test_12_a_half_closed_client_gets_its_responses(requests: int, behind: bytes) -> None:
    """On the proxy's own paths every complete request before the end is served, then the connection
    closes.
    """
    go = asyncio.Event()

    async def waiting(
        request: web.BaseRequest, head: Head, decision: Decision
    ) -> web.StreamResponse:
        await asyncio.wait_for(go.wait(), LIMIT)
        return web.Response(body=await request.read())

    async with through(silent, decide=decide, handler=waiting) as (proxy, _):
        raw = b"POST /_own HTTP/1.1\r\nHost: h\r\nContent-Length: 3\r\n\r\nabc"
        client = await proxy.ask(raw * requests + behind)
        await eventually(lambda: proxy.server.busy == 1)
        half_close(client)
        await eventually(lambda: all(client._reading.ended for client in proxy.server._clients))
        go.set()
        responses = await client.rest()
        assert responses.count(b"HTTP/1.1 200 OK") == responses.count(b"\r\n\r\nabc") == requests
        await eventually(lambda: proxy.server.open == 0)


async def test_12_a_half_closed_client_is_not_taken_for_one_that_has_left(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """While so many requests wait that nothing more is read, its end is seen, but not reached."""
    monkeypatch.setattr(reading, "LOOK", 0.02)
    go = asyncio.Event()

    async def waiting(
        request: web.BaseRequest, head: Head, decision: Decision
    ) -> web.StreamResponse:
        await asyncio.wait_for(go.wait(), LIMIT)
        return web.Response(body=b"abc")

    raw = b"GET /_own HTTP/1.1\r\nHost: h\r\nX: %b\r\n\r\n" % (b"x" * 1000)
    async with through(silent, decide=decide, handler=waiting) as (proxy, _):
        client = await proxy.ask(raw * 100)
        half_close(client)
        await eventually(lambda: any(each._reading.stopped for each in proxy.server._clients))
        await asyncio.sleep(0.2)
        assert proxy.server.open == 1
        go.set()
        assert (await client.rest()).count(b"\r\n\r\nabc") == 100
        await eventually(lambda: proxy.server.open == 0)


async def test_12_a_half_closed_client_gets_a_long_response() -> None:
    async def long(request: web.BaseRequest, head: Head, decision: Decision) -> web.StreamResponse:
        response = web.StreamResponse()
        response.content_length = 20_000_000
        await response.prepare(request)
        for _ in range(20):
            await response.write(bytes(1_000_000))
        return response

    async with through(silent, decide=decide, handler=long) as (proxy, _):
        client = await proxy.ask(OWN + OWN)
        half_close(client)
        for _ in range(2):
            assert len((await client.response())[1]) == 20_000_000
        assert await client.rest() == b""
        await eventually(lambda: proxy.server.open == 0)


@pytest.mark.parametrize(
    "raw",
    [
        b"GET /relayed HTTP/1.1\r\nHost: h\r\n\r\n",
        b"POST /_own HTTP/1.1\r\nHost: h\r\nContent-Length: 3\r\n\r\nab",
        OWN + b"GET /relayed HTTP/1.1\r\nHost: h\r\n\r\n",
        OWN + b"POST /_own HTTP/1.1\r\nHost: h\r\nContent-Length: 3\r\n\r\nab",
        OWN + b"GET /_own HTTP/1.1\r\nHo",
    ],
)
async def test_12_a_half_close_aborts_relayed_and_incomplete_requests(
    raw: bytes,
) -> None:
    async with through(silent, decide=decide, handler=echo) as (proxy, _):
        client = await proxy.ask(raw)
        half_close(client)
        assert (await client.rest()).count(b"HTTP/1.1 ") == raw.startswith(OWN)
        await eventually(lambda: proxy.server.open == proxy.pool.open == 0)


async def test_3_a_client_that_disconnects_within_its_body_fails_the_read() -> None:
    read: list[bytes] = []
    ended = asyncio.Event()

    async def reading(
        request: web.BaseRequest, head: Head, decision: Decision
    ) -> web.StreamResponse:
        try:
            read.append(await request.read())
        finally:
            ended.set()
        return web.Response()

    async with through(silent, decide=decide, handler=reading) as (proxy, _):
        client = await proxy.ask(b"POST /_own HTTP/1.1\r\nHost: h\r\nContent-Length: 10\r\n\r\nabc")
        await eventually(lambda: proxy.server.busy == 1)
        await client.close()
        await eventually(lambda: proxy.server.open == 0)
    assert not read


async def test_12_malformed_chunks_get_400() -> None:
    async with through(silent, decide=decide, handler=echo) as (proxy, _):
        client = await proxy.ask(
            b"POST /_own HTTP/1.1\r\nHost: h\r\nTransfer-Encoding: chunked\r\n\r\n3\r\nabc\r\n"
        )
        await eventually(lambda: proxy.server.busy == 1)
        await client.send(b"+0\r\n\r\n")
        assert (await client.rest()).startswith(b"HTTP/1.1 400 ")


async def test_a_response_without_reading_the_body_keeps_the_order() -> None:
    """The rest of the body is not taken for the next request."""

    async def at_once(
        request: web.BaseRequest, head: Head, decision: Decision
    ) -> web.StreamResponse:
        return web.Response(text="early")

    async with through(upstream, decide=decide, handler=at_once) as (proxy, _):
        client = await proxy.ask(
            b"POST /_own HTTP/1.1\r\nHost: h\r\nContent-Length: 200000\r\n\r\n"
        )
        assert (await client.response())[1] == b"early"
        await client.send(b"GET /" * 40000 + GET)
        assert (await client.response())[1] == b"/"


async def test_back_pressure_applies_in_both_directions() -> None:
    """Neither an upload that the handler does not read nor a download that the client does not read
    is buffered. They have 64 MiB each, more than the kernel buffers between two sockets.
    """
    sent = 0

    async def slow(request: web.BaseRequest, head: Head, decision: Decision) -> web.StreamResponse:
        nonlocal sent
        while not go.is_set():
            await asyncio.wait_for(go.wait(), LIMIT)
        assert len(await request.content.read(-1)) == 64 << 20
        response = web.StreamResponse()
        await response.prepare(request)
        for _ in range(1024):
            await response.write(bytes(1 << 16))
            sent += 1
        return response

    go = asyncio.Event()
    async with through(silent, decide=decide, handler=slow) as (proxy, _):
        client = await proxy.connect(limit=1 << 16)
        await client.send(
            b"POST /_own HTTP/1.1\r\nHost: h\r\nContent-Length: %d\r\n\r\n" % (64 << 20)
        )
        client.writer.write(bytes(64 << 20))
        await eventually(lambda: proxy.server.busy == 1)
        await asyncio.sleep(0.3)
        assert client.writer.transport.get_write_buffer_size() > 0
        go.set()
        await client.head()
        await asyncio.sleep(0.3)
        assert sent < 1024
        while await client.until(b"\r\n") != b"0\r\n":
            await client.exactly((1 << 16) + 2)
        await client.until(b"\r\n")
        await client.send(OWN)


async def test_a_bridge_that_aiohttp_has_closed_is_replaced(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setitem(OPTIONS, "keepalive_timeout", 0.05)
    async with through(silent, decide=decide, handler=echo) as (proxy, _):
        client = await proxy.connect()
        for _ in range(3):
            await client.send(OWN)
            assert (await client.response())[1] == b"GET /_own "
            await asyncio.sleep(0.2)


async def test_the_repr_of_a_connection_shows_its_state() -> None:
    """The phase, the reasons to wait, and the request without its query."""
    async with through(silent) as (proxy, _):
        client = await proxy.ask(b"GET /v8/Jobs?secret=1 HTTP/1.1\r\nHost: h\r\n\r\n")
        await eventually(lambda: proxy.server.busy == 1)
        (connection,) = proxy.server._clients
        await eventually(lambda: "waiting for VB365" in repr(connection))
        assert repr(connection) == (
            "<ClientConnection http 127.0.0.1 serving waits_for=nothing "
            "serving=<Exchange GET /v8/Jobs waiting for VB365>>"
        )
        client.reset()


async def test_no_request_behind_one_that_is_not_served_is_served() -> None:
    """§12: of a client that has shut its sending side, which gets no response to a relayed request:
    that to the next one would look like it.
    """
    go = asyncio.Event()
    decided = []

    def noting(head: Head) -> Decision:
        decided.append(head.target)
        return decide(head)

    async def wait(request: web.BaseRequest, head: Head, decision: Decision) -> web.StreamResponse:
        await go.wait()
        return web.Response(body=b"first")

    async with through(silent, decide=noting, handler=wait) as (proxy, _):
        client = await proxy.ask(OWN + GET + OWN)
        client.writer.write_eof()
        await eventually(lambda: any(each._reading.ended for each in proxy.server._clients))
        go.set()
        assert (await client.response())[1] == b"first"
        assert await client.rest() == b""
    assert decided == [b"/_own", b"/"]


@pytest.mark.parametrize("path", [b"/_own", b"/relayed"])
async def test_a_request_that_finds_no_memory_for_the_log_is_over(path: bytes) -> None:
    """§12: its connection serves the next one."""

    class Access:
        failures = 1

        def log(self, *_: object) -> None:
            if self.failures:
                self.failures -= 1
                raise MemoryError

    access = cast("Any", Access())
    async with through(upstream, access=access, decide=decide, handler=echo) as (proxy, _):
        client = await proxy.connect()
        for _ in range(2):
            await client.send(b"GET %b HTTP/1.1\r\nHost: h\r\n\r\n" % path)
            assert (await client.response())[0].startswith(b"HTTP/1.1 200 ")
        assert access.failures == 0
