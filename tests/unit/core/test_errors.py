"""Errors, readable for VB365's own clients of v6, v7 and v8 (CONTRACT §11)."""

from __future__ import annotations

import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from proxy.core.errors import KINDS, Problem, drop_frames, internal_error, problem_bytes, render
from proxy.core.http.heads import parse_request

#: The `errorCode` enums of RESTExceptionInfo; v6 has no such member.
ERROR_CODES = {
    "v6": None,
    "v7": {"ProxyOffline"},
    "v8": {
        "ProxyOffline",
        "OutdatedChangeToken",
        "ResourceAccessDenied",
        "ResourceNotFound",
        "ParameterValidationFailure",
        "OrganizationTransfer",
        "RepositoryOwnerChangeTooManyLinks",
        "Timeout",
        "OperationConflict",
        "HttpError",
    },
}
PATH = "/v8/_async/exports/5f0c/result"


def _document(problem: Problem, path: str = PATH, accept: str | None = None) -> dict[str, Any]:
    document = json.loads(render(problem, path, accept)[1])
    assert isinstance(document, dict)
    return document


def _headers(problem: Problem, accept: str | None = None) -> dict[str, str]:
    headers, _ = render(problem, PATH, accept)
    assert len(dict(headers)) == len(headers)
    return dict(headers)


def test_the_table_holds_the_types_of_the_contract() -> None:
    """§11 Types, with the statuses of §3 to §9 and §11."""
    assert {name: kind.status for name, kind in KINDS.items()} == {
        "invalid-async-parameter": 400,
        "idempotency-key-invalid": 400,
        "idempotency-key-reused": 422,
        "request-too-large": 413,
        "quota-exceeded": 429,
        "capacity-exhausted": 503,
        "upstream-unreachable": 502,
        "upstream-timeout": 504,
        "job-not-found": 404,
        "job-deleted": 404,
        "result-not-ready": 409,
        "export-failed": 409,
        "export-cancelled": 409,
        "result-expired": 410,
        "result-deleted": 410,
        "unauthorized": 401,
        "method-not-allowed": 405,
        "range-not-satisfiable": 416,
        "precondition-failed": 412,
        "store-unavailable": 503,
        "bad-request": 400,
    }
    assert all(name == kind.name and kind.title for name, kind in KINDS.items())


@pytest.mark.parametrize("version", ERROR_CODES)
@pytest.mark.parametrize("name", KINDS)
def test_every_error_is_a_valid_exception_info_of_each_version(name: str, version: str) -> None:
    """§11: the shape of VB365's own errors, so that existing handlers keep working."""
    document = _document(Problem(name, "what is wrong"), f"/{version}/_async/exports/1")
    assert isinstance(document["message"], str)
    assert document["message"]
    if version == "v8":
        assert document["errorCode"] in (ERROR_CODES["v8"] or ())
    else:
        assert "errorCode" not in document
    assert "stackTrace" not in document


@pytest.mark.parametrize("name", KINDS)
def test_every_error_is_a_problem_document(name: str) -> None:
    """§11, RFC 9457 §3.1."""
    document = _document(Problem(name, "what is wrong"))
    del document["errorCode"]
    assert document == {
        "type": f"urn:vb365-async:problem:{name}",
        "title": KINDS[name].title,
        "status": KINDS[name].status,
        "detail": "what is wrong",
        "instance": PATH,
        "message": "what is wrong",
    }


@pytest.mark.parametrize(
    ("status", "code"),
    [
        (400, "ParameterValidationFailure"),
        (401, "ResourceAccessDenied"),
        (403, "ResourceAccessDenied"),
        (404, "ResourceNotFound"),
        (405, "HttpError"),
        (409, "OperationConflict"),
        (410, "ResourceNotFound"),
        (412, "HttpError"),
        (413, "ParameterValidationFailure"),
        (416, "HttpError"),
        (422, "ParameterValidationFailure"),
        (429, "HttpError"),
        (502, "HttpError"),
        (503, "HttpError"),
        (504, "Timeout"),
    ],
)
def test_the_error_code_follows_the_status(status: int, code: str) -> None:
    """§11: a value of the v8 enum, never null; an overriding status counts."""
    problem = Problem("bad-request", "x", status=status)
    document = _document(problem)
    assert (document["errorCode"], document["status"], problem.status) == (code, status, status)


