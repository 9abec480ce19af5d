"""CONTRACT §16 `/api/history`: what happened in each minute."""

from __future__ import annotations

import re
from typing import Any

import pytest

from proxy.admin.history import KEPT, History
from proxy.admin.readings import Readings
from proxy.ports.counts import REQUEST_SECONDS
from tests.contract.conftest import MakeStage, Stage
from tests.contract.test_16_api import get


async def minutes(stage: Any, query: str = "") -> list[Any]:
    response = await get(stage, f"/api/history{query}")
    assert response.status == 200, response
    return list(response.json()["results"])


async def test_the_current_minute_has_what_happened_in_it(make_stage: MakeStage) -> None:
    stage = await make_stage()
    status = await stage.done()
    await stage.get(status + "/result")
    await stage.get("/v8/Backups")
    stage.fault(hold=True)
    await stage.begun(stage.export)
    found = await minutes(stage)
    size = len(stage.file())
    assert sum(each["storedBytes"] for each in found) == size
    assert sum(each["servedBytes"] for each in found) == size
    now = found[-1]
    assert re.fullmatch(r"\d{4}-\d\d-\d\dT\d\d:\d\d:00Z", now["at"])
    assert now["running"] == 1
    assert set(now["finished"]) == {"Success", "Warning", "Failed", "Cancelled"}
    assert sum(each["finished"]["Success"] for each in found) == 1
    assert sum(each["requests"].get("202", 0) for each in found) >= 2
    assert any(each["p50"] is not None and each["p50"] <= each["p99"] for each in found)
    stage.simulator.release()


@pytest.mark.parametrize("text", ["0", "-1", "x", "1441", "", "1e2", "%C2%B2"])
async def test_a_bad_number_of_minutes_is_400(stage: Stage, text: str) -> None:
    response = await get(stage, f"/api/history?minutes={text}")
    assert response.status == 400
    assert "from 1 to 1440" in response.json()["detail"]


class World:
    """A clock, counters and phases that a test moves."""

    def __init__(self) -> None:
        self.seconds = 6000.0
        self.readings = Readings()
        self.phases: dict[str, int] = {}
        self.count(0, 0)
        self.history = History(
            counts=lambda: self.readings, phases=lambda: self.phases, now=lambda: self.seconds
        )

    def count(self, stored: int, failed: int, *first: int) -> None:
        self.readings.count("bytes_total", stored, "stored")
        self.readings.count("jobs_finished_total", failed, "Failed", "Internal")
        self.readings.count("http_requests_total", sum(first), "relay", "200")
        counts = [*first, *[0] * (len(REQUEST_SECONDS) + 1 - len(first))]
        self.readings.counters["http_time_to_first_byte_seconds"]["relay",] = [0.0, *counts]


def test_each_minute_has_its_own_share_and_the_sum_is_the_total() -> None:
    world = World()
    world.phases = {"Queued": 3, "Generating": 1, "Transferring": 1}
    world.count(10, 1)
    world.history.look()
    world.phases = {}
    assert world.history.read(60)[0] | {"at": ""} == {
        "at": "",
        "storedBytes": 10,
        "servedBytes": 0,
        "running": 2,
        "queued": 3,
        "finished": {"Success": 0, "Warning": 0, "Failed": 1, "Cancelled": 0},
        "requests": {},
        "p50": None,
        "p99": None,
    }
    world.seconds += 60
    world.count(25, 1, 4)
    found = world.history.read(60)
    assert [each["storedBytes"] for each in found] == [25, 0], "counted when it is looked at"
    world.count(30, 3, 4, 4)
    found = world.history.read(60)
    assert [each["storedBytes"] for each in found] == [25, 5]
    assert [each["finished"]["Failed"] for each in found] == [1, 2]
    assert [each["requests"] for each in found] == [{"200": 4}, {"200": 4}]
    assert [each["at"] for each in found] == ["1970-01-01T01:40:00Z", "1970-01-01T01:41:00Z"]
    assert world.history.read(1) == found[1:]


def test_a_minute_nobody_looked_at_is_there_and_empty() -> None:
    world = World()
    world.seconds += 180
    world.count(7, 0)
    found = world.history.read(60)
    assert [each["storedBytes"] for each in found] == [7, 0, 0, 0]
    assert [each["at"][-6:] for each in found] == ["40:00Z", "41:00Z", "42:00Z", "43:00Z"]


def test_a_day_is_kept() -> None:
    world = World()
    for _ in range(KEPT + 10):
        world.seconds += 60
        world.history.look()
    assert len(world.history.read(KEPT)) == KEPT
    world.seconds += 10 * 86_400
    assert len(world.history.read(KEPT)) == KEPT


def test_quantiles_are_those_of_the_requests_of_the_minute() -> None:
    world = World()
    world.count(0, 0, 100)
    world.history.look()
    world.seconds += 60
    world.history.look()
    world.count(0, 0, 100, 0, 98, 0, 2)
    minute = world.history.read(1)[0]
    low, high = REQUEST_SECONDS[1:3]
    assert low < minute["p50"] < high
    assert REQUEST_SECONDS[3] < minute["p99"] <= REQUEST_SECONDS[4]
    world.count(0, 0, *[100], *[0] * (len(REQUEST_SECONDS) - 1), 1000)
    assert world.history.read(1)[0]["p99"] == REQUEST_SECONDS[-1]
