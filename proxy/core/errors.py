"""Every error that the proxy responds with: one table, its JSON, its bytes (CONTRACT §11)."""

from __future__ import annotations

import json
import re
from dataclasses import dataclass, field
from http import HTTPStatus

from proxy.core.http.heads import Head
from proxy.core.http.outbound import CLOSE
from proxy.core.request_id import FIELD as REQUEST_ID


@dataclass(frozen=True, slots=True)
class Kind:
    """A row of the table: the name of the problem type, the HTTP status and the title."""

    name: str
    status: int
    title: str


#: The beginning of every problem type, and the field that marks the proxy's errors.
PROBLEM_TYPE, MARK = "urn:vb365-async:problem:", "X-VB365-Async"

KINDS: dict[str, Kind] = {
    kind.name: kind
    for kind in (
        Kind("bad-request", 400, "The request is malformed"),
        Kind("invalid-async-parameter", 400, "The async parameter is invalid"),
        Kind("idempotency-key-invalid", 400, "The Idempotency-Key is invalid"),
        Kind("unauthorized", 401, "Credentials are missing or were not accepted"),
        Kind("job-not-found", 404, "The export job does not exist"),
        Kind("job-deleted", 404, "The export job was deleted"),
        Kind("method-not-allowed", 405, "The method is not allowed"),
        Kind("result-not-ready", 409, "The export is not ready yet"),
        Kind("export-failed", 409, "The export failed"),
        Kind("export-cancelled", 409, "The export was cancelled"),
        Kind("result-expired", 410, "The exported file has expired"),
        Kind("result-deleted", 410, "The exported file was deleted"),
        Kind("precondition-failed", 412, "A precondition failed"),
        Kind("request-too-large", 413, "The request body is too large"),
        Kind("range-not-satisfiable", 416, "The range is not satisfiable"),
        Kind("idempotency-key-reused", 422, "The Idempotency-Key was used for another export"),
        Kind("quota-exceeded", 429, "The caller has too many exports"),
        Kind("upstream-unreachable", 502, "Veeam Backup for Microsoft 365 is unreachable"),
        Kind("capacity-exhausted", 503, "The proxy has no capacity for this now"),
        Kind("store-unavailable", 503, "The job store is not available"),
        Kind("upstream-timeout", 504, "Veeam Backup for Microsoft 365 did not respond in time"),
    )
}

#: A failure of the proxy itself. It has no problem type of its own (RFC 9457 §4.2.1).
_INTERNAL = Kind("about:blank", 500, "Internal Server Error")

#: CONTRACT §11: `errorCode` of v8 by status; HttpError for any other status.
_ERROR_CODES = {
    400: "ParameterValidationFailure",
    401: "ResourceAccessDenied",
    403: "ResourceAccessDenied",
    404: "ResourceNotFound",
    409: "OperationConflict",
    410: "ResourceNotFound",
    413: "ParameterValidationFailure",
    422: "ParameterValidationFailure",
    504: "Timeout",
}


#: The beginning of a malformed request whose path may be shown.
_PLAIN_TARGET = re.compile(rb"\S+ (/[!-~]*) HTTP")


@dataclass(eq=False, slots=True)
class Problem(Exception):
    """An error response. `name` is a key of `KINDS`; `detail` says what is wrong and what to do.

    `retry_after` is in whole seconds; `headers` are further header fields; `status` overrides that
    of the table.
    """

    name: str
    detail: str
    retry_after: int | None = None
    headers: tuple[tuple[str, str], ...] = ()
    status: int = field(default=0)

    def __post_init__(self) -> None:
        self.status = self.status or KINDS[self.name].status

    def __str__(self) -> str:
        return f"{self.status} {self.name}: {self.detail}"


def _has_error_code(path: str, api: str | None) -> bool:
    version = re.match(r"/+v(\d+)/", path if api is None else f"/{api}/", re.IGNORECASE)
    return version is not None and len(version[1]) < 9 and int(version[1]) >= 8


