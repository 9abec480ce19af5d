"""CONTRACT §3.7, §3.9, §8: clients that disconnect, retry or poll while a kick-off waits for its
first response.
"""

from __future__ import annotations

import asyncio
import socket
import struct
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from typing import Any
from urllib.parse import urlsplit

import pytest

from proxy.core.job import Job
from proxy.jobs.attendance import Attendance
from proxy.jobs.run import Run
from proxy.jobs.runner import Runner
from proxy.net.budget import Budget
from proxy.stores.disk_jobs.store import DiskJobs
from tests.contract.conftest import MakeStage, Stage
from tests.support.wire import Peer, eventually, request_bytes

#: Longer than any test waits, so that no response comes from the end of the grace period.
LONG = "60s"
SHORT = "300ms"


class Gate:
    """A method of the job store that halts once, after its effect: it sets `entered` and waits for
    `opened`.
    """

    def __init__(self, monkeypatch: pytest.MonkeyPatch, method: str, *, skip: int = 0) -> None:
        self.entered = asyncio.Event()
        self.opened = asyncio.Event()
        original: Callable[..., Awaitable[Any]] = getattr(DiskJobs, method)
        left = [skip]

        async def halting(*args: Any) -> Any:
            result = await original(*args)
            left[0] -= 1
            if left[0] == -1:
                self.entered.set()
                await self.opened.wait()
            return result

        monkeypatch.setattr(DiskJobs, method, halting)


async def listed(stage: Stage) -> list[Any]:
    return list((await stage.get("/v8/_async/exports")).json()["results"])


async def begin(stage: Stage, **more: str) -> Peer:
    """Send a kick-off on a connection that can be reset."""
    fields = stage.fields | {"Prefer": "respond-async", "Idempotency-Key": "k"} | more
    wire = await Peer.to(stage.url)
    await wire.send(request_bytes("POST", stage.export, fields, b"{}", urlsplit(stage.url).netloc))
    return wire


async def leave(stage: Stage, client: Peer) -> None:
    """Reset the client's connection and return once the proxy has noticed."""
    connection = client.writer.get_extra_info("socket")
    connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    client.abort()
    await stage.get("/_async/openapi.json")


async def generating(stage: Stage) -> None:
    """Wait until VB365 works on an export; it continues when it is released."""
    await stage.simulator.until(lambda: stage.simulator.held > 0)


def refuse(stage: Stage, **more: Any) -> None:
    """Let VB365 respond with 500 when it is released."""
    stage.fault(hold=True, outlook_missing=True, **more)


@pytest.mark.parametrize("moment", ["before the effect", "after the effect"])
async def test_a_client_that_disconnects_while_its_job_is_stored_blocks_no_retry(
    make_stage: MakeStage, monkeypatch: pytest.MonkeyPatch, moment: str
) -> None:
    """§3.9: a retry with its Idempotency-Key gets its response within the grace period, and the job
    stays.
    """
    stage = await make_stage(EXPORTS__GRACE=SHORT)
    refuse(stage)
    gate = Gate(
        monkeypatch, "find" if moment == "before the effect" else "add", skip=2 * (moment[0] == "b")
    )
    client = await begin(stage)
    async with asyncio.timeout(20):
        await gate.entered.wait()
        await leave(stage, client)
        gate.opened.set()
        retry = await stage.kickoff(stage.export, Idempotency_Key="k")
        assert retry.status == 202
        assert len(await listed(stage)) == 1
        await generating(stage)
        stage.simulator.release()
        document = (await stage.finished(stage.path(retry["Location"]))).json()
    assert (document["status"], document["error"]["upstream"]["status"]) == ("Failed", 500)
    assert [job["id"] for job in await listed(stage)] == [document["id"]]