@pytest.mark.parametrize(
    ("path", "has"),
    [
        ("/v8/x", True),
        ("/V8/x", True),
        ("//v8/x", True),
        ("/v9/x", True),
        ("/v10/x", True),
        ("/v08/x", True),
        ("/v7/x", False),
        ("/v6/x", False),
        ("/v0/x", False),
        ("/v8", False),
        ("/_async/exports", False),
        ("/v8x/y", False),
        ("/x/v8/y", False),
        ("/v" + "9" * 10_000 + "/x", False),
        ("", False),
    ],
)
def test_the_error_code_is_included_for_v8_and_later_only(path: str, has: bool) -> None:
    """§11: `errorCode` on v8+ paths only."""
    assert ("errorCode" in _document(Problem("bad-request", "x"), path)) == has


@pytest.mark.parametrize(
    ("accept", "media_type"),
    [
        (None, "application/problem+json"),
        ("", "application/problem+json"),
        ("*/*", "application/problem+json"),
        ("application/problem+json", "application/problem+json"),
        ("application/json, text/plain", "application/problem+json"),
        ("application/json;q=0.9, application/problem+json", "application/problem+json"),
        ("application/json", "application/json"),
        (" Application/JSON ; charset=utf-8", "application/json"),
    ],
)
def test_accept_json_alone_selects_json(accept: str | None, media_type: str) -> None:
    """§11: `Accept: application/json` alone gets the same body as application/json."""
    problem = Problem("bad-request", "x")
    assert _headers(problem, accept)["Content-Type"] == media_type
    assert _document(problem, accept=accept) == _document(problem)


def test_the_header_fields_mark_errors_of_the_proxy() -> None:
    """§11 `X-VB365-Async: proxy`; §4 `Cache-Control: no-store` on every answer of our own."""
    assert _headers(Problem("bad-request", "x")) == {
        "Content-Type": "application/problem+json",
        "Cache-Control": "no-store",
        "X-VB365-Async": "proxy",
    }


def test_retry_after_and_further_fields_are_sent() -> None:
    """§3 step 5, §4, §6: `Retry-After`, `Allow`, `Content-Range: bytes */size`."""
    assert _headers(Problem("quota-exceeded", "x", retry_after=30))["Retry-After"] == "30"
    assert _headers(Problem("quota-exceeded", "x", retry_after=0))["Retry-After"] == "0"
    assert (
        _headers(Problem("method-not-allowed", "x", headers=(("Allow", "GET"),)))["Allow"] == "GET"
    )


def test_a_problem_is_an_exception_with_a_message() -> None:
    with pytest.raises(Problem, match="409 result-not-ready: wait"):
        raise Problem("result-not-ready", "wait")


def test_an_unknown_problem_name_is_rejected() -> None:
    with pytest.raises(KeyError):
        Problem("no-such-problem", "x")


@given(st.text(), st.text(), st.none() | st.text())
def test_the_body_is_always_a_json_object(detail: str, path: str, accept: str | None) -> None:
    """§11: a non-empty JSON object in ASCII, whatever it quotes."""
    headers, body = render(Problem("bad-request", detail), path, accept)
    assert body.isascii()
    document = json.loads(body)
    assert (document["detail"], document["instance"]) == (detail, path)
    assert all("\r" not in value and "\n" not in value for _, value in headers)


def test_the_titles_are_true_wherever_their_types_are_used() -> None:
    """`capacity-exhausted` also refuses connections and pass-through, `quota-exceeded` ended jobs
    on record.
    """
    assert "export" not in KINDS["capacity-exhausted"].title
    assert "running" not in KINDS["quota-exceeded"].title


