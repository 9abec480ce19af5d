"""CONTRACT §16 `delivered`: what was downloaded is on record, and downloads do not pay for it."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest

from proxy.core.events import Answered, Claimed, Delivered, Finalizing, Succeeded
from proxy.core.job import FileFacts, Phase, Status
from proxy.core.transitions import advance
from proxy.jobs.deliveries import Deliveries
from proxy.ports import StoreUnavailable
from tests.contract.conftest import MakeStage, Stage
from tests.contract.test_16_api import delivered, get, id_of
from tests.support.fakes import MemoryJobs, new_job
from tests.support.harness import new_world
from tests.support.log_lines import logged
from tests.support.wire import Peer, eventually, request_bytes

FACTS = FileFacts(media_type="a/b", file_name=None, size=3, etag=None)


async def test_downloads_are_counted_with_their_bytes(stage: Stage) -> None:
    """Whole ones and parts; HEAD and a response without the file are none."""
    status = await stage.done()
    job, size = id_of(status), len(stage.file())
    with logged() as log:
        await stage.get(status + "/result", Range="bytes=0-99")
        row = await delivered(stage, job)
        assert row["delivered"] | {"lastAt": None} == {
            "bytes": 100,
            "count": 1,
            "lastAt": None,
            "whole": False,
        }
        await stage.get(status + "/result", Range="bytes=0-9,20-29")
        await stage.get(status + "/result")
        await stage.ask("HEAD", status + "/result")
        await stage.get(status + "/result", Range="bytes=999999999-")
        row = await delivered(stage, job, 3)
    found = row["delivered"]
    assert (found["bytes"], found["count"], found["whole"]) == (120 + size, 3, True)
    assert found["lastAt"] >= row["endTime"]
    assert row["timeline"][-1]["event"] == "delivered"
    assert [each["event"] for each in row["timeline"]].count("delivered") == 1
    assert sum(entry["bytes"] for entry in log.named("job.delivered")) == found["bytes"]


async def test_a_download_does_not_change_the_document(stage: Stage) -> None:
    """Its ETag and lastUpdateTime stay: a client that polls sees nothing of it."""
    status = await stage.done()
    before = await stage.get(status)
    await stage.get(status + "/result")
    await delivered(stage, id_of(status))
    after = await stage.get(status)
    assert (after["ETag"], after.json()) == (before["ETag"], before.json())
    assert (await stage.get(status, If_None_Match=before["ETag"])).status == 304


async def test_a_download_that_breaks_off_has_its_bytes_and_is_no_delivery(
    make_stage: MakeStage,
) -> None:
    stage = await make_stage({"size": 64 << 20})
    status = await stage.done()
    peer = await Peer.to(stage.url, limit=1 << 16)
    await peer.send(request_bytes("GET", status + "/result", stage.fields, None, "localhost"))
    await peer.exactly(1 << 16)
    peer.reset()
    async with asyncio.timeout(20):
        row: Any = {"delivered": {"bytes": 0}}
        while not row["delivered"]["bytes"]:
            await asyncio.sleep(0.02)
            row = (await get(stage, f"/api/jobs/{id_of(status)}")).json()
    assert 0 < row["delivered"]["bytes"] < 64 << 20
    assert (row["delivered"]["count"], row["delivered"]["whole"]) == (0, False)
    assert "delivered" not in [each["event"] for each in row["timeline"]]


async def test_deliveries_are_written_when_the_proxy_stops(make_stage: MakeStage) -> None:
    stage = await make_stage()
    status = await stage.done()
    await stage.get(status + "/result")
    await stage.running.stop()
    again = await make_stage()
    row = (await get(again, f"/api/jobs/{id_of(status)}")).json()
    assert row["delivered"]["count"] == 1


async def test_hundreds_of_downloads_within_a_second_are_one_write() -> None:
    async with new_world() as world:
        job, _ = await world.submit()
        await world.quiet()
        before = world.jobs.jobs[job].version
        deliveries = Deliveries(world.jobs, world.now)
        for _ in range(500):
            deliveries.note(job, Delivered(10, whole=False))
        await deliveries.flush()
        await deliveries.flush()
        found = world.jobs.jobs[job]
        assert found.version == before + 1
        assert (found.delivery.sent, found.delivery.count) == (5000, 500)


async def test_a_store_that_is_away_loses_no_delivery() -> None:
    """And a download neither waits for it nor fails."""
    async with new_world() as world:
        job, _ = await world.submit()
        await world.quiet()
        deliveries = Deliveries(world.jobs, world.now)
        world.jobs.faults["get"].append(StoreUnavailable("away"))
        deliveries.note(job, Delivered(10, whole=False))
        await deliveries.flush()
        deliveries.note(job, Delivered(5, whole=True))
        await deliveries.flush()
        found = world.jobs.jobs[job].delivery
        assert (found.sent, found.count, found.whole) == (15, 2, True)


async def test_a_delivery_that_is_being_written_when_the_proxy_stops_is_not_lost(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("proxy.jobs.deliveries._INTERVAL", 0.0)
    jobs = MemoryJobs()
    job = await jobs.add(new_job(status=Status.SUCCESS, phase=Phase.COMPLETED), b"")
    deliveries = Deliveries(jobs, lambda: 1.0)
    deliveries.note(job.id, Delivered(3, whole=True))
    gate = jobs.gates["replace"] = asyncio.Event()
    writing = asyncio.create_task(deliveries.run())
    await eventually(lambda: deliveries._waiting == {})
    writing.cancel()
    gate.set()
    with pytest.raises(asyncio.CancelledError):
        await writing
    assert jobs.jobs[job.id].delivery.count == 1


async def test_a_store_that_is_away_is_asked_for_few_deliveries(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """A stop would last for the time-out of each. All of them are kept."""
    monkeypatch.setattr("proxy.jobs.deliveries._TOGETHER", 2)
    jobs = MemoryJobs()
    deliveries = Deliveries(jobs, lambda: 1.0)
    for job in "abcdef":
        deliveries.note(job, Delivered(10, whole=False))
    jobs.faults["get"].extend(StoreUnavailable("away") for _ in range(6))
    await deliveries.flush()
    assert (len(jobs.faults["get"]), sorted(deliveries._waiting)) == (4, list("abcdef"))


async def test_deliveries_of_jobs_that_are_gone_are_forgotten(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """And those that wait are bounded in number."""
    monkeypatch.setattr("proxy.jobs.deliveries._WAITING", 2)
    jobs = MemoryJobs()
    deliveries = Deliveries(jobs, lambda: 1.0)
    with logged() as log:
        for job in "abc":
            deliveries.note(job, Delivered(10, whole=False))
        await deliveries.flush()
    assert [entry["job"] for entry in log.entries] == ["a"]
    assert deliveries._waiting == {}


async def test_what_is_sent_of_an_export_that_runs_is_recorded_once_it_has_ended() -> None:
    """§14: the client of a rescued export gets the bytes as they arrive."""
    jobs = MemoryJobs()
    job = await jobs.add(new_job(), b"")
    deliveries = Deliveries(jobs, lambda: 1.0)
    deliveries.note(job.id, Delivered(3, whole=True))
    await deliveries.flush()
    assert await jobs.get(job.id) == job
    for event in (Claimed("r"), Answered(FACTS), Finalizing(3), Succeeded(3, "ZA==", 9.0, None)):
        changed = advance(job, event, 2.0)
        assert await jobs.replace(job, changed)
        job = changed
    await deliveries.flush()
    found = await jobs.get(job.id)
    assert found is not None
    assert (found.delivery.sent, found.delivery.whole) == (3, True)
    assert deliveries._waiting == {}
