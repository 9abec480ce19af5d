"""Rescued exports through several workers: the first one owns the jobs (CONTRACT §14, §15)."""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import signal
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any
from uuid import uuid4

import pytest

from tests.cluster.test_workers import SETTINGS, WORKERS, alive, children, until
from tests.support.exports import CHUNKED_HEAD, CONTENT, HEAD, LINES, Exports, Slow, Write, post
from tests.support.process import ProxyProcess
from tests.support.redis_server import RedisServer
from tests.support.wire import Message, Peer, ask, eventually

RESCUE = SETTINGS | {
    "LISTEN__WORKERS": str(WORKERS),
    "EXPORTS__RESCUE_SYNC": "true",
    "EXPORTS__GRACE": "5s",
    "LOG__ACCESS": "true",
    "LOG__FORMAT": "json",
}
#: Connections: the system gives some of them to each worker.
MANY = 8 * WORKERS


@contextlib.asynccontextmanager
async def workers(
    directory: Path, write: Write, **settings: str
) -> AsyncIterator[tuple[ProxyProcess, Exports]]:
    """A proxy of several workers in front of VB365."""
    async with Exports(write).running() as upstream:
        proxy = ProxyProcess(directory, upstream.url, descriptors=None, **(RESCUE | settings))
        try:
            await proxy.start()
            yield proxy, upstream
        finally:
            pids = children(proxy.pid) if proxy.pid else []
            await proxy.kill()
            await until(lambda: not any(map(alive, pids)))


async def sent(proxy: ProxyProcess, body: bytes = b"{}", **more: Any) -> Peer:
    peer = await Peer.to(proxy.url)
    await peer.send(post(body=body, **more))
    return peer


async def test_14_identical_posts_to_all_workers_are_one_export(tmp_path: Path) -> None:
    """The access log has the job of a rescued request if the first worker has its connection."""
    slow = Slow()
    async with workers(tmp_path / "data", slow) as (proxy, upstream):
        peers = [await sent(proxy) for _ in range(MANY)]
        async with asyncio.timeout(30):
            while True:
                fields = {"Authorization": "Bearer t"}
                shown = await ask(proxy.url, "GET", "/v8/_async/exports", fields)
                jobs = shown.json()["results"]
                if jobs and jobs[0]["joined"] == MANY - 1:
                    break
                await asyncio.sleep(0.05)
        slow.finish()
        for peer in peers:
            assert (await peer.head(), await peer.exactly(len(CONTENT))) == (HEAD, CONTENT)
            await peer.close()
        assert len(upstream.posts) == 1

        def logged() -> list[dict[str, Any]]:
            entries = [json.loads(line) for line in proxy.lines if line.startswith("{")]
            return [one for one in entries if one["event"] == "request" and one["method"] == "POST"]

        await until(lambda: len(logged()) == MANY)
        ends = {(one["lane"], one["status"], one["termination"]) for one in logged()}
        assert ends == {("rescue", 200, "served")}
        assert {one["job"] for one in logged()} == {None, jobs[0]["id"]}


async def test_14_an_export_at_a_worker_that_dies_is_passed_through(tmp_path: Path) -> None:
    """§14: never refuse what VB365 would have served. The clients of the other workers get it."""
    dead = asyncio.Event()

    async def write(peer: Peer, message: Message) -> None:
        if not dead.is_set():
            await peer.rest()  # until the proxy closes the connection
        else:
            await peer.send(HEAD + CONTENT)

    async with workers(tmp_path / "data", write) as (proxy, upstream):
        bodies = [b"%d" % number for number in range(MANY)]
        peers = [await sent(proxy, body) for body in bodies[::2]]
        for body in bodies[1::2]:
            fields = ("Transfer-Encoding: chunked",)
            framed = b"%x\r\n%b\r\n0\r\n\r\n" % (len(body), body)
            peers.append(await sent(proxy, framed, fields=fields))
        await eventually(lambda: len(upstream.posts) == MANY)
        first = children(proxy.pid)[0]
        os.kill(first, signal.SIGSTOP)
        dead.set()
        os.kill(first, signal.SIGKILL)
        served = 0
        for peer in peers:
            try:
                response = await peer.message()
            except (ConnectionError, asyncio.IncompleteReadError):
                continue  # a client of the worker that died
            assert (response.head, response.body) == (HEAD, CONTENT)
            served += 1
        assert served > 0
        assert {one.body for one in upstream.posts} == set(bodies)
        for peer in peers:
            peer.abort()


