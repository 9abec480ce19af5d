"""CONTRACT §7: cancel, delete, expiry: every row of the table."""

from __future__ import annotations

import asyncio
import uuid
from pathlib import Path
from urllib.parse import urlsplit

import pytest

from proxy.jobs.sweeper import Sweeper
from tests.contract.conftest import MakeStage, Stage
from tests.contract.test_3_leaving import Gate, leave
from tests.support.wire import Message, Peer, eventually, request_bytes


def kind(response: Message) -> str:
    return str(response.json()["type"]).removeprefix("urn:vb365-async:problem:")


async def running(stage: Stage) -> str:
    stage.fault(hold=True)
    status = await stage.begun(stage.export)
    await stage.held()
    return status


async def test_cancelling_a_running_job_is_202(stage: Stage) -> None:
    """§7: phase Cancelling, VB365's connection is closed, soon the status is Cancelled and never
    changes.
    """
    status = await running(stage)
    response = await stage.ask("POST", status + "/cancel")
    assert response.status == 202
    assert response.json()["phase"] == "Cancelling"
    assert response.json()["status"] == "Running"
    assert response["Location"] == stage.url + status
    assert response["Cache-Control"] == "no-store"
    over = await stage.finished(status)
    assert (over.json()["status"], over.json()["phase"]) == ("Cancelled", "Completed")
    await stage.simulator.until(lambda: stage.simulator.deliveries[-1].outcome == "disconnected")
    stage.simulator.release()
    assert (await stage.get(status)).json() == over.json()


async def test_cancelling_a_queued_job_sends_nothing_to_the_upstream(make_stage: MakeStage) -> None:
    """§7: VB365 gets no request for it."""
    stage = await make_stage(EXPORTS__MAX_RUNNING="1")
    await running(stage)
    status = await stage.begun(stage.path_of("items/save"))
    assert (await stage.ask("POST", status + "/cancel")).status == 202
    assert (await stage.finished(status)).json()["status"] == "Cancelled"
    assert stage.count_requests("items/save", "POST") == 0


async def test_cancelling_a_terminal_job_changes_nothing(stage: Stage) -> None:
    """§7: 200 with the same document."""
    status = await stage.done()
    before = (await stage.get(status)).json()
    response = await stage.ask("POST", status + "/cancel", body=b"{}")
    assert response.status == 200
    assert response.json() == before == (await stage.get(status)).json()
    assert response["AsyncResult"] == "200"


async def begin(stage: Stage, method: str, target: str) -> Peer:
    """Send a request on a connection that can be reset."""
    peer = await Peer.to(stage.url)
    await peer.send(request_bytes(method, target, stage.fields, None, urlsplit(stage.url).netloc))
    return peer


@pytest.fixture
def no_sweeps(monkeypatch: pytest.MonkeyPatch) -> None:
    """What a sweep would do later is not done."""

    async def nothing(self: Sweeper) -> None:
        pass

    monkeypatch.setattr(Sweeper, "sweep", nothing)


@pytest.mark.usefixtures("no_sweeps")
@pytest.mark.parametrize(("method", "ending"), [("POST", "/cancel"), ("DELETE", "")])
async def test_an_export_stops_although_the_caller_that_ends_it_disconnects(
    stage: Stage, monkeypatch: pytest.MonkeyPatch, method: str, ending: str
) -> None:
    """§7: while the end is being stored. VB365's connection is closed at once."""
    status = await running(stage)
    gate = Gate(monkeypatch, "replace")
    client = await begin(stage, method, status + ending)
    async with asyncio.timeout(20):
        await gate.entered.wait()
        await leave(stage, client)
        gate.opened.set()
        over = "disconnected"
        await stage.simulator.until(lambda: stage.simulator.deliveries[-1].outcome == over)
    stage.simulator.release()


async def test_a_job_that_is_deleted_while_its_kick_off_waits_is_not_shown(stage: Stage) -> None:
    """§5, §7: there is no document of a deleted job."""
    stage.fault(hold=True)
    kickoff = asyncio.create_task(stage.kickoff(stage.export, Prefer="respond-async, wait=30"))
    await stage.held()
    [job] = (await stage.get("/v8/_async/exports")).json()["results"]
    assert (await stage.ask("DELETE", f"/v8/_async/exports/{job['id']}")).status == 204
    response = await kickoff
    assert (response.status, kind(response)) == (404, "job-deleted")
    stage.simulator.release()


async def test_deleting_the_result_releases_the_file(stage: Stage) -> None:
    """§7: DELETE of the result is 409 while the job runs, then 204 with `result.state` Deleted, and
    204 again.
    """
    status = await running(stage)
    response = await stage.ask("DELETE", status + "/result")
    assert (response.status, kind(response)) == (409, "result-not-ready")
    assert "Retry-After" in response
    stage.simulator.release()
    await stage.finished(status)
    for _ in range(2):
        response = await stage.ask("DELETE", status + "/result")
        assert (response.first, response.body) == ("HTTP/1.1 204 No Content", b"")
        assert "Content-Length" not in response
    document = (await stage.get(status)).json()
    assert (document["status"], document["result"]["state"]) == ("Success", "Deleted")
    gone = await stage.get(status + "/result")
    assert (gone.status, kind(gone), gone.json()["errorCode"]) == (
        410,
        "result-deleted",
        "ResourceNotFound",
    )


