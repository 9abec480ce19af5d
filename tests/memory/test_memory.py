"""Long bodies, slow readers and many idle clients: memory stays flat, others are served (CONTRACT
§12).
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Awaitable, Callable
from pathlib import Path

import pytest

from tests.support.process import ProxyProcess, served
from tests.support.upstreams import Origin
from tests.support.wire import LIMIT, Peer, connected

MIB = 1 << 20
GET = b"GET /x HTTP/1.1\r\nHost: h\r\n\r\n"
OK = b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok"
PIECE = bytes(MIB)


async def answer_all(peer: Peer) -> None:
    while True:
        await peer.head()
        await peer.send(OK)


def pouring(size: int, sent: list[int]) -> Callable[[Peer], Awaitable[None]]:
    async def script(peer: Peer) -> None:
        head = await peer.head()
        if b"/x" not in head:
            await peer.send(OK)
            return
        await peer.send(b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n" % size)
        for _ in range(size // MIB):
            peer.writer.write(PIECE)
            await peer.writer.drain()
            sent[0] += MIB

    return script


async def is_served(running: ProxyProcess) -> None:
    async with connected(running.port) as client:
        await client.send(b"GET /good HTTP/1.1\r\nHost: h\r\n\r\n")
        assert (await client.response())[1] == b"ok"


async def still(amount: list[int]) -> int:
    """The amount, once it has not moved for half a second."""
    async with asyncio.timeout(LIMIT):
        last = -1
        while last != amount[0]:
            last = amount[0]
            await asyncio.sleep(0.5)
    return last


async def test_12_a_slow_reader_never_grows_memory(tmp_path: Path) -> None:
    """§12: thirty readers that do not read, of 256 MiB each."""
    sent = [0]
    async with (
        Origin(pouring(256 * MIB, sent)).running() as origin,
        served(f"http://127.0.0.1:{origin.port}", tmp_path / "data") as running,
    ):
        await is_served(running)
        before = running.memory()
        async with contextlib.AsyncExitStack() as clients:
            for _ in range(30):
                client = await clients.enter_async_context(connected(running.port))
                client.writer.transport.pause_reading()  # type: ignore[attr-defined]
                await client.send(GET)
            assert 0 < await still(sent) < 30 * 256 * MIB
            assert running.memory() - before < 48 * MIB
            await is_served(running)


async def test_12_idle_and_slow_clients_are_bounded_and_do_not_affect_others(
    tmp_path: Path,
) -> None:
    """§12 slowloris: a thousand silent clients and five hundred that send a byte now and then; all
    time out.
    """
    async with (
        Origin(answer_all).running() as origin,
        served(
            f"http://127.0.0.1:{origin.port}", tmp_path / "data", LISTEN__HEAD_TIMEOUT="2s"
        ) as running,
    ):
        await is_served(running)
        before = running.memory()
        async with contextlib.AsyncExitStack() as clients:
            crowd = [
                await clients.enter_async_context(connected(running.port)) for _ in range(1500)
            ]
            dribbling = asyncio.create_task(dribble(crowd[:500]))
            await is_served(running)
            assert running.memory() - before < 1500 * 32 << 10
            async with asyncio.timeout(LIMIT):
                assert all(await asyncio.gather(*[client.closed() for client in crowd]))
            dribbling.cancel()
            await is_served(running)


async def dribble(crowd: list[Peer]) -> None:
    """A byte of a head that never ends, to each, again and again."""
    for byte in b"GET / HTTP/1.1\r\nHost: h\r\nX: " + b"a" * 10_000:
        for peer in crowd:
            if not peer.writer.is_closing():
                peer.writer.write(bytes([byte]))
        await asyncio.sleep(0.2)


async def download(running: ProxyProcess, size: int) -> int:
    """Read it all; the most memory that was seen."""
    most = 0
    async with connected(running.port) as client:
        await client.send(GET)
        await client.head()
        got = 0
        while got < size:
            got += len(await asyncio.wait_for(client.reader.read(MIB), LIMIT))
            if got % (64 * MIB) < MIB:
                most = max(most, running.memory())
    return most


async def upload(running: ProxyProcess, size: int) -> int:
    """Send it all; the most memory that was seen."""
    most = 0
    async with connected(running.port) as client:
        await client.send(b"POST /up HTTP/1.1\r\nHost: h\r\nContent-Length: %d\r\n\r\n" % size)
        for at in range(size // MIB):
            await client.send(PIECE)
            if at % 64 == 0:
                most = max(most, running.memory())
        assert (await client.response())[1] == b"ok"
    return most


async def drinking(peer: Peer) -> None:
    head = await peer.head()
    left = (
        int(head.lower().partition(b"content-length:")[2].split(b"\r\n")[0])
        if b"POST" in head
        else 0
    )
    while left:
        left -= len(await asyncio.wait_for(peer.reader.read(MIB), LIMIT))
    await peer.send(OK)


SIZES = [
    pytest.param(256, id="256 MiB"),
    pytest.param(10 * 1024, id="10 GiB", marks=pytest.mark.slow),
]


@pytest.mark.timeout(900)
@pytest.mark.parametrize("mib", SIZES)
async def test_12_downloads_are_flat_in_memory(mib: int, tmp_path: Path) -> None:
    async with (
        Origin(pouring(mib * MIB, [0])).running() as origin,
        served(f"http://127.0.0.1:{origin.port}", tmp_path / "data") as running,
    ):
        before = running.memory()
        assert await download(running, mib * MIB) - before < 16 * MIB


@pytest.mark.timeout(900)
@pytest.mark.parametrize("mib", SIZES)
async def test_12_uploads_are_flat_in_memory(mib: int, tmp_path: Path) -> None:
    async with (
        Origin(drinking).running() as origin,
        served(f"http://127.0.0.1:{origin.port}", tmp_path / "data") as running,
    ):
        before = running.memory()
        assert await upload(running, mib * MIB) - before < 16 * MIB


@pytest.mark.slow
@pytest.mark.timeout(600)
async def test_12_a_long_poll_of_five_minutes_does_not_time_out(tmp_path: Path) -> None:
    """§12: no read time-out once a request is whole, whatever head_timeout is."""

    async def script(peer: Peer) -> None:
        await peer.head()
        await asyncio.sleep(300)
        await peer.send(OK)

    async with (
        Origin(script).running() as origin,
        served(
            f"http://127.0.0.1:{origin.port}", tmp_path / "data", LISTEN__HEAD_TIMEOUT="1s"
        ) as running,
        connected(running.port) as client,
    ):
        await client.send(GET)
        response = await asyncio.wait_for(client.reader.readexactly(len(OK)), 400)
        assert response == OK
