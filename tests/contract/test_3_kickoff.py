"""CONTRACT §3: the kick-off, in the order of its steps."""

from __future__ import annotations

import asyncio
import re
from functools import partial
from typing import Any

import pytest

from proxy.core.job import Job
from proxy.downstream.bridge import Bridge
from proxy.jobs.transfer import Transfer
from proxy.ports import StoreUnavailable
from proxy.simulator import Simulator
from proxy.stores.disk_jobs.store import DiskJobs
from proxy.stores.file_artifacts.store import FileArtifacts
from tests.contract.conftest import SIZE, MakePlay, MakeStage, Stage
from tests.support.wire import Message, Peer, raw, request_bytes

PATH = (
    "/v8/RestoreSessions/0f0c6d3e-0000-4000-8000-000000000001/organization/mailboxes/m/exportToPst"
)
ODD = raw(
    "409 Not Really OK",
    [
        "X-One: 1",
        "Set-Cookie: a=b; path=/",
        "x-one: 2",
        "Set-Cookie: c=d",
        "Content-Type: text/odd",
        "Connection: X-Hop",
    ],
    b"\xff not json",
)


def script_for(export: bytes | None, parent: bytes | None = raw("200 OK", [], b"{}")) -> Any:
    """An upstream with this response to the export and `parent` to everything else."""

    async def script(request: Message) -> bytes | None:
        return export if request.method == "POST" else parent

    return script


async def test_a_body_beyond_the_limit_gets_413(make_stage: MakeStage) -> None:
    """§3.1: at most `exports.max_request_body`, announced or chunked; none of it reaches VB365."""
    stage = await make_stage(EXPORTS__MAX_REQUEST_BODY="1KiB")
    accepted = await stage.kickoff(stage.export, body=b"x" * 1024)
    assert accepted.status == 202
    await stage.finished(stage.path(accepted["Location"]))
    stage.simulator.requests.clear()
    for body, more in (
        (b"x" * 1025, {}),
        (b"401\r\n" + b"x" * 1025 + b"\r\n0\r\n\r\n", {"Transfer-Encoding": "chunked"}),
    ):
        response = await stage.kickoff(stage.export, body=body, **more)
        assert response.status == 413
        assert response.json()["type"] == "urn:vb365-async:problem:request-too-large"
        assert response.json()["errorCode"] == "ParameterValidationFailure"
    assert stage.count_requests("exportToPst", "POST") == 0


async def test_a_client_that_disconnects_within_its_body_starts_no_job(stage: Stage) -> None:
    """§3.1: a body that is cut short starts no job."""
    head = request_bytes(
        "POST",
        stage.export,
        stage.fields | {"Prefer": "respond-async", "Content-Length": "10"},
        None,
        "h",
    )
    wire = await Peer.to(stage.url)
    await wire.send(head + b"12345")
    await stage.get("/v8/_async/exports")
    wire.abort()
    for _ in range(5):
        assert (await stage.get("/v8/_async/exports")).json()["results"] == []
    assert stage.count_requests("exportToPst", "POST") == 0


async def test_expect_100_continue_gets_the_only_interim_response(stage: Stage) -> None:
    """§4: 100 Continue is the only 1xx, and is sent only to a client that asks for it."""
    fields = stage.fields | {
        "Prefer": "respond-async",
        "Expect": "100-continue",
        "Content-Length": "2",
    }
    wire = await Peer.to(stage.url)
    await wire.send(request_bytes("POST", stage.export, fields, None, "h"))
    assert (await wire.message()).first == "HTTP/1.1 100 Continue"
    await wire.send(b"{}")
    assert (await wire.message()).status == 202
    # the connection serves further requests
    await wire.send(request_bytes("GET", "/v8/_async/exports", stage.fields, None, "h"))
    assert len((await wire.message()).json()["results"]) == 1
    wire.abort()


async def test_a_kick_off_without_credentials_gets_the_upstreams_401(stage: Stage) -> None:
    """§3.2: forwarded synchronously without `async`, before its Idempotency-Key is looked at."""
    response = await stage.ask(
        "POST", stage.export + "?async=true&x=1", {"Idempotency-Key": "bad key"}, b"{}"
    )
    assert response.status == 401
    assert response.body == b""
    assert "X-VB365-Async" not in response
    assert stage.simulator.requests[-1].target == stage.export + "?x=1"


