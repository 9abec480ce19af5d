"""Attacks on the identity of callers, through the running proxy (CONTRACT §2 "Caller", §8, §9)."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator, Awaitable, Callable
from pathlib import Path
from uuid import uuid4

import pytest

from proxy import app
from tests.contract.conftest import Clock, MakePlay, MakeStage, Stage
from tests.isolation.front import HOST, fronted
from tests.support.local_proxy import settings_of
from tests.support.process import served
from tests.support.wire import Message, ask, eventually, raw

KEY = "nightly-1"
LIST = "/v8/_async/exports"
ASYNC = [("Prefer", "respond-async")]
#: Values of Host that are not VB365's own.
HOSTS = [HOST, "default.example", "localhost"]


def forged(genuine: str) -> str:
    """A token with the same claims and another signature."""
    return genuine.rpartition(".")[0] + ".Zm9yZ2Vk"


@pytest.fixture
async def behind_a_front(
    make_stage: MakeStage, tmp_path: Path, closing: contextlib.AsyncExitStack
) -> AsyncIterator[Stage]:
    """The proxy in front of a careless reverse proxy in front of the simulator; alice calls with
    JWTs and the correct Host.
    """
    stage = await make_stage({"token": "jwt", "size": 1000})
    front = await closing.enter_async_context(fronted(stage.simulator))
    await stage.running.stop()
    stage.running = await app.start(
        settings_of(front.url, tmp_path / "front", {"UPSTREAM__HOST": HOST}), stage.clock
    )
    stage.fields["Host"] = HOST
    yield stage
    await stage.running.stop()


async def alices(stage: Stage) -> str:
    """The status path of a finished job of alice's with a key; cached access checks are cleared."""
    response = await ask(
        stage.url,
        "POST",
        stage.export,
        [*stage.fields.items(), *ASYNC, ("Idempotency-Key", KEY)],
        b"{}",
    )
    assert response.status == 202
    status = f"{LIST}/{response.json()['id']}"
    assert (await stage.finished(status)).json()["status"] == "Success"
    stage.clock.ahead += 61
    return status


@pytest.mark.parametrize("host", HOSTS)
async def test_no_host_makes_a_forged_token_valid(behind_a_front: Stage, host: str) -> None:
    """§2: the proxy's own requests have VB365's own Host, whatever the caller's is."""
    stage = behind_a_front
    status = await alices(stage)
    mallory = [("Host", host), ("Authorization", forged(stage.fields["Authorization"]))]
    for method, target in (
        ("GET", status),
        ("GET", f"{status}/result"),
        ("DELETE", status),
        ("GET", LIST),
    ):
        assert (await ask(stage.url, method, target, mallory)).status == 401, target
    assert (
        await ask(stage.url, "GET", f"{LIST}?restoreSessionId={stage.session}", mallory)
    ).status == 401
    kickoff = await ask(
        stage.url, "POST", stage.export, [*mallory, *ASYNC, ("Idempotency-Key", KEY)], b"{ }"
    )
    assert "Idempotency-Replayed" not in kickoff
    assert kickoff.status == (401 if host == HOST else 202)
    mine = (await stage.get(LIST)).json()["results"]
    assert [job["id"] for job in mine] == [status.rpartition("/")[2]]
    assert (await stage.get(f"{status}/result")).body == stage.file()


PATHS = [
    "/v8/RestoreSessions/x%2F..%2F..%2FHealth/organization/exportToPst",
    "/v8/RestoreSessions/x%5C..%5C..%5CHealth/organization/exportToPst",
    "/v8/RestoreSessions/x%2f%2e%2e%2f%2e%2e%2fHealth/organization/exportToPst",
    "/v8/RestoreSessions/x\\..\\..\\Health/organization/exportToPst",
    "/v8/RestoreSessions/x/organization/..%2F..%2F..%2FHealth/exportToPst",
    "/v8/RestoreSessions/x/organization/y%5c..%2F..%2f..%2F..%2FHealth/exportToPst",
    "/v8/RestoreSessions/x/organization/exportToPst",
]