def files_of(job: str, directory: Path) -> list[Path]:
    return [path for path in directory.rglob("*") if job in path.name]


@pytest.mark.usefixtures("no_sweeps")
async def test_a_file_is_removed_although_the_caller_that_deletes_it_disconnects(
    stage: Stage, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """§7: while the end of the result is being stored."""
    status = await stage.done()
    job = status.rpartition("/")[2]
    gate = Gate(monkeypatch, "replace")
    client = await begin(stage, "DELETE", status + "/result")
    async with asyncio.timeout(20):
        await gate.entered.wait()
        await leave(stage, client)
        assert files_of(job, tmp_path)
        gate.opened.set()
        await eventually(lambda: not files_of(job, tmp_path))


async def test_deleting_a_result_without_a_file_is_204(stage: Stage) -> None:
    """§7."""
    stage.fault(outlook_missing=True)
    status = await stage.begun(stage.export)
    await stage.finished(status)
    assert (await stage.ask("DELETE", status + "/result")).status == 204
    assert (await stage.get(status)).json()["status"] == "Failed"


@pytest.mark.parametrize("state", ["running", "terminal"])
async def test_deleting_a_job_leaves_a_tombstone(stage: Stage, state: str) -> None:
    """§7: 204: the job is cancelled, released and forgotten; a second DELETE is 204 too; everything
    else is 404 `job-deleted`, and 404 after 24 h.
    """
    status = await running(stage) if state == "running" else await stage.done()
    for _ in range(2):
        response = await stage.ask("DELETE", status)
        assert (response.first, response.body) == ("HTTP/1.1 204 No Content", b"")
    if state == "running":
        await stage.simulator.until(
            lambda: stage.simulator.deliveries[-1].outcome == "disconnected"
        )
    calls = [("GET", ""), ("GET", "/result"), ("POST", "/cancel"), ("DELETE", "/result")]
    for method, suffix in calls:
        response = await stage.ask(method, status + suffix)
        assert (response.status, kind(response)) == (404, "job-deleted"), method + suffix
    assert (await stage.ask("HEAD", status)).status == 404
    assert (await stage.get("/v8/_async/exports")).json()["results"] == []
    stage.clock.ahead += 24 * 3600 + 1
    response = await stage.ask("DELETE", status)
    assert (response.status, kind(response)) == (404, "job-not-found")


async def test_unknown_and_foreign_jobs_are_the_same_404(stage: Stage) -> None:
    """§7: 404 for every call, the same for both."""
    status = await stage.done()
    calls = [
        ("POST", "/cancel"),
        ("DELETE", "/result"),
        ("DELETE", ""),
        ("GET", ""),
        ("GET", "/result"),
    ]
    foreign = stage.simulator.login("bob")
    for method, suffix in calls:
        unknown = f"/v8/_async/exports/{uuid.uuid4()}"
        responses = [
            await stage.ask(method, unknown + suffix),
            await stage.ask(method, status + suffix, foreign),
        ]
        for response in responses:
            assert (response.status, kind(response)) == (404, "job-not-found")
            assert response.json()["errorCode"] == "ResourceNotFound"
        own = ("instance", "requestId")
        known = [
            {k: v for k, v in response.json().items() if k not in own} for response in responses
        ]
        assert known[0] == known[1]
    assert (await stage.get(status)).json()["result"]["state"] == "Available"


@pytest.mark.parametrize("sweeper", ["alive", "dead"])
async def test_a_result_and_then_its_record_expire(
    make_stage: MakeStage, monkeypatch: pytest.MonkeyPatch, sweeper: str
) -> None:
    """§7: 410 `result_ttl` after the end, 404 `record_ttl` later, whether swept or not."""
    if sweeper == "dead":

        async def dead(self: object) -> None:
            return None

        monkeypatch.setattr("proxy.jobs.sweeper.Sweeper.run", dead)
    stage = await make_stage()
    status = await stage.done()
    stage.clock.ahead += 24 * 3600 - 60
    stage.fields = stage.simulator.login()
    assert (await stage.get(status + "/result")).status == 200
    stage.clock.ahead += 61
    response = await stage.get(status + "/result")
    assert (response.status, kind(response)) == (410, "result-expired")
    assert (await stage.get(status + "/result", Range="bytes=0-1")).status == 410
    document = (await stage.get(status)).json()
    assert (document["status"], document["result"]["state"]) == ("Success", "Expired")
    assert "digest" not in document["result"]
    assert (await stage.ask("DELETE", status + "/result")).status == 204
    stage.clock.ahead += 7 * 86400
    for suffix in ("", "/result"):
        response = await stage.get(status + suffix)
        assert (response.status, kind(response)) == (404, "job-not-found")
    assert (await stage.get("/v8/_async/exports")).json()["results"] == []
