"""The proxy's own calls to VB365 (`ports.Upstream`; CONTRACT §9, §10, §12)."""

from __future__ import annotations

import asyncio
import contextlib
import random
import socket
import ssl
import tracemalloc
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest
import trustme

import proxy
from proxy.core.http.heads import MAX_FIELDS, parse_request
from proxy.net.tls import upstream_context
from proxy.net.tls_transport import TlsTransport
from proxy.ports import (
    Fields,
    Response,
    ResponseLost,
    Upstream,
    UpstreamBroken,
    UpstreamTimedOut,
    UpstreamUnreachable,
)
from proxy.upstream import pool as pools
from proxy.upstream.client import HttpUpstream, _StreamedResponse
from proxy.upstream.pool import Pool
from tests.support.tls_peers import server_side
from tests.support.upstreams import Origin, Script
from tests.support.wire import LIMIT, Peer, eventually

OK = b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok"
HOST: Fields = ((b"Host", b"h"),)


class Caller:
    """The upstream under test, and the scripted server behind it."""

    def __init__(self, pool: Pool, origin: Origin) -> None:
        self.pool = pool
        self.origin = origin
        self.upstream: Upstream = HttpUpstream(pool)

    async def get(
        self, method: bytes = b"GET", body: bytes = b"", stall: float = LIMIT
    ) -> Response:
        return await self.upstream.send(method, b"/x", HOST, body, timeout=LIMIT, stall=stall)


@contextlib.asynccontextmanager
async def calling(
    script: Script, served: ssl.SSLContext | None = None, **pool: Any
) -> AsyncIterator[Caller]:
    async with Origin(script).running(served) as origin:
        caller = Caller(Pool("127.0.0.1", origin.port, **pool), origin)
        try:
            yield caller
        finally:
            await caller.upstream.close()


async def whole(response: Response) -> bytes:
    pieces = []
    while piece := await response.read():
        pieces.append(piece)
    return b"".join(pieces)


def script_for(raw: bytes, heard: list[bytes] | None = None, *, close: bool = False) -> Script:
    async def script(peer: Peer) -> None:
        while True:
            head = await peer.head()
            if heard is not None:
                heard.append(head)
            await peer.send(raw)
            if close:
                return

    return script


async def test_fields_are_sent_as_given_with_a_length_for_bodies_and_posts() -> None:
    heard: list[bytes] = []
    fields = ((b"Host", b"h"), (b"x-A", b"1"), (b"X-a", b"\xff"), (b"empty", b""))
    lines = b"Host: h\r\nx-A: 1\r\nX-a: \xff\r\nempty: \r\n"
    async with calling(script_for(OK, heard)) as caller:
        for method in (b"GET", b"POST"):
            await whole(
                await caller.upstream.send(method, b"//x%2F?", fields, timeout=LIMIT, stall=LIMIT)
            )
        await whole(await caller.upstream.send(b"GET", b"/", (), timeout=LIMIT, stall=LIMIT))
        port = b"%d" % caller.origin.port
    assert heard == [
        b"GET //x%2F? HTTP/1.1\r\n" + lines + b"\r\n",
        b"POST //x%2F? HTTP/1.1\r\n" + lines + b"Content-Length: 0\r\n\r\n",
        b"GET / HTTP/1.1\r\nHost: 127.0.0.1:" + port + b"\r\n\r\n",
    ]


@pytest.mark.parametrize(
    ("target", "field"),
    [(b"/a b", (b"X", b"y")), (b"/", (b"X", b"a\r\nY: b")), (b"/", (b"X:", b"y"))],
)
async def test_12_an_invalid_head_is_never_sent(target: bytes, field: tuple[bytes, bytes]) -> None:
    async with calling(script_for(OK)) as caller:
        with pytest.raises(ValueError, match="malformed request"):
            await caller.upstream.send(b"GET", target, (field,), timeout=LIMIT, stall=LIMIT)
        assert caller.origin.accepted == 0


