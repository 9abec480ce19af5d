"""What all clients together may leave unread (CONTRACT §12 leaves slow readers to the proxy)."""

from __future__ import annotations

import asyncio

import pytest

from proxy.downstream import unread
from proxy.downstream.endings import Ending
from proxy.downstream.unread import Unread
from tests.support.proxies import through
from tests.support.wire import Peer, connected, eventually

GET = b"GET /big HTTP/1.1\r\nHost: h\r\n\r\n"
SIZE = 64 << 20


class Reader:
    """A client that has left `unsent` bytes unread."""

    def __init__(self, unsent: int) -> None:
        self.unsent = unsent
        self.broken: list[Ending] = []

    def break_off(self, why: Ending) -> None:
        self.broken.append(why)


async def test_the_clients_that_have_not_read_for_longest_make_room(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Once they have read nothing for a while, also if no further client becomes slow."""
    monkeypatch.setattr(unread, "LIMIT", 100)
    monkeypatch.setattr(unread, "PATIENCE", 0.05)
    slow = Unread(asyncio.get_running_loop().time)
    readers = [Reader(40) for _ in range(4)]
    for reader in readers:
        slow.add(reader)
    assert not any(reader.broken for reader in readers)
    slow.add(readers[0])  # it has read, and is slow again
    await eventually(lambda: sum(len(reader.broken) for reader in readers) == 2)
    assert [len(reader.broken) for reader in readers] == [0, 1, 1, 0]


async def test_a_client_that_has_read_or_left_takes_no_room(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Nor is it broken off."""
    monkeypatch.setattr(unread, "LIMIT", 100)
    monkeypatch.setattr(unread, "PATIENCE", 0.0)
    slow = Unread(asyncio.get_running_loop().time)
    first, second, third = readers = [Reader(40) for _ in range(3)]
    slow.add(first)
    slow.add(second)
    slow.discard(first)
    slow.discard(first)
    slow.add(third)
    assert not any(reader.broken for reader in readers)


async def test_the_only_slow_client_makes_no_room(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(unread, "LIMIT", 100)
    monkeypatch.setattr(unread, "PATIENCE", 0.0)
    large = Reader(1000)
    Unread(asyncio.get_running_loop().time).add(large)
    assert large.broken == []


async def test_12_clients_that_read_nothing_make_room(monkeypatch: pytest.MonkeyPatch) -> None:
    """Over the wire: the first one is broken off, the last one and one that reads are served."""
    monkeypatch.setattr(unread, "LIMIT", 300 << 10)
    monkeypatch.setattr(unread, "PATIENCE", 0.0)

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
