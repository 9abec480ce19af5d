"""The memory of a real `serve` process per client that follows a growing file (CONTRACT §14)."""

from __future__ import annotations

import contextlib
from pathlib import Path
from uuid import uuid4

import pytest

from tests.cluster.conftest import LEASE
from tests.memory.test_slow_readers import KIB, MIB, client, settled
from tests.support.exports import Exports, Slow, post
from tests.support.process import served
from tests.support.redis_server import RedisServer

FOLLOWERS = 100
SIZE = 4 * MIB
HEAD = b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n" % SIZE


@pytest.mark.parametrize("elsewhere", [False, True], ids=["same replica", "another replica"])
async def test_14_a_hundred_clients_that_follow_a_file_cost_at_most_256_kib_each(
    tmp_path: Path, valkey_server: RedisServer, *, elsewhere: bool
) -> None:
    """§14: they read nothing, and the file is stored meanwhile."""
    slow = Slow(HEAD)
    async with Exports(slow).running() as upstream, contextlib.AsyncExitStack() as clients:
        settings = {"EXPORTS__RESCUE_SYNC": "true", "EXPORTS__STALL_TIMEOUT": "60s"}
        if elsewhere:
            settings |= LEASE | {"STORAGE__JOBS": f"{valkey_server.url}?prefix={uuid4()}"}
        running, *others = [
            await clients.enter_async_context(served(upstream.url, tmp_path / "data", **settings))
            for _ in range(1 + elsewhere)
        ]
        first = await clients.enter_async_context(client(running.port, None, buffer=MIB))
        await first.send(post())
        slow.head.set()
        for _ in range(2):
            slow.pieces.put_nowait(bytes(MIB))
        assert await first.head() == HEAD
        assert await first.exactly(2 * MIB) == bytes(2 * MIB)
        followed = others[0] if elsewhere else running
        one = await clients.enter_async_context(client(followed.port, None, buffer=MIB))
        await one.send(post())
        assert await one.head() == HEAD
        assert await one.exactly(MIB) == bytes(MIB)
        before = await settled(followed)
        for _ in range(FOLLOWERS):
            peer = await clients.enter_async_context(client(followed.port, None))
            peer.writer.transport.pause_reading()  # type: ignore[attr-defined]
            await peer.send(post())
        grown = await settled(followed) - before
        assert grown <= FOLLOWERS * 256 * KIB, grown // FOLLOWERS // KIB
        for _ in range(2):
            slow.pieces.put_nowait(bytes(MIB))
        assert await first.exactly(2 * MIB) == bytes(2 * MIB)
        assert len(upstream.posts) == 1
