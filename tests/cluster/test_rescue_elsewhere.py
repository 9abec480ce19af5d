"""The retry of a rescued export follows the file that another replica stores (CONTRACT §14,
§18).
"""

from __future__ import annotations

import asyncio
import hashlib
import os
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import AsyncExitStack
from pathlib import Path
from typing import Any
from uuid import uuid4

import aiohttp
import pytest

from tests.cluster.conftest import LEASE, LIMIT
from tests.support.exports import EXPORT, LINES, Exports, Slow, Write, post
from tests.support.process import Caller, ProxyProcess
from tests.support.redis_server import RedisServer
from tests.support.wire import Message, Peer, ask, eventually

MIB = 1 << 20
#: With segments of 8 MiB in a bucket, more than one.
CONTENT = b"!BDN" + os.urandom(20 * MIB)
HALF = 10 * MIB
#: So much of the first half is published also in a bucket.
FIRST = 8 * MIB - 1
HEAD = b"HTTP/1.1 200 OK\r\n" + LINES + b"Content-Length: %d\r\n\r\n" % len(CONTENT)
CHUNKED = b"HTTP/1.1 200 OK\r\n" + LINES + b"Transfer-Encoding: chunked\r\n\r\n"
FIELDS = {"Authorization": "Bearer t"}
SETTINGS = LEASE | {
    "EXPORTS__RESCUE_SYNC": "true",
    "EXPORTS__GRACE": "2s",
    "EXPORTS__STALL_TIMEOUT": "60s",
}


class Pair:
    """Two replicas in front of one VB365."""

    def __init__(self, upstream: Exports, a: ProxyProcess, b: ProxyProcess) -> None:
        self.upstream, self.a, self.b = upstream, a, b
        self.peers: list[Peer] = []

    async def send(self, proxy: ProxyProcess, *fields: str, **connection: Any) -> Peer:
        """A client that has sent the export."""
        peer = await Peer.to(proxy.url, **connection)
        self.peers.append(peer)
        await peer.send(post(fields=fields))
        return peer

    def close(self) -> None:
        for peer in self.peers:
            peer.abort()

    async def begun(self) -> Peer:
        """A client of the first replica, when it has the head of the file."""
        peer = await self.send(self.a)
        await peer.head()
        return peer

    async def followed(self, head: bytes = HEAD) -> Peer:
        """A client of the second replica, when it has the first bytes."""
        peer = await self.send(self.b)
        assert await peer.head() == head
        if head == HEAD:
            assert await peer.exactly(FIRST) == CONTENT[:FIRST]
        return peer

    async def job(self, proxy: ProxyProcess) -> Any:
        """The newest job."""
        return (await ask(proxy.url, "GET", "/v8/_async/exports", FIELDS)).json()["results"][0]

    async def succeeded(self) -> bool:
        """Whether the newest job has."""
        return bool((await self.job(self.a))["status"] == "Success")

    async def cancel(self, proxy: ProxyProcess) -> None:
        target = f"/v8/_async/exports/{(await self.job(proxy))['id']}/cancel"
        assert (await ask(proxy.url, "POST", target, FIELDS)).status == 202


MakePair = Callable[..., Awaitable[Pair]]


@pytest.fixture(params=["file", "bucket"])
async def make_pair(
    tmp_path: Path, valkey_server: RedisServer, request: pytest.FixtureRequest
) -> AsyncIterator[MakePair]:
    """Their files are in one directory, or in one bucket."""
    given = {}
    if request.param == "bucket":
        endpoint = request.getfixturevalue("s3_endpoint")
        url = f"s3://tests/{uuid4()}?endpoint={endpoint}&allow_http=true&path_style=true"
        given["STORAGE__ARTIFACTS"] = f"{url}&region=us-east-1"
    async with AsyncExitStack() as stack:

        async def make(*writes: Write, store: RedisServer = valkey_server) -> Pair:
            upstream = await stack.enter_async_context(Exports(*writes).running())
            jobs = {"STORAGE__JOBS": f"{store.url}?prefix={uuid4()}"}
            all_settings: dict[str, Any] = SETTINGS | given | jobs
            proxies = [
                ProxyProcess(tmp_path / "data", upstream.url, **all_settings) for _ in range(2)
            ]
            for proxy in proxies:
                stack.push_async_callback(proxy.kill)
                await proxy.start()
            pair = Pair(upstream, *proxies)
            stack.callback(pair.close)
            return pair

        yield make


