"""Rejections, time-outs, limits and the end of connections (CONTRACT §12, §15)."""

from __future__ import annotations

import asyncio
import json
from typing import Self, cast

import pytest
from aiohttp import web

from proxy.core.http.heads import Head
from proxy.core.routing import Decision, Own, PassThrough
from proxy.downstream import request_reader
from proxy.downstream.inbox import Inbox
from proxy.net.budget import Budget
from tests.support.proxies import through
from tests.support.upstreams import Script
from tests.support.wire import LIMIT, Peer, eventually
from tests.unit.core.test_heads import REFUSED_REQUESTS

GET = b"GET / HTTP/1.1\r\nHost: h\r\n\r\n"
OK = b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok"


async def upstream(peer: Peer) -> None:
    while True:
        await peer.head()
        await peer.send(OK)


def answering_after(go: asyncio.Event) -> Script:
    """An upstream that responds to one request, once `go` is set."""

    async def script(peer: Peer) -> None:
        await peer.head()
        await asyncio.wait_for(go.wait(), LIMIT)
        await peer.send(OK)

    return script


async def test_12_ambiguous_requests_get_400_and_are_not_forwarded() -> None:
    async with through(upstream) as (proxy, origin):
        for name, raw in REFUSED_REQUESTS.items():
            if name == "bytes after the head":
                continue
            client = await proxy.ask(raw)
            response = await client.rest()
            assert response.startswith(b"HTTP/1.1 400 Bad Request\r\n"), name
            head, _, body = response.partition(b"\r\n\r\n")
            assert b"\r\nConnection: close" in head
            problem = json.loads(body)
            assert problem["type"] == "urn:vb365-async:problem:bad-request", name
            await client.close()
        assert origin.accepted == 0


async def test_12_requests_before_a_rejected_one_are_served() -> None:
    async with through(upstream) as (proxy, _):
        client = await proxy.ask(
            GET + GET + b"GET / HTTP/1.1\r\nHost: h\r\nContent-Length: 1,1\r\n\r\n" + GET
        )
        assert (await client.response())[1] == b"ok"
        assert (await client.response())[1] == b"ok"
        assert (await client.rest()).startswith(b"HTTP/1.1 400 ")


async def test_12_a_rejection_repeats_only_a_plain_path_of_the_request() -> None:
    async with through(upstream) as (proxy, _):
        client = await proxy.ask(b"GET /v8/x?token=s HTTP/1.1\r\nHost: h\r\nHost: h\r\n\r\n")
        body = json.loads((await client.rest()).partition(b"\r\n\r\n")[2])
        assert (body["instance"], body["errorCode"]) == ("/v8/x", "ParameterValidationFailure")
        client = await proxy.ask(b"GET /a\x01b HTTP/1.1\r\nHost: h\r\n\r\n")
        assert json.loads((await client.rest()).partition(b"\r\n\r\n")[2])["instance"] == "/"


async def test_12_a_rejected_client_that_keeps_sending_can_read_its_response() -> None:
    async with through(upstream) as (proxy, _):
        client = await proxy.ask(b"POST / HTTP/1.1\r\nHost: h\r\nContent-Length: x\r\n\r\n")
        await client.send(bytes(1 << 20))
        assert (await client.response())[0].startswith(b"HTTP/1.1 400 ")


