"""Every operation by every kind of caller: the exact responses of the running proxy (CONTRACT §7,
§8, §9).
"""

from __future__ import annotations

import asyncio
import json
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any
from uuid import uuid4

import pytest

from proxy import app
from proxy.core.job import Job
from proxy.stores.disk_jobs.store import DiskJobs
from proxy.stores.redis_jobs.store import RedisJobs
from proxy.upstream.access import Access
from tests.contract.conftest import MakeStage, Stage
from tests.support.local_proxy import settings_of
from tests.support.redis_server import RedisServer
from tests.support.wire import Message, ask

#: The calls on one job, in the order in which they are made; the last ones end it.
VERBS = ("status", "head", "result", "release", "cancel", "delete")
KEY = "nightly-1"


@dataclass
class Scene:
    """A finished job of alice's, and the current caller."""

    stage: Stage
    job: str
    export: str
    caller: dict[str, str] = field(default_factory=dict)

    async def call(self, verb: str, job: str | None = None) -> Message:
        path = f"/v8/_async/exports/{job or self.job}"
        method, target = {
            "status": ("GET", path),
            "head": ("HEAD", path),
            "result": ("GET", f"{path}/result"),
            "cancel": ("POST", f"{path}/cancel"),
            "release": ("DELETE", f"{path}/result"),
            "delete": ("DELETE", path),
        }[verb]
        return await self.stage.ask(method, target, self.caller)

    async def list(self, query: str = "") -> Message:
        return await self.stage.ask("GET", f"/v8/_async/exports{query}", self.caller)

    async def list_session(self) -> Message:
        return await self.list(f"?restoreSessionId={self.stage.session}")

    async def kickoff_again(self) -> Message:
        fields = self.caller | {"Prefer": "respond-async", "Idempotency-Key": KEY}
        return await self.stage.ask("POST", self.export, fields, b"{}")


async def kickoff_as(
    stage: Stage, user: str | dict[str, str], path: str, *more: tuple[str, str]
) -> Message:
    who = stage.simulator.login(user) if isinstance(user, str) else user
    return await ask(
        stage.url, "POST", path, [*who.items(), ("Prefer", "respond-async"), *more], b"{}"
    )


async def anonymous(scene: Scene) -> None:
    scene.caller = {}


async def invented(scene: Scene) -> None:
    scene.caller = {"Authorization": "Bearer made-up"}


async def bob(scene: Scene) -> None:
    scene.caller = scene.stage.simulator.login("bob")


async def other_tenant(scene: Scene) -> None:
    scene.caller = scene.stage.simulator.login("carol")


async def revoked(scene: Scene) -> None:
    scene.stage.simulator.tokens.revoke(scene.caller["Authorization"])


async def expired(scene: Scene) -> None:
    scene.stage.simulator.tokens.expire(user="alice")


async def refreshed(scene: Scene) -> None:
    await expired(scene)
    scene.caller = scene.stage.simulator.login("alice")


async def operator(scene: Scene) -> None:
    scene.caller = scene.stage.simulator.login("operator")


async def unchanged(scene: Scene) -> None:
    """Change nothing."""


async def stopped(scene: Scene) -> None:
    session = scene.stage.simulator.sessions.get(scene.stage.session)
    assert session is not None
    scene.stage.simulator.sessions.stop(session)


async def gone(scene: Scene) -> None:
    scene.stage.simulator.sessions.remove(scene.stage.session)


async def gone_and_refreshed(scene: Scene) -> None:
    await gone(scene)
    await refreshed(scene)


async def gone_and_revoked(scene: Scene) -> None:
    await gone(scene)
    await revoked(scene)


async def gone_for_bob(scene: Scene) -> None:
    await gone(scene)
    await bob(scene)


async def down(scene: Scene) -> None:
    await scene.stage.simulator.stop()


Situation = Callable[[Scene], Awaitable[None]]


