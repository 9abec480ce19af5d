"""What all clients together, or VB365, may leave unread (CONTRACT §12 leaves slow readers to the
proxy).
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import socket
import ssl
from functools import partial
from typing import Any

import pytest
import trustme

from proxy.downstream import server
from proxy.downstream.phases import Limit
from proxy.net.backlog import Backlog
from proxy.net.tls import upstream_context
from proxy.upstream import pool
from tests.support.proxies import through
from tests.support.tls_peers import server_side
from tests.support.wire import LIMIT, Peer, connected, eventually

GET = b"GET /big HTTP/1.1\r\nHost: h\r\n\r\n"
SIZE = 64 << 20


class Reader:
    """A client that has left `unsent` bytes unread."""

    def __init__(self, unsent: int) -> None:
        self.unsent = unsent
        self.broken = 0

    def make_room(self) -> None:
        self.broken += 1


async def test_the_clients_that_have_not_read_for_longest_make_room() -> None:
    """Once they have read nothing for a while, also if no further client becomes slow."""
    slow = Backlog(asyncio.get_running_loop().time, limit=100, patience=0.05)
    readers = [Reader(40) for _ in range(4)]
    for reader in readers:
        slow.add(reader, reader.unsent, reader.make_room)
    assert not any(reader.broken for reader in readers)
    slow.add(readers[0], readers[0].unsent, readers[0].make_room)  # it has read, and is slow again
    await eventually(lambda: sum(reader.broken for reader in readers) == 2)
    assert [reader.broken for reader in readers] == [0, 1, 1, 0]


async def test_a_client_that_has_read_or_left_takes_no_room() -> None:
    """Nor is it broken off."""
    slow = Backlog(asyncio.get_running_loop().time, limit=100, patience=0.0)
    first, second, third = readers = [Reader(40) for _ in range(3)]
    slow.add(first, first.unsent, first.make_room)
    slow.add(second, second.unsent, second.make_room)
    slow.discard(first)
    slow.discard(first)
    slow.add(third, third.unsent, third.make_room)
    assert not any(reader.broken for reader in readers)


async def test_those_that_have_never_moved_make_room_first() -> None:
    slow = Backlog(asyncio.get_running_loop().time, limit=100, patience=0.0)
    first, second, third, fourth = readers = [Reader(40) for _ in range(4)]
    slow.add(first, 40, first.make_room, moved=True)
    for reader in (second, third, fourth):
        slow.add(reader, reader.unsent, reader.make_room)
    assert [reader.broken for reader in readers] == [0, 1, 1, 0]
    slow.add(third, 40, third.make_room, moved=True)
    slow.add(second, 40, second.make_room, moved=True)
    assert [reader.broken for reader in readers] == [1, 1, 1, 1]


async def test_the_one_that_is_added_makes_no_room() -> None:
    """Whoever adds it is still sending on it. The others have moved, but are older."""
    slow = Backlog(asyncio.get_running_loop().time, limit=100, patience=0.0)
    first, second, third = readers = [Reader(40) for _ in range(3)]
    slow.add(first, 40, first.make_room, moved=True)
    slow.add(second, 40, second.make_room, moved=True)
    slow.add(third, 40, third.make_room)
    assert [reader.broken for reader in readers] == [1, 0, 0]


async def test_the_one_that_is_added_makes_no_room_for_a_request_behind_another() -> None:
    """The request behind the one that made room begins while the new one is still being added."""
    slow = Backlog(asyncio.get_running_loop().time, limit=100, patience=0.0)
    behind, moved, new = readers = [Reader(30) for _ in range(3)]
    slow.add(moved, 60, moved.make_room, moved=True)
    slow.add("before", 30, lambda: slow.add(behind, 30, behind.make_room))
    slow.add(new, 30, new.make_room)
    assert [reader.broken for reader in readers] == [1, 0, 0]


async def test_one_that_keeps_more_makes_others_make_room() -> None:
    """Whoever writes to it is still using it. It has not moved: it is the first after that."""
    slow = Backlog(asyncio.get_running_loop().time, limit=100, patience=0.0)
    first, second, _ = readers = [Reader(30) for _ in range(3)]
    for reader in readers:
        slow.add(reader, 30, reader.make_room)
    slow.grow(first, 60, written=30)
    assert [reader.broken for reader in readers] == [0, 1, 0]
    slow.grow(second, 60, written=30)
    assert slow._size == 90
    slow.add(second, 30, second.make_room)
    assert [reader.broken for reader in readers] == [1, 1, 0]


async def test_one_that_reads_steadily_may_get_more() -> None:
    """What is written in the meantime does not hide what it has read."""
    now = 0.0
    slow = Backlog(lambda: now, limit=100, patience=0.0)
    steady, other, new = Reader(1 << 20), Reader(30), Reader(30)
    slow.add(steady, 30, steady.make_room, unsent=lambda: steady.unsent)
    slow.add(other, 30, other.make_room)
    steady.unsent += 1 << 20
    slow.grow(steady, 40, written=1 << 20)
    now += 30.0
    steady.unsent -= 60 << 10
    slow.add(new, 60, new.make_room)
    assert (steady.broken, other.broken) == (0, 1)


async def test_those_that_read_steadily_make_room_last() -> None:
    """And not for ever: with each look they must have read twice as fast."""
    now = 0.0
    slow = Backlog(lambda: now, limit=100, patience=0.0)
    steady, trickling, _, new = readers = [Reader(1 << 20) for _ in range(4)]

    def add(reader: Reader, size: int) -> None:
        slow.add(reader, size, reader.make_room, unsent=lambda: reader.unsent)

    for reader in readers[:3]:
        add(reader, 30)
    for size, broken in ((20, [0, 0, 1, 0]), (50, [0, 1, 1, 0]), (80, [1, 1, 1, 0])):
        now += 30.0
        steady.unsent -= 90 << 10
        trickling.unsent -= 45 << 10
        add(new, size)
        slow.discard(new)
        assert [reader.broken for reader in readers] == broken


async def test_the_only_slow_client_makes_no_room() -> None:
    large = Reader(1000)
    Backlog(asyncio.get_running_loop().time, limit=100, patience=0.0).add(
        large, large.unsent, large.make_room
    )
    assert large.broken == 0


async def test_12_requests_behind_those_that_make_room_do_so_in_turn(
    caplog: pytest.LogCaptureFixture,
) -> None:
    """A client may have sent hundreds of them at once, and each begins when the one before ends."""
    slow = Backlog(asyncio.get_running_loop().time, limit=100, patience=0.0)

    class Pipeline(Reader):
        def make_room(self) -> None:
            super().make_room()
            if self.broken < 2000:
                slow.add(self, self.unsent, self.make_room)

    first, second = Pipeline(60), Pipeline(60)
    slow.add(first, first.unsent, first.make_room)
    slow.add(second, second.unsent, second.make_room)
    assert (first.broken, second.broken) == (2000, 0)
    assert not caplog.records


async def test_12_clients_that_read_nothing_make_room(monkeypatch: pytest.MonkeyPatch) -> None:
    """Over the wire: the first one is broken off, the last one and one that reads are served."""
    monkeypatch.setattr(server, "UNREAD", 1 << 10)
    monkeypatch.setattr(server, "PATIENCE", 0.0)

    async def script(peer: Peer) -> None:
        await peer.head()
        await peer.send(b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n" % SIZE)
        for _ in range(SIZE >> 20):
            await peer.send(bytes(1 << 20))

    async with through(script) as (proxy, _):
        clients = []
        for _ in range(8):
            client = await proxy.connect(limit=1 << 12)
            client.writer.transport.pause_reading()  # type: ignore[attr-defined]
            await client.send(GET)
            clients.append(client)
            await eventually(lambda: any(each.busy for each in proxy.server._clients))
        await eventually(lambda: proxy.server.counters.broken > 0)
        clients[0].writer.transport.resume_reading()  # type: ignore[attr-defined]
        with pytest.raises((asyncio.IncompleteReadError, ConnectionResetError)):
            await clients[0].reader.readexactly(SIZE)
        async with connected(proxy.port) as reading:
            await reading.send(GET)
            await reading.head()
            assert len(await reading.reader.readexactly(SIZE)) == SIZE


async def test_12_a_client_that_reads_slowly_but_steadily_does_not_make_room(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """What it reads comes from the system first, which takes more only after hundreds of KiB."""
    monkeypatch.setattr(server, "UNREAD", 600 << 10)
    monkeypatch.setattr(server, "PATIENCE", 1.5)

    async def script(peer: Peer) -> None:
        await peer.head()
        await peer.send(b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n" % SIZE)
        for _ in range(SIZE >> 20):
            await peer.send(bytes(1 << 20))

    async with through(script) as (proxy, _):

        async def client() -> Peer:
            client = await proxy.connect(limit=1 << 12, receive_buffer=1 << 13)
            client.writer.transport.pause_reading()  # type: ignore[attr-defined]
            await client.send(GET)
            await eventually(lambda: len(proxy.server.unread._slow[0]) > 0)
            return client

        steady = await client()
        sock = steady.writer.get_extra_info("socket")
        strangers = []
        while proxy.server.counters.broken < 4:
            strangers.append(await client())
            for _ in range(10):
                with contextlib.suppress(BlockingIOError):
                    assert os.read(sock.fileno(), 1 << 12)
                await asyncio.sleep(0.02)
        steady.writer.transport.resume_reading()  # type: ignore[attr-defined]
        assert b"200 OK" not in await steady.reader.read(1 << 12)
        for stranger in strangers:
            stranger.reset()


async def test_12_a_client_that_reads_slowly_but_steadily_is_not_timed_out() -> None:
    """It reads little of a large response before the system takes more."""

    async def script(peer: Peer) -> None:
        await peer.head()
        await peer.send(b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n" % SIZE)
        for _ in range(SIZE >> 20):
            await peer.send(bytes(1 << 20))

    async with through(script, head_timeout=0.12) as (proxy, _):
        client = await proxy.connect(limit=1 << 12, receive_buffer=1 << 13)
        client.writer.transport.pause_reading()  # type: ignore[attr-defined]
        await client.send(GET)
        descriptor = client.writer.get_extra_info("socket").fileno()
        for _ in range(100):
            await asyncio.sleep(0.02)
            with contextlib.suppress(BlockingIOError):
                assert os.read(descriptor, 1 << 12)
        assert proxy.server.counters.timed_out == 0
        await eventually(lambda: proxy.server.counters.timed_out == 1)


@pytest.mark.parametrize("tls", [False, True], ids=["plain", "tls"])
async def test_12_each_byte_that_a_client_does_not_read_counts(tls: bool) -> None:
    """Otherwise each of thousands of clients had 64 KiB beside the limit, for as long as VB365 does
    not answer its next request. An ordinary client loses nothing: it reads before it asks again,
    and VB365's connection is used again.
    """
    size = 1 << 13

    async def script(peer: Peer) -> None:
        while True:
            await peer.head()
            await peer.send(b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n" % size + bytes(size))

    options: dict[str, Any] = {}
    if tls:
        authority = trustme.CA()
        options["server_tls"] = server_side(authority.issue_cert("localhost"))
        options["client_tls"] = ssl.create_default_context()
        authority.configure_trust(options["client_tls"])
    async with through(script, **options) as (proxy, origin):
        client = await proxy.connect(limit=1 << 12, receive_buffer=1 << 12)
        client.writer.transport.pause_reading()  # type: ignore[attr-defined]
        asked, codes = 0, proxy.server.counters.relay.codes
        while not proxy.server.unread._size:
            await client.send(GET)
            asked += 1
            await eventually(partial(lambda count: codes[200] == count, asked))
        assert proxy.server.unread._size <= size + 200
        [connection] = proxy.server._clients
        assert connection._deadlines.is_set(Limit.READER)
        await client.send(GET)
        await asyncio.sleep(0.05)
        assert codes[200] == asked, "the next one waits"
        client.writer.transport.resume_reading()  # type: ignore[attr-defined]
        for _ in range(asked + 1):
            await client.head()
            await client.exactly(size)
        assert origin.accepted == 1


POST = b"POST /v8/Jobs HTTP/1.1\r\nHost: h\r\nContent-Length: %d\r\n\r\n" % SIZE


def over(tls: bool) -> dict[str, Any]:
    """Options of `through` for a VB365 with TLS, as it is, or without."""
    if not tls:
        return {}
    context = server_side(trustme.CA().issue_cert("localhost"))
    return {"origin_tls": context, "pool": {"tls": upstream_context(verify=False)}}


def keep_little(peer: Peer) -> None:
    """Let the kernel keep little of what the proxy sends to `peer`: else it keeps megabytes."""
    peer.writer.get_extra_info("socket").setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 1 << 16)


async def read_nothing(peer: Peer) -> None:
    """Never read again from the proxy."""
    peer.writer.transport.pause_reading()  # type: ignore[attr-defined]
    await asyncio.Event().wait()


@pytest.mark.parametrize("tls", [False, True], ids=["plain", "tls"])
@pytest.mark.parametrize("connected_", [True, False])
async def test_12_uploads_that_vb365_does_not_read_make_room(
    connected_: bool, tls: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Those that have waited longest get an error, whether VB365 has accepted their connections or
    not, and the proxy keeps no more than the limit.
    """
    monkeypatch.setattr(pool, "UNREAD", 1 << 18)

    async def script(peer: Peer) -> None:
        keep_little(peer)
        await peer.head()
        await read_nothing(peer)

    async with through(script, **over(tls)) as (proxy, _):
        if not connected_:
            monkeypatch.setattr(proxy.pool, "connect", asyncio.Event().wait)
        clients = []
        for _ in range(16):
            client = await proxy.connect()
            clients.append(client)
            client.writer.write(POST + bytes(8 << 20))
        heads = [asyncio.create_task(client.head()) for client in clients]
        done, waiting = await asyncio.wait(
            heads, timeout=LIMIT, return_when=asyncio.FIRST_COMPLETED
        )
        for each in waiting:
            each.cancel()
        await asyncio.wait(heads)
        assert done
        assert {head.result()[:13] for head in done} == {b"HTTP/1.1 503 "}
        await eventually(lambda: proxy.pool.unread._size <= proxy.pool.unread.limit)
        assert any(each.busy for each in proxy.server._clients)
        for client in clients:
            client.reset()
        await eventually(lambda: not proxy.pool.unread._size)
        assert proxy.pool.unread._size == 0