async def test_a_job_counts_while_it_is_stored_if_its_client_disconnects(
    make_stage: MakeStage, monkeypatch: pytest.MonkeyPatch
) -> None:
    """§3.1, §3.5: its place in the quota is taken, and the memory for its body is in use: else
    clients that disconnect at once would exceed all limits.
    """
    memory, heads = Budget(1 << 20), Budget(64 << 20)
    budgets = iter((memory, Budget(1 << 20), Budget(1 << 20), heads))
    monkeypatch.setattr("proxy.parts.memory.Budget", lambda _: next(budgets))
    sizes = {"EXPORTS__BODY_MEMORY": "1MiB", "EXPORTS__MAX_REQUEST_BODY": "1MiB"}
    stage = await make_stage(EXPORTS__MAX_PER_CALLER="1", EXPORTS__GRACE=LONG, **sizes)
    stage.fault(hold=True)
    entered, opened = asyncio.Event(), asyncio.Event()
    original = DiskJobs.add

    async def halting(self: DiskJobs, job: Job, body: bytes) -> Job:
        entered.set()
        await opened.wait()
        return await original(self, job, body)

    monkeypatch.setattr(DiskJobs, "add", halting)
    client = await begin(stage)
    async with asyncio.timeout(20):
        await entered.wait()
        await leave(stage, client)
        assert memory.taken == len(b"{}")
        try:
            async with asyncio.timeout(10):
                assert (await stage.kickoff(stage.export)).status == 429
        finally:
            opened.set()
        await generating(stage)
        await eventually(lambda: memory.taken == 0)
        retry = await stage.kickoff(stage.export, Idempotency_Key="k")
        assert retry.status == 202
        stage.simulator.release()
    assert [job["id"] for job in await listed(stage)] == [retry.json()["id"]]


async def test_a_client_that_disconnects_within_the_grace_period_does_not_stop_its_job(
    make_stage: MakeStage,
) -> None:
    """§3.9: at any moment; here while it waits for the first response."""
    stage = await make_stage(EXPORTS__GRACE=LONG)
    refuse(stage)
    client = await begin(stage)
    async with asyncio.timeout(20):
        await generating(stage)
        await leave(stage, client)
        retry = await stage.kickoff(stage.export, Idempotency_Key="k")
        assert retry["Idempotency-Replayed"] == "true"
        stage.simulator.release()
        document = (await stage.finished(stage.path(retry["Location"]))).json()
    assert document["status"] == "Failed"
    assert stage.count_requests("exportToPst", "POST") == 1


async def test_a_concurrent_retry_gets_its_response_within_its_own_grace_period(
    make_stage: MakeStage,
) -> None:
    """§8: a job that was replayed with 202 is not dropped when VB365 rejects it later."""
    stage = await make_stage(EXPORTS__GRACE=LONG)
    refuse(stage)
    first = asyncio.create_task(stage.kickoff(stage.export, Idempotency_Key="k"))
    async with asyncio.timeout(20):
        await generating(stage)
        retry = await stage.kickoff(
            stage.export, Idempotency_Key="k", Prefer="respond-async, wait=0"
        )
        assert (retry.status, (await first).status) == (202, 202)
        stage.simulator.release()
        document = (await stage.finished(stage.path(retry["Location"]))).json()
    assert document["status"] == "Failed"


async def test_duplicates_within_the_grace_period_share_the_rejection(
    make_stage: MakeStage, monkeypatch: pytest.MonkeyPatch
) -> None:
    """§3.7, §8: it is relayed to each of them; no job remains."""
    stage = await make_stage(EXPORTS__GRACE=LONG)
    waiting = 0
    first_response = Attendance.first_response

    async def counted(self: Attendance, timeout: float) -> Any:
        nonlocal waiting
        waiting += 1
        return await first_response(self, timeout)

    monkeypatch.setattr(Attendance, "first_response", counted)
    refuse(stage)
    clients = [
        asyncio.create_task(stage.kickoff(stage.export, Idempotency_Key="k")) for _ in range(4)
    ]
    async with asyncio.timeout(20):
        await generating(stage)
        await eventually(lambda: waiting == len(clients))
        stage.simulator.release()
        responses = await asyncio.gather(*clients)
    assert {response.status for response in responses} == {500}
    assert b"Outlook" in responses[0].body
    assert len({response.body for response in responses}) == 1
    assert stage.count_requests("exportToPst", "POST") == 1
    assert await listed(stage) == []


async def test_a_job_that_was_listed_is_not_dropped(make_stage: MakeStage) -> None:
    """§3.7: a client that has seen the job in the list can rely on it; its kick-off gets 202 at
    once.
    """
    stage = await make_stage(EXPORTS__GRACE=LONG)
    refuse(stage)
    client = asyncio.create_task(stage.kickoff(stage.export))
    async with asyncio.timeout(20):
        while not (jobs := await listed(stage)):  # noqa: ASYNC110
            await asyncio.sleep(0.01)
        response = await client
        assert response.status == 202
        assert response.json()["id"] == jobs[0]["id"]
        await generating(stage)
        stage.simulator.release()
        await stage.finished(stage.path(response["Location"]))
    assert [job["id"] for job in await listed(stage)] == [jobs[0]["id"]]


