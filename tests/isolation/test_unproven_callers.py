"""Jobs of callers whom VB365 has not accepted (CONTRACT §3.5, §9)."""

from __future__ import annotations

import asyncio

import pytest

from proxy.core.job import Job, Phase, Status
from proxy.stores.disk_jobs.store import DiskJobs
from tests.contract.conftest import MakeStage, Stage
from tests.support.wire import eventually

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
    await stage.begun(stage.export, Prefer="respond-async, wait=0")
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


@pytest.mark.parametrize("path", [None, "/v8/Reports/GenerateUserProtectionReport"])
async def test_callers_that_vb365_never_accepted_get_a_quarter_of_the_queue(
    make_stage: MakeStage, path: str | None
) -> None:
    """§3.5 `exports.max_queued`: then 503 with Retry-After; accepted callers get the rest."""
    given = {"EXPORTS__PREFLIGHT": "false", "EXPORTS__MAX_QUEUED": "8", "EXPORTS__REPORTS": "true"}
    stage = await full(make_stage, **given)
    target = path or stage.export
    alice = stage.fields
    invented = [{"Authorization": f"Bearer {number}"} for number in range(12)]
    answers = await asyncio.gather(
        *(
            stage.ask("POST", target, fields | {"Prefer": "respond-async"}, b"{}")
            for fields in invented
        )
    )
    assert sorted(answer.status for answer in answers) == [202] * 2 + [503] * 10
    refused = next(answer for answer in answers if answer.status == 503)
    assert refused.json()["type"] == "urn:vb365-async:problem:capacity-exhausted"
    assert "a quarter of exports.max_queued" in refused.json()["detail"]
    assert int(refused["Retry-After"]) > 0
    stage.fields = alice
    for _ in range(6):
        await stage.begun(stage.export)
    full_queue = await stage.kickoff(stage.export)
    assert full_queue.json()["detail"] == "8 exports are waiting (exports.max_queued)."
    stage.simulator.release()


async def test_rescued_exports_of_callers_that_vb365_never_accepted_share_that_quarter(
    make_stage: MakeStage,
) -> None:
    """§3.5, §14: the others are passed through at once; accepted callers get the rest."""
    given = {"EXPORTS__MAX_QUEUED": "8", "EXPORTS__RESCUE_SYNC": "true", "EXPORTS__GRACE": "1h"}
    stage = await full(make_stage, **given)
    answers = [
        asyncio.create_task(
            stage.ask("POST", stage.export, {"Authorization": f"Bearer {number}"}, b"{}")
        )
        for number in range(12)
    ]
    await stage.simulator.until(lambda: stage.count_requests(stage.export, "POST") >= 11)
    await eventually(lambda: sum(each.done() for each in answers) == 10)
    assert {each.result().status for each in answers if each.done()} == {401}
    for _ in range(6):
        await stage.begun(stage.export)
    full_queue = await stage.kickoff(stage.export)
    assert full_queue.json()["detail"] == "8 exports are waiting (exports.max_queued)."
    stage.simulator.release()
    await asyncio.gather(*answers)


async def test_a_burst_of_an_accepted_caller_fills_the_queue(make_stage: MakeStage) -> None:
    """§3.5: also if no slot was taken when it began, so that VB365 was not asked at first."""
    stage = await make_stage(EXPORTS__MAX_RUNNING="1", EXPORTS__MAX_QUEUED="4")
    stage.fault(hold=True)
    answers = await asyncio.gather(*(stage.kickoff(stage.export) for _ in range(9)))
    assert sorted(answer.status for answer in answers) == [202] * 5 + [503] * 4
    stage.simulator.faults.clear()
    stage.simulator.release()


async def test_invented_tokens_have_one_turn_together(make_stage: MakeStage) -> None:
    """§3.6: none of them has ever started an export, so that a caller who has would wait for all of
    them, and for those that go on arriving.
    """
    stage = await full(make_stage, EXPORTS__PREFLIGHT="false")
    for number in range(5):
        invented = {"Authorization": f"Bearer invented-{number}", "Prefer": "respond-async"}
        response = await stage.ask("POST", stage.path_of("items/save"), invented, b"{}")
        assert response.json()["phase"] == "Queued"
    known = await stage.begun(stage.export)
    stage.simulator.release()
    await stage.finished(known)
    posts = [one.target for one in stage.simulator.requests if one.method == "POST"]
    assert posts.count(stage.path_of("items/save")) <= 1 + posts[::-1].index(stage.export)
    assert stage.export in posts[1:3]