def half() -> Slow:
    """VB365, when it has sent one half of the file."""
    slow = Slow(HEAD)
    slow.head.set()
    slow.pieces.put_nowait(CONTENT[:HALF])
    return slow


def finish(slow: Slow) -> None:
    slow.pieces.put_nowait(CONTENT[HALF:])
    slow.pieces.put_nowait(None)


async def whole(peer: Peer) -> None:
    """The rest of the file, which is right."""
    assert await peer.exactly(len(CONTENT) - FIRST) == CONTENT[FIRST:]


async def test_14_a_retry_on_another_replica_gets_bytes_while_they_are_stored(
    make_pair: MakePair,
) -> None:
    """§14: as they arrive; VB365 sees one POST, and the next identical one is a new export."""
    slow = half()
    pair = await make_pair(slow)
    (await pair.begun()).reset()
    peer = await pair.followed()
    finish(slow)
    await whole(peer)
    assert len(pair.upstream.posts) == 1
    await peer.send(post())  # the client has taken the last byte
    await eventually(lambda: len(pair.upstream.posts) == 2)


async def test_14_clients_with_short_timeouts_get_the_file_from_either_replica(
    make_pair: MakePair,
) -> None:
    """§14: each try reaches the other replica, while VB365 generates the file and sends it."""
    slow = Slow(HEAD)
    pair = await make_pair(slow)

    async def send() -> None:
        await asyncio.sleep(2)
        slow.head.set()
        for start in range(0, len(CONTENT), 2 * MIB):
            slow.pieces.put_nowait(CONTENT[start : start + 2 * MIB])
            await asyncio.sleep(0.2)
        slow.pieces.put_nowait(None)

    sending = asyncio.create_task(send())
    tries = 0
    async with asyncio.timeout(LIMIT), aiohttp.ClientSession() as http:
        callers = [Caller(proxy, http, FIELDS) for proxy in (pair.a, pair.b)]
        while True:
            tries += 1
            try:
                async with asyncio.timeout(1):
                    status, content = await callers[tries % 2].ask("POST", EXPORT)
                break
            except (TimeoutError, aiohttp.ClientError):
                continue
    await sending
    assert (status, hashlib.sha256(content).digest()) == (200, hashlib.sha256(CONTENT).digest())
    assert tries > 2
    assert len(pair.upstream.posts) == 1


@pytest.mark.parametrize("how", ["kill", "stop"])
async def test_14_the_loss_of_the_replica_that_stores_the_file_is_a_pause_elsewhere(
    make_pair: MakePair, how: str
) -> None:
    """§10, §14: the client's own credentials resume the export."""

    async def resumed(peer: Peer, message: Message) -> None:
        """The part that the request asks for, or everything."""
        if (wanted := message.get("Range")) is None:
            await peer.send(HEAD + CONTENT)
            return
        start, size = int(wanted[6:-1]), len(CONTENT)
        lines = b"Content-Range: bytes %d-%d/%d\r\n" % (start, size - 1, size)
        lines += b"Content-Length: %d\r\n\r\n" % (size - start)
        await peer.send(b"HTTP/1.1 206 Partial Content\r\n" + LINES + lines + CONTENT[start:])

    pair = await make_pair(half(), resumed)
    (await pair.begun()).reset()
    peer = await pair.followed()
    await (pair.a.kill() if how == "kill" else pair.a.stop())
    await whole(peer)
    assert len(pair.upstream.posts) == 2


@pytest.mark.parametrize("at", ["a", "b"])
async def test_14_a_cancelled_export_breaks_those_who_follow_it_elsewhere(
    make_pair: MakePair, at: str
) -> None:
    pair = await make_pair(half())
    first, peer = await pair.begun(), await pair.followed()
    await pair.cancel(getattr(pair, at))
    with pytest.raises((asyncio.IncompleteReadError, ConnectionError)):
        await whole(peer)
    await first.closed()


