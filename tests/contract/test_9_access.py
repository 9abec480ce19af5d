"""CONTRACT §9, §2 "Caller": who has access to a job, and where credentials are kept."""

from __future__ import annotations

import base64
import json
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest

from proxy import app
from tests.contract.conftest import MakePlay, MakeStage, Stage
from tests.support.wire import Message, raw

EXPORT = "/v8/RestoreSessions/0f0c6d3e-0000-4000-8000-000000000001/organization/exportToPst"
CALLS = [
    ("GET", ""),
    ("HEAD", ""),
    ("GET", "/result"),
    ("POST", "/cancel"),
    ("DELETE", "/result"),
    ("DELETE", ""),
]


def jwt(subject: str, number: int, name: str = "sub") -> dict[str, str]:
    parts = [{"alg": "none"}, {"iss": "https://i", name: subject, "jti": number}]
    text = [
        base64.urlsafe_b64encode(json.dumps(part).encode()).rstrip(b"=").decode() for part in parts
    ]
    return {"Authorization": f"Bearer {'.'.join([*text, 'sig'])}"}


def kept_in(place: Path) -> tuple[str, bytes]:
    """The names and the content of all files."""
    paths = list(place.rglob("*"))
    return "\n".join(map(str, paths)), b"".join(
        path.read_bytes() for path in paths if path.is_file()
    )


class AccessUpstream:
    """An upstream whose responses to access checks the test sets per Authorization; the default is
    200.
    """

    def __init__(self) -> None:
        self.sessions: dict[str, int] = {}
        self.listing: dict[str, int] = {}
        self.cookie_alone = False

    async def __call__(self, request: Message) -> bytes | None:
        token = request.get("Authorization") or ""
        if self.cookie_alone and "Cookie" not in request:
            return raw("401 No")
        if request.method == "POST":
            return raw("200 OK", [], b"x")
        if not token and "Cookie" not in request:
            return raw("401 No")
        if request.target.endswith("/RestoreSessions?limit=1"):
            return raw(f"{self.listing.get(token, 200)} Said", [], b"{}")
        if "/organization" in request.target:
            return raw("200 OK", [], b"{}")
        return raw(f"{self.sessions.get(token, 200)} Said", [], b"{}")


@pytest.mark.parametrize(("method", "suffix"), CALLS)
async def test_without_credentials_every_call_is_401(
    stage: Stage, method: str, suffix: str
) -> None:
    """§9: whether the job exists or not; also for a token that VB365 rejects."""
    status = await stage.done()
    unknown = "/v8/_async/exports/5f0c6d3e-0000-4000-8000-000000000001"
    for target in (status, unknown):
        for fields in ({}, {"Authorization": "Bearer nonsense"}):
            response = await stage.ask(method, target + suffix, fields)
            assert response.status == 401, (target, fields)
            assert response["X-VB365-Async"] == "proxy"
            assert (
                method == "HEAD"
                or response.json()["type"] == "urn:vb365-async:problem:unauthorized"
            )
            assert method == "HEAD" or response.json()["errorCode"] == "ResourceAccessDenied"
    assert (await stage.get(status)).json()["result"]["state"] == "Available"


@pytest.mark.parametrize("foreign", [403, 404])
async def test_a_caller_without_access_to_the_session_gets_404(
    make_stage: MakeStage, foreign: int
) -> None:
    """§9: existence is not disclosed; a caller with access to the session sees the job."""
    stage = await make_stage({"foreign_session": foreign})
    status = await stage.done()
    for user in ("bob", "carol"):
        assert (await stage.ask("GET", status, stage.simulator.login(user))).status == 404
    assert (
        await stage.ask("GET", status + "/result", stage.simulator.login("operator"))
    ).status == 200


async def test_the_check_requests_the_session_with_the_credentials_of_the_call(
    make_play: MakePlay,
) -> None:
    """§9: `GET /v{N}/RestoreSessions/{sid}`, N the kick-off's, with Authorization and Cookie; a
    refreshed token works.
    """
    play = await make_play(AccessUpstream())
    status = await play.begun(EXPORT.replace("v8", "V7"))
    await play.finished(status)
    play.upstream.requests.clear()
    assert (
        await play.ask("GET", status, {"Authorization": "Bearer new", "Cookie": "a=b", "X-Y": "z"})
    ).status == 200
    [request] = play.upstream.requests
    assert request.first == f"GET /v7/RestoreSessions/{EXPORT.split('/')[3]} HTTP/1.1"
    assert (request["Authorization"], request["Cookie"]) == ("Bearer new", "a=b")
    assert "X-Y" not in request