async def test_12_a_rejected_client_that_never_stops_sending_is_disconnected(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(request_reader, "LINGER", 0.2)
    async with through(upstream) as (proxy, _):
        client = await proxy.ask(b"POST / HTTP/1.1\r\nHost: h\r\nContent-Length: x\r\n\r\n")

        async def sending() -> None:
            while True:
                await client.send(bytes(1 << 16))
                await asyncio.sleep(0.01)

        with pytest.raises(ConnectionError):
            await asyncio.wait_for(sending(), LIMIT)


@pytest.mark.parametrize(
    "begun",
    [
        b"",
        b"GET / HT",
        b"GET / HTTP/1.1\r\nHost: h\r\nX: ",
        b"POST / HTTP/1.1\r\nHost: h\r\nContent-Length: 9\r\n\r\nab",
    ],
)
async def test_12_a_head_or_body_that_stalls_times_out(begun: bytes) -> None:
    async def silent(peer: Peer) -> None:
        await peer.closed()

    async with through(silent, head_timeout=0.2) as (proxy, _):
        client = await proxy.ask(begun)
        assert await client.closed()
        await eventually(lambda: proxy.server.open == proxy.pool.open == 0)


async def test_12_a_head_that_arrives_slowly_times_out() -> None:
    async with through(upstream, head_timeout=0.3) as (proxy, _):
        client = await proxy.ask(b"GET / HTTP/1.1\r\n")

        async def send_slowly() -> None:
            for _ in range(200):
                await client.send(b"X: y\r\n")
                await asyncio.sleep(0.02)

        with pytest.raises(ConnectionError):
            await send_slowly()


async def test_12_a_body_that_arrives_slowly_is_served() -> None:
    async def script(peer: Peer) -> None:
        await peer.head()
        assert await peer.exactly(8) == b"abcdefgh"
        await peer.send(OK)

    async with through(script, head_timeout=0.3) as (proxy, _):
        client = await proxy.ask(b"POST / HTTP/1.1\r\nHost: h\r\nContent-Length: 8\r\n\r\n")
        for at in range(8):
            await client.send(b"abcdefgh"[at : at + 1])
            await asyncio.sleep(0.1)
        assert (await client.response())[1] == b"ok"


async def test_12_idle_connections_are_closed() -> None:
    async with through(upstream, idle_timeout=0.2) as (proxy, _):
        client = await proxy.ask(GET)
        await client.response()
        assert await client.rest() == b""


async def test_12_a_client_that_does_not_read_its_response_times_out() -> None:
    """The upstream's connection ends too; other clients are not affected."""
    gone = asyncio.Event()

    async def script(peer: Peer) -> None:
        if b"/big" not in await peer.head():
            await peer.send(OK)
            return
        try:
            await peer.send(b"HTTP/1.1 200 OK\r\nContent-Length: 100000000\r\n\r\n")
            for _ in range(100):
                await peer.send(bytes(1000000))
        finally:
            gone.set()

    async with through(script, head_timeout=0.1) as (proxy, _):
        slow = await proxy.connect(limit=1 << 10)
        await slow.send(b"GET /big HTTP/1.1\r\nHost: h\r\n\r\n")
        other = await proxy.ask(GET)
        assert (await other.response())[1] == b"ok"
        await asyncio.wait_for(gone.wait(), LIMIT)
        await eventually(lambda: proxy.server.counters.timed_out >= 1)


async def test_12_requests_of_a_client_that_does_not_read_are_not_served() -> None:
    served = 0

    async def script(peer: Peer) -> None:
        nonlocal served
        while True:
            await peer.head()
            served += 1
            await peer.send(b"HTTP/1.1 200 OK\r\nContent-Length: 1000000\r\n\r\n" + bytes(1000000))

    async with through(script) as (proxy, _):
        client = await proxy.connect(limit=1 << 10)
        await client.send(GET * 200)
        await asyncio.sleep(0.5)
        assert served < 20
        for _ in range(200):
            assert len((await client.response())[1]) == 1000000


async def test_12_later_requests_of_a_client_that_does_not_read_wait() -> None:
    """The next request arrives while the last response is stuck; it is served in the end."""
    served = 0

    async def script(peer: Peer) -> None:
        nonlocal served
        while True:
            await peer.head()
            served += 1
            await peer.send(b"HTTP/1.1 200 OK\r\nContent-Length: 30000000\r\n\r\n")
            for _ in range(30):
                await peer.send(bytes(1000000))

    async with through(script) as (proxy, _):
        client = await proxy.connect(limit=1 << 10)
        await client.send(GET)
        await client.head()
        await client.send(GET * 3000)
        await asyncio.sleep(0.3)
        assert served == 1
        await client.exactly(30000000)
        assert len((await client.response())[1]) == 30000000


async def test_12_malformed_chunks_get_400_while_the_upstream_reads_nothing() -> None:
    """Reading continues after the rejection, so that the client can read the response."""

    async def script(peer: Peer) -> None:
        peer.writer.transport.pause_reading()  # type: ignore[attr-defined]
        await eventually(lambda: proxy.server.counters.refused == 1)

    async with through(script) as (proxy, _):
        client = await proxy.ask(
            b"POST / HTTP/1.1\r\nHost: h\r\nTransfer-Encoding: chunked\r\n\r\n"
        )
        client.writer.write(b"fffff\r\n" + bytes(0xFFFFF) + b"\r\nx\r\n")
        head, _body = await client.response()
        assert head.startswith(b"HTTP/1.1 400 ")


async def test_12_a_connection_above_the_limit_gets_503() -> None:
    async with through(upstream, max_connections=2) as (proxy, _):
        clients = [await proxy.ask(GET) for _ in range(2)]
        for client in clients:
            await client.response()
        turned = await proxy.connect()
        assert (await turned.rest()).startswith(b"HTTP/1.1 503 Service Unavailable\r\n")
        await clients[0].close()
        await eventually(lambda: proxy.server.open < 3)
        await turned.close()
        await eventually(lambda: proxy.server.open == 1)
        assert (await (await proxy.ask(GET)).response())[1] == b"ok"


async def test_15_draining_closes_idle_connections_and_finishes_busy_ones() -> None:
    requested, go = asyncio.Event(), asyncio.Event()

    async def script(peer: Peer) -> None:
        while True:
            await peer.head()
            requested.set()
            await asyncio.wait_for(go.wait(), LIMIT)
            await peer.send(OK)

    async with through(script) as (proxy, _):
        idle = await proxy.connect()
        busy = await proxy.ask(GET)
        await asyncio.wait_for(requested.wait(), LIMIT)
        drained = asyncio.create_task(proxy.server.drain(LIMIT))
        assert await idle.rest() == b""
        go.set()
        assert (await busy.rest()).endswith(b"Connection: close\r\n\r\nok")
        await asyncio.wait_for(drained, LIMIT)
        assert proxy.server.open == 0


async def test_15_requests_unfinished_at_the_deadline_are_aborted() -> None:
    async def silent(peer: Peer) -> None:
        await peer.closed()

    async def handler(
        request: web.BaseRequest, head: Head, decision: Decision
    ) -> web.StreamResponse:
        await asyncio.sleep(LIMIT)
        return web.Response()

    def decide(head: Head) -> Decision:
        return PassThrough(head.target) if head.target == b"/" else cast("Decision", "ours")

    async with through(silent, decide=decide, handler=handler) as (proxy, _):
        relayed = await proxy.ask(GET)
        ours = await proxy.ask(b"GET /own HTTP/1.1\r\nHost: h\r\n\r\n")
        await eventually(lambda: proxy.server.busy == 2)
        await asyncio.wait_for(proxy.server.drain(0.1), LIMIT)
        for client in (relayed, ours):
            with pytest.raises(ConnectionResetError):
                await client.rest()


async def test_15_responses_have_connection_close_while_draining() -> None:
    requested, go = asyncio.Event(), asyncio.Event()

    async def handler(
        request: web.BaseRequest, head: Head, decision: Decision
    ) -> web.StreamResponse:
        requested.set()
        await asyncio.wait_for(go.wait(), LIMIT)
        return web.Response(text="done")

    def decide(head: Head) -> Decision:
        return cast("Decision", "ours")

    async with through(upstream, decide=decide, handler=handler) as (proxy, _):
        client = await proxy.ask(GET)
        await asyncio.wait_for(requested.wait(), LIMIT)
        drained = asyncio.create_task(proxy.server.drain(LIMIT))
        await eventually(lambda: proxy.server.draining)
        go.set()
        assert b"\r\nConnection: close\r\n" in await client.rest()
        await asyncio.wait_for(drained, LIMIT)


PART = b"GET / HTTP/1.1\r\nHost: h\r\nX: "


async def test_12_a_head_behind_a_full_pipeline_times_out() -> None:
    """Resuming to read does not extend the time of a partly received head."""
    async with through(upstream, head_timeout=0.3) as (proxy, _):
        client = await proxy.connect()
        await client.send(GET * 3000 + PART)
        for _ in range(3000):
            await client.response()
        assert await client.closed()
        await eventually(lambda: proxy.server.open == 0)
        assert proxy.server.waiting.taken == 0


async def test_12_a_slow_head_times_out_while_a_response_is_read_slowly() -> None:
    """The response in progress completes, however long it takes; the head behind it is rejected
    meanwhile.
    """
    size = 30_000_000

    async def script(peer: Peer) -> None:
        await peer.head()
        await peer.send(b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n" % size)
        for _ in range(30):
            await peer.send(bytes(1_000_000))

    async with through(script, head_timeout=0.3) as (proxy, _):
        client = await proxy.connect(limit=1 << 10)
        await client.send(GET + PART)
        await client.head()
        await eventually(lambda: proxy.server.counters.timed_out == 1)
        assert proxy.server.waiting.taken == 0
        await client.send(b"y")
        await client.exactly(size)
        assert await client.closed()
        assert proxy.server.counters.timed_out == 1


async def test_12_a_slow_head_times_out_while_the_upstream_works() -> None:
    requested, go = asyncio.Event(), asyncio.Event()

    async def script(peer: Peer) -> None:
        await peer.head()
        requested.set()
        await asyncio.wait_for(go.wait(), LIMIT)
        await peer.send(OK)

    async with through(script, head_timeout=0.2) as (proxy, _):
        client = await proxy.ask(GET + PART)
        await asyncio.wait_for(requested.wait(), LIMIT)
        while not proxy.server.counters.timed_out:
            await client.send(b"y")
            await asyncio.sleep(0.02)
        go.set()
        assert (await client.rest()).endswith(b"\r\n\r\nok")


async def test_12_a_complete_request_waits_for_its_turn_without_a_limit() -> None:
    async def script(peer: Peer) -> None:
        while True:
            await peer.head()
            await asyncio.sleep(0.5)
            await peer.send(OK)

    async with through(script, head_timeout=0.1) as (proxy, _):
        client = await proxy.ask(GET * 3)
        for _ in range(3):
            assert (await client.response())[1] == b"ok"


async def test_12_new_and_idle_connections_have_different_time_outs() -> None:
    async with through(upstream, head_timeout=0.2, idle_timeout=60) as (proxy, _):
        client = await proxy.ask(GET)
        await client.response()
        assert await (await proxy.connect()).closed()
        assert proxy.server.open == 1
        await client.send(GET)
        assert (await client.response())[1] == b"ok"


async def test_12_a_long_head_behind_a_slow_response_is_received() -> None:
    """Reading does not pause within a head, however much is already buffered."""
    go = asyncio.Event()

    async def script(peer: Peer) -> None:
        await peer.head()
        await asyncio.wait_for(go.wait(), LIMIT)
        await peer.send(OK)
        assert len(await peer.head()) > 200_000
        await peer.send(OK)

    async with through(script) as (proxy, _):
        client = await proxy.connect()
        await client.send(
            GET
            + b"GET / HTTP/1.1\r\nHost: h\r\n"
            + (b"X: " + b"a" * 50_000 + b"\r\n") * 4
            + b"\r\n"
        )
        await eventually(lambda: proxy.server.waiting.taken > 200_000)
        go.set()
        for _ in range(2):
            assert (await client.response())[1] == b"ok"


@pytest.mark.parametrize("whole", [True, False])
async def test_12_a_head_of_more_than_256_kib_gets_431(whole: bool) -> None:
    async with through(upstream) as (proxy, origin):
        client = await proxy.connect()
        await client.send(
            b"GET /v8/x HTTP/1.1\r\nHost: h\r\n" + (b"X: " + b"a" * 60_000 + b"\r\n") * 5
        )
        if whole:
            await client.send(b"\r\n")
        head, _, body = (await client.rest()).partition(b"\r\n\r\n")
        assert head.startswith(b"HTTP/1.1 431 Request Header Fields Too Large\r\n")
        assert (json.loads(body)["status"], json.loads(body)["errorCode"]) == (431, "HttpError")
        assert origin.accepted == proxy.server.waiting.taken == 0


async def test_12_unfinished_heads_of_all_clients_share_a_memory_limit() -> None:
    """A client that needs more than is left is rejected; a request that arrives complete needs none
    of it.
    """
    async with through(upstream) as (proxy, _):
        proxy.server.waiting.limit = 100_000
        part = b"GET / HTTP/1.1\r\nHost: h\r\nX: " + b"a" * 40_000
        waiting = [await proxy.ask(part) for _ in range(2)]
        await eventually(lambda: proxy.server.waiting.taken == 2 * len(part))
        turned = await proxy.ask(part)
        response = await turned.rest()
        assert response.startswith(b"HTTP/1.1 503 ")
        assert b"\r\nRetry-After: " in response
        assert (await (await proxy.ask(GET)).response())[1] == b"ok"
        await waiting[0].send(b"\r\n\r\n")
        assert (await waiting[0].response())[1] == b"ok"
        waiting[1].reset()
        await eventually(lambda: proxy.server.waiting.taken == 0)


async def test_12_large_heads_of_requests_in_progress_share_the_memory_limit() -> None:
    """A head of up to 16 KiB does not count; the end of the request releases the memory."""
    go = asyncio.Event()

    async with through(answering_after(go)) as (proxy, _):
        proxy.server.waiting.limit = 100_000
        large = b"GET / HTTP/1.1\r\nHost: h\r\nX: " + b"a" * 40_000 + b"\r\n\r\n"
        clients = [await proxy.ask(large) for _ in range(2)]
        await eventually(lambda: proxy.server.busy == 2)
        assert 80_000 < proxy.server.waiting.taken < 100_000
        assert (await (await proxy.ask(large)).rest()).startswith(b"HTTP/1.1 503 ")
        small = await proxy.ask(GET)
        await eventually(lambda: proxy.server.busy == 3)
        clients[0].reset()
        await eventually(lambda: proxy.server.waiting.taken < 50_000)
        go.set()
        assert (await clients[1].response())[1] == b"ok"
        assert (await small.response())[1] == b"ok"
        assert proxy.server.waiting.taken == 0


async def test_12_heads_of_many_fields_share_the_memory_limit_where_these_are_read() -> None:
    """A thousand short fields take ten times the memory of their head, which is passed through as
    it is.
    """
    go = asyncio.Event()

    async def handler(request: web.BaseRequest, head: Head, decision: Decision) -> web.Response:
        await asyncio.wait_for(go.wait(), LIMIT)
        return web.Response(text="ok")

    def decide(head: Head) -> Decision:
        passed = PassThrough(head.target)
        return passed if head.target == b"/" else Own("/_own", None, "", None)

    async with through(answering_after(go), decide=decide, handler=handler) as (proxy, _):
        proxy.server.waiting.limit = 300_000
        many = b" HTTP/1.1\r\nHost: h\r\n" + b"a: b\r\n" * 1000 + b"\r\n"
        passed = await proxy.ask(b"GET /" + many)
        await eventually(lambda: proxy.server.busy == 1)
        assert proxy.server.waiting.taken == 0
        own = await proxy.ask(b"GET /_own/" + many)
        await eventually(lambda: proxy.server.busy == 2)
        assert (await (await proxy.ask(b"GET /_own/" + many)).rest()).startswith(b"HTTP/1.1 503 ")
        go.set()
        for client in (passed, own):
            assert (await client.response())[1] == b"ok"
        assert proxy.server.waiting.taken == 0


@pytest.mark.parametrize("length", [1_000, 40_000])
async def test_12_fields_take_no_memory_once_their_response_is_written(length: int) -> None:
    """A client may take hours to send the body of a request that has its 404. A large head counts
    as it is.
    """

    async def handler(request: web.BaseRequest, head: Head, decision: Decision) -> web.Response:
        return web.Response(status=404)

    own = Own("/_own", None, "", None)
    async with through(upstream, decide=lambda _: own, handler=handler) as (proxy, _):
        block = b"Host: h\r\nContent-Length: 10\r\nX: " + b"a" * length + b"\r\n" + b"a:\r\n" * 1000
        client = await proxy.ask(b"POST /_own HTTP/1.1\r\n" + block + b"\r\n")
        assert (await client.response())[0].startswith(b"HTTP/1.1 404 ")
        counted = len(block) if length > 16 << 10 else 0
        await eventually(lambda: proxy.server.waiting.taken == counted)
        await client.send(bytes(10) + b"GET /_own HTTP/1.1\r\nHost: h\r\n\r\n")
        assert (await client.response())[0].startswith(b"HTTP/1.1 404 ")
        assert proxy.server.waiting.taken == 0


async def test_12_waiting_requests_share_the_memory_limit() -> None:
    """The response in progress completes; the requests behind it are rejected."""
    go = asyncio.Event()

    async with through(answering_after(go)) as (proxy, _):
        proxy.server.waiting.limit = 10_000
        client = await proxy.ask(GET)
        await eventually(lambda: proxy.server.busy == 1)
        await client.send(GET * 1000)
        await eventually(lambda: proxy.server.counters.refused == 1)
        go.set()
        assert (await client.response())[1] == b"ok"
        assert await client.closed()
        assert proxy.server.waiting.taken == 0


async def test_12_pipelined_bodies_are_not_copied_again_for_every_request(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """The cost of a full pipeline is linear: each request copies a bounded part of the buffer."""
    copied = 0
    peek = Inbox.peek

    def counting(inbox: Inbox, start: int, end: int) -> bytes:
        nonlocal copied
        piece = peek(inbox, start, end)
        copied += len(piece)
        return piece

    monkeypatch.setattr(Inbox, "peek", counting)

    async def script(peer: Peer) -> None:
        await peer.head()
        await peer.exactly(1)
        await peer.send(OK)

    async with through(script) as (proxy, _):
        raw = b"POST / HTTP/1.1\r\nHost: h\r\nContent-Length: 1\r\n\r\nx"
        client = await proxy.connect()
        await client.send(raw * 1000)
        for _ in range(1000):
            await client.response()
        assert 0 < copied < 700 * 1000


async def test_12_no_more_of_a_refused_body_is_waited_for() -> None:
    """Its client has the time to read the response that any other has."""
    go = asyncio.Event()
    bad = b"POST / HTTP/1.1\r\nHost: h\r\nTransfer-Encoding: chunked\r\n\r\nx\r\n"
    async with through(answering_after(go)) as (proxy, _):
        client = await proxy.ask(GET + bad)
        go.set()
        assert (await client.response())[1] == b"ok"
        assert (await client.rest()).startswith(b"HTTP/1.1 400 ")
        [connection] = proxy.server._clients
        assert "waits_for=reader,linger " in repr(connection)


async def test_12_a_client_that_goes_on_sending_gets_its_whole_last_response() -> None:
    """What it sends is dropped. To close at once would reset the connection, and lose what it has
    not read yet (RFC 9112 §9.6).
    """
    size = 500_000
    go = asyncio.Event()

    async def script(peer: Peer) -> None:
        await peer.head()
        await go.wait()
        await peer.send(b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n" % size + bytes(size))

    async with through(script) as (proxy, _):
        proxy.server.waiting.limit = 1_000
        url = f"http://127.0.0.1:{proxy.port}"
        client = await Peer.to(url, limit=1 << 10, receive_buffer=1 << 12)
        await client.send(GET)
        await eventually(lambda: proxy.server.busy == 1)
        await client.send(GET * 100)
        await eventually(lambda: proxy.server.counters.refused == 1)
        go.set()
        await eventually(lambda: proxy.server.busy == 0)
        await client.send(GET * 100)
        await client.head()
        assert len(await client.rest()) == size
        await client.close()


def test_12_input_for_which_there_is_no_memory_does_not_count() -> None:
    """The memory that clients share would be less until a restart."""

    class Full(bytearray):
        def __iadd__(self, data: object) -> Self:
            raise MemoryError

    budget = Budget(100)
    inbox = Inbox(budget)
    inbox.waiting = Full()
    with pytest.raises(MemoryError):
        inbox.keep(b"abc")
    assert budget.taken == 0