@pytest.mark.parametrize("status", [401, 403, 404])
async def test_a_rejected_preflight_is_relayed_verbatim(make_play: MakePlay, status: int) -> None:
    """§3.4: GET of the path minus its last segment; 401, 403 and 404 are relayed with every field,
    and no job is created.
    """
    play = await make_play(
        script_for(None, ODD.replace(b"409", b"%d" % status)), EXPORTS__GRACE="2s"
    )
    response = await play.kickoff(PATH + "?async=1&x=y", Cookie="k=v")
    assert response.first == f"HTTP/1.1 {status} Not Really OK"
    sent = [
        ("X-One", "1"),
        ("Set-Cookie", "a=b; path=/"),
        ("x-one", "2"),
        ("Set-Cookie", "c=d"),
        ("Content-Type", "text/odd"),
    ]
    assert response.fields == [*sent, ("Content-Length", "10")]
    assert response.body == b"\xff not json"
    [request] = play.upstream.requests
    assert (request.method, request.target) == ("GET", PATH.removesuffix("/exportToPst"))
    assert (request["Authorization"], request["Cookie"]) == ("Bearer t", "k=v")


@pytest.mark.parametrize(
    "parent", [raw("500 Oops"), raw("400 Bad"), raw("302 Found"), None, b"garbage\r\n\r\n"]
)
async def test_any_other_preflight_response_lets_the_export_start(
    make_play: MakePlay, parent: bytes | None
) -> None:
    """§3.4: a request is never rejected by mistake."""
    play = await make_play(script_for(raw("200 OK", [], b"x"), parent))
    assert (await play.kickoff(PATH)).status == 202


async def test_a_long_denial_of_the_preflight_is_left_to_the_export(make_play: MakePlay) -> None:
    """§3.4: strangers can cause many preflights at a time, and each denial is held in memory."""
    denied, long = raw("404 Export", [], b"x"), raw("404 Parent", [], bytes(2 << 20))
    play = await make_play(script_for(denied, long), EXPORTS__GRACE="2s")
    assert (await play.kickoff(PATH)).first == "HTTP/1.1 404 Export"


async def test_a_preflight_that_times_out_lets_the_export_start(make_play: MakePlay) -> None:
    """§3.4: also if VB365 does not respond."""

    async def script(request: Message) -> bytes | None:
        if request.method == "GET":
            await asyncio.Event().wait()
        return raw("200 OK", [], b"x")

    play = await make_play(script, EXPORTS__PREFLIGHT_TIMEOUT="50ms")
    assert (await play.kickoff(PATH)).status == 202


async def test_no_preflight_is_sent_if_disabled(make_play: MakePlay) -> None:
    """§3.4 `exports.preflight`."""
    play = await make_play(
        script_for(raw("200 OK", [], b"x"), raw("404 No")), EXPORTS__PREFLIGHT="false"
    )
    assert (await play.kickoff(PATH)).status == 202
    assert all(request.method == "POST" for request in play.upstream.requests)


async def test_too_many_unfinished_jobs_of_one_caller_get_429(make_stage: MakeStage) -> None:
    """§3.5: with Retry-After; other callers are not affected, and ended jobs do not count."""
    stage = await make_stage(EXPORTS__MAX_PER_CALLER="1", EXPORTS__CANCEL_HOLD="0s")
    stage.fault(hold=True)
    status = await stage.begun(stage.export)
    response = await stage.kickoff(stage.export)
    assert response.status == 429
    assert response.json()["type"] == "urn:vb365-async:problem:quota-exceeded"
    assert (
        response.json()["detail"]
        == "You already have 1 unfinished export (exports.max_per_caller)."
    )
    assert response.json()["errorCode"] == "HttpError"
    assert int(response["Retry-After"]) > 0
    other = stage.simulator.login("operator") | {"Prefer": "respond-async"}
    assert (await stage.ask("POST", stage.export, other, b"")).status == 202
    assert (await stage.ask("POST", status + "/cancel")).status == 202
    await stage.finished(status)
    assert (await stage.kickoff(stage.export)).status == 202