async def test_successful_checks_are_cached_and_denials_are_not(make_play: MakePlay) -> None:
    """§9: `access.cache`, per credential and session; the kick-off's own credential is allowed for
    as long without a check.
    """
    upstream = AccessUpstream()
    play = await make_play(upstream)
    status = await play.begun(EXPORT)
    await play.finished(status)

    async def count_checks(token: str, expected: int = 200) -> int:
        play.upstream.requests.clear()
        assert (await play.ask("GET", status, {"Authorization": token})).status == expected
        return len(play.upstream.requests)

    assert await count_checks("Bearer t") == 0
    assert [await count_checks("Bearer u"), await count_checks("Bearer u")] == [1, 0]
    upstream.sessions["Bearer x"] = 403
    assert [await count_checks("Bearer x", 404), await count_checks("Bearer x", 404)] == [1, 1]
    upstream.sessions["Bearer x"] = 200
    assert await count_checks("Bearer x") == 1
    play.clock.ahead += 59
    assert await count_checks("Bearer u") == 0
    play.clock.ahead += 2
    assert [await count_checks("Bearer t"), await count_checks("Bearer u")] == [1, 1]
    play.clock.ahead += 61
    upstream.sessions["Bearer u"] = 401
    assert await count_checks("Bearer u", 401) == 1


async def test_without_a_cache_a_revoked_token_is_rejected_at_once(make_stage: MakeStage) -> None:
    """§9 `access.cache = 0s`."""
    stage = await make_stage(ACCESS__CACHE="0s")
    status = await stage.done()
    stage.simulator.tokens.expire()
    assert (await stage.get(status)).status == 401
    assert (await stage.ask("GET", status, stage.simulator.login())).status == 200


@pytest.mark.parametrize("how", ["down", "500", "302"])
async def test_a_check_without_a_result_is_503(make_play: MakePlay, how: str) -> None:
    """§9: with Retry-After, unless a result is cached; for unknown ids as well."""
    upstream = AccessUpstream()
    play = await make_play(upstream)
    status = await play.begun(EXPORT)
    await play.finished(status)
    if how == "down":

        async def silent(request: Message) -> bytes | None:
            return None

        play.upstream.script = silent
    else:
        upstream.sessions["Bearer u"] = upstream.listing["Bearer u"] = int(how)
    for target in (status, "/v8/_async/exports/5f0c6d3e-0000-4000-8000-000000000001"):
        response = await play.ask("GET", target, {"Authorization": "Bearer u"})
        assert response.status == 503
        assert int(response["Retry-After"]) >= 1
        assert response.json()["errorCode"] == "HttpError"
    assert (await play.get(status)).status == 200


async def test_after_the_end_of_the_session_only_the_caller_of_the_kick_off_has_access(
    make_play: MakePlay,
) -> None:
    """§9: while VB365 responds with 2xx to `GET /v{N}/RestoreSessions?limit=1`."""
    upstream = AccessUpstream()
    play = await make_play(upstream, ACCESS__CACHE="0s")
    status = await play.begun(EXPORT)
    await play.finished(status)
    upstream.sessions = dict.fromkeys(("Bearer t", "Bearer u"), 404)
    play.upstream.requests.clear()
    assert (await play.get(status)).status == 200
    assert [request.target for request in play.upstream.requests][
        -1
    ] == "/v8/RestoreSessions?limit=1"
    assert (await play.ask("GET", status, {"Authorization": "Bearer u"})).status == 404
    upstream.listing["Bearer t"] = 401
    assert (await play.get(status)).status == 401
    upstream.listing["Bearer t"] = 403
    assert (await play.get(status)).status == 404


@pytest.mark.parametrize("name", ["sub", "unique_name", "nameid", "upn"])
async def test_a_refreshed_jwt_is_the_same_caller(make_play: MakePlay, name: str) -> None:
    """§2 Caller: `iss` with `sub` (or another claim) once VB365 has accepted the token."""
    upstream = AccessUpstream()
    play = await make_play(upstream)
    play.fields = jwt("alice", 1, name)
    more = {"Idempotency_Key": "k"}
    status = await play.begun(EXPORT, **more)
    await play.finished(status)
    upstream.sessions = {
        fields["Authorization"]: 404 for fields in (jwt("alice", 2, name), jwt("bob", 3, name))
    }
    play.fields = jwt("alice", 2, name)
    assert (await play.get(status)).status == 200  # the session is gone
    again = await play.kickoff(EXPORT, Idempotency_Key="k")
    assert again["Idempotency-Replayed"] == "true"
    assert len((await play.get("/v8/_async/exports")).json()["results"]) == 1
    assert (await play.ask("GET", status, jwt("bob", 3, name))).status == 404
    assert len(play.upstream.posts()) == 1


