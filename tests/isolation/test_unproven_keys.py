"""One Idempotency-Key whose first caller VB365 could not confirm at the kick-off (CONTRACT §8)."""

from __future__ import annotations

import asyncio
import dataclasses

import pytest

from proxy.api import idempotency
from proxy.core.job import Job
from proxy.simulator.settings import USERS
from proxy.stores.disk_jobs.store import DiskJobs
from tests.contract.conftest import MakePlay, MakeStage, Stage
from tests.contract.test_9_access import jwt
from tests.isolation.test_who_a_caller_is import ASYNC, KEY, LIST, forged
from tests.support.wire import Message, raw

EXPORT = "/v8/RestoreSessions/s/organization/exportToPst"


def outage(stage: Stage) -> None:
    """From now on VB365 answers no question about access."""
    stage.simulator.fault(path="RestoreSessions", method="GET", status=503)


async def jwt_stage(make_stage: MakeStage, **given: str) -> Stage:
    return await make_stage({"token": "jwt", "size": 1000}, **given)


async def test_a_refreshed_token_gets_the_first_job(make_stage: MakeStage) -> None:
    """§8: VB365 accepts the token of the first kick-off when it is asked again."""
    stage = await jwt_stage(make_stage)
    outage(stage)
    first = await stage.begun(stage.export, Idempotency_Key=KEY)
    stage.simulator.faults.clear()
    for _ in range(2):
        stage.fields = stage.simulator.login("alice")
        again = await stage.kickoff(stage.export, Idempotency_Key=KEY)
        assert (again.status, again.get("Idempotency-Replayed")) == (202, "true")
        assert again["Location"].endswith(first)
    assert (await stage.kickoff(stage.export, body=b"{ }", Idempotency_Key=KEY)).status == 422
    assert [f"{LIST}/{job['id']}" for job in (await stage.get(LIST)).json()["results"]] == [first]
    assert stage.count_requests("exportToPst", "POST") == 1


async def test_a_refreshed_long_token_gets_the_first_job(make_stage: MakeStage) -> None:
    """§8: so does one of 40 KiB (§12: token fields of 64 KiB pass)."""
    alice = dataclasses.replace(USERS[0], tenant="x" * 30_000)
    stage = await make_stage({"token": "jwt", "size": 1000, "users": (alice,)})
    outage(stage)
    first = await stage.begun(stage.export, Idempotency_Key=KEY)
    stage.simulator.faults.clear()
    stage.fields = stage.simulator.login(alice.name)
    again = await stage.kickoff(stage.export, Idempotency_Key=KEY)
    assert again["Location"].endswith(first)
    assert stage.count_requests("exportToPst", "POST") == 1


async def test_many_retries_at_a_time_get_the_first_job(make_stage: MakeStage) -> None:
    """§8: also concurrent ones, each with a token of its own."""
    stage = await jwt_stage(make_stage)
    outage(stage)
    first = await stage.begun(stage.export, Idempotency_Key=KEY)
    stage.simulator.faults.clear()
    headers = {"Prefer": "respond-async", "Idempotency-Key": KEY}
    answers = await asyncio.gather(
        *(
            stage.ask("POST", stage.export, stage.simulator.login("alice") | headers, b"{}")
            for _ in range(6)
        )
    )
    assert {(each.status, stage.path(each["Location"])) for each in answers} == {(202, first)}
    assert stage.count_requests("exportToPst", "POST") == 1


async def test_the_first_of_two_unconfirmed_jobs_has_the_key(make_stage: MakeStage) -> None:
    """§8: two tokens arrive while VB365 does not respond; the caller has one job from then on."""
    stage = await jwt_stage(make_stage)
    outage(stage)
    first = await stage.begun(stage.export, Idempotency_Key=KEY)
    stage.fields = stage.simulator.login("alice")
    second = await stage.begun(stage.export, Idempotency_Key=KEY)
    assert second != first, "an unconfirmed claim reveals nothing"
    stage.simulator.faults.clear()
    for _ in range(2):
        stage.fields = stage.simulator.login("alice")
        again = await stage.kickoff(stage.export, Idempotency_Key=KEY)
        assert again["Location"].endswith(first)
    assert stage.count_requests("exportToPst", "POST") == 2


async def test_no_second_generation_while_vb365_cannot_be_asked(make_stage: MakeStage) -> None:
    """§8: a confirmed caller waits until VB365 can say whose the first job is."""
    stage = await jwt_stage(make_stage)
    refreshed = stage.simulator.login("alice")
    outage(stage)
    first = await stage.begun(stage.export, Idempotency_Key=KEY)
    stage.simulator.faults.clear()
    stage.fields = refreshed
    assert (await stage.get(LIST)).status == 200  # VB365 has confirmed this token
    outage(stage)
    waits = await stage.kickoff(stage.export, Idempotency_Key=KEY)
    assert waits.status == 503
    assert int(waits["Retry-After"]) >= 1
    other = await stage.kickoff(stage.export, Idempotency_Key="other")
    assert other.status == 202
    stage.simulator.faults.clear()
    again = await stage.kickoff(stage.export, Idempotency_Key=KEY)
    assert again["Location"].endswith(first)


