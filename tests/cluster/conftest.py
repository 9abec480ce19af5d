"""Two proxies as processes of their own over one Valkey and one directory, in front of one
simulator.
"""

from __future__ import annotations

import asyncio
import hashlib
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from contextlib import AsyncExitStack
from pathlib import Path
from typing import Any
from uuid import uuid4

import aiohttp
import pytest

from proxy.simulator import Simulator, SimulatorSettings
from tests.support.process import Caller, ProxyProcess
from tests.support.redis_server import RedisServer, running, valkey

SIZE = 6_000_000
LIMIT = 40
#: Short enough for a test, long enough for a machine that is busy with others.
LEASE = {"CLUSTER__HEARTBEAT": "1s", "CLUSTER__LEASE": "4s"}


class Scene:
    """Replicas `proxies`, with a caller of each: `a` of the first one, `b` of the second."""

    def __init__(
        self,
        simulator: Simulator,
        store: RedisServer,
        proxies: list[ProxyProcess],
        http: Any,
        url: str,
    ) -> None:
        self.url = url
        self.simulator, self.store, self.proxies, self.http = simulator, store, proxies, http
        self.token = simulator.login()
        self.a, self.b = (Caller(proxy, http, self.token) for proxy in proxies)
        session = simulator.open_session()
        self.path = next(p for p in simulator.export_paths(session) if p.endswith("exportToPst"))

    async def generating(self, caller: Caller | None = None, **fields: str) -> str:
        """A job that VB365 holds back until `simulator.release`."""
        self.simulator.fault(path=self.path, method="POST", hold=True, count=1)
        held = self.simulator.held
        status, document = await (caller or self.a).ask(
            "POST", self.path, Prefer="respond-async", **fields
        )
        assert status == 202, document
        await self.simulator.until(lambda: self.simulator.held > held)
        return str(document["id"])

    async def transferring(self, at: int = 4_000_000) -> str:
        """A job whose transfer halts when VB365 has sent `at` bytes."""
        self.simulator.fault(path=self.path, method="POST", stall_at=at, count=1)
        job = await self.a.kick_off(self.path)
        sent = self.simulator.deliveries
        await self.simulator.until(lambda: len(sent) > 0 and sent[-1].sent >= at)
        await self.until(
            self.a, job, lambda document: document["progress"]["bytesReceived"] >= at // 2
        )
        return job

    async def until(self, caller: Caller, job: str, condition: Callable[[Any], bool]) -> Any:
        """The document of the job, once the condition holds."""
        async with asyncio.timeout(LIMIT):
            while not condition(document := (await caller.status(job))[1]):  # noqa: ASYNC110
                await asyncio.sleep(0.1)
        return document

    async def whole(self, caller: Caller, job: str) -> Any:
        """The document of the job, once it is done and its file is right."""
        document = await caller.finished(job)
        assert document["status"] == "Success", document
        digest = hashlib.sha256(await caller.file(job)).hexdigest()
        assert digest == self.simulator.content(self.path).sha256()
        return document


MakeScene = Callable[..., Awaitable[Scene]]


@pytest.fixture
async def make_scene(tmp_path: Path, valkey_server: RedisServer) -> AsyncIterator[MakeScene]:
    async with AsyncExitStack() as stack:

        async def make(store: RedisServer = valkey_server, **settings: str) -> Scene:
            simulator = Simulator(SimulatorSettings(size=SIZE))
            await simulator.start()
            stack.push_async_callback(simulator.stop)
            given: dict[str, Any] = {
                "STORAGE__JOBS": f"{store.url}?prefix={uuid4()}",
                "EXPORTS__STALL_TIMEOUT": "30s",
            }
            proxies = [
                ProxyProcess(tmp_path / "data", simulator.url, **(given | LEASE | settings))
                for _ in range(2)
            ]
            for proxy in proxies:
                stack.push_async_callback(proxy.kill)
                await proxy.start()
            http = await stack.enter_async_context(aiohttp.ClientSession())
            return Scene(simulator, store, proxies, http, given["STORAGE__JOBS"])

        yield make


@pytest.fixture
def own_server(tmp_path: Path) -> Iterator[RedisServer]:
    """A store of this test alone, which it may stop."""
    directory = tmp_path / "valkey"
    directory.mkdir()
    with running(directory, valkey()) as server:
        yield server
