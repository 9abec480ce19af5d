"""CONTRACT §2, §4, §5: URLs, the status monitor, the list."""

from __future__ import annotations

import asyncio
import json
import uuid
from email.utils import parsedate_to_datetime
from pathlib import Path

import jsonschema
import pytest

from tests.contract.conftest import SIZE, MakePlay, MakeStage, Stage
from tests.support.wire import Message, raw

EVENT = json.loads((Path(__file__).parents[1] / "data/restore_session_event.json").read_text())
V4 = "5f0c6d3e-0000-4000-8000-000000000001"
#: §4: each of these was measured to break a common client.
NEVER = {"operation-location", "azure-asyncoperation"}


async def test_a_job_has_a_path_in_every_version(stage: Stage) -> None:
    """§2: any /v{M}/ and no version at all; the segment in any case; links keep the version of the
    kick-off.
    """
    status = await stage.begun(stage.path_of(version=7))
    await stage.finished(status)
    assert status.startswith("/v7/_async/exports/")
    job = status.rpartition("/")[2]
    for base in ("/v7", "/v6", "/v8", "/V12", ""):
        response = await stage.get(f"{base}/_async/exports/{job}")
        assert response.status == 200
        assert response.json()["_links"]["self"]["href"] == f"{stage.url}/v7/_async/exports/{job}"
        assert (
            await stage.get(f"{base}/_async/exports/{job}/result")
        ).body == stage.simulator.content(stage.path_of(version=7)).read(0, SIZE)
    assert (await stage.get(f"/v8/_ASYNC/Exports/{job.upper()}")).status == 200


@pytest.mark.parametrize(
    "rest",
    [
        "",
        "/",
        "/x",
        "/exports/1",
        "/exports/x/result",
        "/exports/%s/other",
        "/exports/%s/result/x",
        "/exports/../exports",
    ],
)
async def test_unknown_sub_paths_are_404_and_never_forwarded(stage: Stage, rest: str) -> None:
    """§2: the proxy responds to everything below `_async` itself."""
    stage.simulator.requests.clear()
    for method in ("GET", "POST", "DELETE", "BREW"):
        response = await stage.ask(method, "/v8/_async" + rest.replace("%s", str(uuid.uuid4())))
        assert response.status == 404
        assert response.json()["type"] == "urn:vb365-async:problem:job-not-found"
    assert list(stage.simulator.requests) == []


@pytest.mark.parametrize(
    "id",
    [
        V4.replace("-4000-", "-1000-"),
        "0" * 36,
        V4.replace("-", ""),
        f"{{{V4}}}",
        V4.replace("-8000-", "-c000-"),
        "%31" * 12,
    ],
)
async def test_a_bad_id_is_404_without_a_look_up(stage: Stage, id: str) -> None:
    """§2: an id is a random UUIDv4; VB365 gets no request for any other."""
    stage.simulator.requests.clear()
    for suffix in ("", "/result"):
        assert (await stage.get(f"/v8/_async/exports/{id}{suffix}")).status == 404
    assert list(stage.simulator.requests) == []


async def test_another_segment_renames_the_paths(make_stage: MakeStage) -> None:
    """§2, §15 `public.segment`."""
    stage = await make_stage(PUBLIC__SEGMENT="_jobs")
    status = await stage.begun(stage.export)
    assert status.startswith("/v8/_jobs/exports/")
    assert (await stage.finished(status)).status == 200
    assert (await stage.get("/v8/_async/exports")).status == 404
    assert (
        stage.count_requests("_async") == 1
    )  # with another segment it is an ordinary path of VB365


async def test_the_openapi_description_needs_no_credentials(stage: Stage) -> None:
    """§2: GET /_async/openapi.json."""
    response = await stage.ask("GET", "/_async/openapi.json", {})
    assert response.status == 200
    assert response["Content-Type"] == "application/json"
    assert response["Cache-Control"] == "no-store"
    assert response.json()["openapi"].startswith("3.1")
    assert (await stage.ask("HEAD", "/_async/openapi.json", {})).body == b""


async def test_the_description_is_a_page_for_people_too(stage: Stage) -> None:
    """At the segment itself, without credentials and without scripts; nowhere below a version."""
    response = await stage.ask("GET", "/_async/", {})
    assert (response.status, response["Content-Type"]) == (200, "text/html; charset=utf-8")
    assert response["Content-Security-Policy"].startswith("default-src 'none';")
    assert response["X-Content-Type-Options"] == "nosniff"
    assert b'<a href="openapi.json">' in response.body
    assert (await stage.ask("HEAD", "/_async/", {})).body == b""
    assert (await stage.ask("POST", "/_async/", {}, b"")).status == 405
    for target in ("/v8/_async/", "/_async", "/_async//"):
        assert (await stage.ask("GET", target, {})).status == 404