async def test_jobs_run_in_order_and_a_full_queue_gets_503(make_stage: MakeStage) -> None:
    """§3.5, §3.6: jobs are `Queued` while `max_running` run, first in, first out; beyond
    `max_queued` they get 503 `capacity-exhausted`.
    """
    stage = await make_stage(
        EXPORTS__MAX_RUNNING="1", EXPORTS__MAX_QUEUED="2", EXPORTS__GRACE="10s"
    )
    stage.fault(hold=True)
    paths = [
        stage.path_of("exportToPst"),
        stage.path_of("items/save"),
        stage.path_of("posts/export"),
    ]
    first = await stage.begun(paths[0], Prefer="respond-async, wait=0")
    await stage.held()
    queued = [
        await stage.kickoff(path) for path in paths[1:]
    ]  # without a grace period, or this would take 10 s each
    for response in queued:
        assert (response.status, response.json()["phase"], response["Retry-After"]) == (
            202,
            "Queued",
            "10",
        )
        assert response.json()["startTime"] is not None
        assert response.json()["attempt"] == 0
    response = await stage.kickoff(paths[0])
    assert response.status == 503
    assert response.json()["type"] == "urn:vb365-async:problem:capacity-exhausted"
    assert response.json()["detail"] == "2 exports are waiting (exports.max_queued)."
    assert int(response["Retry-After"]) > 0
    stage.simulator.faults.clear()
    stage.simulator.release()
    for status in (first, *(stage.path(response["Location"]) for response in queued)):
        await stage.finished(status)
    posts = [one.target for one in stage.simulator.requests if one.method == "POST"]
    assert posts == paths


async def test_too_little_free_space_gets_503(make_stage: MakeStage) -> None:
    """§3.5: less than `storage.min_free` is free."""
    stage = await make_stage(STORAGE__MIN_FREE="900TiB")
    response = await stage.kickoff(stage.export)
    assert response.status == 503
    assert response.json()["type"] == "urn:vb365-async:problem:capacity-exhausted"
    assert re.search(
        r"[0-9.]+ [GT]iB free, storage\.min_free is 900 TiB", response.json()["detail"]
    )
    assert "Retry-After" in response


@pytest.mark.parametrize(
    "status", ["400", "401", "403", "404", "409", "500", "202", "206", "302", "599"]
)
async def test_any_response_but_200_within_the_grace_period_is_relayed(
    make_play: MakePlay, status: str
) -> None:
    """§3.7: status, reason, all end-to-end fields and the body; nothing is added, and the job is
    dropped.
    """
    play = await make_play(script_for(ODD.replace(b"409", status.encode())), EXPORTS__GRACE="10s")
    response = await play.kickoff(PATH)
    assert response.first == f"HTTP/1.1 {status} Not Really OK"
    assert response.all("Set-Cookie") == ["a=b; path=/", "c=d"]
    assert [pair for pair in response.fields if pair[0].lower() == "x-one"] == [
        ("X-One", "1"),
        ("x-one", "2"),
    ]
    assert response.names == {"x-one", "set-cookie", "content-type", "content-length"}
    assert response.body == b"\xff not json"
    assert (await play.get("/v8/_async/exports")).json()["results"] == []


async def test_a_response_without_a_body_is_relayed_within_the_grace_period(
    make_play: MakePlay,
) -> None:
    """§3.7: 204 has neither a body nor a length."""
    play = await make_play(
        script_for(raw("204 No Content", ["X: 1"], length=False)), EXPORTS__GRACE="10s"
    )
    response = await play.kickoff(PATH)
    assert (response.first, response.fields) == ("HTTP/1.1 204 No Content", [("X", "1")])


async def test_a_reset_before_the_head_within_the_grace_period_is_502(make_play: MakePlay) -> None:
    """§3.7: the job is dropped."""
    play = await make_play(script_for(None), EXPORTS__GRACE="10s")
    response = await play.kickoff(PATH)
    assert response.status == 502
    assert response.json()["type"] == "urn:vb365-async:problem:upstream-unreachable"
    assert (await play.get("/v8/_async/exports")).json()["results"] == []


async def test_an_unreachable_upstream_is_502(make_stage: MakeStage) -> None:
    """§3.7: VB365 cannot be reached."""
    stage = await make_stage(EXPORTS__GRACE="10s")
    await stage.simulator.stop()
    response = await stage.kickoff(stage.export)
    assert response.status == 502
    assert response["X-VB365-Async"] == "proxy"


async def test_no_response_in_time_is_504(make_stage: MakeStage) -> None:
    """§3.7: a time-out before the head, here of the generation."""
    stage = await make_stage(EXPORTS__GRACE="10s", EXPORTS__GENERATE_TIMEOUT="100ms")
    stage.fault(hold=True)
    response = await stage.kickoff(stage.export)
    assert response.status == 504
    assert response.json()["type"] == "urn:vb365-async:problem:upstream-timeout"
    assert response.json()["errorCode"] == "Timeout"