@pytest.mark.parametrize(("method", "path"), [("POST", "/cancel"), ("DELETE", "")])
async def test_nobody_holds_a_slot_with_an_invented_token(
    make_stage: MakeStage, method: str, path: str
) -> None:
    """§3.5 `cancel_hold`: VB365 does not work on a request whose token it rejects."""
    stage = await make_stage(
        {"token": "opaque"}, EXPORTS__MAX_RUNNING="1", EXPORTS__PREFLIGHT="false"
    )
    stage.fault(hold=True, count=1)  # it has not looked at the token yet
    stage.fault(path=IDENTITY, method="GET", status=401, count=1)
    status = await stage.begun(stage.export)
    await stage.held()
    assert (await stage.ask(method, status + path)).status == 401
    stage.simulator.release()
    await stage.done()


async def test_a_caller_whom_vb365_accepts_cancels_its_first_export(make_stage: MakeStage) -> None:
    """§7: also while VB365 answers no access check."""
    stage = await make_stage({"token": "opaque"}, EXPORTS__PREFLIGHT="false")
    stage.fault(hold=True, method="POST")
    for _ in range(2):
        first = await stage.begun(stage.export)
        assert (await stage.ask("POST", first + "/cancel")).status == 202
        stage.fields = stage.simulator.login("operator")
        stage.fault(path="limit=1", method="GET", status=500)
    stage.simulator.release()


async def test_invented_tokens_use_a_quarter_of_the_memory_for_fields(
    make_stage: MakeStage, monkeypatch: pytest.MonkeyPatch
) -> None:
    """§3.5: while all slots are taken, their exports wait, and so do their fields in memory."""
    monkeypatch.setattr("proxy.parts.exports._HELD_FIELDS", 64 << 10)
    stage = await full(make_stage, EXPORTS__PREFLIGHT="false")
    statuses: list[int] = []
    for size in [4000] * 20 + [100] * 50:
        invented = {"Authorization": f"Bearer {len(statuses)}", "X": "x" * size}
        response = await stage.ask(
            "POST", stage.export, invented | {"Prefer": "respond-async"}, b"{}"
        )
        statuses.append(response.status)
    assert {202, 503} == set(statuses)
    for _ in range(3):
        assert (await stage.kickoff(stage.export, X="x" * 4000)).status == 202
    stage.simulator.release()


async def test_a_caller_is_confirmed_if_invented_tokens_use_their_memory_for_fields(
    make_stage: MakeStage, monkeypatch: pytest.MonkeyPatch
) -> None:
    """§3.5: also one whom VB365 was not asked about, because a slot seemed to be free."""
    monkeypatch.setattr("proxy.parts.exports._HELD_FIELDS", 16 << 10)
    stage = await make_stage({"token": "opaque"})
    stage.fault(hold=True)
    assert (await stage.kickoff(stage.export, X="x" * 5000)).status == 202
    assert stage.count_requests(IDENTITY) == 1
    stage.simulator.faults.clear()
    stage.simulator.release()


async def test_large_bodies_of_invented_tokens_do_not_fill_the_store(
    make_stage: MakeStage,
) -> None:
    """§3.5: while all slots are taken, their bodies wait in the store, for hours."""
    stage = await full(
        make_stage,
        EXPORTS__PREFLIGHT="false",
        EXPORTS__BODY_MEMORY="100KiB",
        EXPORTS__MAX_REQUEST_BODY="40KiB",
        EXPORTS__MAX_QUEUED="80",
    )
    body, responses = b"x" * (40 << 10), []
    for number in range(4):
        invented = {"Authorization": f"Bearer {number}", "Prefer": "respond-async"}
        responses.append(await stage.ask("POST", stage.export, invented, body))
    assert [each.status for each in responses] == [202, 202, 503, 503]
    assert "exports.body_memory" in responses[-1].json()["detail"]
    small = {"Authorization": "Bearer small", "Prefer": "respond-async"}
    assert (await stage.ask("POST", stage.export, small, b"{}")).status == 202
    for _ in range(3):
        assert (await stage.kickoff(stage.export, body=body)).status == 202
    stage.simulator.release()


async def test_a_large_body_of_an_invented_token_is_not_kept_after_401(
    make_stage: MakeStage, stores: list[DiskJobs]
) -> None:
    """§9: a suspended export keeps its body; this one fails."""
    stage = await full(make_stage, EXPORTS__PREFLIGHT="false")
    waiting = []
    for size in (1000, 300 << 10):
        invented = {"Authorization": f"Bearer {size}", "Prefer": "respond-async"}
        response = await stage.ask("POST", stage.export, invented, b"x" * size)
        waiting.append(stage.path(response["Location"]))
    stage.simulator.release()
    async with asyncio.timeout(20):
        while (await job_of(stores, waiting[1])).phase is not Phase.COMPLETED:  # noqa: ASYNC110
            await asyncio.sleep(0.01)
    small, large = [await job_of(stores, each) for each in waiting]
    assert small.phase is Phase.SUSPENDED
    assert (large.status, large.error and large.error.status) == (Status.FAILED, 401)
    assert await stores[-1].body(large.id) is None