async def test_a_running_job_is_202(stage: Stage) -> None:
    """§4: with Location, Retry-After, X-Progress and ETag, and the same document as later."""
    stage.fault(hold=True)
    status = await stage.begun(stage.export, Prefer="respond-async, wait=0")
    response = await stage.until(status, lambda document: document["phase"] == "Generating")
    assert response.first == "HTTP/1.1 202 Accepted"
    assert response["Location"] == stage.url + status
    assert response["Retry-After"] == "2"
    assert response["X-Progress"] == "Generating"
    assert response["ETag"] == f'W/"{response.json()["eTag"]}"'
    assert response["Cache-Control"] == "no-store"
    assert response["Content-Type"] == "application/json"
    assert not response.names & (NEVER | {"asyncresult", "sunset", "x-vb365-async"})
    assert response.json()["attempt"] == 1
    stage.clock.ahead += 55
    assert (await stage.get(status))["Retry-After"] in ("5", "6")


async def test_the_document_shows_the_transfer(stage: Stage) -> None:
    """§4, §5: percent, format and VB365's names before the transfer ends."""
    stage.fault(stall_at=SIZE // 2)
    status = await stage.begun(stage.export)
    response = await stage.until(
        status, lambda document: document["result"] and document["result"]["format"]
    )
    document = response.json()
    assert (response.status, document["phase"]) == (202, "Transferring")
    assert response["X-Progress"].startswith("Transferring ")
    assert len(response["X-Progress"]) < 100
    assert document["result"]["state"] == "Pending"
    assert document["result"]["format"] == "Pst"
    assert document["result"]["mediaType"] == "application/octet-stream"
    assert (
        document["result"]["size"]
        == document["itemSizeBytes"]
        == document["progress"]["bytesTotal"]
        == SIZE
    )
    assert document["progress"]["bytesReceived"] <= SIZE // 2
    stage.simulator.release()
    await stage.finished(status)


async def test_a_terminal_job_is_200(stage: Stage) -> None:
    """§4: with AsyncResult and Sunset; its document is a valid event of VB365 (§5)."""
    status = await stage.done()
    response = await stage.get(status)
    document = response.json()
    assert response.first == "HTTP/1.1 200 OK"
    assert response["AsyncResult"] == "200"
    assert (
        parsedate_to_datetime(response["Sunset"]).isoformat()[:19] + "Z"
        == document["result"]["expirationTime"]
    )
    assert not response.names & (NEVER | {"location", "retry-after", "x-progress", "x-vb365-async"})
    jsonschema.validate(document, EVENT, format_checker=jsonschema.FormatChecker())
    assert document["result"]["state"] == "Available"
    assert document["phase"] == "Completed"


async def test_the_outcome_of_a_job_is_never_an_error_of_the_poll(stage: Stage) -> None:
    """§4: 200 for Failed and Cancelled; AsyncResult is 499 if cancelled."""
    stage.fault(outlook_missing=True, count=1)
    failed = await stage.finished(await stage.begun(stage.export))
    assert (failed.status, failed["AsyncResult"], failed.json()["status"]) == (200, "500", "Failed")
    assert "Outlook" in failed.json()["error"]["upstream"]["body"]["message"]
    stage.fault(hold=True)
    status = await stage.begun(stage.export)
    await stage.ask("POST", status + "/cancel")
    cancelled = await stage.finished(status)
    assert (cancelled.status, cancelled["AsyncResult"], cancelled.json()["status"]) == (
        200,
        "499",
        "Cancelled",
    )


async def test_asyncresult_of_a_reset_is_502_and_of_a_time_out_504(make_stage: MakeStage) -> None:
    """§4: AsyncResult has a status of the proxy's own if VB365 sent none."""
    stage = await make_stage(EXPORTS__GENERATE_TIMEOUT="300ms")
    stage.fault(reset=True, count=1)
    broken = await stage.finished(await stage.begun(stage.export))
    assert (broken["AsyncResult"], broken.json()["error"]["code"]) == ("502", "UpstreamUnreachable")
    stage.fault(hold=True)
    silent = await stage.finished(await stage.begun(stage.export))
    assert (silent["AsyncResult"], silent.json()["error"]["code"]) == ("504", "UpstreamTimeout")
    assert silent.json()["error"]["retryable"] is True


async def test_if_none_match_answers_304(stage: Stage) -> None:
    """§4: weak comparison, lists, `*`; no body, no-store; HEAD as well."""
    status = await stage.done()
    etag = (await stage.get(status))["ETag"]
    for value in (etag, etag.removeprefix("W/"), f'"x", {etag}', "*"):
        for method in ("GET", "HEAD"):
            response = await stage.ask(method, status, If_None_Match=value)
            assert response.first == "HTTP/1.1 304 Not Modified"
            assert response["ETag"] == etag
            assert response["Cache-Control"] == "no-store"
            assert "Content-Length" not in response
    assert (await stage.get(status, If_None_Match='W/"0"')).status == 200


async def test_few_tags_of_if_none_match_are_compared(stage: Stage) -> None:
    """Otherwise each change of a job would cost every long-poll the time of 256 KiB of tags."""
    status = await stage.done()
    etag = (await stage.get(status))["ETag"]
    for before, expected in (('"x",' * 200, 304), ('"x",' * 300, 200)):
        assert (await stage.get(status, If_None_Match=before + etag)).status == expected


async def test_head_is_get_without_a_body(stage: Stage) -> None:
    """§4: on every resource that GET has."""
    status = await stage.done()
    for target in (status, status + "/result", "/v8/_async/exports"):
        got, head = await stage.get(target), await stage.ask("HEAD", target)
        assert head.first == got.first
        assert head.body == b""
        without = [pair for pair in got.fields if pair[0] not in ("Date", "X-Request-Id")]
        assert [pair for pair in head.fields if pair[0] not in ("Date", "X-Request-Id")] == without


@pytest.mark.parametrize(
    ("suffix", "allow"),
    [
        ("/exports/{}", {"GET", "HEAD", "DELETE", "OPTIONS"}),
        ("/exports/{}/result", {"GET", "HEAD", "DELETE", "OPTIONS"}),
        ("/exports/{}/cancel", {"POST", "OPTIONS"}),
        ("/exports", {"GET", "HEAD", "OPTIONS"}),
        ("/openapi.json", {"GET", "HEAD", "OPTIONS"}),
    ],
)
async def test_other_methods_are_405(stage: Stage, suffix: str, allow: set[str]) -> None:
    """§4: OPTIONS 204 + Allow; other methods 405 + Allow, a body on them read past."""
    target = "/v8/_async" + suffix.format(uuid.uuid4())
    options = await stage.ask("OPTIONS", target)
    assert options.first == "HTTP/1.1 204 No Content"
    assert set(options["Allow"].split(", ")) == allow
    assert "Content-Length" not in options
    for method in {"GET", "POST", "PUT", "PATCH", "DELETE", "TRACE", "BREW"} - allow:
        response = await stage.ask(method, target, body=b"x" * 100)
        assert response.status == 405
        assert set(response["Allow"].split(", ")) == allow
        assert response.json()["type"] == "urn:vb365-async:problem:method-not-allowed"


async def test_a_long_poll_ends_when_the_document_changes(stage: Stage) -> None:
    """§4: from the one in If-None-Match; without it when status or phase change."""
    stage.fault(hold=True)
    status = await stage.begun(stage.export)
    await stage.held()
    etag = (await stage.get(status))["ETag"]
    waiting = [
        asyncio.create_task(stage.get(status, Prefer="wait=40", If_None_Match=etag)),
        asyncio.create_task(stage.get(status, Prefer="wait=40")),
    ]
    done, _ = await asyncio.wait(waiting, timeout=0.2)
    assert not done
    stage.simulator.release()
    first, second = await asyncio.wait_for(asyncio.gather(*waiting), 20)
    assert first.json()["eTag"] != int(etag[3:-1])
    assert second.json()["phase"] != "Generating"
    # a document other than the known one is sent at once
    assert (await stage.get(status, Prefer="wait=40", If_None_Match='W/"0"')).status in (200, 202)


async def test_a_long_poll_ends_after_its_time(make_stage: MakeStage) -> None:
    """§4: after N seconds, `exports.max_wait` at most: 304 if the document is the known one, else
    202.
    """
    stage = await make_stage(EXPORTS__MAX_WAIT="200ms")
    stage.fault(hold=True)
    status = await stage.begun(stage.export)
    response = await stage.until(status, lambda document: document["phase"] == "Generating")
    assert (
        await stage.get(status, Prefer="wait=999", If_None_Match=response["ETag"])
    ).status == 304
    assert (await stage.get(status, Prefer="wait=999")).status == 202


async def test_a_terminal_job_ends_a_long_poll_at_once(stage: Stage) -> None:
    """§4: its status will not change."""
    status = await stage.done()
    async with asyncio.timeout(10):
        assert (await stage.get(status, Prefer="wait=45")).status == 200


async def test_the_list_has_the_callers_own_jobs_newest_first(stage: Stage) -> None:
    """§4: offset, limit, status; page links; valid documents."""
    paths = [await stage.done() for _ in range(3)]
    stage.fault(outlook_missing=True)
    failed = await stage.begun(stage.export)
    await stage.finished(failed)
    newest = [stage.url + path for path in [failed, *reversed(paths)]]

    async def listed(query: str = "", user: str | None = None) -> list[str]:
        response = await stage.ask(
            "GET", "/v8/_async/exports" + query, stage.simulator.login(user) if user else None
        )
        assert response.status == 200
        assert response["Cache-Control"] == "no-store"
        return [job["_links"]["self"]["href"] for job in response.json()["results"]]

    page = (await stage.get("/v8/_async/exports")).json()
    assert (page["offset"], page["limit"]) == (0, 30)
    assert page["_links"]["self"]["href"].startswith(stage.url + "/v8/_async/exports")
    assert await listed() == newest
    assert await listed("?offset=1&limit=2") == newest[1:3]
    assert await listed("?limit=0") == []
    assert await listed("?offset=99") == []
    assert await listed("?status=Failed") == newest[:1]
    assert await listed("?status=Success&limit=1") == newest[1:2]
    assert await listed(user="bob") == []
    assert await listed("?restoreSessionId=" + stage.session, "operator") == newest
    assert await listed("?restoreSessionId=" + stage.session, "bob") == []
    assert await listed("?restoreSessionId=" + str(uuid.uuid4())) == []
    middle = (await stage.get("/v8/_async/exports?offset=1&limit=2")).json()["_links"]
    for name, expected in (("previous", newest[:2]), ("next", newest[3:])):
        assert await listed("?" + middle[name]["href"].partition("?")[2]) == expected


@pytest.mark.parametrize(
    "query",
    ["offset=-1", "limit=x", "offset=1.5", "status=Queued", "limit=", "&".join(["a=1"] * 65)],
    ids=lambda query: query[:12],
)
async def test_a_bad_filter_is_400(stage: Stage, query: str) -> None:
    """§4, §11 bad-request."""
    response = await stage.get("/v8/_async/exports?" + query)
    assert response.status == 400
    assert response.json()["type"] == "urn:vb365-async:problem:bad-request"


async def test_the_list_needs_credentials_that_the_upstream_accepts(stage: Stage) -> None:
    """§9: 401 without credentials and for those that VB365 rejects."""
    assert (await stage.ask("GET", "/v8/_async/exports", {})).status == 401
    assert (
        await stage.ask("GET", "/v8/_async/exports", {"Authorization": "Bearer no"})
    ).status == 401


async def test_a_file_without_length_or_chunks_ends_as_warning(make_play: MakePlay) -> None:
    """§5 Warning: the length could not be verified; unknown numbers are left out; VB365's fields
    are verbatim.
    """

    async def script(request: Message) -> bytes | None:
        if request.method != "POST":
            return raw("200 OK", [], b"{}")
        head = [
            "Content-Type: Weird/Type;x=Y",
            'Content-Disposition: attachment; filename="../a/b.msg"',
            "Connection: close",
        ]
        return raw("200 OK", head, bytes.fromhex("d0cf11e0a1b11ae1") + b"x", length=False)

    play = await make_play(script, EXPORTS__WATCH_EVENTS="false")
    session = "/v8/RestoreSessions/1/organization/items/i/save"
    status = await play.begun(session)
    response = await play.finished(status)
    document = response.json()
    assert document["status"] == "Warning"
    assert document["type"] == "Save"
    assert document["result"]["mediaType"] == "Weird/Type;x=Y"
    assert document["result"]["format"] == "Msg"
    assert document["result"]["fileName"] == "b.msg"
    got = await play.get(status + "/result")
    assert got["Content-Type"] == "Weird/Type;x=Y"
    assert got.body.startswith(b"\xd0\xcf")