async def test_a_client_may_have_as_many_fields_as_a_head_may_have() -> None:
    """The proxy adds its own to them, such as a check's Accept."""
    fields = [(b"Host", b"h"), *[(b"Cookie", b"a")] * (MAX_FIELDS - 1), (b"Accept", b"*/*")]
    async with calling(script_for(OK)) as caller:
        sent = caller.upstream.send(b"POST", b"/", fields, timeout=LIMIT, stall=LIMIT)
        assert await whole(await sent) == b"ok"


async def test_the_body_is_sent_byte_for_byte() -> None:
    got: list[bytes] = []
    body = bytes(range(256)) * 4096

    async def script(peer: Peer) -> None:
        assert b"Content-Length: %d\r\n" % len(body) in await peer.head()
        got.append(await peer.exactly(len(body)))
        await peer.send(OK)

    async with calling(script) as caller:
        assert await whole(await caller.get(b"POST", body)) == b"ok"
    assert got == [body]


@pytest.mark.parametrize(
    ("raw", "length", "delimited", "body"),
    [
        (b"Content-Length: 4\r\n\r\nbody", 4, True, b"body"),
        (b"Content-Length: 0\r\n\r\n", 0, True, b""),
        (
            b"Transfer-Encoding: chunked\r\n\r\n3;x\r\nabc\r\n1\r\nd\r\n0\r\nX: y\r\n\r\n",
            None,
            True,
            b"abcd",
        ),
        (b"\r\nbody", None, False, b"body"),
    ],
)
async def test_10_bodies_of_every_framing_are_read(
    raw: bytes, length: int | None, delimited: bool, body: bytes
) -> None:
    head = b"HTTP/1.1 299 Sch\xf6n\r\nX-A: 1\r\nx-a: 2\r\nConnection: x-b\r\nX-B: 3\r\n"
    async with calling(
        script_for(b"HTTP/1.1 103 E\r\n\r\nHTTP/1.1 100 C\r\n\r\n" + head + raw, close=True)
    ) as caller:
        response = await caller.get()
        assert (response.status, response.reason) == (299, b"Sch\xf6n")
        assert list(response.fields)[:2] == [(b"X-A", b"1"), (b"x-a", b"2")]
        assert b"X-B" not in dict(response.fields)
        assert (response.length, response.delimited) == (length, delimited)
        assert await whole(response) == body
        assert await response.read() == b""


async def test_10_a_response_may_be_split_anywhere() -> None:
    raw = b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nhello\r\n0\r\n\r\n"

    async def script(peer: Peer) -> None:
        await peer.head()
        for at in range(len(raw)):
            await peer.send(raw[at : at + 1])
            await asyncio.sleep(0)

    async with calling(script) as caller:
        assert await whole(await caller.get()) == b"hello"


@pytest.mark.parametrize("method", [b"HEAD", b"GET"])
async def test_bodiless_responses_end_with_their_head(method: bytes) -> None:
    raw = (
        b"HTTP/1.1 200 OK\r\nContent-Length: 9\r\n\r\n"
        if method == b"HEAD"
        else b"HTTP/1.1 304 Not\r\n\r\n"
    )
    async with calling(script_for(raw)) as caller:
        for _ in range(2):
            response = await caller.get(method)
            assert (await whole(response), response.length, response.delimited) == (b"", 0, True)
        assert caller.origin.accepted == (2 if method == b"HEAD" else 1)


BROKEN = [
    b"Content-Length: 10\r\n\r\nsome",
    b"Transfer-Encoding: chunked\r\n\r\n4\r\nsome\r\n",
    b"Transfer-Encoding: chunked\r\n\r\n4\r\nsome\r\nx\r\n",
]


@pytest.mark.parametrize("raw", BROKEN)
async def test_10_a_truncated_or_malformed_body_is_never_complete(raw: bytes) -> None:
    """The bytes before the failure are returned first, so that the transfer can be resumed."""
    async with calling(script_for(b"HTTP/1.1 200 OK\r\n" + raw, close=True)) as caller:
        response = await caller.get()
        if not raw.endswith(b"x\r\n"):
            assert await response.read() == b"some"
        with pytest.raises(UpstreamBroken) as why:
            await response.read()
        assert why.value.delivered
        with pytest.raises(UpstreamBroken):
            await response.read()
        response.close()