@pytest.mark.parametrize("path", PATHS)
@pytest.mark.parametrize("host", HOSTS[:2])
async def test_no_path_puts_a_job_into_another_callers_list(
    behind_a_front: Stage, path: str, host: str
) -> None:
    """§2: the preflight requests a path that the caller chose, so it may reject but never
    confirms.
    """
    stage = behind_a_front
    status = await alices(stage)
    mallory = [("Host", host), ("Authorization", forged(stage.fields["Authorization"]))]
    kickoff = await ask(stage.url, "POST", path, [*mallory, *ASYNC], b"{}")
    if ".." in path.replace("%2e", "."):
        assert "X-VB365-Async" not in kickoff
    assert (await ask(stage.url, "GET", LIST, mallory)).status == 401
    assert [job["id"] for job in (await stage.get(LIST)).json()["results"]] == [
        status.rpartition("/")[2]
    ]


async def test_the_proxys_own_requests_have_the_upstreams_own_host(make_play: MakePlay) -> None:
    """§2, §15 `upstream.host`: checks, events and readiness; the preflight and the job keep the
    caller's Host.
    """

    async def script(request: Message) -> bytes:
        return raw("200 OK", ["Content-Type: application/json"], b'{"results":[]}')

    play = await make_play(script, UPSTREAM__HOST=HOST, ACCESS__CACHE="0s")
    play.fields = {"Authorization": "Bearer t", "Host": "public.example"}
    path = "/v8/RestoreSessions/s/organization/exportToPst"
    response = await play.kickoff(path)
    status = f"{LIST}/{response.json()['id']}"
    await play.finished(status)
    await play.get(LIST)
    await ask(play.running.admin_url, "GET", "/readyz")
    seen = {request.target.partition("?")[0]: request["Host"] for request in play.upstream.requests}
    assert seen == {
        path.rpartition("/")[0]: "public.example",
        path: "public.example",
        "/v8/RestoreSessions/s": HOST,
        "/v8/RestoreSessions/s/Events": HOST,
        "/v8/RestoreSessions": HOST,
        "/v8/Health": HOST,
    }


async def test_a_resumed_job_has_the_host_of_its_kick_off(make_play: MakePlay) -> None:
    """§9: not that of the resuming call, whose caller could otherwise choose the site of a front
    that sends the file.
    """
    over = asyncio.Event()

    async def script(request: Message) -> bytes:
        if request.method != "POST":
            return raw("200 OK", ["Content-Type: application/json"], b'{"results":[]}')
        await over.wait()
        return raw("200 OK", [], b"mail")

    play = await make_play(script, UPSTREAM__HOST=HOST, EXPORTS__WATCH_EVENTS="false")
    play.fields = {"Authorization": "Bearer t", "Host": "public.example"}
    response = await play.kickoff("/v8/RestoreSessions/s/organization/exportToPst")
    status = f"{LIST}/{response.json()['id']}"
    await eventually(lambda: any(each.method == "POST" for each in play.upstream.requests))
    await play.running.stop()
    over.set()
    play.running = await app.start(play.running.settings)
    try:
        bob = {"Authorization": "Bearer bob", "Host": "10.0.0.5"}
        assert (await play.ask("GET", status, bob)).status == 202
        assert (await play.finished(status)).json()["status"] == "Success"
    finally:
        await play.running.stop()
    posts = [request for request in play.upstream.requests if request.method == "POST"]
    assert [request["Host"] for request in posts] == ["public.example", "public.example"]
    assert posts[1]["Authorization"] == "Bearer bob"


