"""Rescued exports over killed processes, refreshed tokens, slow clients and many of them
(CONTRACT §9, §10, §14).
"""

from __future__ import annotations

import asyncio
import contextlib
import hashlib
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any
from uuid import uuid4

import aiohttp
import pytest

from proxy.simulator import Simulator, SimulatorSettings
from tests.support.exports import CONTENT, HEAD, LENGTH, LINES, Exports, Slow, post
from tests.support.process import LIMIT, Caller, ProxyProcess
from tests.support.wire import Message, Peer, eventually

SIZE = 6_000_000
RESCUE: dict[str, Any] = {
    "EXPORTS__RESCUE_SYNC": "true",
    "EXPORTS__GRACE": "2s",
    "EXPORTS__STALL_TIMEOUT": "30s",
}


class Scene:
    def __init__(
        self, simulator: Simulator, proxy: ProxyProcess, http: aiohttp.ClientSession
    ) -> None:
        self.simulator, self.proxy, self.http = simulator, proxy, http
        self.path = next(
            p for p in simulator.export_paths(simulator.open_session()) if p.endswith("exportToPst")
        )

    def stored(self) -> int:
        """Bytes that VB365 has sent of the last file."""
        deliveries = self.simulator.deliveries
        return deliveries[-1].sent if deliveries else 0

    def caller(self) -> Caller:
        """The same user, with a new token."""
        return Caller(self.proxy, self.http, self.simulator.login())

    def post(self) -> asyncio.Task[tuple[int, bytes]]:
        return asyncio.create_task(self.caller().ask("POST", self.path))

    async def check(self, response: tuple[int, bytes]) -> None:
        status, content = response
        assert status == 200, content[:200]
        expected = self.simulator.content(self.path).sha256()
        assert hashlib.sha256(content).hexdigest() == expected


@contextlib.asynccontextmanager
async def scene_of(tmp_path: Path, **settings: str) -> AsyncIterator[Scene]:
    """A proxy process with these settings in front of the simulator."""
    simulator = Simulator(SimulatorSettings(size=SIZE, token="jwt"))
    await simulator.start()
    proxy = ProxyProcess(tmp_path / "data", simulator.url, **(RESCUE | settings))
    try:
        await proxy.start()
        async with aiohttp.ClientSession() as http:
            yield Scene(simulator, proxy, http)
    finally:
        await proxy.kill()
        await simulator.stop()


@pytest.fixture
async def scene(tmp_path: Path) -> AsyncIterator[Scene]:
    async with scene_of(tmp_path) as made:
        yield made


async def failed(request: asyncio.Task[tuple[int, bytes]]) -> None:
    """Wait until the request has failed visibly."""
    with pytest.raises(aiohttp.ClientError):
        await asyncio.wait_for(request, LIMIT)


async def test_14_after_a_kill_within_the_file_the_retry_continues_it(scene: Scene) -> None:
    """§10, §14: the retry brings the credentials back; no second generation."""
    scene.simulator.fault(path=scene.path, method="POST", stall_at=4_000_000, count=1)
    first = scene.post()
    await scene.simulator.until(lambda: scene.stored() >= 4_000_000)
    async with asyncio.timeout(LIMIT):
        caller = scene.caller()
        while True:
            _, document = await caller.ask("GET", "/v8/_async/exports")
            jobs = document["results"]
            if jobs and jobs[0]["progress"]["bytesReceived"] >= 2_000_000:
                break
            await asyncio.sleep(0.1)
    await scene.proxy.kill()
    await failed(first)
    await scene.proxy.start()
    await scene.check(await asyncio.wait_for(scene.post(), LIMIT))
    assert sum(scene.simulator.generations.values()) == 1


async def test_14_after_a_kill_before_the_file_the_retry_starts_it_again(scene: Scene) -> None:
    scene.simulator.fault(path=scene.path, method="POST", hold=True, count=1)
    first = scene.post()
    await scene.simulator.until(lambda: scene.simulator.held > 0)
    await scene.proxy.kill()
    await failed(first)
    await scene.proxy.start()
    await scene.check(await asyncio.wait_for(scene.post(), LIMIT))