async def test_10_a_reset_does_not_end_a_body_without_length() -> None:
    async def script(peer: Peer) -> None:
        await peer.head()
        await peer.send(b"HTTP/1.1 200 OK\r\n\r\nsome")
        await asyncio.wait_for(cut.wait(), LIMIT)
        peer.reset()

    cut = asyncio.Event()
    async with calling(script) as caller:
        response = await caller.get()
        assert await response.read() == b"some"
        cut.set()
        with pytest.raises(UpstreamBroken):
            await response.read()


@pytest.mark.parametrize(
    "raw",
    [
        b"HTTP/1.1 200 OK\r\nContent-Length: 1\r\nTransfer-Encoding: chunked\r\n\r\n",
        b"HTTP/1.1 101 Switching Protocols\r\nUpgrade: x\r\nConnection: Upgrade\r\n\r\n",
        b"nonsense\r\n\r\n",
        b"\x15\x03",
    ],
)
async def test_12_a_malformed_head_raises_upstream_broken(raw: bytes) -> None:
    async with calling(script_for(raw)) as caller:
        with pytest.raises(UpstreamBroken) as why:
            await caller.get()
        assert why.value.delivered
        assert caller.pool.open == 0


async def test_a_close_before_the_head_is_unreachable_and_may_have_been_delivered() -> None:
    async def script(peer: Peer) -> None:
        await peer.head()

    async with calling(script) as caller:
        with pytest.raises(UpstreamUnreachable) as why:
            await caller.get(b"POST", b"x")
        assert why.value.delivered
        assert caller.origin.accepted == 1


async def test_a_refused_connection_is_unreachable_and_delivered_nothing() -> None:
    async with calling(script_for(OK)) as caller:
        caller.pool.port = 1
        with pytest.raises(
            UpstreamUnreachable, match=r"127\.0\.0\.1:1: Connection refused$"
        ) as why:
            await caller.get()
        assert not why.value.delivered
        caller.pool.host = "no-such-host.invalid"
        with pytest.raises(UpstreamUnreachable):
            await caller.get()


async def test_the_head_may_take_no_longer_than_the_timeout() -> None:
    gone = asyncio.Event()

    async def script(peer: Peer) -> None:
        await peer.closed()
        gone.set()

    async with calling(script) as caller:
        with pytest.raises(UpstreamTimedOut) as why:
            await caller.upstream.send(b"GET", b"/", HOST, timeout=0.1, stall=LIMIT)
        assert why.value.delivered
        await asyncio.wait_for(gone.wait(), LIMIT)


async def test_connecting_may_take_no_longer_than_its_timeout() -> None:
    """A listener whose queue is full does not respond to SYN."""
    with socket.socket() as listener, contextlib.ExitStack() as fillers:
        listener.bind(("127.0.0.1", 0))
        listener.listen(0)
        for _ in range(4):
            filler = fillers.enter_context(socket.socket())
            filler.setblocking(False)
            filler.connect_ex(listener.getsockname())
        upstream = HttpUpstream(Pool("127.0.0.1", listener.getsockname()[1], connect_timeout=0.2))
        with pytest.raises(UpstreamTimedOut) as why:
            await upstream.send(b"GET", b"/", HOST, timeout=LIMIT, stall=LIMIT)
        assert not why.value.delivered


async def test_10_a_body_that_stalls_times_out() -> None:
    gone = asyncio.Event()

    async def script(peer: Peer) -> None:
        await peer.head()
        await peer.send(b"HTTP/1.1 200 OK\r\nContent-Length: 9\r\n\r\nsome")
        await peer.closed()
        gone.set()

    async with calling(script) as caller:
        response = await caller.get(stall=0.2)
        assert await response.read() == b"some"
        with pytest.raises(UpstreamTimedOut):
            await response.read()
        await asyncio.wait_for(gone.wait(), LIMIT)