@pytest.mark.parametrize("lost", [False, True], ids=["cut", "replica lost"])
async def test_14_a_file_that_starts_again_breaks_those_who_follow_it_elsewhere(
    make_pair: MakePair, *, lost: bool
) -> None:
    """§10, §14: never half of each. The retry gets the new file."""
    other = b"!BDN" + os.urandom(len(CONTENT) - 4)
    cut = asyncio.Event()

    async def broken(peer: Peer, message: Message) -> None:
        await peer.send(HEAD + CONTENT[:HALF])
        await cut.wait()
        peer.reset()

    again = Slow(HEAD.replace(b'"abc"', b'"new"'))
    pair = await make_pair(broken, again)
    first, peer = await pair.begun(), await pair.followed()
    await pair.a.kill() if lost else cut.set()
    again.head.set()
    again.pieces.put_nowait(other)
    again.pieces.put_nowait(None)
    with pytest.raises((asyncio.IncompleteReadError, ConnectionError)):
        await whole(peer)
    await first.closed()
    retry = await pair.send(pair.b)
    await retry.head()
    assert await retry.exactly(len(other)) == other


async def test_14_a_chunked_file_ends_elsewhere_only_when_it_is_whole(make_pair: MakePair) -> None:
    slow = Slow(CHUNKED)
    slow.head.set()
    slow.pieces.put_nowait(b"%x\r\n%b\r\n" % (HALF, CONTENT[:HALF]))
    pair = await make_pair(slow)
    await pair.begun()
    peer = await pair.followed(CHUNKED)
    rest = len(CONTENT) - HALF
    slow.pieces.put_nowait(b"%x\r\n%b\r\n0\r\n\r\n" % (rest, CONTENT[HALF:]))
    slow.pieces.put_nowait(None)
    content = b""
    while size := int(await peer.until(b"\r\n"), 16):
        content += (await peer.exactly(size + 2))[:-2]
    assert content == CONTENT


async def test_14_a_response_without_a_length_that_breaks_off_elsewhere_looks_broken(
    make_pair: MakePair,
) -> None:
    """An HTTP/1.0 client takes the proper end of its connection for that of the file."""
    slow = Slow(CHUNKED)
    slow.head.set()
    slow.pieces.put_nowait(b"%x\r\n%b\r\n" % (HALF, CONTENT[:HALF]))
    pair = await make_pair(slow)
    await pair.begun()
    peer = await Peer.to(pair.b.url)
    pair.peers.append(peer)
    await peer.send(post(version="1.0"))
    assert b"chunked" not in await peer.head()
    assert await peer.exactly(FIRST) == CONTENT[:FIRST]
    await pair.cancel(pair.a)
    with pytest.raises(ConnectionError):
        await peer.rest()


async def test_14_the_job_store_away_midway_is_a_pause_elsewhere(
    make_pair: MakePair, own_server: RedisServer
) -> None:
    slow = half()
    pair = await make_pair(slow, store=own_server)
    await pair.begun()
    peer = await pair.followed()
    own_server.stop()
    finish(slow)
    with pytest.raises(TimeoutError):
        async with asyncio.timeout(1):
            await whole(peer)
    own_server.start()
    await whole(peer)
    assert len(pair.upstream.posts) == 1


async def test_14_a_slow_client_elsewhere_slows_nothing_and_gets_the_file(
    make_pair: MakePair,
) -> None:
    slow = half()
    pair = await make_pair(slow)
    await pair.begun()
    peer = await pair.send(pair.b, limit=1 << 16, receive_buffer=1 << 16)
    assert await peer.head() == HEAD
    finish(slow)
    async with asyncio.timeout(LIMIT):
        while not await pair.succeeded():  # noqa: ASYNC110  # as callers do
            await asyncio.sleep(0.1)
    assert await peer.exactly(len(CONTENT)) == CONTENT


async def test_14_many_clients_follow_a_file_elsewhere(make_pair: MakePair) -> None:
    slow = half()
    pair = await make_pair(slow)
    await pair.begun()
    peers = await asyncio.gather(*(pair.followed() for _ in range(10)))
    finish(slow)
    await asyncio.gather(*map(whole, peers))
    assert len(pair.upstream.posts) == 1


async def test_14_a_part_is_sent_elsewhere_once_the_file_is_complete(make_pair: MakePair) -> None:
    """§14: no digest could prove the part of a growing file."""
    slow = half()
    pair = await make_pair(slow)
    await pair.begun()
    ranged = await pair.send(pair.b, "Range: bytes=5-")
    (await pair.followed()).reset()
    with pytest.raises(TimeoutError):
        async with asyncio.timeout(0.1):
            await ranged.head()
    finish(slow)
    response = await ranged.message()
    assert (response.status, response.body) == (206, CONTENT[5:])