async def test_a_duplicate_that_arrives_while_the_record_is_written_shares_the_rejection(
    make_stage: MakeStage, monkeypatch: pytest.MonkeyPatch
) -> None:
    """§3.7, §8: no 202 for a job that is dropped, although its record is visible before the store
    returns.
    """
    stage = await make_stage(EXPORTS__GRACE=LONG)
    refuse(stage)
    gate = Gate(monkeypatch, "add")
    looked = asyncio.Event()
    original = Runner.attended

    def attended(self: Runner, id: str) -> Run | None:
        looked.set()
        return original(self, id)

    monkeypatch.setattr(Runner, "attended", attended)
    first = asyncio.create_task(stage.kickoff(stage.export, Idempotency_Key="k"))
    async with asyncio.timeout(20):
        await gate.entered.wait()
        duplicate = asyncio.create_task(stage.kickoff(stage.export, Idempotency_Key="k"))
        await looked.wait()
        gate.opened.set()
        await generating(stage)
        stage.simulator.release()
        assert [(await each).status for each in (first, duplicate)] == [500, 500]
    assert stage.count_requests("exportToPst", "POST") == 1
    assert await listed(stage) == []


async def test_a_job_that_is_listed_while_its_record_is_written_is_not_dropped(
    make_stage: MakeStage, monkeypatch: pytest.MonkeyPatch
) -> None:
    """§3.7: its record is visible before the store returns."""
    stage = await make_stage(EXPORTS__GRACE=LONG)
    refuse(stage)
    gate = Gate(monkeypatch, "add")
    client = asyncio.create_task(stage.kickoff(stage.export))
    async with asyncio.timeout(20):
        await gate.entered.wait()
        jobs = await listed(stage)
        gate.opened.set()
        response = await client
        assert (response.status, response.json()["id"]) == (202, jobs[0]["id"])
        await generating(stage)
        stage.simulator.release()
        await stage.finished(stage.path(response["Location"]))
    assert [job["id"] for job in await listed(stage)] == [jobs[0]["id"]]


async def test_a_list_read_before_a_job_was_dropped_omits_it(
    make_stage: MakeStage, monkeypatch: pytest.MonkeyPatch
) -> None:
    stage = await make_stage(EXPORTS__GRACE=LONG)
    refuse(stage)
    client = asyncio.create_task(stage.kickoff(stage.export))
    async with asyncio.timeout(20):
        await generating(stage)
        read: list[Sequence[Job]] = []
        original = DiskJobs.newest
        dropped = asyncio.Event()

        async def slow(self: DiskJobs, **chosen: Any) -> AsyncIterator[Sequence[Job]]:
            async for part in original(self, **chosen):
                read.append(part)
                await dropped.wait()
                yield part

        monkeypatch.setattr(DiskJobs, "newest", slow)
        looking = asyncio.create_task(listed(stage))
        while not any(read):  # noqa: ASYNC110
            await asyncio.sleep(0.01)
        stage.simulator.release()
        assert (await client).status == 500
        dropped.set()
        assert await looking == []


async def test_a_key_whose_job_is_dropped_during_the_look_up_starts_a_new_job(
    make_stage: MakeStage, monkeypatch: pytest.MonkeyPatch
) -> None:
    """§8: no 202 for a job that no longer exists."""
    stage = await make_stage(EXPORTS__GRACE=LONG)
    refuse(stage, count=1)
    first = asyncio.create_task(stage.kickoff(stage.export, Idempotency_Key="k"))
    async with asyncio.timeout(20):
        await generating(stage)
        gate = Gate(monkeypatch, "find")
        second = asyncio.create_task(stage.kickoff(stage.export, Idempotency_Key="k"))
        await gate.entered.wait()
        stage.simulator.release()
        assert (await first).status == 500
        monkeypatch.setattr(
            "proxy.jobs.runner.Runner.attended", lambda *_: None
        )  # as it is a moment later
        gate.opened.set()
        response = await second
        assert response.status == 202
        assert (await stage.finished(stage.path(response["Location"]))).json()[
            "status"
        ] == "Success"
    assert stage.count_requests("exportToPst", "POST") == 2
