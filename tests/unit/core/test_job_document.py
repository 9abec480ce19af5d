"""CONTRACT §3, §4, §5, §7: job documents and their header fields."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import jsonschema
import pytest

from proxy.core import job_document
from proxy.core.job import (
    ErrorCode,
    FileFacts,
    Job,
    JobError,
    Phase,
    ResultState,
    Status,
)
from proxy.core.paths import Links
from proxy.core.retention import Retention
from tests.support.export_requests import export_request

ID = "5f0c6d3e-0000-4000-8000-000000000001"
NOW = 1_795_403_524.0  # 2026-11-23T03:12:04Z
LINKS = Links(f"https://h/p/v8/_async/exports/{ID}")
KEPT = Retention(result=60, record=600)
EVENT = json.loads((Path(__file__).parents[2] / "data/restore_session_event.json").read_text())
QUEUED = Job(
    id=ID,
    version=17,
    owner="o",
    request=export_request(
        target="/v8/RestoreSessions/s%2F1/organization/exportToPst?secret=1",
        session="s%2F1",
        idempotency_key="k",
    ),
    created=NOW,
    updated=NOW + 0.9,
)
GENERATING = replace(QUEUED, phase=Phase.GENERATING, started=NOW + 1, attempt=1)
ANSWER = FileFacts(
    media_type="application/octet-stream; x", file_name="ü.zip", size=5 * 2**30, etag=None
)
TRANSFERRING = replace(
    GENERATING,
    phase=Phase.TRANSFERRING,
    file=ANSWER,
    result=ResultState.PENDING,
    received=int(1.5 * 2**30),
    rate=100 * 2**20,
    format="Zip",
)
DONE = replace(
    TRANSFERRING,
    phase=Phase.COMPLETED,
    status=Status.SUCCESS,
    ended=NOW + 9,
    expires=NOW + 69,
    rate=None,
    received=5 * 2**30,
    size=5 * 2**30,
    digest="ZGln",
    result=ResultState.AVAILABLE,
)
CANCELLED = replace(
    TRANSFERRING,
    phase=Phase.COMPLETED,
    status=Status.CANCELLED,
    ended=NOW + 9,
    rate=None,
    result=ResultState.INCOMPLETE,
)
ERROR = JobError(
    code=ErrorCode.REJECTED,
    message="No",
    retryable=False,
    status=400,
    content_type="a/b",
    body='{"m":1}',
)
FAILED = replace(
    GENERATING, phase=Phase.COMPLETED, status=Status.FAILED, ended=NOW + 9, error=ERROR
)
ALL = (
    QUEUED,
    GENERATING,
    TRANSFERRING,
    replace(TRANSFERRING, phase=Phase.FINALIZING, rate=None),
    replace(TRANSFERRING, phase=Phase.CANCELLING, rate=None),
    replace(TRANSFERRING, phase=Phase.SUSPENDED, rate=None),
    replace(TRANSFERRING, file=replace(ANSWER, size=None)),
    DONE,
    replace(DONE, status=Status.WARNING),
    CANCELLED,
    FAILED,
)


def document(job: Job) -> dict[str, Any]:
    return job_document.document(job, LINKS)


def failed(code: ErrorCode, **more: Any) -> Job:
    return replace(
        FAILED,
        error=replace(ERROR, code=code, status=None, body=None)
        if not more
        else replace(ERROR, **more),
    )


@pytest.mark.parametrize("job", ALL, ids=lambda job: f"{job.status}-{job.phase}")
def test_every_document_is_a_restore_session_event(job: Job) -> None:
    """§5: valid for v6, v7 and v8, whose schemas are one but for nullable ids that we do not
    send.
    """
    shown = json.loads(job_document.body(job, LINKS))
    assert shown == document(job)
    jsonschema.validate(shown, EVENT, format_checker=jsonschema.FormatChecker())
    assert "secret" not in json.dumps(shown)
    assert shown["message"]


def test_the_document_equals_the_example_of_the_contract() -> None:
    """§5: its example, with the members of §14."""
    assert document(TRANSFERRING) == {
        "id": ID,
        "type": "Export",
        "status": "Running",
        "phase": "Transferring",
        "title": "exportToPst",
        "message": "Transferring 1.5 of 5.0 GiB",
        "order": 0,
        "creationTime": "2026-11-23T03:12:04Z",
        "startTime": "2026-11-23T03:12:05Z",
        "endTime": None,
        "lastUpdateTime": "2026-11-23T03:12:04Z",
        "expirationTime": None,
        "eTag": 17,
        "attempt": 1,
        "origin": "Async",
        "joined": 0,
        "itemSizeBytes": 5368709120,
        "progress": {
            "percent": 30,
            "bytesReceived": 1610612736,
            "bytesTotal": 5368709120,
            "bytesPerSecond": 104857600,
            "secondsRemaining": 36,
        },
        "request": {
            "method": "POST",
            "path": "/v8/RestoreSessions/s%2F1/organization/exportToPst",
            "restoreSessionId": "s%2F1",
            "idempotencyKey": "k",
        },
        "result": {
            "state": "Pending",
            "href": LINKS.result,
            "mediaType": "application/octet-stream; x",
            "format": "Zip",
            "fileName": "ü.zip",
            "size": 5368709120,
        },
        "error": None,
        "_links": {
            "self": {"href": LINKS.status},
            "result": {"href": LINKS.status + "/result"},
            "cancel": {"href": LINKS.status + "/cancel"},
            "restoreSession": {"href": "/v8/RestoreSessions/s%2F1"},
        },
    }


def test_an_available_result_shows_how_to_verify_it() -> None:
    """§5: it has eTag, digest and expirationTime; there is no link to cancel."""
    shown = document(DONE)
    assert shown["result"]["eTag"] == '"ZGln"'
    assert shown["result"]["digest"] == {"sha-256": "ZGln"}
    assert shown["result"]["expirationTime"] == shown["expirationTime"] == "2026-11-23T03:13:13Z"
    assert shown["progress"]["percent"] == 100
    assert "cancel" not in shown["_links"]
    assert "digest" not in document(replace(DONE, result=ResultState.EXPIRED))["result"]


def test_unknown_numbers_are_null_or_left_out() -> None:
    """§5: never invented; startTime, which VB365 requires, is the creation's until the job
    starts.
    """
    shown = document(QUEUED)
    assert "itemSizeBytes" not in shown
    assert shown["result"] is None
    assert shown["startTime"] == shown["creationTime"]
    assert shown["progress"] == dict.fromkeys(
        ("percent", "bytesTotal", "bytesPerSecond", "secondsRemaining")
    ) | {"bytesReceived": 0}
    endless = replace(TRANSFERRING, file=replace(ANSWER, size=None), received=2048)
    assert document(endless)["message"] == "Transferring 2.0 KiB"
    assert document(endless)["progress"]["percent"] is None
    assert job_document.percent(replace(DONE, size=0, received=0)) == 100


def test_a_report_has_no_session() -> None:
    """§1, §5."""
    job = replace(QUEUED, request=replace(QUEUED.request, session=None, title="Save"))
    assert document(job)["type"] == "Save"
    assert document(job)["request"]["restoreSessionId"] is None
    assert "restoreSession" not in document(job)["_links"]


@pytest.mark.parametrize(
    ("body", "shown"),
    [
        ('{"m":1}', {"m": 1}),
        ("<html>", "<html>"),
        ("NaN", "NaN"),
        ("[" * 20_000, "[" * 20_000),
        (json.dumps("x" * 65_536), json.dumps("x" * 65_536)),
        (None, None),
        ('{"n":1e999}', '{"n":1e999}'),
        ('{"n":[-1e400]}', '{"n":[-1e400]}'),
        ('{"n":1.5e3}', {"n": 1500.0}),
        ('\ufeff{"m":1}', {"m": 1}),
        ("[" * 101 + "]" * 101, "[" * 101 + "]" * 101),
        ('{"a":' * 50 + "[1]" + "}" * 50, json.loads('{"a":' * 50 + "[1]" + "}" * 50)),
    ],
    ids=[
        "json",
        "text",
        "no number",
        "deep",
        "long",
        "none",
        "infinite",
        "minus",
        "real",
        "mark",
        "deeper",
        "nested",
    ],
)
def test_a_json_error_body_is_shown_as_json(body: str | None, shown: object) -> None:
    """§5: JSON of at most 64 KiB is parsed, anything else is text."""
    error = document(failed(ErrorCode.REJECTED, body=body))["error"]
    assert error == {
        "code": "UpstreamRejected",
        "message": "No",
        "retryable": False,
        "upstream": {"status": 400, "contentType": "a/b", "body": shown, "truncated": False},
    }


def test_a_polled_body_is_parsed_once(monkeypatch: pytest.MonkeyPatch) -> None:
    """A client that polls a failed job does not make the proxy parse up to 64 KiB again."""
    body = '{"polled":[1]}'
    assert document(failed(ErrorCode.ERROR, body=body))["error"]["upstream"]["body"] == {
        "polled": [1]
    }
    monkeypatch.setattr(json, "loads", None)
    assert document(failed(ErrorCode.ERROR, body=body))["error"]["upstream"]["body"] == {
        "polled": [1]
    }


def test_a_truncated_body_is_shown_as_text() -> None:
    """§5: half a number is not the number that VB365 sent."""
    shown = document(failed(ErrorCode.ERROR, body="12345", truncated=True))["error"]["upstream"]
    assert (shown["body"], shown["truncated"]) == ("12345", True)


def test_an_error_without_a_response_has_no_upstream_member() -> None:
    """§5."""
    assert document(failed(ErrorCode.TRUNCATED))["error"]["upstream"] is None
    assert document(FAILED)["message"] == "No"


@pytest.mark.parametrize(
    ("job", "elapsed", "seconds"),
    [
        (QUEUED, 500, 10),
        (GENERATING, 0, 2),
        (GENERATING, 101, 10),
        (GENERATING, 5000, 30),
        (TRANSFERRING, 0, 18),
        (replace(TRANSFERRING, rate=2**40), 0, 1),
        (replace(TRANSFERRING, rate=1), 0, 30),
        (replace(TRANSFERRING, rate=None), 0, 2),
        (replace(TRANSFERRING, phase=Phase.SUSPENDED), 0, 5),
        (replace(TRANSFERRING, phase=Phase.FINALIZING), 0, 1),
        (replace(TRANSFERRING, phase=Phase.CANCELLING), 0, 1),
        (replace(GENERATING, started=None), 50, 2),
    ],
)
def test_retry_after_adapts(job: Job, elapsed: float, seconds: int) -> None:
    """§4: Queued 10; Generating clamp(elapsed/10, 2, 30); Transferring clamp(eta/2, 1, 30)."""
    assert job_document.retry_after(job, NOW + 1 + elapsed) == seconds


@pytest.mark.parametrize(
    ("job", "text"),
    [
        (QUEUED, "Queued"),
        (GENERATING, "Generating"),
        (TRANSFERRING, "Transferring 30%"),
        (replace(TRANSFERRING, file=replace(ANSWER, size=None)), "Transferring"),
    ],
)
def test_x_progress_is_phase_and_percent(job: Job, text: str) -> None:
    """§4: `X-Progress: Transferring 30%`."""
    assert job_document.x_progress(job) == text


@pytest.mark.parametrize(
    ("job", "status"),
    [
        (DONE, 200),
        (CANCELLED, 499),
        (FAILED, 400),
        (failed(ErrorCode.TIMEOUT), 504),
        (failed(ErrorCode.TRUNCATED), 502),
        (failed(ErrorCode.UNREACHABLE), 502),
    ],
)
def test_async_result_is_the_status_of_vb365_or_a_substitute(job: Job, status: int) -> None:
    """§4: 499, 502, 504 for cancelled, broken, timed out."""
    assert job_document.async_result(job) == status


def test_the_header_fields_of_a_running_job() -> None:
    """§4: 202 with Location, Retry-After, X-Progress; ETag and no-store."""
    assert job_document.headers(TRANSFERRING, LINKS, KEPT, NOW) == [
        ("ETag", 'W/"17"'),
        ("Cache-Control", "no-store"),
        ("Location", LINKS.status),
        ("Retry-After", "18"),
        ("X-Progress", "Transferring 30%"),
    ]


def test_the_header_fields_of_an_ended_job() -> None:
    """§4: AsyncResult, and Sunset of the file or, without one, of the record."""
    common = [("ETag", 'W/"17"'), ("Cache-Control", "no-store")]
    assert job_document.headers(DONE, LINKS, KEPT, NOW) == [
        *common,
        ("AsyncResult", "200"),
        ("Sunset", "Mon, 23 Nov 2026 03:13:13 GMT"),
    ]
    assert job_document.headers(CANCELLED, LINKS, KEPT, NOW)[-1] == (
        "Sunset",
        "Mon, 23 Nov 2026 03:23:13 GMT",
    )
    assert job_document.headers(replace(DONE, expires=None), LINKS, KEPT, NOW) == [
        *common,
        ("AsyncResult", "200"),
    ]


def test_the_header_fields_of_the_202_response() -> None:
    """§3: the response to the kick-off, also for a job that has already ended."""
    expected = [
        ("Location", LINKS.status),
        ("Content-Location", LINKS.status),
        ("Link", f'<{LINKS.status}>; rel="monitor"'),
        ("Retry-After", "10"),
        ("Vary", "Prefer"),
        ("Cache-Control", "no-store"),
    ]
    assert job_document.accepted(QUEUED, LINKS, None, NOW) == expected
    applied = ("Preference-Applied", "respond-async")
    expected[3] = ("Retry-After", "1")
    assert job_document.accepted(DONE, LINKS, "respond-async", NOW) == [*expected, applied]
