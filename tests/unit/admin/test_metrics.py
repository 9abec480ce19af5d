"""`/metrics` under load: one rendering at a time, which all requests share (CONTRACT §16)."""

from __future__ import annotations

import asyncio

import pytest

from proxy.admin.metrics import Metrics
from proxy.admin.readings import Readings

OPENMETRICS = "application/openmetrics-text;version=1.0.0"


class Scrape:
    """Readings that show how many scrapes have begun. They end once `over` is set."""

    def __init__(self) -> None:
        self.begun = 0
        self.over = asyncio.Event()

    async def __call__(self) -> Readings:
        self.begun += 1
        readings = Readings()
        readings.gauge("start_time_seconds", self.begun)
        await self.over.wait()
        return readings

    async def until(self, begun: int) -> None:
        async with asyncio.timeout(20):
            while self.begun < begun:  # noqa: ASYNC110
                await asyncio.sleep(0)


async def test_16_all_requests_that_wait_share_the_next_rendering() -> None:
    """It begins after the last of them has arrived."""
    scrape = Scrape()
    metrics = Metrics(scrape)
    first = asyncio.create_task(metrics(""))
    await scrape.until(1)
    waiting = [asyncio.create_task(metrics("")) for _ in range(300)]
    other = asyncio.create_task(metrics(OPENMETRICS))
    await asyncio.sleep(0)
    scrape.over.set()
    async with asyncio.timeout(20):
        assert b"start_time_seconds 1.0" in (await first)[0]
        (text,) = {(await each)[0] for each in waiting}
        assert b"start_time_seconds 2.0" in text
        assert b"# EOF" in (await other)[0]
    assert scrape.begun == 3


async def test_16_a_client_that_leaves_does_not_take_the_rendering_from_others() -> None:
    scrape = Scrape()
    metrics = Metrics(scrape)
    first, second = (asyncio.create_task(metrics("")) for _ in range(2))
    await scrape.until(1)
    first.cancel()
    scrape.over.set()
    async with asyncio.timeout(20):
        assert b"start_time_seconds 2.0" in (await second)[0]


async def test_16_between_two_renderings_is_a_pause(monkeypatch: pytest.MonkeyPatch) -> None:
    """Others have half of the time, as the health checks."""
    scrape, loop = Scrape(), asyncio.get_running_loop()
    scrape.over.set()
    metrics = Metrics(scrape)
    began = loop.time()
    await metrics("")
    assert metrics._pause_ends > began
    pauses: list[float] = []

    async def record(seconds: float) -> None:
        pauses.append(seconds)

    monkeypatch.setattr("proxy.admin.metrics.asyncio.sleep", record)
    metrics._pause_ends = loop.time() + 1000
    await metrics("")
    assert pauses[0] > 900
