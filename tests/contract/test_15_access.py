"""CONTRACT §15: one access line per request, with the job that the request is about."""

from __future__ import annotations

from typing import Any

import pytest

from tests.contract.conftest import MakeStage
from tests.support.log_lines import LogLines, check_documented, logged
from tests.support.wire import eventually


async def found(log: LogLines, number: int) -> list[dict[str, Any]]:
    await eventually(lambda: len(log.named("request")) >= number)
    return log.named("request")


async def test_without_the_setting_there_are_none(make_stage: MakeStage) -> None:
    with logged() as log:
        stage = await make_stage(LOG__ACCESS="false")
        await stage.get("/v8/RestoreSessions?limit=1")
        await stage.done()
    assert not log.named("request")


async def test_each_request_of_an_export_has_its_line(make_stage: MakeStage) -> None:
    """The line has the id of the response and of the job's own events."""
    with logged() as log:
        stage = await make_stage()
        accepted = await stage.kickoff(stage.export)
        status = stage.path(accepted["Location"])
        await stage.finished(status)
        await stage.get(status + "/result")
        # its line is written when the proxy knows that everything is sent
        await eventually(lambda: log.named("request")[-1]["path"] == f"{status}/result")
        await stage.get(status.replace("/v8/", "/v8/no-"), X_Request_Id="relayed")
        await stage.ask("DELETE", status)
        await stage.get("/_async/openapi.json")
        lines = await found(log, 6)
    check_documented(log.entries)
    job = status.rpartition("/")[2]
    kickoff, *polls = lines
    assert (kickoff["lane"], kickoff["status"], kickoff["job"]) == ("kickoff", 202, job)
    assert kickoff["request_id"] == accepted["X-Request-Id"]
    (stored,) = log.named("job.accepted")
    assert (stored["request_id"], stored["client"]) == (kickoff["request_id"], kickoff["client"])
    *polls, result, relayed, deleted, description = polls
    assert {(line["lane"], line["path"], line["job"]) for line in polls} == {("own", status, job)}
    assert (result["path"], result["job"], result["status"]) == (f"{status}/result", job, 200)
    assert result["bytes_out"] > len(stage.file())
    assert (relayed["lane"], relayed["request_id"], relayed["job"]) == ("relay", "relayed", None)
    assert (deleted["method"], deleted["status"], deleted["job"]) == ("DELETE", 204, job)
    assert (description["lane"], description["job"]) == ("own", None)
    assert {line["termination"] for line in lines} == {"served"}


@pytest.mark.parametrize("fields", [{"Prefer": "respond-async, wait=20"}, {"Idempotency_Key": "k"}])
async def test_a_kickoff_names_its_job(make_stage: MakeStage, fields: dict[str, str]) -> None:
    """Also one that gets the file, and one that gets an earlier job."""
    with logged() as log:
        stage = await make_stage()
        for _ in range(2):
            await stage.kickoff(stage.export, body=b"{}", **fields)
        first, second = [line for line in await found(log, 2) if line["lane"] == "kickoff"]
        jobs = [entry["job"] for entry in log.named("job.accepted")]
    assert [first["job"], second["job"]] == (jobs * 2)[:2]


async def test_a_kickoff_that_vb365_refuses_has_no_job_and_the_id_of_its_events(
    make_stage: MakeStage,
) -> None:
    """The response is VB365's own and names no id; the log does."""
    with logged() as log:
        stage = await make_stage(EXPORTS__GRACE="10s")
        stage.fault(outlook_missing=True)
        response = await stage.kickoff(stage.export)
        (line,) = [each for each in await found(log, 1) if each["lane"] == "kickoff"]
        (accepted,) = log.named("job.accepted")
    assert (response.status, line["status"], line["job"]) == (500, 500, None)
    assert line["request_id"] == accepted["request_id"]
    assert "X-Request-Id" not in response


async def test_a_problem_has_the_id_of_its_line(make_stage: MakeStage) -> None:
    with logged() as log:
        stage = await make_stage()
        response = await stage.get("/v8/_async/exports/nothing?secret")
        (line,) = await found(log, 1)
        (refused,) = log.named("request.refused")
    assert response.json()["requestId"] == line["request_id"] == refused["request_id"]
    assert (line["path"], line["status"]) == ("/v8/_async/exports/nothing", 404)