async def test_a_cookie_does_not_authenticate_a_token(make_play: MakePlay) -> None:
    """§2, §9: VB365 accepts mallory's cookie and ignores the token beside it; alice's expired token
    gives no access.
    """
    gone: set[str] = set()

    async def script(request: Message) -> bytes:
        who = request.get("Cookie") or request.get("Authorization") or ""
        if request.method == "POST":
            return raw("200 OK", [], b"mail")
        if request.target.partition("?")[0].endswith("/RestoreSessions/s"):
            return raw(
                "404 Not Found" if "s" in gone else "200 OK" if who == "Bearer alice" else "403 No"
            )
        return raw("401 No" if who in gone else "200 OK", [], b"{}")

    play = await make_play(script, ACCESS__CACHE="0s")
    play.fields = {"Authorization": "Bearer alice"}
    status = await play.begun("/v8/RestoreSessions/s/organization/exportToPst")
    await play.finished(status)
    mallory = play.fields | {"Cookie": "session=mallory"}
    assert (await play.ask("GET", status, mallory)).status == 404
    gone |= {"s", "Bearer alice"}
    assert (await play.get(status)).status == 401
    assert (await play.ask("GET", status, mallory)).status == 404
    assert (await play.ask("GET", f"{status}/result", mallory)).status == 404
    listed = await play.ask("GET", LIST, mallory)
    assert (listed.status, listed.json()["results"]) == (200, [])


async def test_unknown_cookies_make_no_new_callers(make_stage: MakeStage) -> None:
    """§2 Caller, §3.5: an affinity cookie beside a token changes with every response."""
    stage = await make_stage(EXPORTS__MAX_PER_CALLER="2")
    stage.fault(hold=True)
    for number in range(2):
        await stage.begun(stage.export, Cookie=f"junk={number}")
    for cookie in ("junk=3", "ARRAffinity=x"):
        assert (await stage.kickoff(stage.export, Cookie=cookie)).status == 429
    assert (await stage.kickoff(stage.export)).status == 429
    scheme = stage.fields["Authorization"].replace("Bearer ", "bEARER  ")
    assert (await stage.kickoff(stage.export, Authorization=scheme)).status == 429
    assert len((await stage.get(LIST, Cookie="junk=4")).json()["results"]) == 2
    stage.simulator.release()


@pytest.mark.parametrize("token", ["opaque", "jwt"])
async def test_a_key_is_found_with_another_cookie(make_stage: MakeStage, token: str) -> None:
    """§8: one key, one generation."""
    stage = await make_stage({"token": token, "size": 1000})
    first = await stage.done(Idempotency_Key=KEY, Cookie="ARRAffinity=0")
    for number in range(1, 4):
        again = await stage.kickoff(
            stage.export, Idempotency_Key=KEY, Cookie=f"ARRAffinity={number}"
        )
        assert (again.status, again["Idempotency-Replayed"]) == (202, "true")
        assert again["Location"].endswith(first)
        stage.clock.ahead += 61
    assert stage.count_requests("exportToPst", "POST") == 1


# What a list and an unknown id disclose


async def test_list_and_look_up_agree_on_a_resumed_job(
    make_stage: MakeStage, tmp_path: Path
) -> None:
    """§4, §9: bob's jobs in alice's session, one of them resumed by her; the session has ended."""
    sim, given = (
        {"size": 1000, "foreign_session": 404},
        {"EXPORTS__PREFLIGHT": "false", "EXPORTS__MAX_RUNNING": "1"},
    )
    stage = await make_stage(sim, **given)
    alice, bob = stage.fields, stage.simulator.login("bob")
    stage.fault(hold=True, count=1)
    await stage.begun(stage.export)
    await stage.simulator.until(lambda: stage.simulator.held == 1)
    stage.fields = bob
    jobs = [await stage.begun(stage.export) for _ in range(2)]
    await stage.running.stop()
    stage.simulator.release()
    stage.running = await app.start(
        settings_of(stage.simulator.url, tmp_path / "data", given), stage.clock
    )
    try:
        assert (await stage.ask("GET", jobs[0], alice)).status == 202
        stage.fields = alice
        await stage.finished(jobs[0])
        stage.simulator.sessions.remove(stage.session)
        stage.clock.ahead += 61
        stage.fields = bob
        assert [(await stage.get(job)).status for job in jobs] == [404, 202]
        for query in ("", f"?restoreSessionId={stage.session}"):
            listed = await stage.get(LIST + query)
            assert [f"{LIST}/{job['id']}" for job in listed.json()["results"]] == [jobs[1]]
    finally:
        await stage.running.stop()


