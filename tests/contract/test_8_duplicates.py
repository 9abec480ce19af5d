"""CONTRACT §8: what a second kick-off with the same Idempotency-Key gets."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest

from proxy.jobs.attendance import Attendance
from proxy.jobs.run import Run
from proxy.jobs.runner import Runner
from proxy.ports import Response, WholeResponse
from proxy.upstream.whole_response import read_whole
from tests.contract.conftest import MakeStage, Stage
from tests.support.wire import ask, eventually


async def test_the_same_key_is_the_same_job(stage: Stage) -> None:
    """§8: 202 with the same job and Idempotency-Replayed; VB365 gets no second request; quotes are
    optional.
    """
    first = await stage.kickoff(stage.export, Idempotency_Key="key-1")
    assert "Idempotency-Replayed" not in first
    assert first.json()["request"]["idempotencyKey"] == "key-1"
    await stage.finished(stage.path(first["Location"]))
    stage.simulator.requests.clear()
    for key in ("key-1", '"key-1"'):
        again = await stage.kickoff(stage.export + "?async=true", Idempotency_Key=key)
        assert again.status == 202
        assert again["Idempotency-Replayed"] == "true"
        assert again["Location"] == first["Location"]
    assert list(stage.simulator.requests) == []


async def test_concurrent_duplicates_are_one_job(make_stage: MakeStage) -> None:
    """§8: with capacity for one job only."""
    stage = await make_stage(EXPORTS__MAX_PER_CALLER="1")
    responses = await asyncio.gather(
        *(stage.kickoff(stage.export, Idempotency_Key="k") for _ in range(8))
    )
    assert {response.status for response in responses} == {202}
    assert len({response["Location"] for response in responses}) == 1
    assert sum("Idempotency-Replayed" in response for response in responses) == 7
    await stage.finished(stage.path(responses[0]["Location"]))
    assert stage.simulator.generations[stage.export] == 1


async def test_concurrent_duplicates_share_the_rejection_within_the_grace_period(
    make_stage: MakeStage,
) -> None:
    """§3.7, §8: no client is sent to a job that was dropped."""
    stage = await make_stage(EXPORTS__GRACE="10s")
    stage.fault(status=400, body="{}", latency=0.3)
    responses = await asyncio.gather(
        *(stage.kickoff(stage.export, Idempotency_Key="k") for _ in range(4))
    )
    assert [response.status for response in responses] == [400] * 4
    assert stage.count_requests("exportToPst", "POST") == 1


async def test_set_cookie_of_a_rejection_goes_to_one_client(
    make_stage: MakeStage, monkeypatch: pytest.MonkeyPatch
) -> None:
    """§8: to the one whose request VB365 answered. The others may be other users, whom a server in
    front of VB365 tells apart by their cookies.
    """
    stage = await make_stage(EXPORTS__GRACE="60s")
    stage.fault(outlook_missing=True, hold=True, set_cookies=["session=first"])
    shares = asyncio.Event()
    original = Runner.attended

    def attended(self: Runner, id: str) -> Run | None:
        run = original(self, id)
        if run is not None:
            shares.set()
        return run

    monkeypatch.setattr(Runner, "attended", attended)
    first = asyncio.create_task(stage.kickoff(stage.export, Idempotency_Key="k"))
    await stage.simulator.until(lambda: stage.simulator.held == 1)
    duplicate = asyncio.create_task(stage.kickoff(stage.export, Idempotency_Key="k"))
    async with asyncio.timeout(20):
        await shares.wait()
        stage.simulator.release()
        responses = [await each for each in (first, duplicate)]
    assert [response.status for response in responses] == [500, 500]
    assert [response.all("Set-Cookie") for response in responses] == [["session=first"], []]
    assert stage.count_requests("exportToPst", "POST") == 1


@pytest.mark.parametrize("status", [401, 403])
async def test_a_denial_goes_to_those_with_its_credentials(
    make_stage: MakeStage, monkeypatch: pytest.MonkeyPatch, status: int
) -> None:
    """§8: VB365 may accept the others, for example with a refreshed token, or a cookie of another
    user.
    """
    waiting: list[Attendance] = []
    first_response = Attendance.first_response

    async def noted(self: Attendance, grace: float) -> Any:
        waiting.append(self)
        return await first_response(self, grace)

    async def read(response: Response, limit: int) -> WholeResponse:
        await eventually(lambda: len(waiting) > 1 and waiting[0] is waiting[1])
        return await read_whole(response, limit)

    monkeypatch.setattr(Attendance, "first_response", noted)
    monkeypatch.setattr("proxy.jobs.export_request.read_whole", read)
    stage = await make_stage(EXPORTS__GRACE="60s")
    stage.fault(status=status, body="{}", count=1)
    fields: dict[str, Any] = {"Idempotency_Key": "k", "Prefer": "respond-async, wait=30"}
    first = asyncio.create_task(stage.kickoff(stage.export, Cookie="user=1", **fields))
    await eventually(lambda: len(waiting) == 1)
    second = asyncio.create_task(stage.kickoff(stage.export, Cookie="user=2", **fields))
    assert (await first).status == status
    assert ((await second).status, (await second).body) == (200, stage.file())
    assert "Idempotency-Replayed" not in await second
    assert stage.count_requests("exportToPst", "POST") == 2


@pytest.mark.parametrize("change", ["body", "path", "query"])
async def test_another_export_under_the_key_is_422(stage: Stage, change: str) -> None:
    """§8: the fingerprint is that of method, path, query (minus `async`) and body."""
    assert (await stage.kickoff(stage.export, Idempotency_Key="k")).status == 202
    path = {"path": stage.path_of("items/save"), "query": stage.export + "?x=1"}.get(
        change, stage.export
    )
    response = await stage.kickoff(
        path, body=b"{ }" if change == "body" else b"{}", Idempotency_Key="k"
    )
    assert response.status == 422
    assert response.json()["type"] == "urn:vb365-async:problem:idempotency-key-reused"


@pytest.mark.parametrize("key", ["", '""', "a b", "x" * 256, "ä", '"a', 'a"b"c d'])
async def test_a_bad_key_is_400(stage: Stage, key: str) -> None:
    """§8: 1-255 visible ASCII characters; quotes are optional."""
    response = await stage.kickoff(stage.export, Idempotency_Key=key)
    assert response.status == 400
    assert response.json()["type"] == "urn:vb365-async:problem:idempotency-key-invalid"
    assert (await stage.kickoff(stage.export, Idempotency_Key="x" * 255)).status == 202


async def test_a_key_belongs_to_its_caller(stage: Stage) -> None:
    """§8: keys are scoped to the caller. Without a key every POST is a new job."""
    fields = {"Prefer": "respond-async", "Idempotency-Key": "k"}
    mine = await stage.ask("POST", stage.export, stage.fields | fields, b"")
    theirs = await stage.ask("POST", stage.export, stage.simulator.login("operator") | fields, b"")
    assert mine.json()["id"] != theirs.json()["id"]
    assert "Idempotency-Replayed" not in theirs
    plain = [(await stage.kickoff(stage.export)).json()["id"] for _ in range(2)]
    assert len(set(plain)) == 2


async def test_a_key_is_free_once_its_record_is_gone(
    make_stage: MakeStage, monkeypatch: pytest.MonkeyPatch
) -> None:
    """§8: deleted or expired, whether swept or not."""

    async def dead(self: object) -> None:
        return None

    monkeypatch.setattr("proxy.jobs.sweeper.Sweeper.run", dead)
    stage = await make_stage()
    seen = set()
    for end in ("delete", "expire", "stay"):
        response = await stage.kickoff(stage.export, Idempotency_Key="k")
        assert "Idempotency-Replayed" not in response
        seen.add(response.json()["id"])
        status = stage.path(response["Location"])
        await stage.finished(status)
        if end == "delete":
            assert (await stage.ask("DELETE", status)).status == 204
        elif end == "expire":
            stage.clock.ahead += 8 * 86400 + 1
    assert len(seen) == 3


async def test_two_idempotency_key_lines_are_400(stage: Stage) -> None:
    """§8: the field has one value."""
    lines = [
        *stage.fields.items(),
        ("Prefer", "respond-async"),
        ("Idempotency-Key", "a"),
        ("Idempotency-Key", "a"),
    ]
    assert (await ask(stage.url, "POST", stage.export, lines, b"")).status == 400
