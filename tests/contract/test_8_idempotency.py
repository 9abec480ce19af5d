"""CONTRACT §8: Idempotency-Key."""

from __future__ import annotations

import asyncio
from dataclasses import replace
from typing import Any

import pytest

from proxy.api.kickoff import KickoffHandler
from proxy.core.job import Job
from tests.contract.conftest import MakeStage, Stage
from tests.support.wire import Message, ask


def kind(response: Message) -> str:
    return str(response.json()["type"]).removeprefix("urn:vb365-async:problem:")


@pytest.mark.parametrize("key", ["", '""', "a b", '"a', "k\xe9", "k" * 256, '"' + "k" * 256 + '"'])
async def test_a_malformed_key_is_400(stage: Stage, key: str) -> None:
    """§8: 1-255 visible ASCII characters, quotes optional, else 400; VB365 gets no request."""
    response = await stage.kickoff(stage.export, Idempotency_Key=key)
    assert (response.status, kind(response)) == (400, "idempotency-key-invalid")
    assert response.json()["errorCode"] == "ParameterValidationFailure"
    assert list(stage.simulator.requests) == []


async def test_two_keys_are_400(stage: Stage) -> None:
    """§8: the field has one value."""
    lines = [
        *stage.fields.items(),
        ("Prefer", "respond-async"),
        ("Idempotency-Key", "a"),
        ("Idempotency-Key", "a"),
    ]
    response = await ask(stage.url, "POST", stage.export, lines, b"{}")
    assert (response.status, kind(response)) == (400, "idempotency-key-invalid")


async def test_a_replay_is_the_same_job(stage: Stage) -> None:
    """§8: 202 with the same job and `Idempotency-Replayed: true`; VB365 gets no second request;
    quotes do not count.
    """
    key = "k" * 255
    first = await stage.kickoff(stage.export, Idempotency_Key=key)
    assert first.status == 202
    assert "Idempotency-Replayed" not in first
    assert first.json()["request"]["idempotencyKey"] == key
    await stage.finished(stage.path(first["Location"]))
    before = len(stage.simulator.requests)
    for spelt in (key, f'"{key}"'):
        again = await stage.kickoff(stage.export + "?async=true", Idempotency_Key=spelt)
        assert (again.status, again["Idempotency-Replayed"]) == (202, "true")
        assert again["Location"] == first["Location"]
    assert len(stage.simulator.requests) == before


async def test_concurrent_duplicates_are_one_job(stage: Stage) -> None:
    """§8: the same holds for concurrent duplicates."""
    stage.fault(hold=True)
    responses = await asyncio.gather(
        *(stage.kickoff(stage.export, Idempotency_Key="k") for _ in range(8))
    )
    assert {response.status for response in responses} == {202}
    assert len({response["Location"] for response in responses}) == 1
    assert sum("Idempotency-Replayed" not in response for response in responses) == 1
    await stage.simulator.until(lambda: stage.simulator.held == 1)
    stage.simulator.release()
    await stage.finished(stage.path(responses[0]["Location"]))
    assert stage.count_requests("exportToPst", "POST") == 1


async def test_another_fingerprint_is_422(stage: Stage) -> None:
    """§8: path, query (minus `async`) and body make the fingerprint."""
    await stage.begun(stage.export, Idempotency_Key="k")
    for path, body in (
        (stage.export + "?x=1", b"{}"),
        (stage.export, b"{ }"),
        (stage.path_of("items/save"), b"{}"),
    ):
        response = await stage.kickoff(path, body=body, Idempotency_Key="k")
        assert (response.status, kind(response)) == (422, "idempotency-key-reused")
        assert response.json()["errorCode"] == "ParameterValidationFailure"


async def test_a_key_belongs_to_its_caller(stage: Stage) -> None:
    """§8: keys are scoped to the caller."""
    mine = await stage.begun(stage.export, Idempotency_Key="k")
    fields = stage.simulator.login("operator") | {"Prefer": "respond-async", "Idempotency-Key": "k"}
    theirs = await stage.ask("POST", stage.export, fields, b"other")
    assert theirs.status == 202
    assert "Idempotency-Replayed" not in theirs
    assert stage.path(theirs["Location"]) != mine


@pytest.mark.parametrize("end", ["deleted", "expired"])
async def test_a_key_is_free_once_its_record_is_gone(make_stage: MakeStage, end: str) -> None:
    """§8: after DELETE, and after `record_ttl`, the same key starts a new export."""
    stage = await make_stage({"token_lifetime": 1e9})
    first = await stage.done(Idempotency_Key="k")
    if end == "deleted":
        assert (await stage.ask("DELETE", first)).status == 204
    else:
        stage.clock.ahead += 8 * 86400 + 1
    response = await stage.kickoff(stage.export, Idempotency_Key="k")
    assert response.status == 202
    assert "Idempotency-Replayed" not in response
    assert stage.path(response["Location"]) != first


async def test_without_a_key_every_post_is_a_new_job(stage: Stage) -> None:
    """§8: without a key nothing is replayed."""
    assert await stage.begun(stage.export) != await stage.begun(stage.export)


async def test_an_expired_file_is_shown_as_expired_before_it_is_swept(
    make_stage: MakeStage, monkeypatch: pytest.MonkeyPatch
) -> None:
    """§7: a replay and a late cancel show no expired file, even if the sweeper has stopped."""

    async def dead(self: object) -> None:
        return None

    monkeypatch.setattr("proxy.jobs.sweeper.Sweeper.run", dead)
    stage = await make_stage({"token_lifetime": 1e9})
    status = await stage.done(Idempotency_Key="k")
    stage.clock.ahead += 24 * 3600 + 1
    cancel = await stage.ask("POST", status + "/cancel")
    replay = await stage.kickoff(stage.export, Idempotency_Key="k")
    assert (cancel.status, replay.status) == (200, 202)
    for response in (cancel, replay):
        assert response.json()["result"]["state"] == "Expired"


async def test_a_key_whose_jobs_keep_vanishing_is_refused(
    stage: Stage, monkeypatch: pytest.MonkeyPatch
) -> None:
    """§8: a kick-off ends even if each job with its key is refused before it can be replayed."""
    submitted = []

    async def submit(self: KickoffHandler, call: Any, job: Job, *_: object) -> Job:
        submitted.append(job)
        return replace(job, id="other")

    async def replay(*_: object) -> None:
        return None

    monkeypatch.setattr(KickoffHandler, "_submit", submit)
    monkeypatch.setattr(KickoffHandler, "_replay_job", replay)
    answer = await stage.kickoff(stage.export, Idempotency_Key="k")
    assert (answer.status, kind(answer)) == (503, "capacity-exhausted")
    assert int(answer["Retry-After"]) >= 1
    assert len(submitted) == 8