async def test_a_forged_token_takes_and_blocks_no_key(make_stage: MakeStage) -> None:
    """§8: VB365 rejects it when it can be asked; its job stays a stranger's."""
    stage = await jwt_stage(make_stage, EXPORTS__PREFLIGHT="false")
    mallory = {"Authorization": forged(stage.fields["Authorization"])} | dict(ASYNC)
    outage(stage)
    for number in range(20):
        fields = mallory | {"Idempotency-Key": KEY}
        fields["Authorization"] += f"{number}"
        assert (await stage.ask("POST", stage.export, fields, b"{ }")).status == 202
    stage.simulator.faults.clear()
    hers = await stage.kickoff(stage.export, Idempotency_Key=KEY)
    assert (hers.status, "Idempotency-Replayed" in hers) == (202, False)
    listed = (await stage.get(LIST)).json()["results"]
    assert [job["id"] for job in listed] == [hers.json()["id"]]


async def test_a_token_that_makes_vb365_fail_blocks_no_key(make_play: MakePlay) -> None:
    """§8: VB365 answers 500 to a forged token alone; the caller is not made to wait for that."""
    alice, forged_ = jwt("alice", 1), jwt("alice", 2)

    async def script(request: Message) -> bytes:
        if request.method == "POST":
            return raw("200 OK", [], b"mail")
        token = request.get("Authorization")
        if token == forged_["Authorization"]:
            return raw("500 Error")
        return raw("200 OK" if token else "401 No", [], b"{}")

    play = await make_play(script, EXPORTS__WATCH_EVENTS="false")
    play.fields = forged_
    theirs = await play.begun(EXPORT, Idempotency_Key=KEY)
    play.fields = alice
    hers = await play.begun(EXPORT, Idempotency_Key=KEY)
    assert hers != theirs
    assert await play.begun(EXPORT, Idempotency_Key=KEY) == hers


async def test_a_caller_is_confirmed_before_its_token_expires(
    make_stage: MakeStage, monkeypatch: pytest.MonkeyPatch
) -> None:
    """§8: the proxy asks VB365 again by itself, so that the first token may be revoked later."""
    monkeypatch.setattr(idempotency, "_INTERVAL", 0.05)
    stage = await jwt_stage(make_stage)
    outage(stage)
    first = await stage.begun(stage.export, Idempotency_Key=KEY)
    before = (await stage.finished(first)).json()
    old, stage.fields = stage.fields, stage.simulator.login("alice")
    stage.simulator.faults.clear()
    await stage.until(first, lambda document: bool(document["eTag"] > before["eTag"]))
    stage.simulator.tokens.revoke(old["Authorization"])
    stage.clock.ahead += 61
    again = await stage.kickoff(stage.export, Idempotency_Key=KEY)
    assert again["Location"].endswith(first)
    after = (await stage.get(first)).json()
    assert (after["status"], after["result"]["eTag"]) == ("Success", before["result"]["eTag"])


@pytest.mark.parametrize("slow", ["first", "second"])
async def test_an_unconfirmed_and_a_confirmed_kickoff_at_a_time_are_one_job(
    make_play: MakePlay, monkeypatch: pytest.MonkeyPatch, slow: str
) -> None:
    """§8: whichever of the two is being stored while the other one looks for the key."""
    tokens = {"first": jwt("alice", 1), "second": jwt("alice", 2)}
    quick = tokens["second" if slow == "first" else "first"]["Authorization"]
    down = {tokens["first"]["Authorization"]}
    storing, requested, release = asyncio.Event(), asyncio.Event(), asyncio.Event()
    add = DiskJobs.add

    async def add_slowly(self: DiskJobs, job: Job, body: bytes) -> Job:
        storing.set()
        await release.wait()
        return await add(self, job, body)

    async def script(request: Message) -> bytes:
        if request.method == "POST":
            return raw("200 OK", [], b"mail")
        token = request.get("Authorization") or ""
        if token == quick and "limit" in request.target:
            requested.set()
        return raw("503 Down" if token in down else "200 OK" if token else "401 No", [], b"{}")

    monkeypatch.setattr(DiskJobs, "add", add_slowly)
    play = await make_play(script, EXPORTS__WATCH_EVENTS="false", EXPORTS__PREFLIGHT="false")
    more = {"Prefer": "respond-async", "Idempotency-Key": KEY}
    begun = asyncio.create_task(play.ask("POST", EXPORT, tokens.pop(slow) | more, b"{}"))
    await asyncio.wait_for(storing.wait(), 10)
    [other] = tokens.values()
    later = asyncio.create_task(play.ask("POST", EXPORT, other | more, b"{}"))
    await asyncio.wait_for(requested.wait(), 10)
    down.clear()
    release.set()
    answers = await asyncio.gather(begun, later)
    assert {answer.status for answer in answers} == {202}
    assert len({answer["Location"] for answer in answers}) == 1
    play.fields = other
    await play.finished(play.path(answers[0]["Location"]))
    posts = [request for request in play.upstream.requests if request.method == "POST"]
    assert len(posts) == 1