@dataclass(frozen=True)
class Row:
    """What a caller gets: the status of each operation on one job, the lengths of both lists, and
    the repeated kick-off. A rejected list is given as its status; a kick-off's `replayed` says
    whether the first job was returned.
    """

    situation: Situation
    verbs: tuple[int, int, int, int, int, int]
    listed: int
    of_session: int
    kickoff: int
    replayed: bool = False
    setting: tuple[tuple[str, object], ...] = ()


SEEN = (200, 200, 200, 204, 200, 204)
JWT = (("token", "jwt"),)
HIDDEN = (("foreign_session", 404),)
TABLE = [
    #   situation           status head result release cancel delete  list  of session  kick-off
    Row(anonymous, (401,) * 6, 401, 401, 401),
    Row(invented, (401,) * 6, 401, 401, 401),
    Row(revoked, (401,) * 6, 401, 401, 401),
    Row(expired, (401,) * 6, 401, 401, 401),
    Row(bob, (404,) * 6, 0, 0, 403),
    Row(bob, (404,) * 6, 0, 0, 404, setting=HIDDEN),
    Row(other_tenant, (404,) * 6, 0, 0, 403),
    Row(other_tenant, (404,) * 6, 0, 0, 404, setting=HIDDEN),
    Row(unchanged, SEEN, 1, 1, 202, replayed=True),
    Row(operator, SEEN, 0, 1, 202),
    Row(refreshed, SEEN, 0, 1, 202),
    Row(refreshed, SEEN, 1, 1, 202, replayed=True, setting=JWT),
    Row(stopped, SEEN, 1, 1, 202, replayed=True),
    Row(gone, SEEN, 1, 1, 202, replayed=True),
    Row(gone_and_refreshed, (404,) * 6, 0, 0, 404),
    Row(gone_and_refreshed, SEEN, 1, 1, 202, replayed=True, setting=JWT),
    Row(gone_and_revoked, (401,) * 6, 401, 401, 401),
    Row(gone_for_bob, (404,) * 6, 0, 0, 404),
    Row(gone_for_bob, (404,) * 6, 0, 0, 404, setting=JWT),
    Row(down, (503,) * 6, 503, 503, 503),
]
PROBLEMS = {401: "unauthorized", 404: "job-not-found", 503: "upstream-unreachable"}


def name_of(row: Row) -> str:
    return "-".join([row.situation.__name__, *(str(value) for _, value in row.setting)])


async def prepare(make_stage: MakeStage, row: Row) -> Scene:
    """Finish a job of alice's, clear cached responses of VB365, then apply the situation."""
    stage = await make_stage({"size": 1000} | dict(row.setting))
    status = await stage.done(Idempotency_Key=KEY)
    scene = Scene(stage, status.rpartition("/")[2], stage.export, dict(stage.fields))
    stage.clock.ahead += 61
    await row.situation(scene)
    return scene


@pytest.mark.parametrize("row", TABLE, ids=name_of)
async def test_every_operation_has_its_response(make_stage: MakeStage, row: Row) -> None:
    """§9: the table of access."""
    scene = await prepare(make_stage, row)
    for response, expected in (
        (await scene.list(), row.listed),
        (await scene.list_session(), row.of_session),
    ):
        if expected < 400:
            assert response.status == 200
            assert [job["id"] for job in response.json()["results"]] == [scene.job] * expected
        else:
            assert_rejected(response, expected)
    kickoff = await scene.kickoff_again()
    assert kickoff.status == row.kickoff
    assert (kickoff.get("Idempotency-Replayed") == "true") is row.replayed
    assert ("Location" in kickoff and kickoff["Location"].endswith(scene.job)) is row.replayed
    for verb, expected in zip(VERBS, row.verbs, strict=True):
        response = await scene.call(verb)
        assert response.status == expected, verb
        if expected >= 400:
            assert_rejected(response, expected, bodiless=verb == "head")