PROBLEM = Problem("upstream-unreachable", "down", retry_after=3)


def request(method: bytes = b"GET", accept: bytes = b"*/*") -> bytes:
    return method + b" /v8/x?secret HTTP/1.1\r\nHost: h\r\nAccept: " + accept + b"\r\n\r\n"


@pytest.mark.parametrize("keep", [True, False])
def test_11_a_problem_is_a_whole_response(keep: bool) -> None:
    head, _, body = problem_bytes(PROBLEM, parse_request(request()), keep=keep).partition(
        b"\r\n\r\n"
    )
    lines = head.split(b"\r\n")
    assert lines[0] == b"HTTP/1.1 502 Bad Gateway"
    assert {b"X-VB365-Async: proxy", b"Retry-After: 3", b"Content-Length: %d" % len(body)} < set(
        lines
    )
    assert (b"Connection: close" in lines) is not keep
    assert json.loads(body)["instance"] == "/v8/x"


def test_11_accept_and_head_are_respected() -> None:
    response = problem_bytes(
        PROBLEM, parse_request(request(b"HEAD", b"application/json")), keep=True
    )
    assert b"\r\nContent-Type: application/json\r\n" in response
    assert response.endswith(b"\r\n\r\n")


@pytest.mark.parametrize(
    ("begun", "path"),
    [
        (b"GET /v7/x?s HTTP/1.1\r\nHo", "/v7/x"),
        (b"GET /a\x01 HTTP/1.1", "/"),
        (b"", "/"),
        (b"GET /\xff HTTP", "/"),
    ],
)
def test_11_only_a_plain_path_of_a_malformed_request_is_shown(begun: bytes, path: str) -> None:
    response = problem_bytes(Problem("bad-request", "no"), None, keep=False, begun=begun)
    assert json.loads(response.partition(b"\r\n\r\n")[2])["instance"] == path


def test_11_a_failure_of_the_proxy_discloses_nothing() -> None:
    """The bytes of version 0.1.0: `about:blank`, no `instance`, no `errorCode`."""
    status, headers, content = internal_error()
    assert status == 500
    assert headers == [
        ("X-VB365-Async", "proxy"),
        ("Cache-Control", "no-store"),
        ("Content-Type", "application/problem+json; charset=utf-8"),
    ]
    assert content == (
        b'{"type": "about:blank", "title": "Internal Server Error", "status": 500, '
        b'"detail": "The proxy failed to answer. Its log says why.", '
        b'"message": "The proxy failed to answer. Its log says why."}'
    )


def test_the_id_of_the_request_is_in_the_head_and_in_the_body() -> None:
    """§15: in problems as `requestId`."""
    response = problem_bytes(PROBLEM, parse_request(request()), keep=True, request_id="a-1")
    head, _, body = response.partition(b"\r\n\r\n")
    assert b"\r\nX-Request-Id: a-1\r\n" in head
    assert json.loads(body)["requestId"] == "a-1"
    _, headers, content = internal_error("a-1")
    assert ("X-Request-Id", "a-1") in headers
    assert json.loads(content)["requestId"] == "a-1"


def fail() -> None:
    try:
        raise ValueError
    except ValueError as why:
        raise Problem("bad-request", "no") from why


def test_no_frame_of_an_exception_that_became_a_response_is_kept() -> None:
    """Nor one of what led to it."""
    with pytest.raises(Problem) as caught:
        fail()
    cause = caught.value.__context__
    assert cause is not None
    drop_frames(caught.value)
    assert caught.value.__traceback__ is None
    assert cause.__traceback__ is None


def test_exceptions_that_led_to_each_other_are_dropped_once() -> None:
    """Tasks that wait for the same failure raise the same exception."""
    with pytest.raises(Problem) as caught:
        fail()
    cause = caught.value.__context__
    assert cause is not None
    cause.__context__ = caught.value
    drop_frames(caught.value)
    assert caught.value.__traceback__ is None