async def test_claims_of_a_token_that_was_not_accepted_identify_nobody(
    make_play: MakePlay,
) -> None:
    """§2 Caller: a forged JWT beside a valid cookie."""
    upstream = AccessUpstream()
    play = await make_play(upstream)
    play.fields = jwt("alice", 1)
    status = await play.begun(EXPORT)
    await play.finished(status)
    upstream.cookie_alone = True  # VB365 accepts the cookie and ignores the token
    forged = jwt("alice", 666) | {"Cookie": "mallory=1"}
    assert (await play.ask("GET", "/v8/_async/exports", forged)).json()["results"] == []
    upstream.sessions[forged["Authorization"]] = 404
    assert (await play.ask("GET", status, forged)).status == 404


async def test_a_cookie_alone_identifies_a_caller(make_play: MakePlay) -> None:
    """§2, §3.2: credentials are `Authorization` or `Cookie`."""
    play = await make_play(AccessUpstream())
    play.fields = {"Cookie": "session=1"}
    status = await play.begun(EXPORT)
    await play.finished(status)
    assert len((await play.get("/v8/_async/exports")).json()["results"]) == 1
    assert (await play.ask("GET", "/v8/_async/exports", {"Cookie": "session=2"})).json()[
        "results"
    ] == []


async def test_no_secret_is_logged_shown_or_stored(
    make_stage: MakeStage, capfd: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    """§9: logs, documents, files and file names contain no credential and no query value; a body is
    removed with its job.
    """
    stage = await make_stage()
    token = stage.fields["Authorization"].removeprefix("Bearer ")
    secrets = {
        "token": token,
        "cookie": "cookie-canary",
        "query": "query-canary",
        "field": "field-canary",
    }
    more: dict[str, Any] = {
        "Cookie": "c=cookie-canary",
        "X_Secret": "field-canary",
        "Idempotency_Key": "k",
    }
    response = await stage.kickoff(
        stage.export + "?x=query-canary", body=b'{"body-canary"}', **more
    )
    status = stage.path(response["Location"])
    document = await stage.finished(status)
    await stage.ask("GET", status + "?x=query-canary", {"Authorization": "Bearer " + token + "x"})
    listed = await stage.get("/v8/_async/exports")
    stage.fault(outlook_missing=True)
    await stage.finished(
        await stage.begun(stage.export + "?x=query-canary", Cookie="c=cookie-canary")
    )
    await stage.running.stop()
    logged = "".join(capfd.readouterr())
    shown = response.body + document.body + listed.body
    names, stored = kept_in(tmp_path)
    for what, secret in secrets.items():
        assert secret not in logged, what
        assert secret.encode() not in shown, what
        assert secret not in names, what
        assert what == "query" or secret.encode() not in stored, (
            what
        )  # the target is kept with the job
    assert "body-canary" not in logged
    assert b"body-canary" not in shown


@asynccontextmanager
async def restarted(stage: Stage) -> AsyncIterator[str]:
    """Restart the proxy while VB365 generates a file. Yields the path of the job."""
    stage.fault(hold=True, count=1)
    status = await stage.begun(stage.export)
    await stage.held()
    await stage.running.stop()
    stage.simulator.release()
    stage.running = await app.start(stage.running.settings, stage.clock)
    try:
        yield status
    finally:
        await stage.running.stop()


async def test_the_owners_next_call_resumes_a_suspended_job(stage: Stage) -> None:
    """§9: after a restart the job is Suspended; the next allowed call resumes it with its
    credentials, a denied one does not.
    """
    async with restarted(stage) as status:
        assert (await stage.ask("GET", status, stage.simulator.login("bob"))).status == 404
        listed = await stage.get("/v8/_async/exports")
        [job] = listed.json()["results"]
        assert (job["status"], job["phase"]) == ("Running", "Suspended")
        stage.fields = stage.simulator.login()
        assert (await stage.get(status)).status == 202
        over = await stage.finished(status)
        assert (over.json()["status"], over.json()["attempt"]) == ("Success", 2)
        posts = [one for one in stage.simulator.requests if one.method == "POST"]
        assert posts[-1].header("Authorization") == stage.fields["Authorization"]
        assert posts[-1].header("Prefer") is None


async def test_an_export_that_was_interrupted_in_its_last_attempt_does_not_blame_vb365(
    make_stage: MakeStage,
) -> None:
    """§10: the attempts are bounded, also if it is the proxy that was restarted."""
    stage = await make_stage(EXPORTS__ATTEMPTS="1")
    async with restarted(stage) as status:
        stage.fields = stage.simulator.login()
        error = (await stage.finished(status)).json()["error"]
        assert (error["code"], error["retryable"]) == ("Interrupted", True)
        assert error["message"] == (
            "The export was interrupted, and that was the last of its attempts (1). Start it again."
        )