@pytest.mark.parametrize("refusal", ["400 Bad Request", "404 Not Found", "500 Error"])
@pytest.mark.parametrize("user", ["bob", "nobody"])
@pytest.mark.parametrize("alias", ["/v77", "/v8", "/v6", ""])
async def test_no_version_of_the_url_discloses_existing_ids(
    make_play: MakePlay, refusal: str, user: str, alias: str
) -> None:
    """§9: the proxy chooses the version of its requests to VB365, and sends as many for foreign as
    for invented ids.
    """

    async def script(request: Message) -> bytes:
        if request.target.split("/")[1] not in ("v6", "v7", "v8"):
            return raw(refusal)
        who = request.get("Authorization")
        if who == "Bearer nobody":
            return raw("401 No")
        found = who == "Bearer alice" and "/s" in request.target
        return raw("200 OK" if found or "limit=1" in request.target else "404 Not Found", [], b"{}")

    play = await make_play(script, EXPORTS__PREFLIGHT="false", EXPORTS__WATCH_EVENTS="false")
    play.fields = {"Authorization": "Bearer alice"}
    jobs = []
    for api in ("v8", "v7", "v77"):
        response = await play.kickoff(f"/{api}/RestoreSessions/s/organization/exportToPst")
        jobs.append(response.json()["id"])
        await play.finished(f"{LIST}/{jobs[-1]}")
    responses = set()
    for job in (*jobs, str(uuid4())):
        play.upstream.requests.clear()
        response = await play.ask(
            "GET",
            f"{alias}/_async/exports/{job}",
            {"Authorization": f"Bearer {user}", "X-Request-Id": "r"},
        )
        responses.add(
            (
                response.status,
                response.body.replace(job.encode(), b"{id}"),
                len(play.upstream.requests),
            )
        )
    assert len(responses) == 1
    assert {status for status, _, _ in responses} == {401 if user == "nobody" else 404}


async def test_listing_a_session_sends_the_same_requests_with_and_without_jobs(
    make_play: MakePlay,
) -> None:
    """§9: the time of the response does not disclose whether anyone exports from a session."""

    async def script(request: Message) -> bytes:
        who = request.get("Authorization")
        found = who == "Bearer alice" or "limit=1" in request.target
        return raw("200 OK" if found else "404 Not Found", [], b"{}")

    play = await make_play(script, EXPORTS__PREFLIGHT="false", EXPORTS__WATCH_EVENTS="false")
    play.fields = {"Authorization": "Bearer alice"}
    await play.finished(await play.begun("/v8/RestoreSessions/s/organization/exportToPst"))
    bob = {"Authorization": "Bearer bob"}
    targets = []
    for session in ("s", "t", "s%0D%0A", "..%2Fx"):
        play.upstream.requests.clear()
        listed = await play.ask("GET", f"{LIST}?restoreSessionId={session}", bob)
        assert (listed.status, listed.json()["results"]) == (200, [])
        targets.append(
            [each.target for each in play.upstream.requests if "limit" not in each.target]
        )
    assert targets == [["/v8/RestoreSessions/s"], ["/v8/RestoreSessions/t"], [], []]


@pytest.mark.parametrize("alias", ["/v9", "/v77", "/v8", "/v1", ""])
@pytest.mark.parametrize("token", ["opaque", "jwt"])
async def test_the_list_of_an_unknown_caller_is_401(
    make_stage: MakeStage, alias: str, token: str
) -> None:
    """§4, §9: an invented token is 401 in every version of the URL; a genuine one gets its list
    there.
    """
    stage = await make_stage({"token": token, "size": 1000})
    await stage.done()
    listed = await stage.get(f"{alias}/_async/exports")
    assert len(listed.json()["results"]) == 1
    for made_up in ("Bearer made-up", "Bearer e30.eyJpc3MiOiJpIiwic3ViIjoicyJ9.x", "Basic YTpi"):
        for query in ("", f"?restoreSessionId={stage.session}"):
            response = await stage.ask(
                "GET", f"{alias}/_async/exports{query}", {"Authorization": made_up}
            )
            assert response.status == 401


# Idempotency keys across failures