@pytest.mark.parametrize("when", ["head", "body"])
async def test_7_closing_or_cancelling_closes_the_connection_at_once(when: str) -> None:
    requested, gone = asyncio.Event(), asyncio.Event()

    async def script(peer: Peer) -> None:
        await peer.head()
        requested.set()
        if when == "body":
            await peer.send(b"HTTP/1.1 200 OK\r\nContent-Length: 9\r\n\r\nsome")
        await peer.closed()
        gone.set()

    async with calling(script) as caller:
        task = asyncio.create_task(caller.get(b"POST"))
        await asyncio.wait_for(requested.wait(), LIMIT)
        if when == "body":
            response = await task
            response.close()
            response.close()
        else:
            task.cancel()
            with pytest.raises(asyncio.CancelledError):
                await task
        await asyncio.wait_for(gone.wait(), LIMIT)
        assert caller.pool.open == 0


async def test_a_slow_reader_slows_the_upstream_down() -> None:
    size, sent = 32 << 20, 0

    async def script(peer: Peer) -> None:
        nonlocal sent
        await peer.head()
        await peer.send(b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n" % size)
        while sent < size:
            await peer.send(bytes(1 << 16))
            sent += 1 << 16

    async with calling(script) as caller:
        response = await caller.get()
        await eventually(lambda: sent > 1 << 20)
        await asyncio.sleep(0.3)
        assert sent < size
        biggest = total = 0
        while piece := await response.read():
            biggest, total = max(biggest, len(piece)), total + len(piece)
        assert total == size
        assert biggest < 2 << 20


async def test_12_posts_get_new_connections_and_gets_share_them() -> None:
    async with calling(script_for(OK)) as caller:
        for method, connections in (
            (b"GET", 1),
            (b"GET", 1),
            (b"POST", 2),
            (b"GET", 2),
            (b"POST", 3),
            (b"PUT", 4),
        ):
            assert await whole(await caller.get(method)) == b"ok"
            assert caller.origin.accepted == connections


async def test_12_only_a_get_on_a_reused_connection_is_repeated() -> None:
    heads = 0

    async def script(peer: Peer) -> None:
        nonlocal heads
        await peer.head()
        heads += 1
        await peer.send(OK)
        await peer.head()
        heads += 1

    async with calling(script) as caller:
        await whole(await caller.get())
        assert await whole(await caller.get()) == b"ok"
        assert (heads, caller.origin.accepted) == (3, 2)


async def test_an_unread_response_does_not_block_other_calls() -> None:
    async with calling(script_for(b"HTTP/1.1 200 OK\r\nContent-Length: 9\r\n\r\nsome")) as caller:
        first = await caller.get()
        second = await caller.get()
        assert await first.read() == await second.read() == b"some"
        first.close()
        second.close()


async def test_a_response_before_the_request_is_sent_closes_the_connection() -> None:
    async def script(peer: Peer) -> None:
        await peer.head()
        await peer.send(b"HTTP/1.1 413 No\r\nContent-Length: 2\r\n\r\nno")
        await peer.closed()

    async with calling(script) as caller:
        response = await caller.get(b"POST", bytes(16 << 20))
        assert (response.status, await whole(response)) == (413, b"no")
        assert caller.pool.open == 0


async def test_15_a_certificate_is_checked_before_anything_is_sent(
    localhost: trustme.LeafCert, authority: trustme.CA
) -> None:
    heard: list[bytes] = []
    trust = ssl.create_default_context()
    authority.configure_trust(trust)
    async with calling(script_for(OK, heard), server_side(localhost), tls=trust) as caller:
        assert await whole(await caller.get()) == b"ok"
    pinned = upstream_context(fingerprint="00" * 32)
    async with calling(script_for(OK, heard), server_side(localhost), tls=pinned) as caller:
        with pytest.raises(UpstreamUnreachable, match="not the pinned one"):
            await caller.get()
        assert caller.pool.open == 0
    async with calling(
        script_for(OK, heard), server_side(localhost), tls=ssl.create_default_context()
    ) as caller:
        with pytest.raises(UpstreamUnreachable, match=r"upstream\.ca_file"):
            await caller.get()
        assert caller.pool.open == 0
    assert len(heard) == 1


async def test_12_a_name_is_resolved_again_after_a_failure() -> None:
    """The upstream has moved: the remembered address is tried, then the name is resolved again."""
    requested = 0
    addresses = [["127.0.0.2", "127.0.0.1"], ["127.0.0.3"], ["127.0.0.1"]]

    async def getaddrinfo(host: str, port: int, **_: object) -> list[tuple[Any, ...]]:
        nonlocal requested
        requested += 1
        return [
            (socket.AF_INET, socket.SOCK_STREAM, 6, "", (ip, port))
            for ip in addresses[requested - 1]
        ]

    async with calling(script_for(OK)) as caller:
        caller.pool.lookup = getaddrinfo
        for _ in range(2):
            await whole(await caller.get(b"POST"))
        assert requested == 1
        port, caller.pool.port = caller.pool.port, 1
        with pytest.raises(UpstreamUnreachable):
            await caller.get(b"POST")
        assert requested == 2
        caller.pool.port = port
        assert await whole(await caller.get(b"POST")) == b"ok"
        assert requested == 3


async def test_12_a_name_is_resolved_again_after_a_time_out(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """The upstream has moved, and nothing comes back from the remembered address."""
    addresses = ["127.0.0.1", "127.0.0.2"]
    open_to = Pool._open_to

    async def getaddrinfo(*_: object, **__: object) -> list[tuple[Any, ...]]:
        return [(socket.AF_INET, socket.SOCK_STREAM, 6, "", (addresses[0], 0))]

    async def reach(pool: Pool, address: Any) -> Any:
        family, protocol, host = address
        if host != addresses[0]:
            await asyncio.sleep(LIMIT)
        return await open_to(pool, (family, protocol, "127.0.0.1"))

    monkeypatch.setattr(Pool, "_open_to", reach)
    async with calling(script_for(OK)) as caller:
        caller.pool.lookup, caller.pool._connect_timeout = getaddrinfo, 0.1
        await whole(await caller.get(b"POST"))
        del addresses[0]
        with pytest.raises(UpstreamTimedOut):
            await caller.get(b"POST")
        assert await whole(await caller.get(b"POST")) == b"ok"


async def test_12_a_name_that_cannot_be_looked_up_is_a_failure_to_connect() -> None:
    async with calling(script_for(OK)) as caller:
        caller.pool.host = "a..b"
        with pytest.raises(UpstreamUnreachable, match=r"'a\.\.b' is not a host name"):
            await caller.get()
        assert caller.pool.open == 0


@pytest.mark.parametrize("error", [socket.EAI_AGAIN, socket.EAI_FAIL, None])
async def test_12_the_last_addresses_are_used_while_no_name_server_responds(
    error: int | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    """But not if the name no longer exists, nor if they do not accept a connection."""
    monkeypatch.setattr(pools, "RESOLVED", 0.0)
    monkeypatch.setattr(pools, "_LOOKUP", 0.0)
    found = [(socket.AF_INET, socket.SOCK_STREAM, 6, "", ("127.0.0.1", 0))]
    outcomes: list[int | None] = [0, error, error, socket.EAI_NONAME]

    async def getaddrinfo(host: str, port: int, **_: object) -> list[tuple[Any, ...]]:
        outcome = outcomes.pop(0)
        if outcome is None:
            await asyncio.sleep(LIMIT)
        if outcome:
            raise socket.gaierror(outcome, "the resolver failed")
        return found

    async with calling(script_for(OK)) as caller:
        caller.pool.lookup = getaddrinfo
        for _ in range(2):
            assert await whole(await caller.get(b"POST")) == b"ok"
        port, caller.pool.port = caller.pool.port, 1
        with pytest.raises(UpstreamUnreachable):
            await caller.get(b"POST")
        caller.pool.port = port
        with pytest.raises(UpstreamUnreachable, match="the resolver failed"):
            await caller.get(b"POST")
        assert not outcomes


@pytest.mark.parametrize(
    ("host", "port", "tls", "authority_"),
    [
        ("h", 80, False, b"h"),
        ("h", 443, True, b"h"),
        ("h", 4443, True, b"h:4443"),
        ("::1", 80, False, b"[::1]"),
        ("::1", 443, False, b"[::1]:443"),
    ],
)
def test_12_the_upstreams_own_host_has_no_default_port(
    host: str, port: int, tls: bool, authority_: bytes
) -> None:
    assert (
        Pool(host, port, tls=ssl.create_default_context() if tls else None).authority == authority_
    )


@pytest.mark.parametrize(("preserve", "host"), [(True, b"h"), (False, b"vb365.example")])
async def test_12_the_pool_decides_whose_host_a_request_has(preserve: bool, host: bytes) -> None:
    heard: list[bytes] = []
    pool: dict[str, Any] = {"authority": "vb365.example", "preserve_host": preserve}
    async with calling(script_for(OK, heard), **pool) as caller:
        assert await whole(await caller.get(b"POST")) == b"ok"
    assert [line for line in heard[0].split(b"\r\n") if line.startswith(b"Host:")] == [
        b"Host: " + host
    ]


async def test_12_a_caller_cancelled_after_its_response_leaves_the_connection_to_the_next() -> None:
    """The response is whole and the connection serves another request before the caller runs."""

    async def script(peer: Peer) -> None:
        while True:
            await peer.head()
            await peer.send(OK)

    request = b"GET / HTTP/1.1\r\nHost: h\r\n\r\n"
    safe = parse_request(request)
    async with calling(script) as caller:
        assert await whole(await caller.get()) == b"ok"
        connection = caller.pool.take(safe)
        assert connection is not None
        response = _StreamedResponse(connection, safe, LIMIT, caller.pool.counts)
        response.send(b"")
        first = asyncio.create_task(response.begun())
        await asyncio.sleep(0)
        connection.data_received(OK)
        first.cancel()
        assert caller.pool.take(safe) is connection
        second = _StreamedResponse(connection, safe, LIMIT, caller.pool.counts)
        second.send(request)
        async with asyncio.timeout(LIMIT):
            assert await second.begun()
            assert await second.read() == b"ok"
        with contextlib.suppress(asyncio.CancelledError):
            await first


@pytest.mark.parametrize("prepared", [False, True])
async def test_3_5_no_copy_of_the_fields_is_kept_until_vb365_responds(prepared: bool) -> None:
    """The limit of the fields of all unfinished exports counts them once."""
    received, over = asyncio.Event(), asyncio.Event()

    async def script(peer: Peer) -> None:
        await peer.head()
        received.set()
        await over.wait()
        await peer.send(OK)

    def kept() -> int:
        ours = tracemalloc.Filter(True, f"{Path(proxy.__file__).parent}/*")
        snapshot = tracemalloc.take_snapshot().filter_traces([ours])
        return sum(each.size for each in snapshot.statistics("filename"))

    fields: Fields = (*HOST, *((b"X-Long", bytes([each]) * 60_000) for each in b"abcd"))
    async with calling(script) as caller:
        assert isinstance(caller.upstream, HttpUpstream)
        sender = caller.upstream.prepare() if prepared else caller.upstream
        tracemalloc.start()
        try:
            sent = sender.send(b"POST", b"/x", fields, b"{}", timeout=LIMIT, stall=LIMIT)
            response = asyncio.create_task(sent)
            await received.wait()
            assert kept() < 60_000
        finally:
            tracemalloc.stop()
        over.set()
        assert await whole(await response) == b"ok"


@pytest.mark.parametrize("chunked", [False, True])
async def test_10_no_byte_follows_those_for_which_there_was_no_memory(
    chunked: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What the receiver could not take is missing: the bytes after it are no continuation."""
    content = random.Random(0).randbytes(2 << 20)
    framing = b"Transfer-Encoding: chunked" if chunked else b"Content-Length: %d" % len(content)
    body = b"".join((b"%x\r\n" % len(content), content, b"\r\n0\r\n\r\n")) if chunked else content
    feed, failures = _StreamedResponse._feed, [MemoryError()]

    async def script(peer: Peer) -> None:
        await peer.head()
        await peer.send(b"HTTP/1.1 200 OK\r\n" + framing + b"\r\n\r\n" + body[:1000])
        await begun.wait()
        await peer.send(body[1000:])

    def short_of_memory(response: _StreamedResponse, data: bytes) -> None:
        if begun.is_set() and failures:
            raise failures.pop()
        feed(response, data)

    monkeypatch.setattr(_StreamedResponse, "_feed", short_of_memory)
    begun = asyncio.Event()
    received: list[bytes] = []

    async def receive() -> None:
        while piece := await response.read():
            received.append(piece)
            begun.set()

    async with calling(script) as caller:
        response = await caller.get(b"POST")
        with pytest.raises(UpstreamBroken):
            await receive()
    assert content.startswith(b"".join(received))


async def test_10_a_response_ends_with_its_connection_even_without_memory(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """An export waits for the response for a day."""
    reset = asyncio.Event()

    async def script(peer: Peer) -> None:
        await peer.head()
        await reset.wait()

    def short_of_memory(_: object) -> Any:
        raise MemoryError

    monkeypatch.setattr("proxy.upstream.connection.unread", short_of_memory)
    async with calling(script) as caller:
        request = parse_request(b"GET / HTTP/1.1\r\nHost: h\r\n\r\n")
        connection = await caller.pool.connect()
        response = _StreamedResponse(connection, request, LIMIT, caller.pool.counts)
        response.send(b"GET / HTTP/1.1\r\nHost: h\r\n\r\n")
        with contextlib.suppress(MemoryError):
            connection.connection_lost(ConnectionResetError())
        async with asyncio.timeout(LIMIT):
            with pytest.raises(UpstreamUnreachable):
                await response.begun()
        reset.set()


async def test_10_without_memory_for_a_head_vb365_is_not_to_blame(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def short_of_memory(*_: object) -> bytes:
        raise MemoryError

    monkeypatch.setattr(_StreamedResponse, "_heads", short_of_memory)
    async with calling(script_for(OK)) as caller:
        with pytest.raises(ResponseLost) as why:
            await caller.get(b"POST")
        assert why.value.delivered
        assert caller.pool.open == 0


async def test_10_no_byte_follows_those_that_found_no_memory_when_reading_is_resumed(
    localhost: trustme.LeafCert, authority: trustme.CA, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Over TLS, bytes that had arrived before reading was paused are passed on afterwards."""
    content = random.Random(0).randbytes(3000)
    trust = ssl.create_default_context()
    authority.configure_trust(trust)
    feed, failures = _StreamedResponse._feed, [MemoryError()]
    sent, paused = asyncio.Event(), asyncio.Event()

    async def script(peer: Peer) -> None:
        await peer.head()
        await peer.send(b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n" % len(content))
        await paused.wait()
        await peer.send(content[:1000])
        sent.set()
        await asyncio.sleep(0.2)
        with contextlib.suppress(ConnectionError):
            await peer.send(content[1000:])

    def short_of_memory(response: _StreamedResponse, data: bytes) -> None:
        if failures:
            raise failures.pop()
        feed(response, data)

    monkeypatch.setattr(_StreamedResponse, "_feed", short_of_memory)
    async with calling(script, server_side(localhost), tls=trust) as caller:
        response = await caller.get(b"POST", stall=2)
        assert isinstance(response, _StreamedResponse)
        transport = response._connection.transport
        assert isinstance(transport, TlsTransport)
        transport._paused = True  # as within `data_received`
        paused.set()
        await sent.wait()
        await asyncio.sleep(0.1)
        transport.resume_reading()
        received: list[bytes] = []
        with pytest.raises(UpstreamBroken):
            await _receive(response, received)
    assert content.startswith(b"".join(received))


async def _receive(response: Response, received: list[bytes]) -> None:
    while piece := await response.read():
        received.append(piece)