@pytest.mark.parametrize(
    ("status", "code"),
    [
        (400, "UpstreamRejected"),
        (404, "UpstreamRejected"),
        (500, "UpstreamError"),
        (202, "UpstreamError"),
    ],
)
async def test_after_the_grace_period_any_response_but_200_fails_the_job(
    make_stage: MakeStage, status: int, code: str
) -> None:
    """§3.7, §4 AsyncResult, §5 error: 4xx is UpstreamRejected, the rest is UpstreamError."""
    stage = await make_stage(EXPORTS__GRACE="10s")
    stage.fault(status=status, body='{"message":"no"}')
    path = await stage.begun(stage.export, Prefer="respond-async, wait=0")
    response = await stage.finished(path)
    error = response.json()["error"]
    assert response.json()["status"] == "Failed"
    assert response["AsyncResult"] == str(status)
    assert error["code"] == code
    assert error["upstream"]["status"] == status
    assert error["upstream"]["body"] == {"message": "no"}
    assert error["upstream"]["truncated"] is False


async def test_the_202_has_the_fields_and_document_of_the_contract(stage: Stage) -> None:
    """§3: every field of the 202, with the job document as its body."""
    stage.fault(hold=True)
    response = await stage.kickoff(stage.export, Prefer="respond-async, wait=0")
    assert response.first == "HTTP/1.1 202 Accepted"
    document = response.json()
    url = f"{stage.url}/v8/_async/exports/{document['id']}"
    assert response["Location"] == response["Content-Location"] == url
    assert response["Link"] == f'<{url}>; rel="monitor"'
    assert response["Preference-Applied"] == "respond-async, wait=0"
    assert response["Vary"] == "Prefer"
    assert response["Cache-Control"] == "no-store"
    assert response["Content-Type"] == "application/json"
    assert 1 <= int(response["Retry-After"]) <= 30
    assert "X-VB365-Async" not in response
    assert document["_links"]["self"]["href"] == url


@pytest.mark.parametrize(
    ("prefer", "query", "applied"),
    [
        ("respond-async", "", "respond-async"),
        ("wait=0", "?async=true", "wait=0"),
        (None, "?async=true", None),
        ("respond-async, wait=abc", "", "respond-async"),
        ('respond-async, wait="0"', "", "respond-async, wait=0"),
    ],
)
async def test_preference_applied_names_only_what_was_sent(
    stage: Stage, prefer: str | None, query: str, applied: str | None
) -> None:
    """§3: Preference-Applied."""
    fields = stage.fields | ({} if prefer is None else {"Prefer": prefer})
    response = await stage.ask("POST", stage.export + query, fields, b"")
    assert response.status == 202
    assert response.get("Preference-Applied") == applied


async def test_a_200_of_the_upstream_ends_the_grace_period(make_stage: MakeStage) -> None:
    """§3.8: 202 even if the export is already complete."""
    stage = await make_stage(EXPORTS__GRACE="30s")
    response = await stage.kickoff(stage.export)
    assert response.status == 202
    await stage.finished(stage.path(response["Location"]))


async def test_wait_responds_with_the_file(make_stage: MakeStage) -> None:
    """§3.9: 200, the Content-Location of the result, and all fields of §6; after 45 s at most; no
    Range for a POST.
    """
    stage = await make_stage(EXPORTS__GRACE="2s")
    response = await stage.kickoff(
        stage.export, Prefer="respond-async, wait=100", Range="bytes=0-1"
    )
    assert response.status == 200
    assert response.body == stage.file()
    result = stage.path(response["Content-Location"])
    assert result.endswith("/result")
    assert response["Preference-Applied"] == "wait=45"
    got = await stage.get(result)
    own = {"content-location", "preference-applied", "vary", "date", "x-request-id"}
    assert {pair for pair in response.fields if pair[0].lower() not in own} == {
        pair for pair in got.fields if pair[0] not in ("Date", "X-Request-Id")
    }
    assert response["Content-Length"] == str(SIZE)
    assert response["Cache-Control"] == "private, no-cache, no-transform"
    assert "Location" not in response


async def test_wait_is_limited_and_ends_in_202(make_stage: MakeStage) -> None:
    """§3.9: the response waits until the job is terminal or N seconds, `exports.max_wait` at most;
    then it is 202.
    """
    stage = await make_stage(EXPORTS__MAX_WAIT="1s")
    stage.fault(hold=True)
    response = await stage.kickoff(stage.export, Prefer="respond-async, wait=99")
    assert (response.status, response.json()["status"]) == (202, "Running")
    assert response["Preference-Applied"] == "respond-async, wait=1"