Retry = Callable[[dict[str, str]], Awaitable[Message]]


async def one_generation(stage: Stage, retry: Retry, first: str) -> None:
    """While GETs get 503, the same token and a refreshed one wait; afterwards both get the first
    job.
    """
    stage.simulator.fault(path="RestoreSessions", method="GET", status=503)
    callers = [stage.fields, stage.simulator.login("alice")]
    for caller in callers:
        response = await retry(caller)
        assert response.status == 503
        assert int(response["Retry-After"]) >= 1
    stage.simulator.faults.clear()
    for caller in (*callers, stage.simulator.login("alice")):
        response = await retry(caller)
        assert (response.status, response.get("Idempotency-Replayed")) == (202, "true"), response
        assert response["Location"].endswith(first)
    assert stage.count_requests("exportToPst", "POST") == 1


async def test_a_key_survives_a_kill_while_vb365_does_not_respond(
    make_stage: MakeStage, tmp_path: Path
) -> None:
    """§8: also after a restart."""
    stage = await make_stage({"token": "jwt", "size": 1000})
    headers = {"Prefer": "respond-async", "Idempotency-Key": KEY}
    async with served(stage.simulator.url, tmp_path / "killed") as proxy:
        response = await ask(proxy.url, "POST", stage.export, stage.fields | headers, b"{}")
        first = response.json()["id"]
        while (
            await ask(proxy.url, "GET", f"{LIST}/{first}", stage.fields | {"Prefer": "wait=5"})
        ).status != 200:
            pass
        await proxy.kill()
    async with served(stage.simulator.url, tmp_path / "killed") as proxy:
        await one_generation(
            stage,
            lambda caller: ask(proxy.url, "POST", stage.export, caller | headers, b"{}"),
            first,
        )


async def test_a_key_outlives_the_access_cache(make_stage: MakeStage) -> None:
    """§8: a learned identity is not forgotten with `access.cache`."""
    stage = await make_stage({"token": "jwt", "size": 1000})
    first = await stage.done(Idempotency_Key=KEY)
    stage.clock.ahead += 61
    headers = {"Prefer": "respond-async", "Idempotency-Key": KEY}
    await one_generation(
        stage, lambda caller: stage.ask("POST", stage.export, caller | headers, b"{}"), first
    )


@pytest.mark.parametrize("failures", [1, 2, 3, 5])
async def test_concurrent_duplicates_are_one_job_if_only_some_are_identified(
    make_stage: MakeStage, failures: int
) -> None:
    """§8: VB365 responds to the identity check of some of them, and each has another cookie."""
    stage = await make_stage({"token": "jwt", "size": 1000}, ACCESS__CACHE="0s")
    stage.simulator.fault(path="RestoreSessions", method="GET", status=503, count=failures)
    responses = await asyncio.gather(
        *(
            stage.kickoff(stage.export, Idempotency_Key=KEY, Cookie=f"ARRAffinity={number}")
            for number in range(6)
        )
    )
    assert {response.status for response in responses} <= {202, 503}
    locations = {response["Location"] for response in responses if response.status == 202}
    assert len(locations) == 1
    stage.simulator.faults.clear()
    again = await stage.kickoff(stage.export, Idempotency_Key=KEY, Cookie="ARRAffinity=x")
    assert (again.status, {again["Location"]}) == (202, locations)
    assert stage.count_requests("exportToPst", "POST") == 1


async def test_a_key_used_while_vb365_does_not_respond_is_kept(make_stage: MakeStage) -> None:
    """§3.4, §8: the request is not rejected; the hash of the credentials is the owner, and there is
    one quota.
    """
    stage = await make_stage({"token": "jwt"}, EXPORTS__MAX_PER_CALLER="2")
    stage.fault(hold=True)
    stage.simulator.fault(path="RestoreSessions", method="GET", status=503)
    first = await stage.begun(stage.export, Idempotency_Key=KEY)
    stage.simulator.faults.clear()
    stage.fault(hold=True)
    stage.clock.ahead += 61
    assert len((await stage.get(LIST)).json()["results"]) == 1
    again = await stage.kickoff(stage.export, Idempotency_Key=KEY)
    assert (again["Idempotency-Replayed"], again["Location"].endswith(first)) == ("true", True)
    second = await stage.begun(stage.export)
    assert (await stage.kickoff(stage.export)).status == 429
    listed = (await stage.get(LIST)).json()["results"]
    assert [f"{LIST}/{job['id']}" for job in listed] == [second, first]
    stage.simulator.release()