@pytest.mark.parametrize("whole", [True, False])
@pytest.mark.parametrize("version", ["1.0", "1.1"])
async def test_14_a_response_without_a_length_that_breaks_off_looks_broken_at_each_worker(
    tmp_path: Path, version: str, whole: bool
) -> None:
    """Its end is that of the connection, as a balancer that speaks HTTP/1.0 gets any chunked one.
    The connections between the workers know no reset.
    """
    cut = asyncio.Event()

    async def write(peer: Peer, message: Message) -> None:
        if version == "1.0":
            await peer.send(CHUNKED_HEAD + b"%x\r\n%b\r\n" % (len(CONTENT), CONTENT))
        else:
            await peer.send(b"HTTP/1.1 200 OK\r\n" + LINES + b"\r\n" + CONTENT)
        await cut.wait()
        if not whole:
            peer.reset()
        elif version == "1.0":
            await peer.send(b"0\r\n\r\n")

    async with workers(tmp_path / "data", write, EXPORTS__ATTEMPTS="1") as (proxy, _):
        peers = [await sent(proxy, version=version) for _ in range(MANY)]
        for peer in peers:
            await peer.head()
            assert await peer.exactly(len(CONTENT)) == CONTENT
        cut.set()
        ends = [await asyncio.gather(peer.rest(), return_exceptions=True) for peer in peers]
        kinds = [b"" if end == b"" else type(end) for [end] in ends]
        assert kinds == [b"" if whole else ConnectionResetError] * MANY
        for peer in peers:
            peer.abort()


async def test_14_with_redis_clients_of_all_workers_follow_the_file(
    tmp_path: Path, valkey_server: RedisServer
) -> None:
    """§14, §18: then each worker is a replica, and one of them runs the export."""
    slow = Slow()
    settings = {
        "STORAGE__JOBS": f"{valkey_server.url}?prefix={uuid4()}",
        "EXPORTS__STALL_TIMEOUT": "60s",
    }
    async with workers(tmp_path / "data", slow, **settings) as (proxy, upstream):
        peers = [await sent(proxy)]
        await slow.requested.wait()
        peers += [await sent(proxy) for _ in range(MANY)]
        slow.head.set()
        slow.pieces.put_nowait(CONTENT[:500_000])
        for peer in peers:
            assert (await peer.head(), await peer.exactly(400_000)) == (HEAD, CONTENT[:400_000])
        slow.pieces.put_nowait(CONTENT[500_000:])
        slow.pieces.put_nowait(None)
        for peer in peers:
            assert await peer.exactly(len(CONTENT) - 400_000) == CONTENT[400_000:]
            await peer.close()
        assert len(upstream.posts) == 1


SMALL = CONTENT[:200_000]
SMALL_LENGTH = b"Content-Length: %d\r\n" % len(SMALL)


async def small(peer: Peer, message: Message) -> None:
    """A file that fits into the buffers of all connections between VB365 and the client."""
    await peer.send(b"HTTP/1.1 200 OK\r\n" + SMALL_LENGTH + b"\r\n" + SMALL)


async def small_until_close(peer: Peer, message: Message) -> None:
    await peer.send(b"HTTP/1.1 200 OK\r\n\r\n" + SMALL)


@pytest.mark.parametrize("write", [small, small_until_close])
async def test_14_a_client_that_leaves_any_worker_before_the_end_gets_the_same_export_again(
    tmp_path: Path, write: Write
) -> None:
    async with workers(tmp_path / "data", write, EXPORTS__MAX_RUNNING="50") as (proxy, upstream):

        async def twice(body: bytes) -> None:
            peer = await Peer.to(proxy.url, limit=1 << 11, receive_buffer=1 << 12)
            await peer.send(post(body=body))
            await peer.head()
            await asyncio.sleep(0.5)  # all that fits into the buffers is on its way
            peer.reset()
            again = await sent(proxy, body)
            await again.head()
            assert await again.exactly(len(SMALL)) == SMALL
            again.abort()

        await asyncio.gather(*(twice(b"%d" % number) for number in range(MANY)))
        assert len(upstream.posts) == MANY


@pytest.mark.parametrize("write", [small, small_until_close])
@pytest.mark.parametrize("version", ["1.0", "1.1"])
async def test_14_a_file_that_any_worker_has_delivered_is_not_delivered_again(
    tmp_path: Path, version: str, write: Write
) -> None:
    async with workers(tmp_path / "data", write, EXPORTS__MAX_RUNNING="50") as (proxy, upstream):

        async def whole(body: bytes) -> None:
            peer = await sent(proxy, body, version=version)
            await peer.head()
            ends = write is small_until_close
            assert await (peer.rest() if ends else peer.exactly(len(SMALL))) == SMALL
            await peer.close()

        bodies = [b"%d" % number for number in range(MANY)]
        await asyncio.gather(*map(whole, bodies))
        await asyncio.sleep(1)  # until the last client's close has reached the first worker
        await asyncio.gather(*map(whole, bodies))
        assert len(upstream.posts) == 2 * MANY
