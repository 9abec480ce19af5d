"""Jobs of callers whom VB365 has not accepted (CONTRACT §3.5, §9)."""

from __future__ import annotations

import pytest

from proxy.core.job import Job
from proxy.stores.disk_jobs.store import DiskJobs
from tests.contract.conftest import MakeStage, Stage

IDENTITY = "RestoreSessions?limit=1"


@pytest.fixture
def stores(monkeypatch: pytest.MonkeyPatch) -> list[DiskJobs]:
    """The job stores that proxies open from now on."""
    opened: list[DiskJobs] = []
    open_store = DiskJobs.open

    async def open_and_note(*args: object) -> DiskJobs:
        opened.append(await open_store(*args))  # type: ignore[arg-type]
        return opened[-1]

    monkeypatch.setattr(DiskJobs, "open", open_and_note)
    return opened


async def job_of(stores: list[DiskJobs], status: str) -> Job:
    """Return the record behind the path of a status monitor."""
    job = await stores[-1].get(status.rpartition("/")[2])
    assert job is not None
    return job


async def full(make_stage: MakeStage, token: str = "opaque", **given: str) -> Stage:
    """Start a proxy whose only slot is taken by alice's export."""
    stage = await make_stage({"token": token, "size": 1000}, EXPORTS__MAX_RUNNING="1", **given)
    stage.fault(hold=True, count=1)
    await stage.begun(stage.export)
    await stage.simulator.until(lambda: stage.simulator.held == 1)
    return stage


@pytest.mark.parametrize("token", ["opaque", "jwt"])
async def test_a_queued_job_of_an_accepted_caller_is_marked(
    make_stage: MakeStage, stores: list[DiskJobs], token: str
) -> None:
    """§3.5: VB365 is asked about the caller of a job that has to wait, once."""
    stage = await full(make_stage, token)
    stage.fields = stage.simulator.login("operator")
    before = stage.count_requests(IDENTITY)
    for _ in range(2):
        queued = await stage.begun(stage.export)
        assert (await job_of(stores, queued)).accepted
    assert stage.count_requests(IDENTITY) - before == 1
    stage.simulator.release()


async def test_a_job_that_starts_at_once_costs_no_further_request(make_stage: MakeStage) -> None:
    """§3: VB365 decides about it with its first response."""
    stage = await make_stage()
    await stage.begun(stage.export)
    assert stage.count_requests(IDENTITY) == 0


@pytest.mark.parametrize("token", ["opaque", "jwt"])
async def test_a_preflight_does_not_mark_a_queued_job(
    make_stage: MakeStage, stores: list[DiskJobs], token: str
) -> None:
    """§2: it has the path and the Host that the caller wrote."""
    stage = await full(make_stage, token, EXPORTS__PREFLIGHT="true")
    stage.fields = stage.simulator.login("operator")
    stage.simulator.fault(path="limit=1", method="GET", status=401)
    queued = await stage.begun(stage.export)
    assert not (await job_of(stores, queued)).accepted
    stage.simulator.release()