@pytest.mark.parametrize("tls", [False, True], ids=["plain", "tls"])
async def test_12_each_byte_that_vb365_does_not_read_counts(tls: bool) -> None:
    """Otherwise each of ten thousand connections had 64 KiB beside the limit, and 256 with TLS."""

    async def script(peer: Peer) -> None:
        keep_little(peer)
        await peer.head()
        await read_nothing(peer)

    async with through(script, **over(tls)) as (proxy, _):
        client = await proxy.connect()
        client.writer.write(POST)
        piece = 1 << 14
        for sent in range(piece, SIZE, piece):
            client.writer.write(bytes(piece))
            await eventually(partial(lambda least: proxy.pool.counts.sent > least, sent))
            if proxy.pool.unread._size:
                break
        # TLS adds some bytes to each record
        assert 0 < proxy.pool.unread._size <= piece + 100
        [client_] = proxy.server._clients
        assert client_._reading.held


@pytest.mark.parametrize("tls", [False, True], ids=["plain", "tls"])
async def test_12_an_upload_that_vb365_reads_slowly_is_completed(
    tls: bool,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """A burst of others that it does not read takes more than the limit: these make room."""
    monkeypatch.setattr(pool, "UNREAD", 1 << 20)
    size = SIZE // 4
    received = 0
    burst = asyncio.Event()

    async def script(peer: Peer) -> None:
        nonlocal received
        keep_little(peer)
        if b"/slow" not in await peer.head():
            await read_nothing(peer)
        while received < size:
            if received > size // 2:
                await burst.wait()
            received += len(await peer.reader.read(min(size - received, 1 << 20)))
        await peer.send(b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok")

    async with through(script, **over(tls)) as (proxy, _):
        slow = await proxy.connect()
        slow.writer.write(b"POST /slow HTTP/1.1\r\nHost: h\r\n")
        slow.writer.write(b"Content-Length: %d\r\n\r\n" % size + bytes(size))
        await eventually(lambda: received > size // 2)
        stuck = [await proxy.connect() for _ in range(16)]
        for client in stuck:
            client.writer.write(POST + bytes(8 << 20))
        await eventually(lambda: proxy.server.busy < len(stuck))
        burst.set()
        assert (await slow.response())[1] == b"ok"
        for client in stuck:
            client.reset()


async def test_a_connection_that_cannot_be_broken_off_stops_no_other(
    caplog: pytest.LogCaptureFixture,
) -> None:
    class Broken(Reader):
        def make_room(self) -> None:
            raise OSError("not connected")

    slow = Backlog(asyncio.get_running_loop().time, limit=100, patience=0.0)
    broken, second, third = Broken(60), Reader(60), Reader(60)
    for reader in (broken, second, third):
        slow.add(reader, reader.unsent, reader.make_room)
    assert (second.broken, third.broken) == (1, 0)
    assert "not connected" in caplog.text