def assert_rejected(response: Message, status: int, *, bodiless: bool = False) -> None:
    """Check the response of §11, with the fields that belong to it and nothing of the job."""
    assert response.status == status
    assert response["X-VB365-Async"] == "proxy"
    assert response["Cache-Control"] == "no-store"
    assert ("WWW-Authenticate" in response) is (status == 401)
    assert ("Retry-After" in response) is (status == 503)
    assert not response.names & {
        "etag",
        "location",
        "sunset",
        "asyncresult",
        "x-progress",
        "content-disposition",
    }
    if not bodiless:
        assert response.json()["type"] == f"urn:vb365-async:problem:{PROBLEMS[status]}"


@pytest.mark.parametrize("row", [row for row in TABLE if min(row.verbs) >= 400], ids=name_of)
async def test_a_foreign_id_gets_the_response_of_an_unknown_one(
    make_stage: MakeStage, row: Row
) -> None:
    """§9: the same bytes, except for ids and the date, and as many requests to VB365."""
    scene = await prepare(make_stage, row)
    await scene.call(
        "status", str(uuid4())
    )  # that VB365 accepts a token is cached, whatever the id
    for verb in VERBS:
        before = len(scene.stage.simulator.requests)
        foreign = await scene.call(verb)
        for_the_foreign = len(scene.stage.simulator.requests) - before
        stranger = str(uuid4())
        unknown = await scene.call(verb, stranger)
        assert shown(foreign, scene.job) == shown(unknown, stranger), verb
        if row.situation not in (gone, gone_and_revoked):
            assert len(scene.stage.simulator.requests) - before == 2 * for_the_foreign, verb


def shown(response: Message, id: str) -> object:
    changing = ("date", "x-request-id")
    fields = [(name, value) for name, value in response.fields if name.lower() not in changing]
    body = response.body.replace(id.encode(), b"{id}")
    return response.first, fields, body.replace(response["X-Request-Id"].encode(), b"{request}")


