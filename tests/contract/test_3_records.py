"""CONTRACT §3.5, over HTTP: the number of records is bounded."""

from __future__ import annotations

import asyncio
from pathlib import Path
from typing import Any

import pytest

from proxy.core.job import Job
from proxy.core.job_codec import encode
from proxy.jobs import driver
from proxy.stores.disk_jobs.store import DiskJobs
from tests.contract.conftest import MakePlay, MakeStage, Play, Stage
from tests.support.wire import Message, raw

PATH = (
    "/v8/RestoreSessions/0f0c6d3e-0000-4000-8000-000000000001/organization/mailboxes/m/exportToPst"
)


async def failed(stage: Stage, **more: Any) -> str:
    """Let VB365 fail an export and return the path of its status monitor."""
    stage.fault(status=500, count=1)
    status = await stage.begun(stage.export, **more)
    assert (await stage.finished(status)).json()["status"] == "Failed"
    return status


async def test_the_oldest_ended_records_of_a_caller_are_removed_first(
    make_stage: MakeStage,
) -> None:
    """§3.5 `exports.max_records_per_caller`: tombstones too, but never a running job or an
    available file; then 429.
    """
    stage = await make_stage(EXPORTS__MAX_RECORDS_PER_CALLER="4")
    file = await stage.done()
    deleted, first, second = [await failed(stage) for _ in range(3)]
    assert (await stage.ask("DELETE", deleted)).status == 204
    stage.fault(hold=True)
    running = [await stage.begun(stage.export)]
    assert (await stage.get(deleted)).json()["type"].endswith("job-not-found"), (
        "the tombstone was removed"
    )
    running.append(await stage.begun(stage.export))
    assert (await stage.get(first)).status == 404
    assert (await stage.get(second)).status == 200
    running.append(await stage.begun(stage.export))
    refused = await stage.kickoff(stage.export)
    assert (refused.status, refused.json()["type"]) == (
        429,
        "urn:vb365-async:problem:quota-exceeded",
    )
    assert refused.json()["detail"] == (
        "You already have 4 exports on record, unfinished or with a file that can still be "
        "downloaded "
        "(exports.max_records_per_caller). Delete those that you do not need any more."
    )
    assert int(refused["Retry-After"]) > 0
    assert [(await stage.get(status)).status for status in running] == [202] * 3
    assert (await stage.get(file + "/result")).body == stage.file()
    other = stage.simulator.login("operator") | {"Prefer": "respond-async"}
    assert (await stage.ask("POST", stage.export, other, b"{}")).status == 202
    assert (await stage.ask("DELETE", file + "/result")).status == 204
    await stage.begun(stage.export)
    assert (await stage.get(file)).status == 404


async def test_the_number_of_all_records_is_bounded_and_available_files_stay(
    make_stage: MakeStage,
) -> None:
    """§3.5 `storage.max_records`: then 503 with Retry-After."""
    stage = await make_stage(STORAGE__MAX_RECORDS="2")
    file = await stage.done()
    gone = await failed(stage)
    stage.fault(hold=True)
    stage.fields = stage.simulator.login("operator")
    await stage.begun(stage.export)
    assert (await stage.get(gone)).status == 404
    refused = await stage.kickoff(stage.export)
    assert (refused.status, refused.json()["type"]) == (
        503,
        "urn:vb365-async:problem:capacity-exhausted",
    )
    assert refused.json()["detail"] == (
        "2 exports are on record, unfinished or with a file that can still be downloaded "
        "(storage.max_records)."
    )
    assert int(refused["Retry-After"]) > 0
    assert (await stage.get(file + "/result")).status == 200


async def test_concurrent_kick_offs_keep_the_bound(make_stage: MakeStage) -> None:
    """§3.5: records that are being added count, and each kick-off removes what it needs."""
    stage = await make_stage(STORAGE__MAX_RECORDS="8")
    for _ in range(8):
        await failed(stage)
    stage.fault(hold=True)
    responses = await asyncio.gather(*(stage.kickoff(stage.export) for _ in range(12)))
    assert sorted(response.status for response in responses) == [202] * 8 + [503] * 4
    listed = (await stage.get("/v8/_async/exports?limit=50")).json()["results"]
    assert [job["status"] for job in listed] == ["Running"] * 8


