"""Parameters, header fields, error responses and examples of the OpenAPI description."""

from __future__ import annotations

from proxy.core.errors import KINDS, PROBLEM_TYPE
from proxy.core.job import Status
from proxy.core.openapi.schemas import Object, count, ref, text
from proxy.core.paths import job_links


def path_parameter(name: str, schema: Object, example: str) -> Object:
    """A parameter in the path of an operation."""
    description = schema["description"]
    schema = {key: value for key, value in schema.items() if key != "description"}
    return {
        "name": name,
        "in": "path",
        "required": True,
        "description": description,
        "schema": schema,
        "example": example,
    }


def json_content(name: str, *examples: str) -> Object:
    """The content of a response that is JSON with the schema `name`."""
    content: Object = {"schema": ref("schemas", name)}
    if examples:
        content["examples"] = {example: ref("examples", example) for example in examples}
    return {"application/json": content}


def header_refs(*names: str) -> Object:
    """References to the header fields of a response."""
    return {name: ref("headers", name) for name in names}


def _parameter(name: str, place: str, schema: Object) -> Object:
    description = schema["description"]
    schema = {key: value for key, value in schema.items() if key != "description"}
    return {"name": name, "in": place, "description": description, "schema": schema}


#: Larger offsets and limits are bad requests.
_LARGEST = 10**9 - 1
_ID = "5f0c6d3e-0000-4000-8000-00000000000a"
_SESSION = "8a1e5c1e-0000-4000-8000-000000000001"

PARAMETERS: Object = {
    "version": path_parameter(
        "version", text("The number of the API version.", pattern="^[0-9]+$"), "8"
    ),
    "id": path_parameter("id", text("The id of the job.", format="uuid"), _ID),
    "restoreSessionId": path_parameter(
        "restoreSessionId", text("The id of the restore session."), _SESSION
    ),
    "async": {
        "name": "async",
        "in": "query",
        "description": "Whether a job is wanted; overrides Prefer.",
        "schema": ref("schemas", "AsyncSwitch"),
    },
    "prefer": _parameter(
        "Prefer",
        "header",
        text("`respond-async` requests a job; `wait=N` waits up to N seconds (RFC 7240)."),
    ),
    "idempotencyKey": _parameter(
        "Idempotency-Key",
        "header",
        text(
            "A repeated request with the same key returns the job of the first one.",
            minLength=1,
            maxLength=255,
            pattern="^[!-~]+$",
        ),
    ),
    "ifNoneMatch": _parameter(
        "If-None-Match", "header", text("The ETag of the client's copy: 304 if it is current.")
    ),
    "ifRange": _parameter(
        "If-Range", "header", text("The strong ETag of the partially downloaded file.")
    ),
    "range": _parameter("Range", "header", text("Byte ranges, at most 8.")),
    "offset": _parameter(
        "offset", "query", count("The number of jobs to skip.", maximum=_LARGEST, default=0)
    ),
    "limit": _parameter(
        "limit",
        "query",
        count("The maximum number of jobs, at most 1000.", maximum=_LARGEST, default=30),
    ),
    "status": _parameter(
        "status",
        "query",
        text("Only jobs with this status.", enum=[str(status) for status in Status]),
    ),
    "restoreSession": _parameter(
        "restoreSessionId",
        "query",
        text("All jobs of this restore session that the caller may see."),
    ),
}

HEADERS: Object = {
    name: {"description": description, "schema": {"type": "string"}}
    for name, description in {
        "Accept-Ranges": "bytes",
        "AsyncResult": (
            "VB365's status code, or 499 (cancelled), 502 (broken) or 504 (timed out)."
        ),
        "Content-Disposition": "The name of the file.",
        "Content-Location": "The URL of the job or of its result.",
        "Content-Range": "The range, or the size of the file.",
        "ETag": "Weak for the job document, strong for the file.",
        "Idempotency-Replayed": "`true` if an earlier request started the job.",
        "Last-Modified": "When the file was completed.",
        "Link": 'The status monitor, rel="monitor".',
        "Location": "The absolute URL of the job, for polling.",
        "Preference-Applied": "The preferences that were applied.",
        "Repr-Digest": "SHA-256 of the file (RFC 9530).",
        "Retry-After": "Seconds to wait before the next request.",
        "Sunset": "When the file or the record will be deleted (RFC 8594).",
        "Vary": "Prefer",
        "X-Content-Type-Options": "nosniff",
        "X-Progress": "The phase and the percentage.",
    }.items()
}


