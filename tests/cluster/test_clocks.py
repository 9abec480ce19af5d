"""Replicas whose clocks differ by minutes act as one (CONTRACT §18)."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack
from datetime import datetime
from email.utils import parsedate_to_datetime
from pathlib import Path
from typing import Any
from uuid import uuid4

import pytest

from proxy import app
from proxy.parts.store_clock import StoreClock
from proxy.simulator import Simulator, SimulatorSettings
from tests.contract.conftest import ApiClient, Clock
from tests.support.local_proxy import settings_of
from tests.support.redis_server import RedisServer

AHEAD = 300.0


@pytest.fixture
async def replicas(
    tmp_path: Path, valkey_server: RedisServer
) -> AsyncIterator[tuple[Simulator, list[ApiClient]]]:
    """Two replicas, whose clocks are five minutes fast and slow; a file is kept for one minute."""
    async with AsyncExitStack() as stack:
        simulator = Simulator(SimulatorSettings(size=200_000))
        await simulator.start()
        stack.push_async_callback(simulator.stop)
        given = {
            "STORAGE__JOBS": f"{valkey_server.url}?prefix={uuid4()}",
            "EXPORTS__RESULT_TTL": "1m",
            "EXPORTS__SUSPEND_TTL": "1m",
        }
        fields = simulator.login()
        clients = []
        for ahead in (AHEAD, -AHEAD):
            clock = Clock(ahead)
            settings = settings_of(simulator.url, tmp_path / "data", given)
            running = await app.start(settings, clock)
            stack.push_async_callback(running.stop)
            clients.append(ApiClient(running=running, clock=clock, fields=fields))
        yield simulator, clients


def seconds(document: Any, name: str) -> float:
    return datetime.fromisoformat(document[name]).timestamp()


@pytest.mark.parametrize("order", [1, -1], ids=["fast first", "slow first"])
async def test_a_job_is_the_same_on_both(
    replicas: tuple[Simulator, list[ApiClient]], order: int
) -> None:
    """Its times are those of one clock, and its file expires on neither before its time."""
    simulator, clients = replicas
    a, b = clients[::order]
    path = next(
        path
        for path in simulator.export_paths(simulator.open_session())
        if path.endswith("exportToPst")
    )
    status = await a.begun(path)
    shown = await b.finished(status)
    document = shown.json()
    assert document["status"] == "Success"
    assert abs(seconds(document, "creationTime") - time.time()) < 30
    assert seconds(document, "creationTime") <= seconds(document, "endTime")
    assert seconds(document, "endTime") <= seconds(document, "lastUpdateTime")
    assert 55 <= seconds(document, "expirationTime") - seconds(document, "endTime") <= 65
    responses = [await client.get(status + "/result") for client in clients]
    assert [response.status for response in responses] == [200, 200]
    assert len({response["Last-Modified"] for response in responses}) == 1
    modified = parsedate_to_datetime(responses[0]["Last-Modified"]).timestamp()
    assert abs(modified - time.time()) < 30
    for client in clients:
        assert (await client.get(status)).json()["eTag"] == document["eTag"]


async def test_a_difference_that_changes_is_followed_without_a_jump(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """An operator who corrects the clock of one machine expires nothing."""
    monkeypatch.setattr("proxy.parts.store_clock._PAUSE", 0.01)
    local = Clock(ahead=AHEAD)
    queried = asyncio.Event()

    async def store() -> float:
        queried.set()
        return time.time()

    clock = StoreClock(store, local)
    await clock.start()
    assert abs(clock.now() - time.time()) < 5
    watching = asyncio.create_task(clock.watch())
    local.ahead = 0.0
    before = clock.now()
    for _ in range(3):
        queried.clear()
        await asyncio.wait_for(queried.wait(), 20)
        now = clock.now()
        assert before <= now <= before + 5
        before = now
    watching.cancel()
    assert abs(clock.now() - time.time()) < 5
