"""All replicas are restarted one by one, under load, behind HAProxy (CONTRACT §15, §18)."""

from __future__ import annotations

import asyncio
import hashlib
import itertools
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import AsyncExitStack
from pathlib import Path
from typing import Any

import aiohttp
import pytest
from cryptography.fernet import Fernet

from proxy.simulator import Simulator, SimulatorSettings
from tests.cluster.balanced import Balanced, balanced
from tests.support.process import Caller
from tests.support.redis_server import running, valkey

pytestmark = pytest.mark.timeout(300)
SIZE = 3_000_000
RATE = 400_000.0
_AWAY = (aiohttp.ClientError, TimeoutError)


class Load:
    """Callers of the balancer that repeat a request once, and what was refused twice."""

    def __init__(self, cluster: Balanced, simulator: Simulator, http: Any) -> None:
        self.cluster, self.simulator = cluster, simulator
        self.caller = Caller(cluster, http, simulator.login())
        self.over = asyncio.Event()
        self.jobs: dict[str, str] = {}
        self.count = 0
        self.refused: list[object] = []
        self._numbers = itertools.count()

    async def ask(self, method: str, target: str, **fields: str) -> tuple[int, Any]:
        """Ask, and once more after a 5xx or a lost connection."""
        self.count += 1
        outcome: object = None
        for _ in range(2):
            try:
                status, document = await self.caller.ask(method, target, **fields)
            except _AWAY as why:
                outcome = repr(why)
                continue
            if status < 500:
                return status, document
            outcome = (status, document)
        self.refused.append((method, target, outcome))
        return 0, None

    async def until_over(self, act: Callable[[], Awaitable[object]]) -> None:
        """Repeat the act until all replicas are restarted."""
        while not self.over.is_set():
            await act()
            await asyncio.sleep(0.05)

    async def pass_through(self) -> None:
        """A request that is not the proxy's own."""
        status, _ = await self.ask("GET", "/v8/Organizations")
        assert status in (0, 200)

    async def export(self) -> str | None:
        """Kick off an export with a key, and return its job."""
        paths = self.simulator.export_paths(self.simulator.open_session())
        path = next(each for each in paths if each.endswith("exportToPst"))
        number = next(self._numbers)
        self.simulator.fault(path=path, method="POST", seed=number)
        status, document = await self.ask(
            "POST", path, Prefer="respond-async", Idempotency_Key=f"key-{number}"
        )
        assert status in (0, 202), document
        if status == 0:
            return None
        self.jobs[document["id"]] = path
        return str(document["id"])

    async def whole_export(self) -> None:
        """Kick off, poll and download."""
        if (job := await self.export()) is not None:
            await self.finish(job)

    async def finish(self, job: str) -> None:
        """Poll until the end, and download the file."""
        own = f"/v8/_async/exports/{job}"
        status = 202
        while status in (0, 202):
            status, document = await self.ask("GET", own)
            await asyncio.sleep(0.1)
        assert (status, document["status"]) == (200, "Success"), document
        status, data = await self.ask("GET", own + "/result")
        assert status in (0, 200)
        if status:
            wanted = self.simulator.content(self.jobs[job]).sha256()
            assert hashlib.sha256(data).hexdigest() == wanted


@pytest.fixture(params=["sealed", pytest.param("in memory", marks=pytest.mark.slow)])
async def load(request: pytest.FixtureRequest, tmp_path: Path) -> AsyncIterator[Load]:
    settings: dict[str, Any] = {}
    if request.param == "sealed":
        settings["SECRETS__KEY"] = Fernet.generate_key().decode()
    async with AsyncExitStack() as stack:
        simulator = Simulator(SimulatorSettings(size=SIZE, rate=RATE))
        await simulator.start()
        stack.push_async_callback(simulator.stop)
        (directory := tmp_path / "valkey").mkdir()
        server = stack.enter_context(running(directory, valkey()))
        cluster = await stack.enter_async_context(
            balanced(
                tmp_path,
                simulator,
                server,
                # nobody waits for the end of a lease
                CLUSTER__LEASE="60s",
                CLUSTER__HEARTBEAT="20s",
                EXPORTS__MAX_RUNNING="12",
                **settings,
            )
        )
        stack.callback(cluster.write_logs, tmp_path)
        connector = aiohttp.TCPConnector(limit=0, ssl=cluster.trusting)
        timeout = aiohttp.ClientTimeout(30)
        http = aiohttp.ClientSession(connector=connector, timeout=timeout)
        yield Load(cluster, simulator, await stack.enter_async_context(http))


async def test_a_rolling_restart_is_not_noticed(load: Load) -> None:
    """No request fails twice, no job is lost, and a job that runs continues on another replica."""
    acts = [load.pass_through, load.whole_export, load.whole_export, load.whole_export]
    async with asyncio.TaskGroup() as tasks:
        for act in acts:
            tasks.create_task(load.until_over(act))
        for replica in load.cluster.replicas:
            await load.simulator.until(lambda: len(load.simulator.deliveries) > 0)
            await asyncio.sleep(1)  # some exports run on each replica
            assert await replica.process.stop() == 0
            await replica.process.start()
        load.over.set()
    assert load.refused == []
    assert load.cluster.errors() == []
    assert load.jobs
    assert load.simulator.generations.total() == len(load.jobs)
    continued = [each for each in load.simulator.deliveries if each.start > 0]
    assert continued, "no export was running on a replica that stopped"