def problem_responses() -> Object:
    """The error responses by the name of their problem type."""
    content = {
        "application/problem+json": {
            "schema": ref("schemas", "Problem"),
            "examples": {"problem": ref("examples", "problem")},
        },
        **json_content("Problem", "problem"),
    }
    return {
        name: {"description": kind.title + ".", "content": content} for name, kind in KINDS.items()
    } | {
        "unavailable": {
            "description": "VB365 or the job store is unavailable, or there is no capacity. Try "
            "again later.",
            "headers": header_refs("Retry-After"),
            "content": content,
        }
    }


def _job(segment: str, state: Object) -> Object:
    urls = job_links("https://vb365.example.com", "v8", segment, _ID)
    export = f"/v8/RestoreSessions/{_SESSION}"
    links = {"self": {"href": urls.status}, "result": {"href": urls.result}}
    if state["status"] == "Running":
        links["cancel"] = {"href": urls.cancel}
    links["restoreSession"] = {"href": export}
    result = {
        "href": urls.result,
        "mediaType": "application/octet-stream",
        "format": "Pst",
        "fileName": "bob@contoso.com.pst",
        "size": 5368709120,
        **state.pop("result"),
    }
    return {
        "id": _ID,
        "type": "Export",
        "title": "exportToPst",
        "order": 0,
        "creationTime": "2026-11-23T03:12:04Z",
        "startTime": "2026-11-23T03:12:05Z",
        "attempt": 1,
        "origin": "Async",
        "joined": 0,
        "itemSizeBytes": 5368709120,
        "request": {
            "method": "POST",
            "path": f"{export}/organization/mailboxes/bob/exportToPst",
            "restoreSessionId": _SESSION,
            "idempotencyKey": None,
        },
        "error": None,
        "result": result,
        "_links": links,
        **state,
    }


def examples(segment: str) -> Object:
    """A running and an ended job, and an error, by name."""
    running = {
        "status": "Running",
        "phase": "Transferring",
        "message": "Transferring 1.5 of 5.0 GiB",
        "lastUpdateTime": "2026-11-23T03:31:20Z",
        "endTime": None,
        "expirationTime": None,
        "eTag": 17,
        "progress": {
            "percent": 30,
            "bytesReceived": 1610612736,
            "bytesTotal": 5368709120,
            "bytesPerSecond": 104857600,
            "secondsRemaining": 36,
        },
        "result": {"state": "Pending"},
    }
    ended = {
        "status": "Success",
        "phase": "Completed",
        "message": "Exported 5.0 GiB",
        "lastUpdateTime": "2026-11-23T03:31:58Z",
        "endTime": "2026-11-23T03:31:58Z",
        "expirationTime": "2026-11-24T03:31:58Z",
        "eTag": 36,
        "progress": {
            "percent": 100,
            "bytesReceived": 5368709120,
            "bytesTotal": 5368709120,
            "bytesPerSecond": None,
            "secondsRemaining": None,
        },
        "result": {
            "state": "Available",
            "eTag": '"n4bQgYhMfWWaL+qgxVrQFaO/TxsrC4Is0V1sFbDwCgg="',
            "digest": {"sha-256": "n4bQgYhMfWWaL+qgxVrQFaO/TxsrC4Is0V1sFbDwCgg="},
            "sha256": "9f86d081884c7d659a2feaa0c55ad015a3bf4f1b2b0b822cd15d6c15b0f00a08",
            "expirationTime": "2026-11-24T03:31:58Z",
        },
    }
    detail = "The export is Generating. Ask again later."
    problem = {
        "type": f"{PROBLEM_TYPE}result-not-ready",
        "title": KINDS["result-not-ready"].title,
        "status": 409,
        "detail": detail,
        "instance": job_links("", "v8", segment, _ID).result,
        "message": detail,
        "errorCode": "OperationConflict",
        "requestId": "4bf92f3577b34da6",
    }
    return {
        "running": {"summary": "A running job", "value": _job(segment, running)},
        "ended": {"summary": "An ended job", "value": _job(segment, ended)},
        "problem": {"summary": "An error of the proxy", "value": problem},
    }