@pytest.mark.parametrize(
    ("store", "method", "status"),
    [(DiskJobs, "wait", "Running"), (FileArtifacts, "open", "Success")],
)
async def test_an_export_that_is_stored_is_accepted_whatever_fails_afterwards(
    make_stage: MakeStage,
    monkeypatch: pytest.MonkeyPatch,
    store: type[object],
    method: str,
    status: str,
) -> None:
    """§3.8: it goes on, and after an error the client would start another one."""
    stage = await make_stage()
    stage.fault(hold=status == "Running")

    async def away(*_: object) -> None:
        raise StoreUnavailable("away")

    monkeypatch.setattr(store, method, away)
    response = await stage.kickoff(stage.export, Prefer="respond-async, wait=45")
    assert (response.status, response.json()["status"]) == (202, status)
    monkeypatch.undo()
    if status == "Running":
        await stage.held()
        stage.simulator.release()
    await stage.finished(stage.path(response["Location"]))
    assert stage.count_requests("exportToPst", "POST") == 1


async def test_a_failure_within_wait_relays_the_upstreams_response(make_play: MakePlay) -> None:
    """§3.9: after the grace period too."""
    play = await make_play(script_for(ODD), EXPORTS__GRACE="0s")
    response = await play.kickoff(PATH, Prefer="respond-async, wait=10")
    assert response.first == "HTTP/1.1 409 Not Really OK"
    assert response.body == b"\xff not json"
    assert response.all("Set-Cookie") == ["a=b; path=/", "c=d"]
    [job] = (await play.get("/v8/_async/exports")).json()["results"]
    assert job["error"]["code"] == "UpstreamRejected"


async def test_wait_without_a_response_to_relay_is_502_or_the_failed_job(
    make_play: MakePlay,
) -> None:
    """§3.9: without a head of VB365 it is 502, as within the grace period; if the file broke off it
    is 202 with the failed job.
    """
    play = await make_play(script_for(None))
    assert (await play.kickoff(PATH, Prefer="respond-async, wait=10")).status == 502
    short = raw("200 OK", ["Content-Encoding: gzip"], b"x")
    play = await make_play(script_for(short), data="other")
    response = await play.kickoff(PATH, Prefer="respond-async, wait=10")
    assert (response.status, response.json()["status"]) == (202, "Failed")


def _more_held(simulator: Simulator, seen: int) -> bool:
    return simulator.held > seen


async def test_a_client_that_disconnects_while_it_waits_stops_no_job(make_stage: MakeStage) -> None:
    """§3.9: a client that disconnects during step 7 or 9 does not stop its job."""
    stage = await make_stage(EXPORTS__GRACE="30s")
    stage.fault(hold=True)

    for prefer in ("respond-async", "respond-async, wait=40"):
        seen = stage.simulator.held
        wire = await Peer.to(stage.url)
        await wire.send(
            request_bytes("POST", stage.export, stage.fields | {"Prefer": prefer}, b"{}", "h")
        )
        await stage.simulator.until(partial(_more_held, stage.simulator, seen))
        wire.abort()
    stage.simulator.release()
    jobs = (await stage.get("/v8/_async/exports")).json()["results"]
    assert len(jobs) == 2
    for job in jobs:
        assert (await stage.finished(stage.path(job["_links"]["self"]["href"]))).json()[
            "status"
        ] == "Success"


# §8


async def test_3_6_a_202_without_grace_does_not_wait_for_the_first_steps_of_the_export(
    make_stage: MakeStage, monkeypatch: pytest.MonkeyPatch
) -> None:
    """§3.6: it is promised once the job is stored."""
    steps: list[str] = []
    write, run = Bridge.write, Transfer.run

    def written(self: Bridge, data: bytes) -> None:
        steps.append("response")
        write(self, data)

    async def started(self: Transfer, job: Job) -> None:
        steps.append("export")
        await run(self, job)

    monkeypatch.setattr(Bridge, "write", written)
    monkeypatch.setattr(Transfer, "run", started)
    stage = await make_stage()
    accepted = await stage.kickoff(stage.export, Prefer="respond-async, wait=0")
    assert accepted.status == 202
    await stage.finished(stage.path(accepted["Location"]))
    assert steps[:2] == ["response", "export"]
