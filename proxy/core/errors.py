"""Every error the proxy answers, as one table, and how it looks on the wire (CONTRACT §11)."""

from __future__ import annotations

import json
import re
from dataclasses import dataclass, field


@dataclass(frozen=True, slots=True)
class Kind:
    """One row of the table: problem type name, HTTP status, title."""

    name: str
    status: int
    title: str


KINDS: dict[str, Kind] = {
    kind.name: kind
    for kind in (
        Kind("bad-request", 400, "The request is malformed"),
        Kind("invalid-async-parameter", 400, "The async parameter is not understood"),
        Kind("idempotency-key-invalid", 400, "The Idempotency-Key is malformed"),
        Kind("unauthorized", 401, "Credentials are missing or not accepted"),
        Kind("job-not-found", 404, "There is no such export job"),
        Kind("job-deleted", 404, "The export job was deleted"),
        Kind("method-not-allowed", 405, "The method is not allowed here"),
        Kind("result-not-ready", 409, "The export is not ready yet"),
        Kind("export-failed", 409, "The export failed"),
        Kind("export-cancelled", 409, "The export was cancelled"),
        Kind("result-expired", 410, "The exported file has expired"),
        Kind("result-deleted", 410, "The exported file was deleted"),
        Kind("precondition-failed", 412, "A precondition does not hold"),
        Kind("request-too-large", 413, "The request body is too large"),
        Kind("range-not-satisfiable", 416, "No requested range can be served"),
        Kind("idempotency-key-reused", 422, "The Idempotency-Key was used for another export"),
        Kind("quota-exceeded", 429, "The caller has too many exports"),
        Kind("upstream-unreachable", 502, "Veeam Backup for Microsoft 365 did not answer"),
        Kind("capacity-exhausted", 503, "The proxy has no capacity for this now"),
        Kind("store-unavailable", 503, "The job store is not available"),
        Kind("upstream-timeout", 504, "Veeam Backup for Microsoft 365 took too long"),
    )
}

#: CONTRACT §11: values of the v8 `errorCode` enum by status; every other status is HttpError.
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


@dataclass(eq=False, slots=True)
class Problem(Exception):
    """An error to answer. `name` is a key of `KINDS`; `detail` says what is wrong and how to mend
    it.

    `retry_after` is in whole seconds; `headers` go out as they are; `status` overrides the table's.
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
    problem: Problem, path: str, accept: str | None, *, api: str | None = None
) -> tuple[list[tuple[str, str]], bytes]:
    """The problem's header fields and body for the raw request `path` and the request's Accept
    value (CONTRACT §11).

    `errorCode` stands on v8+ paths only; `api` is the version segment of a path that begins with a
    prefix. `Accept: application/json` alone gets the body as that type.
    """
    document: dict[str, object] = {
        "type": f"urn:vb365-async:problem:{problem.name}",
        "title": KINDS[problem.name].title,
        "status": problem.status,
        "detail": problem.detail,
        "instance": path,
        "message": problem.detail,
    }
    if _has_error_code(path, api):
        document["errorCode"] = _ERROR_CODES.get(problem.status, "HttpError")
    plain = (
        accept is not None
        and "," not in accept
        and accept.partition(";")[0].strip().lower() == "application/json"
    )
    headers = [
        ("Content-Type", "application/json" if plain else "application/problem+json"),
        ("Cache-Control", "no-store"),
        ("X-VB365-Async", "proxy"),
        *problem.headers,
    ]
    if problem.retry_after is not None:
        headers.append(("Retry-After", str(problem.retry_after)))
    return headers, json.dumps(document).encode()