async def test_14_a_refreshed_token_joins_by_its_identity(scene: Scene) -> None:
    """§2, §14: VB365 has accepted both tokens of the user; another user joins nothing."""
    scene.simulator.fault(path=scene.path, method="POST", hold=True, count=1)
    first = scene.post()
    await scene.simulator.until(lambda: scene.simulator.held > 0)
    second = scene.post()
    caller = scene.caller()
    async with asyncio.timeout(LIMIT):
        while True:
            _, document = await caller.ask("GET", "/v8/_async/exports")
            if document["results"] and document["results"][0]["joined"] == 1:
                break
            await asyncio.sleep(0.05)
    scene.simulator.release()
    for each in (first, second):
        await scene.check(await asyncio.wait_for(each, LIMIT))
    assert sum(scene.simulator.generations.values()) == 1


async def test_14_a_client_that_reads_nothing_does_not_slow_the_storing(tmp_path: Path) -> None:
    size = 40 << 20
    head = b"HTTP/1.1 200 OK\r\n" + LINES + b"Content-Length: %d\r\n\r\n" % size
    piece = bytes(1 << 20)

    async def write(peer: Peer, message: Message) -> None:
        await peer.send(head)
        for _ in range(size // len(piece)):
            await peer.send(piece)

    async with Exports(write).running() as upstream:
        proxy = ProxyProcess(tmp_path / "data", upstream.url, **RESCUE)
        try:
            await proxy.start()
            async with aiohttp.ClientSession() as http:
                caller = Caller(proxy, http, {"Authorization": "Bearer t"})
                slow = await Peer.to(proxy.url, limit=1 << 16)
                await slow.send(post())
                await slow.head()
                async with asyncio.timeout(LIMIT):
                    while True:
                        _, document = await caller.ask("GET", "/v8/_async/exports")
                        if document["results"][0]["status"] == "Success":
                            break
                        await asyncio.sleep(0.1)
                assert await slow.exactly(size) == bytes(size)
                slow.abort()
        finally:
            await proxy.kill()
        assert len(upstream.posts) == 1


async def test_14_three_thousand_requests_join_one_export(tmp_path: Path) -> None:
    """§14: those that wait and those that leave cost VB365 nothing."""
    small = CONTENT[:20_000]
    slow = Slow(HEAD.replace(LENGTH, b"Content-Length: %d\r\n" % len(small)))
    async with Exports(slow).running() as upstream:
        proxy = ProxyProcess(tmp_path / "data", upstream.url, **RESCUE)
        peers: list[Peer] = []
        try:
            await proxy.start()
            for number in range(3000):
                peer = await Peer.to(proxy.url)
                await peer.send(post())
                peers.append(peer)
                if number == 0:
                    await slow.requested.wait()
                if number % 5 == 4:
                    peer.reset()
            slow.head.set()
            slow.pieces.put_nowait(small)
            slow.pieces.put_nowait(None)
            for number, peer in enumerate(peers):
                if number % 5 != 4:
                    await peer.head()
                    assert await peer.exactly(len(small)) == small
        finally:
            for peer in peers:
                peer.abort()
            await proxy.kill()
        await eventually(lambda: len(upstream.posts) == 1)


async def test_14_with_files_in_a_bucket_the_retry_joins_and_survives_a_kill(
    tmp_path: Path, s3_endpoint: str
) -> None:
    """§14, §15: `storage.artifacts` is a bucket, jobs are on disk."""
    url = f"s3://tests/{uuid4()}?endpoint={s3_endpoint}&allow_http=true&path_style=true"
    async with scene_of(tmp_path, STORAGE__ARTIFACTS=f"{url}&region=us-east-1") as scene:
        scene.simulator.fault(path=scene.path, method="POST", hold=True, count=1)
        left = scene.post()
        await scene.simulator.until(lambda: scene.simulator.held > 0)
        left.cancel()
        retries = [scene.post() for _ in range(3)]
        scene.simulator.release()
        for each in retries:
            await scene.check(await asyncio.wait_for(each, LIMIT))
        assert sum(scene.simulator.generations.values()) == 1
        scene.simulator.fault(path=scene.path, method="POST", stall_at=4_000_000, count=1)
        before = scene.simulator.deliveries[-1]
        first = scene.post()
        await scene.simulator.until(
            lambda: scene.simulator.deliveries[-1] is not before and scene.stored() >= 4_000_000
        )
        await scene.proxy.kill()
        await failed(first)
        await scene.proxy.start()
        await scene.check(await asyncio.wait_for(scene.post(), LIMIT))
