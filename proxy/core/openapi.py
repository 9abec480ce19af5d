"""The OpenAPI 3.1 description of the proxy's own resources (CONTRACT §2)."""

from __future__ import annotations

import json
from typing import Any

from proxy.core.errors import KINDS
from proxy.core.job import Status
from proxy.core.openapi_schemas import SCHEMAS, Object, ref
from proxy.core.paths import description_url, job_links, list_url


def describe(version: str, segment: str) -> bytes:
    """The document as JSON: the resources below `segment`, and the kick-off. `version` is that of
    the product.
    """
    document = {
        "openapi": "3.1.0",
        "info": {
            "title": "vb365-async-proxy",
            "version": version,
            "description": "Asynchronous exports for the Veeam Backup for Microsoft 365 REST API. "
            f"The version in a path below `{segment}` is optional, and any version is accepted.",
            "license": {"name": "Apache-2.0", "identifier": "Apache-2.0"},
        },
        "security": [{"bearer": []}],
        "paths": _paths(segment),
        "components": {
            "securitySchemes": {"bearer": {"type": "http", "scheme": "bearer"}},
            "parameters": _PARAMETERS,
            "headers": _HEADERS,
            "responses": _problems(),
            "schemas": SCHEMAS,
        },
    }
    return json.dumps(document).encode()


def _schema(name: str) -> Object:
    return {"application/json": {"schema": ref("schemas", name)}}


def _headers(*names: str) -> Object:
    return {name: ref("headers", name) for name in names}


def _job(description: str, *headers: str) -> Object:
    return {"description": description, "headers": _headers(*headers), "content": _schema("Job")}


def _empty(description: str) -> Object:
    return {"description": description}


def _errors(*names: str) -> Object:
    """Problem responses by status. The first of those that share a status describes it; `type`
    distinguishes them.
    """
    errors: Object = {}
    for name in ("unauthorized", "job-not-found", "upstream-unreachable-now", *names):
        status = "503" if name == "upstream-unreachable-now" else str(KINDS[name].status)
        errors.setdefault(status, ref("responses", name))
    return errors


def _operation(
    id: str, summary: str, parameters: tuple[str, ...], responses: Object, **more: Any
) -> Object:
    taken = [ref("parameters", name) for name in parameters]
    return {
        "operationId": id,
        "summary": summary,
        "parameters": taken,
        "responses": responses,
        **more,
    }


_FILE = {"application/octet-stream": {"schema": {"type": "string", "format": "binary"}}}
_OF_FILE = (
    *("ETag", "Last-Modified", "Accept-Ranges", "Content-Disposition", "Repr-Digest", "Sunset"),
    "X-Content-Type-Options",
)


def _paths(segment: str) -> Object:
    exports = list_url("", "v{version}", segment)
    job = job_links("", "v{version}", segment, "{id}")
    named = {"parameters": [ref("parameters", "version")]}
    one = {"parameters": [ref("parameters", "version"), ref("parameters", "id")]}
    return {
        "/v{version}/RestoreSessions/{restoreSessionId}/organization/{export}": {
            "parameters": [
                *named["parameters"],
                _path("restoreSessionId", "Id of the restore session, as it is in the path."),
                _path(
                    "export",
                    "The rest of a VB365 export path, which ends in exportToPst, save or export.",
                ),
            ],
            "post": _kickoff(),
        },
        exports: {**named, "get": _list()},
        job.status: {**one, **_status()},
        job.result: {**one, **_result()},
        job.cancel: {**one, "post": _cancel()},
        description_url("", segment): {"get": _description()},
    }


def _path(name: str, description: str) -> Object:
    return {
        "name": name,
        "in": "path",
        "required": True,
        "schema": {"type": "string"},
        "description": description,
    }


def _kickoff() -> Object:
    own = (
        "Location",
        "Content-Location",
        "Link",
        "Retry-After",
        "Preference-Applied",
        "Vary",
        "Idempotency-Replayed",
    )
    errors = _errors(
        "invalid-async-parameter",
        "request-too-large",
        "idempotency-key-reused",
        "quota-exceeded",
        "upstream-unreachable",
        "upstream-timeout",
    )
    return _operation(
        "startExport",
        "Start an export, as a job with `Prefer: respond-async` or `?async=true`",
        ("async", "prefer", "idempotencyKey"),
        {
            "200": {
                "description": (
                    "The file: the export was synchronous, or succeeded within `Prefer: wait=N`."
                ),
                "headers": _headers(*_OF_FILE, "Content-Location", "Preference-Applied"),
                "content": _FILE,
            },
            "202": _job("The job that was started.", *own),
            **errors,
            "default": {
                "description": "Any other response of VB365 within the grace period, unchanged."
            },
        },
        requestBody={
            "content": {"application/json": {"schema": {}}},
            "description": "The body of the VB365 operation.",
        },
    )


