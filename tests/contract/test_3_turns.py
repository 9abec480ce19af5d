"""CONTRACT §3.5, §3.6, over HTTP: the order of jobs of several callers, and slots that a cancelled
generation still occupies.
"""

from __future__ import annotations

import asyncio
from pathlib import Path

import pytest

from proxy import app
from tests.contract.conftest import MakeStage, Stage
from tests.support.local_proxy import settings_of


async def working(stage: Stage, count: int) -> None:
    """Return once the simulator works on `count` exports."""
    await stage.simulator.until(lambda: stage.simulator.held >= count)


async def posted(stage: Stage, count: int) -> None:
    """Return once the simulator has received `count` exports in all."""
    await stage.simulator.until(lambda: stage.count_requests(stage.export, "POST") == count)


async def test_a_second_callers_export_does_not_wait_for_fifty_of_the_first(
    make_stage: MakeStage,
) -> None:
    """§3.6: a free slot goes to the caller whose last start is longest ago."""
    stage = await make_stage(EXPORTS__MAX_RUNNING="1", EXPORTS__MAX_PER_CALLER="60")
    stage.fault(hold=True)
    first = await stage.begun(stage.export)
    await working(stage, 1)
    many = await asyncio.gather(*(stage.begun(stage.export) for _ in range(50)))
    other = stage.simulator.login("operator") | {"Prefer": "respond-async"}
    response = await stage.ask("POST", stage.path_of("items/save"), other, b"{}")
    assert (response.status, response.json()["phase"]) == (202, "Queued")
    stage.simulator.faults.clear()
    stage.simulator.release()
    await stage.finished(first)
    await stage.finished(many[1])
    posts = [one.target for one in stage.simulator.requests if one.method == "POST"]
    assert posts[:3] == [stage.export, stage.path_of("items/save"), stage.export]


async def test_max_running_per_caller_leaves_slots_for_other_callers(make_stage: MakeStage) -> None:
    """§3.6."""
    stage = await make_stage(EXPORTS__MAX_RUNNING="2", EXPORTS__MAX_RUNNING_PER_CALLER="1")
    stage.fault(hold=True)
    await stage.begun(stage.export)
    await working(stage, 1)
    assert (await stage.kickoff(stage.export)).json()["phase"] == "Queued"
    other = stage.simulator.login("operator") | {"Prefer": "respond-async"}
    assert (await stage.ask("POST", stage.export, other, b"{}")).json()["phase"] != "Queued"
    await working(stage, 2)


@pytest.mark.parametrize("end", ["cancel", "delete", "cancel and delete"])
async def test_kick_off_and_cancel_in_a_loop_does_not_multiply_the_load(
    make_stage: MakeStage, end: str
) -> None:
    """§3.5 `cancel_hold`: VB365 may continue a cancelled export, so its slot stays occupied."""
    stage = await make_stage(EXPORTS__MAX_RUNNING="2", EXPORTS__MAX_PER_CALLER="8")
    stage.fault(hold=True)
    started = 0
    for _ in range(8):
        response = await stage.kickoff(stage.export)
        assert response.status == 202
        status = stage.path(response["Location"])
        if response.json()["phase"] != "Queued":
            started += 1
            await posted(stage, started)
        if "cancel" in end:
            await stage.ask("POST", status + "/cancel")
            await stage.finished(status)
        if "delete" in end:
            assert (await stage.ask("DELETE", status)).status == 204
    assert stage.count_requests(stage.export, "POST") == 2
    stage.clock.ahead += 121
    await stage.begun(stage.export)
    await posted(stage, 3)


async def test_a_cancelled_generation_counts_towards_its_callers_quota(
    make_stage: MakeStage,
) -> None:
    """§3.5: Retry-After says for how long; a queued job that is cancelled no longer counts."""
    stage = await make_stage(EXPORTS__MAX_RUNNING="1", EXPORTS__MAX_PER_CALLER="2")
    stage.fault(hold=True)
    running = await stage.begun(stage.export)
    await working(stage, 1)
    queued = await stage.begun(stage.export)
    for status in (queued, running):
        await stage.ask("POST", status + "/cancel")
        await stage.finished(status)
    await stage.begun(stage.export)
    refused = await stage.kickoff(stage.export)
    assert refused.status == 429
    assert refused.json()["detail"] == (
        "You already have 2 unfinished exports (exports.max_per_caller). "
        "That includes 1 cancelled one that VB365 may still work on (exports.cancel_hold)."
    )
    stage.clock.ahead += 121
    assert (await stage.kickoff(stage.export)).status == 202


async def test_an_export_that_is_cancelled_during_its_transfer_frees_its_slot(
    make_stage: MakeStage,
) -> None:
    """§3.5: VB365 has finished generating it."""
    stage = await make_stage(EXPORTS__MAX_RUNNING="1")
    stage.fault(stall_at=1000, count=1)
    status = await stage.begun(stage.export)
    await stage.until(status, lambda document: document["phase"] == "Transferring")
    await stage.ask("POST", status + "/cancel")
    await stage.finished(status)
    await stage.done()


async def test_a_slot_stays_occupied_across_a_restart(
    make_stage: MakeStage, tmp_path: Path
) -> None:
    """§3.5: also for cancelled records and tombstones."""
    stage = await make_stage(EXPORTS__MAX_RUNNING="1")
    stage.fault(hold=True)
    status = await stage.begun(stage.export)
    await working(stage, 1)
    assert (await stage.ask("DELETE", status)).status == 204
    await stage.running.stop()
    stage.simulator.faults.clear()
    settings = settings_of(stage.simulator.url, tmp_path / "data", {"EXPORTS__MAX_RUNNING": "1"})
    stage.running = await app.start(settings, stage.clock)
    try:
        assert (await stage.kickoff(stage.export)).json()["phase"] == "Queued"
        stage.clock.ahead += 121
        await stage.done()
    finally:
        await stage.running.stop()