async def test_a_shared_store_is_asked_about_a_foreign_id_as_about_an_unknown_one(
    make_stage: MakeStage, valkey_server: RedisServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    """§9: also if the job is in memory because its caller polls it, so that the time reveals
    nothing.
    """
    stage = await make_stage(STORAGE__JOBS=f"{valkey_server.url}?prefix={uuid4()}")
    status = await stage.done()
    scene = Scene(stage, status.rpartition("/")[2], stage.export)
    asked: list[str] = []
    get = RedisJobs.get

    async def counted(jobs: RedisJobs, id: str) -> Job | None:
        asked.append(id)
        return await get(jobs, id)

    monkeypatch.setattr(RedisJobs, "get", counted)
    for caller in (bob, other_tenant, invented):
        await caller(scene)
        for verb in VERBS:
            assert (await stage.get(status)).status == 200
            assert (await stage.get(status)).status == 200
            for job in (scene.job, str(uuid4())):
                asked.clear()
                assert (await scene.call(verb, job)).status in (401, 404)
                assert job in asked, (caller, verb)


async def test_a_cached_check_gives_access_to_its_session_only(make_stage: MakeStage) -> None:
    """§9: while VB365 is down, for `access.cache`; not to an unknown id, nor for another caller."""
    stage = await make_stage({"size": 1000})
    scene = Scene(stage, (await stage.done()).rpartition("/")[2], stage.export, dict(stage.fields))
    bobs = Scene(stage, scene.job, stage.export, stage.simulator.login("bob"))
    assert (await bobs.list()).status == 200
    await stage.simulator.stop()
    assert (await scene.call("status")).status == 200
    assert (await scene.call("status", str(uuid4()))).status == 503
    assert (await bobs.call("status")).status == 503
    stage.clock.ahead += 61
    assert (await scene.call("status")).status == 503


@pytest.mark.parametrize(
    "id", ["1", "..", "%2e%2e", "00000000-0000-1000-8000-000000000000", "é", "%00", "*"]
)
async def test_an_invalid_id_is_404_without_a_request_to_the_upstream(
    make_stage: MakeStage, id: str
) -> None:
    """§2: for every caller."""
    stage = await make_stage()
    for fields in ({}, stage.fields, {"Authorization": "Bearer made-up"}):
        assert (await stage.ask("GET", f"/v8/_async/exports/{id}", fields)).status == 404
    assert not stage.simulator.requests


async def test_a_claimed_identity_reads_uses_and_replays_nothing(make_stage: MakeStage) -> None:
    """§2 Caller: a forged JWT of alice's, alone or beside bob's own cookie or token, is never
    alice.
    """
    stage = await make_stage(
        {"token": "jwt", "size": 1000}, EXPORTS__MAX_PER_CALLER="1", EXPORTS__CANCEL_HOLD="0s"
    )
    stage.fault(hold=True)
    status = await stage.begun(stage.export, Idempotency_Key=KEY)
    genuine = stage.fields["Authorization"]
    forged = genuine.rpartition(".")[0] + ".Zm9yZ2Vk"
    bobs = stage.simulator.login("bob")["Authorization"]
    session = stage.simulator.open_session("bob")
    path = next(
        path for path in stage.simulator.export_paths(session) if path.endswith("exportToPst")
    )
    disguises: list[list[tuple[str, str]]] = [
        [("Authorization", forged)],
        [("Authorization", forged), ("Cookie", "session=bob")],
        [("Authorization", bobs), ("Authorization", forged)],
        [("Authorization", forged), ("Authorization", bobs)],
        [("Authorization", f"{bobs}, {forged}")],
    ]
    for disguise in disguises:
        assert (await ask(stage.url, "GET", status, disguise)).status in (401, 404)
        listed = await ask(stage.url, "GET", "/v8/_async/exports", disguise)
        assert listed.status == 401 or listed.json()["results"] == []
        again = [*disguise, ("Prefer", "respond-async"), ("Idempotency-Key", KEY)]
        for target in (stage.export, path):
            kickoff = await ask(stage.url, "POST", target, again, b"{}")
            assert "Idempotency-Replayed" not in kickoff
            assert kickoff.status in (202, 401, 403)
            assert "Location" not in kickoff or not kickoff["Location"].endswith(status)
    assert (await stage.kickoff(stage.export)).status == 429
    assert (await stage.ask("DELETE", status)).status == 204
    assert (await stage.kickoff(stage.export)).status == 202
    stage.simulator.release()


async def test_each_caller_has_a_quota_of_its_own(make_stage: MakeStage) -> None:
    """§3.5: one caller's unfinished jobs do not count for others; a refreshed JWT is the same
    caller.
    """
    stage = await make_stage({"token": "jwt"}, EXPORTS__MAX_PER_CALLER="2")
    stage.fault(hold=True)
    for _ in range(2):
        await stage.begun(stage.export)
    refused = await stage.kickoff(stage.export)
    assert (refused.status, refused.json()["type"]) == (
        429,
        "urn:vb365-async:problem:quota-exceeded",
    )
    assert (await kickoff_as(stage, "alice", stage.export)).status == 429
    session = stage.simulator.open_session("bob")
    path = next(
        path for path in stage.simulator.export_paths(session) if path.endswith("exportToPst")
    )
    assert (await kickoff_as(stage, "bob", path)).status == 202
    stage.simulator.release()


async def test_one_key_of_two_callers_is_two_jobs(make_stage: MakeStage) -> None:
    """§8: a key is scoped to its caller."""
    stage = await make_stage({"size": 1000})
    alices = await stage.begun(stage.export, Idempotency_Key=KEY)
    same = await kickoff_as(stage, "operator", stage.export, ("Idempotency-Key", KEY))
    assert same.status == 202
    assert "Idempotency-Replayed" not in same
    assert not same["Location"].endswith(alices)
    other = await kickoff_as(stage, "alice", stage.path_of("save"), ("Idempotency-Key", KEY))
    assert other.status == 202


async def test_the_cache_distinguishes_spellings_of_a_session(
    make_stage: MakeStage,
) -> None:
    """§1, §9: VB365 decides about case and encoding; each spelling is checked."""
    stage = await make_stage({"size": 1000})
    upper = stage.export.replace(stage.session, stage.session.upper())
    statuses = [await stage.done(), await stage.begun(upper)]
    bobs = stage.simulator.login("bob")
    for status in statuses:
        assert (await stage.ask("GET", status, bobs)).status == 404
        assert (await stage.get(status)).status in (200, 202)
    stage.clock.ahead += 61
    for spelling, status in zip((stage.session, stage.session.upper()), statuses, strict=True):
        before = [one.target for one in stage.simulator.requests].count(
            f"/v8/RestoreSessions/{spelling}"
        )
        await stage.get(status)
        again = [one.target for one in stage.simulator.requests].count(
            f"/v8/RestoreSessions/{spelling}"
        )
        assert again == before + 1


HOSTILE = [
    ("Host", 'evil"><script>'),
    ("X-Forwarded-Host", "evil.example"),
    ("X-Forwarded-Prefix", "/evil"),
    ("Forwarded", "host=evil.example;proto=https"),
    ("X-Original-Host", "evil.example"),
    ("X-Forwarded-Proto", "javascript"),
]


@pytest.mark.parametrize(("name", "value"), HOSTILE, ids=[name for name, _ in HOSTILE])
async def test_hostile_fields_do_not_change_the_links(
    make_stage: MakeStage, name: str, value: str
) -> None:
    """§13: Host is validated; forwarded fields count from trusted peers only."""
    stage = await make_stage({"size": 1000})
    response = await kickoff_as(stage, "alice", stage.export, (name, value))
    text = json.dumps(response.fields) + response.body.decode()
    assert response.status in (202, 400)
    assert "evil" not in text
    assert "javascript" not in text


async def test_a_hostile_file_name_does_not_split_the_response(make_stage: MakeStage) -> None:
    """§6: a file name with line breaks, quotes and markup becomes one harmless field value."""
    stage = await make_stage({"size": 1000})
    name = (
        "attachment; "
        "filename*=UTF-8''a%0D%0ASet-Cookie:%20a=b%0D%0A%0D%0A%22%3Cscript%3E..%2F..%2Fx.pst"
    )
    stage.fault(disposition=name)
    status = await stage.done()
    response = await stage.get(f"{status}/result")
    assert "Set-Cookie" not in response
    assert response.body == stage.file()
    assert (
        "/"
        not in response["Content-Disposition"].partition("filename=")[2].partition("filename*")[0]
    )
    assert "\r" not in (await stage.get(status)).json()["result"]["fileName"]


async def test_a_resume_by_another_caller_gives_no_access_after_the_session(
    make_stage: MakeStage, tmp_path: Path
) -> None:
    """§9: bob's job in alice's session, resumed by alice's call after a restart, is not bob's when
    the session ends.
    """
    sim, given = (
        {"size": 1000, "foreign_session": 404},
        {"EXPORTS__PREFLIGHT": "false", "EXPORTS__MAX_RUNNING": "1"},
    )
    stage = await make_stage(sim, **given)
    stage.fault(hold=True, count=1)
    await stage.begun(stage.export)
    await stage.simulator.until(lambda: stage.simulator.held == 1)
    bobs = stage.simulator.login("bob")
    intruder = stage.path((await kickoff_as(stage, bobs, stage.export))["Location"])
    await stage.running.stop()
    stage.running = await app.start(
        settings_of(stage.simulator.url, tmp_path / "data", given), stage.clock
    )
    try:
        stage.simulator.release()
        assert (await stage.finished(intruder)).json()["status"] == "Success"
        assert (await stage.get(f"{intruder}/result")).body == stage.file()
        stage.simulator.sessions.remove(stage.session)
        stage.clock.ahead += 61
        assert (await stage.ask("GET", f"{intruder}/result", bobs)).status == 404
        assert (await stage.ask("GET", "/v8/_async/exports", bobs)).json()["results"] == []
    finally:
        await stage.running.stop()


@pytest.mark.parametrize(("waits", "status"), [("result", 401), ("kickoff", 202)])
async def test_a_waiting_call_gets_no_file_of_another_callers_resume(
    make_stage: MakeStage, waits: str, status: int
) -> None:
    """§9: bob's token ends while his job in alice's session is queued; alice's call resumes it
    while bob's still waits.
    """
    sim = {"size": 1000, "foreign_session": 404}
    stage = await make_stage(sim, EXPORTS__PREFLIGHT="false", EXPORTS__MAX_RUNNING="1")
    stage.fault(hold=True, count=1)
    first = await stage.begun(stage.export)
    await stage.simulator.until(lambda: stage.simulator.held == 1)
    bobs = stage.simulator.login("bob")
    prefer = "respond-async, wait=30" if waits == "kickoff" else "respond-async"
    call = asyncio.create_task(stage.ask("POST", stage.export, bobs | {"Prefer": prefer}, b"{}"))
    listed = f"/v8/_async/exports?restoreSessionId={stage.session}"
    async with asyncio.timeout(10):
        while len(jobs := (await stage.get(listed)).json()["results"]) < 2:
            pass
    [intruder] = [f"/v8/_async/exports/{job['id']}" for job in jobs if job["id"] not in first]
    if waits == "result":
        assert (await call).status == 202
        call = asyncio.create_task(
            stage.ask("GET", f"{intruder}/result", bobs | {"Prefer": "wait=30"})
        )
        await stage.get(intruder)  # by now the other call has arrived
    stage.simulator.tokens.revoke(bobs["Authorization"])
    stage.simulator.release()
    assert (await stage.finished(intruder)).json()["status"] == "Success"
    response = await call
    assert (response.status, stage.file() in response.body) == (status, False)


class Late:
    """A method whose next call begins when `opened` is set; `entered` is set when it is called."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, owner: type, method: str) -> None:
        self.entered, self.opened = asyncio.Event(), asyncio.Event()
        original: Callable[..., Awaitable[Any]] = getattr(owner, method)

        async def late(*args: Any) -> Any:
            if not self.entered.is_set():
                self.entered.set()
                await self.opened.wait()
            return await original(*args)

        monkeypatch.setattr(owner, method, late)


ONE_SLOT = {
    "EXPORTS__PREFLIGHT": "false",
    "EXPORTS__MAX_RUNNING": "1",
    "EXPORTS__GRACE": "0s",
}


async def busy(make_stage: MakeStage) -> Stage:
    """A proxy whose only slot is taken by a job in alice's session, which bob cannot see."""
    stage = await make_stage({"size": 1000, "foreign_session": 404}, **ONE_SLOT)
    stage.fault(hold=True, count=1)
    await stage.begun(stage.export)
    await stage.held()
    return stage


async def newest(stage: Stage) -> dict[str, Any]:
    """The newest job of alice's session. A list resumes none."""
    listed = f"/v8/_async/exports?restoreSessionId={stage.session}"
    return dict((await stage.get(listed)).json()["results"][0])


async def test_a_long_poll_shows_nothing_of_another_callers_resume(
    make_stage: MakeStage, monkeypatch: pytest.MonkeyPatch
) -> None:
    """§9: bob's token ends, and alice's call resumes his job, between two looks of his long poll,
    as can happen with replicas.
    """
    stage = await busy(make_stage)
    bobs = stage.simulator.login("bob")
    job = stage.path((await kickoff_as(stage, bobs, stage.export))["Location"])
    late = Late(monkeypatch, DiskJobs, "wait")
    poll = asyncio.create_task(stage.ask("GET", job, bobs | {"Prefer": "wait=30"}))
    async with asyncio.timeout(20):
        await late.entered.wait()
        stage.simulator.tokens.revoke(bobs["Authorization"])
        stage.simulator.release()
        assert (await stage.finished(job)).json()["status"] == "Success"
        late.opened.set()
        response = await poll
    assert (response.status, b"sha256" in response.body) == (401, False)


async def test_a_waiting_kick_off_shows_nothing_of_another_callers_resume(
    make_stage: MakeStage, monkeypatch: pytest.MonkeyPatch
) -> None:
    """§9: its 202 shows the job as it was accepted."""
    stage = await busy(make_stage)
    bobs = stage.simulator.login("bob")
    late = Late(monkeypatch, DiskJobs, "wait")
    wanted = bobs | {"Prefer": "respond-async, wait=1"}
    kickoff = asyncio.create_task(stage.ask("POST", stage.export, wanted, b"{}"))
    async with asyncio.timeout(20):
        await late.entered.wait()
        stage.simulator.tokens.revoke(bobs["Authorization"])
        stage.simulator.release()
        while (found := await newest(stage))["phase"] != "Suspended":
            pass
        stage.fault(stall_at=500, count=1)
        job = f"/v8/_async/exports/{found['id']}"
        await stage.until(job, lambda document: document["result"] is not None)
        late.opened.set()
        response = await kickoff
    assert (response.status, response.json()["result"]) == (202, None)
    stage.simulator.release()


@pytest.mark.parametrize("away", [False, True], ids=["rejected", "not-checked"])
async def test_a_waiting_kick_off_is_accepted_whatever_its_caller_may_see(
    make_stage: MakeStage, monkeypatch: pytest.MonkeyPatch, away: bool
) -> None:
    """§3: alice's call has resumed and finished bob's job. After an error he would start it
    again.
    """
    stage = await busy(make_stage)
    bobs = stage.simulator.login("bob")
    late = Late(monkeypatch, DiskJobs, "wait")
    wanted = bobs | {"Prefer": "respond-async, wait=40"}
    kickoff = asyncio.create_task(stage.ask("POST", stage.export, wanted, b"{}"))
    async with asyncio.timeout(20):
        await late.entered.wait()
        stage.simulator.tokens.revoke(bobs["Authorization"])
        stage.simulator.release()
        while (found := await newest(stage))["phase"] != "Suspended":
            pass
        job = f"/v8/_async/exports/{found['id']}"
        assert (await stage.finished(job)).json()["status"] == "Success"
        if away:
            stage.fault(path="RestoreSessions", method="GET", reset=True)
        late.opened.set()
        response = await kickoff
    assert (response.status, stage.path(response["Location"])) == (202, job)
    assert response.json()["result"] is None


async def test_a_repeated_kick_off_shows_nothing_of_another_callers_resume(
    make_stage: MakeStage, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """§8, §9: alice's call resumes bob's job, after a restart, while his key is looked up."""
    stage = await busy(make_stage)
    bobs = stage.simulator.login("bob")
    key = ("Idempotency-Key", KEY)
    job = stage.path((await kickoff_as(stage, bobs, stage.export, key))["Location"])
    await stage.running.stop()
    stage.running = await app.start(
        settings_of(stage.simulator.url, tmp_path / "data", ONE_SLOT), stage.clock
    )
    try:
        stage.simulator.release()
        late = Late(monkeypatch, Access, "owns")
        again = asyncio.create_task(kickoff_as(stage, bobs, stage.export, key))
        async with asyncio.timeout(20):
            await late.entered.wait()
            assert (await stage.finished(job)).json()["status"] == "Success"
            late.opened.set()
            response = await again
        assert (response.status, b"sha256" in response.body) == (404, False)
    finally:
        await stage.running.stop()