async def test_a_claimed_identity_neither_uses_nor_discloses_a_key(make_stage: MakeStage) -> None:
    """§8, §9: a forged token of alice's neither finds her key nor occupies one that she has not
    used yet.
    """
    stage = await make_stage({"token": "jwt", "size": 1000}, EXPORTS__PREFLIGHT="false")
    await stage.done(Idempotency_Key=KEY)
    mallory = {"Authorization": forged(stage.fields["Authorization"]), "Prefer": "respond-async"}
    responses = set()
    for key in (KEY, "unused"):
        for body in (b"{}", b"{ }"):
            response = await stage.ask(
                "POST", stage.export, mallory | {"Idempotency-Key": key}, body
            )
            responses.add((response.status, "Idempotency-Replayed" in response))
    # a second body under the key is 422 for mallory's own job
    assert responses == {(202, False), (422, False)}
    hers = await stage.kickoff(stage.export, Idempotency_Key="unused")
    assert hers.status == 202
    assert "Idempotency-Replayed" not in hers
    assert hers.json()["id"] in {job["id"] for job in (await stage.get(LIST)).json()["results"]}
    assert len((await stage.get(LIST)).json()["results"]) == 2


async def test_an_expired_token_uses_no_key_of_its_identity(make_stage: MakeStage) -> None:
    """§8: whoever has an old token of alice's cannot use up her keys with it."""
    stage = await make_stage({"token": "jwt", "size": 1000}, EXPORTS__PREFLIGHT="false")
    await stage.done()
    old, stage.fields = stage.fields, stage.simulator.login("alice")
    stage.simulator.tokens.revoke(old["Authorization"])
    stage.clock.ahead += 61
    assert (
        await stage.ask("POST", stage.export, old | dict(ASYNC) | {"Idempotency-Key": KEY}, b"{ }")
    ).status == 202
    hers = await stage.kickoff(stage.export, Idempotency_Key=KEY)
    assert hers.status == 202
    assert "Idempotency-Replayed" not in hers


async def test_a_caller_without_access_to_the_job_of_a_key_gets_404_not_422(
    make_stage: MakeStage,
) -> None:
    """§8, §9: access is checked before fingerprints are compared."""
    stage = await make_stage({"size": 1000}, EXPORTS__PREFLIGHT="false")
    bob = stage.simulator.login("bob")
    stage.fields, alice = bob, stage.fields
    status = await stage.begun(stage.export, Idempotency_Key=KEY)
    assert (await stage.kickoff(stage.export, body=b"{ }", Idempotency_Key=KEY)).status == 422
    stage.clock.ahead += 61
    for body in (b"{}", b"{ }"):
        response = await stage.kickoff(stage.export, body=body, Idempotency_Key=KEY)
        assert (response.status, response.json()["type"]) == (
            404,
            "urn:vb365-async:problem:job-not-found",
        )
    stage.fields = alice
    assert (await stage.finished(status)).status == 200


async def test_a_kick_off_waits_at_most_check_timeout(make_play: MakePlay, clock: Clock) -> None:
    """§15 `upstream.check_timeout`: an identity check without a response does not delay an export
    forever.
    """

    async def script(request: Message) -> bytes:
        if "limit=1" in request.target:
            await never.wait()
        return raw("200 OK", [], b"{}")

    never = asyncio.Event()
    play = await make_play(script, UPSTREAM__CHECK_TIMEOUT="300ms")
    play.fields = {"Authorization": "Bearer e30.eyJpc3MiOiJpIiwic3ViIjoicyJ9.x"}
    async with asyncio.timeout(10):
        assert (await play.kickoff("/v8/RestoreSessions/s/organization/exportToPst")).status == 202
