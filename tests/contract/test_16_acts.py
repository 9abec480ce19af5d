"""CONTRACT §16: what an operator does to jobs through /api, and that it is on record."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from proxy.core.events import Expired, Extended
from proxy.jobs.record import attempt
from tests.contract.conftest import MakeStage, Stage
from tests.contract.test_16_access import TOKEN, session_of, sign_in
from tests.contract.test_16_api import get, id_of
from tests.support.harness import new_world
from tests.support.log_lines import check_documented, logged
from tests.support.wire import Message, ask


async def act(stage: Any, method: str, path: str, document: Any = None, **fields: str) -> Message:
    body = b"" if document is None else json.dumps(document).encode()
    given = {"X-VB365-Admin": "1"} | {name.replace("_", "-"): f for name, f in fields.items()}
    return await ask(stage.running.admin_url, method, f"/api/jobs/{path}", given, body)


async def test_cancel_ends_a_running_export(make_stage: MakeStage) -> None:
    """202 while it is being cancelled; on an export that has ended, 200 and nothing happens."""
    stage = await make_stage()
    stage.fault(hold=True)
    status = await stage.begun(stage.export)
    await stage.held()
    with logged() as log:
        response = await act(stage, "POST", f"{id_of(status)}/cancel", X_Request_Id="r1")
        assert response.status in (200, 202)
        assert response.json()["id"] == id_of(status)
        assert (await stage.finished(status)).json()["status"] == "Cancelled"
        again = await act(stage, "POST", f"{id_of(status)}/cancel")
    assert (again.status, again.json()["status"]) == (200, "Cancelled")
    check_documented(log.entries)
    (entry,) = log.named("job.operator_act")
    assert (entry["act"], entry["auth"], entry["job"]) == ("cancel", "none", id_of(status))
    assert (entry["client"], entry["request_id"]) == ("127.0.0.1", "r1")
    (cancelled,) = log.named("job.cancelled")
    assert cancelled["request_id"] == "r1"
    stage.simulator.release()


async def test_a_persisted_success_beats_a_late_cancel(stage: Stage) -> None:
    status = await stage.done()
    response = await act(stage, "POST", f"{id_of(status)}/cancel")
    assert (response.status, response.json()["status"]) == (200, "Success")


async def test_delete_forgets_the_job_and_is_idempotent(make_stage: MakeStage) -> None:
    stage = await make_stage()
    status = await stage.done()
    with logged() as log:
        for _ in range(2):
            response = await act(stage, "DELETE", id_of(status))
            assert (response.status, response.body) == (204, b"")
    assert [entry["act"] for entry in log.named("job.operator_act")] == ["delete"]
    assert (await stage.get(status)).json()["type"].endswith("job-deleted")
    assert (await get(stage, f"/api/jobs/{id_of(status)}")).status == 404
    stage.fault(hold=True)
    running = await stage.begun(stage.export)
    assert (await act(stage, "DELETE", id_of(running))).status == 204
    assert (await stage.get(running)).status == 404
    stage.simulator.release()


async def test_release_deletes_the_file_and_keeps_the_record(make_stage: MakeStage) -> None:
    stage = await make_stage()
    status = await stage.done()
    for _ in range(2):
        assert (await act(stage, "DELETE", f"{id_of(status)}/result")).status == 204
    row = (await get(stage, f"/api/jobs/{id_of(status)}")).json()
    assert row["result"]["state"] == "Deleted"
    last = row["timeline"][-1]
    assert (last["event"], last["detail"]) == ("deleted", "file")
    assert (await stage.get(status + "/result")).status == 410
    stage.fault(hold=True)
    running = await stage.begun(stage.export)
    response = await act(stage, "DELETE", f"{id_of(running)}/result")
    assert response.status == 409
    assert response.json()["type"].endswith("result-not-ready")
    assert int(response["Retry-After"]) >= 1
    stage.simulator.release()


async def test_extend_keeps_the_file_and_its_record(make_stage: MakeStage) -> None:
    """The file of a day is there on the second; after that it expires as any other."""
    stage = await make_stage()
    status = await stage.done()
    before = (await stage.get(status)).json()
    with logged() as log:
        response = await act(stage, "POST", f"{id_of(status)}/extend", {"ttl": "24h"})
    assert response.status == 200
    assert response.json()["expirationTime"] > before["expirationTime"]
    (entry,) = log.named("job.operator_act")
    assert (entry["act"], entry["expires"]) == ("extend", response.json()["expirationTime"])
    check_documented(log.entries)
    response = await act(stage, "POST", f"{id_of(status)}/extend", {"ttl": "10d"})
    extended = response.json()["expirationTime"]
    assert (await stage.get(status)).json()["result"]["expirationTime"] == extended
    shorter = await act(stage, "POST", f"{id_of(status)}/extend", {"ttl": "1m"})
    assert shorter.json()["expirationTime"] == extended, "never shortened"
    stage.clock.ahead += 9 * 86_400  # beyond result_ttl and record_ttl
    stage.fields = stage.simulator.login()
    assert (await stage.get(status + "/result")).body == stage.file()
    stage.clock.ahead += 2 * 86_400
    assert (await stage.get(status + "/result")).status == 410
    assert (await act(stage, "POST", f"{id_of(status)}/extend", {"ttl": "1h"})).status == 410


@pytest.mark.parametrize(
    ("body", "part"),
    [
        (b"", "no JSON"),
        (b"24h", "no JSON"),
        (b"[" * 3000, "no JSON"),
        (b"[]", "ttl=null"),
        (b"{}", "ttl=null"),
        (b'{"ttl": 24}', "ttl=24 "),
        (b'{"ttl": "24"}', '"24"'),
        (b'{"ttl": "-1h"}', '"-1h"'),
        (b'{"ttl": "0s"}', "'0s'"),
        (b'{"ttl": "31d"}', "at most 30d"),
        (b'{"ttl": "999999999d"}', "at most 30d"),
        (b" " * 5000, "more than 4096"),
    ],
)
async def test_a_bad_ttl_is_named_with_the_fix(stage: Stage, body: bytes, part: str) -> None:
    status = await stage.done()
    path = f"/api/jobs/{id_of(status)}/extend"
    response = await ask(stage.running.admin_url, "POST", path, {"X-VB365-Admin": "1"}, body)
    assert response.status == 400
    assert part in response.json()["detail"]


async def test_only_a_file_that_is_there_can_be_extended(make_stage: MakeStage) -> None:
    stage = await make_stage()
    released = await stage.done()
    await act(stage, "DELETE", f"{id_of(released)}/result")
    stage.fault(outlook_missing=True)
    failed = await stage.begun(stage.export)
    await stage.finished(failed)
    stage.fault(hold=True)
    running = await stage.begun(stage.export)
    deleted = await stage.begun(stage.export)
    await act(stage, "DELETE", id_of(deleted))
    for status, code, name in (
        (released, 410, "result-deleted"),
        (failed, 409, "export-failed"),
        (running, 409, "result-not-ready"),
        (deleted, 404, "job-deleted"),
    ):
        response = await act(stage, "POST", f"{id_of(status)}/extend", {"ttl": "1h"})
        assert (response.status, response.json()["type"].rpartition(":")[2]) == (code, name)
        assert response.json()["requestId"] == response["X-Request-Id"]
    await act(stage, "POST", f"{id_of(running)}/cancel")
    await stage.finished(running)
    response = await act(stage, "POST", f"{id_of(running)}/extend", {"ttl": "1h"})
    assert response.json()["type"].endswith("export-cancelled")
    stage.simulator.release()


async def test_acts_on_a_job_that_does_not_exist_are_404(stage: Stage) -> None:
    unknown = "5f0c6d3e-0000-4000-8000-000000000000"
    for method, path in (
        ("POST", f"{unknown}/cancel"),
        ("POST", f"{unknown}/extend"),
        ("DELETE", f"{unknown}/result"),
        ("DELETE", unknown),
    ):
        assert (await act(stage, method, path, {"ttl": "1h"})).status == 404


async def test_the_audit_file_says_who_did_it(make_stage: MakeStage, tmp_path: Path) -> None:
    """§16: the token, or the session of a browser."""
    audit = tmp_path / "audit.log"
    stage = await make_stage(ADMIN__TOKEN=TOKEN)
    session = session_of(await sign_in(stage))
    first, second = await stage.done(), await stage.done()
    with logged("error", audit=audit):
        await act(stage, "DELETE", id_of(first), Cookie=session)
        await act(stage, "DELETE", id_of(second), Authorization=f"Bearer {TOKEN}")
    entries = [json.loads(line) for line in audit.read_text().splitlines()]
    acts = [entry for entry in entries if entry["event"] == "job.operator_act"]
    assert [(entry["auth"], entry["job"]) for entry in acts] == [
        ("session", id_of(first)),
        ("token", id_of(second)),
    ]
    assert {entry["client"] for entry in acts} == {"127.0.0.1"}
    assert TOKEN not in audit.read_text()


async def test_a_file_that_is_extended_while_it_is_swept_stays() -> None:
    """The sweeper has read the record before, and its change comes after."""
    async with new_world() as world:
        job, _ = await world.submit()
        await world.quiet()
        known = world.jobs.jobs[job]
        assert known.expires is not None
        world.clock = known.expires - 1
        assert await attempt(world.jobs, known, Extended(known.expires + 100), world.now)
        world.clock += 2
        assert await attempt(world.jobs, known, Expired(), world.now) is None
        await world.sweep()
        assert world.jobs.jobs[job].result == "Available"
        assert await world.artifacts.get(job) is not None
        world.clock += 100
        await world.sweep()
        assert await world.artifacts.get(job) is None