def render(
    problem: Problem,
    path: str,
    accept: str | None,
    *,
    api: str | None = None,
    request_id: str | None = None,
) -> tuple[list[tuple[str, str]], bytes]:
    """The header fields and the body for a request with this raw path and Accept value (CONTRACT
    §11).

    `errorCode` is included for v8 and later: by `api`, the version segment of the request, or, if
    it is None, by the beginning of the path. `Accept: application/json` alone selects that type.
    """
    document: dict[str, object] = {
        "type": f"{PROBLEM_TYPE}{problem.name}",
        "title": KINDS[problem.name].title,
        "status": problem.status,
        "detail": problem.detail,
        "instance": path,
        "message": problem.detail,
    }
    if _has_error_code(path, api):
        document["errorCode"] = _ERROR_CODES.get(problem.status, "HttpError")
    named = _request_id(document, request_id)
    plain = (
        accept is not None
        and "," not in accept
        and accept.partition(";")[0].strip().lower() == "application/json"
    )
    headers = [
        ("Content-Type", "application/json" if plain else "application/problem+json"),
        ("Cache-Control", "no-store"),
        (MARK, "proxy"),
        *named,
        *problem.headers,
    ]
    if problem.retry_after is not None:
        headers.append(("Retry-After", str(problem.retry_after)))
    return headers, json.dumps(document).encode()


def _request_id(document: dict[str, object], id: str | None) -> list[tuple[str, str]]:
    """Add the request's id to the document, and return its field (CONTRACT §15)."""
    if id is None:
        return []
    document["requestId"] = id
    return [(REQUEST_ID, id)]


def problem_bytes(
    problem: Problem,
    head: Head | None,
    *,
    keep: bool,
    begun: bytes = b"",
    request_id: str | None = None,
) -> bytes:
    """The whole response to the request with this head, or, without one, to a malformed request
    that begins with the bytes `begun`. Unless `keep`, it says that the connection closes.
    """
    accept = head.get_all(b"accept") if head else []
    fields, content = render(
        problem,
        _path(head, begun),
        accept[0].decode("latin-1") if accept else None,
        request_id=request_id,
    )
    lines = b"".join([f"{name}: {value}\r\n".encode("latin-1") for name, value in fields])
    status = b"HTTP/1.1 %d %b\r\n" % (problem.status, HTTPStatus(problem.status).phrase.encode())
    length = b"Content-Length: %d\r\n%b\r\n" % (len(content), b"" if keep else CLOSE)
    return status + lines + length + (b"" if head and head.method == b"HEAD" else content)


def _path(head: Head | None, begun: bytes) -> str:
    """The path to show. That of a malformed request is shown only if it is plain ASCII."""
    if head is not None:
        target = head.target
    else:
        match = _PLAIN_TARGET.match(begun)
        target = match[1] if match else b"/"
    return target.partition(b"?")[0].decode("latin-1")


def internal_error(request_id: str | None = None) -> tuple[int, list[tuple[str, str]], bytes]:
    """Status, header fields and body for a failure of the proxy itself. Nothing of the failure is
    disclosed.
    """
    detail = "The proxy failed to answer. Its log says why."
    document: dict[str, object] = {
        "type": _INTERNAL.name,
        "title": _INTERNAL.title,
        "status": _INTERNAL.status,
        "detail": detail,
        "message": detail,
    }
    headers = [
        (MARK, "proxy"),
        ("Cache-Control", "no-store"),
        ("Content-Type", "application/problem+json; charset=utf-8"),
        *_request_id(document, request_id),
    ]
    return _INTERNAL.status, headers, json.dumps(document).encode()


def drop_frames(why: BaseException | None) -> None:
    """Drop the tracebacks of an exception that has become a response, and of those that led to it.

    The frames in them have bodies and credentials, and often the exception itself: such a cycle
    keeps them until the garbage collector runs, beside every limit on memory.
    """
    # one without a traceback was dropped before, with what led to it
    while why is not None and why.__traceback__ is not None:
        why.__traceback__ = None
        why = why.__context__