async def strangers(play: Play, count: int) -> None:
    """Send kick-offs with invented tokens, whose heads are as large as VB365's responses."""
    path = f"{PATH}?{'q' * 20_000}"
    fields = {
        "Prefer": "respond-async, wait=0",
        "Content-Type": "x" * 20_000,
        "Accept": "y" * 20_000,
    }
    gate = asyncio.Semaphore(20)

    async def kick_off(number: int) -> None:
        async with gate:
            response = await play.ask(
                "POST", path, {"Authorization": f"Bearer {number}"} | fields, b"{}"
            )
            assert response.status == 202, response

    await asyncio.gather(*(kick_off(number) for number in range(count)))


@pytest.fixture
def stores(monkeypatch: pytest.MonkeyPatch) -> list[DiskJobs]:
    """The job stores that proxies open."""
    opened: list[DiskJobs] = []
    open_store = DiskJobs.open

    async def open_and_note(directory: Path) -> DiskJobs:
        opened.append(await open_store(directory))
        return opened[-1]

    monkeypatch.setattr(DiskJobs, "open", open_and_note)
    return opened


async def refusing(make_play: MakePlay, status: str) -> Play:
    """A proxy whose VB365 answers exports with the status, and 401 to its questions about their
    callers.
    """

    async def script(request: Message) -> bytes:
        if "limit=1" in request.target:
            return raw("401 Unauthorized")
        return raw("500 Busy") if request.method == "GET" else raw(status, [], b"x" * 70_000)

    return await make_play(script, EXPORTS__MAX_RUNNING="20", EXPORTS__SUSPEND_TTL="1s")


async def ended(jobs: DiskJobs) -> list[Job]:
    """All jobs once they have ended."""
    async with asyncio.timeout(60):
        while any(not job.terminal for job in await jobs.list()):  # noqa: ASYNC110
            await asyncio.sleep(0.05)
    return await jobs.list()


@pytest.mark.parametrize("status", ["401 Unauthorized", "400 Bad Request"])
async def test_400_invented_tokens_leave_small_records_for_ten_minutes(
    make_play: MakePlay, stores: list[DiskJobs], status: str
) -> None:
    """§3.5: the record of a job that ended by VB365's 401, and whose caller VB365 never accepted,
    is small and removed after ten minutes. Another answer proves nothing about the caller: VB365
    answers 400 to a wrong Host, whoever sends it.
    """
    play = await refusing(make_play, status)
    await strangers(play, 400)
    left = await ended(stores[0])
    assert len(left) == 400
    assert max(len(encode(job)) for job in left) < 4096
    play.clock.ahead += 601
    async with asyncio.timeout(60):
        while await stores[0].list():  # noqa: ASYNC110
            await asyncio.sleep(0.05)


async def test_a_token_that_expired_while_vb365_generated_is_not_an_invented_one(
    make_play: MakePlay, stores: list[DiskJobs], monkeypatch: pytest.MonkeyPatch
) -> None:
    """§3.5: VB365 has accepted it then, whatever it says of it after a generation."""
    monkeypatch.setattr(driver, "_AT_ONCE", 0.0)
    play = await refusing(make_play, "500 Internal Server Error")
    await strangers(play, 1)
    [job] = await ended(stores[0])
    assert job.accepted
    assert not job.denied


async def test_strangers_records_are_removed_before_those_of_others_while_vb365_is_away(
    make_stage: MakeStage,
) -> None:
    """§3.5: VB365 cannot say then whether it accepts them."""
    stage = await make_stage(STORAGE__MAX_RECORDS="4", EXPORTS__PREFLIGHT="false")
    mine = await failed(stage)
    stage.fault(reset=True)
    alice = stage.fields
    for number in range(6):
        stage.fields = {"Authorization": f"Bearer {number}"}
        await stage.kickoff(stage.export, Prefer="respond-async, wait=9")
        await stage.begun(stage.export)
    stage.fields = alice
    assert (await stage.get(mine)).status == 200