def _list() -> Object:
    page = {"description": "A page of jobs, newest first.", "content": _schema("Page")}
    parameters = ("offset", "limit", "status", "restoreSessionId")
    return _operation(
        "listExports",
        "The caller's own jobs",
        parameters,
        {"200": page, **_errors("bad-request")},
    )


def _status() -> Object:
    running = _job("The job is running.", "Location", "Retry-After", "X-Progress", "ETag")
    over = _job(
        "The job has ended: Success, Warning, Failed or Cancelled.", "AsyncResult", "Sunset", "ETag"
    )
    responses = {
        "200": over,
        "202": running,
        "304": _empty("The document has not changed."),
        **_errors(),
    }
    deleted = {
        "204": _empty("The job is cancelled, and its file and record are deleted."),
        **_errors(),
    }
    return {
        "get": _operation("getExport", "The job's status", ("prefer", "ifNoneMatch"), responses),
        "delete": _operation(
            "deleteExport", "Cancel the job, and delete its file and record", (), deleted
        ),
    }


def _result() -> Object:
    responses = {
        "200": {"description": "The file.", "headers": _headers(*_OF_FILE), "content": _FILE},
        "206": {
            "description": "The requested ranges.",
            "headers": _headers(*_OF_FILE, "Content-Range"),
            "content": {
                **_FILE,
                "multipart/byteranges": {"schema": {"type": "string", "format": "binary"}},
            },
        },
        "304": _empty("The client's copy is current."),
        **_errors(
            "result-not-ready", "result-expired", "precondition-failed", "range-not-satisfiable"
        ),
    }
    released = {"204": _empty("The file no longer exists."), **_errors("result-not-ready")}
    return {
        "get": _operation(
            "downloadExport", "The file", ("prefer", "range", "ifRange", "ifNoneMatch"), responses
        ),
        "delete": _operation("releaseExport", "Delete the file and keep the record", (), released),
    }


def _cancel() -> Object:
    responses = {
        "200": _job("The job had already ended.", "AsyncResult"),
        "202": _job("The job is being cancelled.", "Location", "Retry-After"),
        **_errors(),
    }
    return _operation("cancelExport", "Cancel the job and keep its record", (), responses)


def _description() -> Object:
    response = {
        "description": "This document.",
        "content": {"application/json": {"schema": {"type": "object"}}},
    }
    return {
        "operationId": "describe",
        "summary": "This document",
        "security": [],
        "responses": {"200": response},
    }


def _problems() -> Object:
    content = {
        "application/problem+json": {"schema": ref("schemas", "Problem")},
        **_schema("Problem"),
    }
    problems = {
        name: {"description": kind.title, "content": content} for name, kind in KINDS.items()
    }
    now = "VB365 or the job store is unavailable, or there is no capacity. Try again later."
    return problems | {
        "upstream-unreachable-now": {
            "description": now,
            "headers": _headers("Retry-After"),
            "content": content,
        }
    }


def _parameter(name: str, place: str, description: str, **schema: Any) -> Object:
    return {
        "name": name,
        "in": place,
        "description": description,
        "schema": schema or {"type": "string"},
    }


_PARAMETERS: Object = {
    "version": _path("version", "Number of the API version."),
    "id": {**_path("id", "Id of the job."), "schema": {"type": "string", "format": "uuid"}},
    "async": _parameter(
        "async",
        "query",
        "true, 1, yes or empty requests a job; false, 0 or no the file. Overrides Prefer.",
    ),
    "prefer": _parameter(
        "Prefer",
        "header",
        "`respond-async` requests a job; `wait=N` waits up to N seconds.",
    ),
    "idempotencyKey": _parameter(
        "Idempotency-Key",
        "header",
        "A repeated request with the same key returns the job of the first one.",
        type="string",
        maxLength=257,
    ),
    "ifNoneMatch": _parameter("If-None-Match", "header", "The ETag of the client's copy."),
    "ifRange": _parameter(
        "If-Range", "header", "The strong ETag of the partially downloaded file."
    ),
    "range": _parameter("Range", "header", "Byte ranges, at most 8."),
    "offset": _parameter(
        "offset", "query", "Number of jobs to skip.", type="integer", minimum=0, default=0
    ),
    "limit": _parameter(
        "limit", "query", "Maximum number of jobs.", type="integer", minimum=0, default=30
    ),
    "status": _parameter(
        "status", "query", "Only jobs with this status.", enum=[str(status) for status in Status]
    ),
    "restoreSessionId": _parameter(
        "restoreSessionId", "query", "All jobs of this restore session that the caller may see."
    ),
}

_HEADERS: Object = {
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
