"""The description of the proxy's own resources: OpenAPI 3.1 (CONTRACT §2)."""

from __future__ import annotations

import json
from typing import Any

from proxy.core.errors import KINDS
from proxy.core.job import ErrorCode, Phase, ResultState, Status
from proxy.core.paths import description_url, job_links, list_url

_Object = dict[str, Any]


def describe(version: str, segment: str) -> bytes:
    """The document as JSON: what is below `segment`, and the kick-off. `version` is the
    product's.
    """
    document = {
        "openapi": "3.1.0",
        "info": {
            "title": "vb365-async-proxy",
            "version": version,
            "description": "Asynchronous exports in front of the Veeam Backup for Microsoft "
            "365 REST API. Every path "
            "below the proxy's segment also answers without its version, and with any other.",
            "license": {"name": "Apache-2.0", "identifier": "Apache-2.0"},
        },
        "security": [{"bearer": []}],
        "paths": _paths(segment),
        "components": {
            "securitySchemes": {"bearer": {"type": "http", "scheme": "bearer"}},
            "parameters": _PARAMETERS,
            "headers": _HEADERS,
            "responses": _problems(),
            "schemas": _SCHEMAS,
        },
    }
    return json.dumps(document).encode()


def _ref(kind: str, name: str) -> _Object:
    return {"$ref": f"#/components/{kind}/{name}"}


def _schema(name: str) -> _Object:
    return {"application/json": {"schema": _ref("schemas", name)}}


def _headers(*names: str) -> _Object:
    return {name: _ref("headers", name) for name in names}


def _job(description: str, *headers: str) -> _Object:
    return {"description": description, "headers": _headers(*headers), "content": _schema("Job")}


def _empty(description: str) -> _Object:
    return {"description": description}


def _refusals(*names: str) -> _Object:
    """Problems by status; where two share one, the first describes it and `type` tells them
    apart.
    """
    refused: _Object = {}
    for name in ("unauthorized", "job-not-found", "upstream-unreachable-now", *names):
        status = "503" if name == "upstream-unreachable-now" else str(KINDS[name].status)
        refused.setdefault(status, _ref("responses", name))
    return refused


def _operation(
    id: str, summary: str, parameters: tuple[str, ...], responses: _Object, **more: Any
) -> _Object:
    taken = [_ref("parameters", name) for name in parameters]
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


def _paths(segment: str) -> _Object:
    exports = list_url("", "v{version}", segment)
    job = job_links("", "v{version}", segment, "{id}")
    named = {"parameters": [_ref("parameters", "version")]}
    one = {"parameters": [_ref("parameters", "version"), _ref("parameters", "id")]}
    return {
        "/v{version}/RestoreSessions/{restoreSessionId}/organization/{export}": {
            "parameters": [
                *named["parameters"],
                _path("restoreSessionId", "Raw id of the restore session."),
                _path(
                    "export", "Any of VB365's export paths; it ends in exportToPst, save or export."
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


def _path(name: str, description: str) -> _Object:
    return {
        "name": name,
        "in": "path",
        "required": True,
        "schema": {"type": "string"},
        "description": description,
    }


def _kickoff() -> _Object:
    own = (
        "Location",
        "Content-Location",
        "Link",
        "Retry-After",
        "Preference-Applied",
        "Vary",
        "Idempotency-Replayed",
    )
    refused = _refusals(
        "invalid-async-parameter",
        "request-too-large",
        "idempotency-key-reused",
        "quota-exceeded",
        "upstream-unreachable",
        "upstream-timeout",
    )
    return _operation(
        "startExport",
        "Start an export; with `Prefer: respond-async` or `?async=true` as a job",
        ("async", "prefer", "idempotencyKey"),
        {
            "200": {
                "description": (
                    "The file: within `Prefer: wait=N`, or of an export that did not ask for async."
                ),
                "headers": _headers(*_OF_FILE, "Content-Location", "Preference-Applied"),
                "content": _FILE,
            },
            "202": _job("The job that was started.", *own),
            **refused,
            "default": {"description": "Any answer of VB365 within the grace period, as it is."},
        },
        requestBody={
            "content": {"application/json": {"schema": {}}},
            "description": "As VB365 takes it.",
        },
    )


def _list() -> _Object:
    page = {"description": "A page of jobs, newest first.", "content": _schema("Page")}
    parameters = ("offset", "limit", "status", "restoreSessionId")
    return _operation(
        "listExports",
        "The caller's own jobs",
        parameters,
        {"200": page, **_refusals("bad-request")},
    )


def _status() -> _Object:
    running = _job("The job runs.", "Location", "Retry-After", "X-Progress", "ETag")
    over = _job(
        "The job is over: Success, Warning, Failed or Cancelled.", "AsyncResult", "Sunset", "ETag"
    )
    answers = {
        "200": over,
        "202": running,
        "304": _empty("The document is the known one."),
        **_refusals(),
    }
    gone = {
        "204": _empty("The job is cancelled, its file released, its record forgotten."),
        **_refusals(),
    }
    return {
        "get": _operation("getExport", "The job's status", ("prefer", "ifNoneMatch"), answers),
        "delete": _operation("deleteExport", "Cancel, release and forget the job", (), gone),
    }


def _result() -> _Object:
    answers = {
        "200": {"description": "The file.", "headers": _headers(*_OF_FILE), "content": _FILE},
        "206": {
            "description": "The ranges that were asked for.",
            "headers": _headers(*_OF_FILE, "Content-Range"),
            "content": {
                **_FILE,
                "multipart/byteranges": {"schema": {"type": "string", "format": "binary"}},
            },
        },
        "304": _empty("The client's copy is good."),
        **_refusals(
            "result-not-ready", "result-expired", "precondition-failed", "range-not-satisfiable"
        ),
    }
    released = {"204": _empty("There is no file any more."), **_refusals("result-not-ready")}
    return {
        "get": _operation(
            "downloadExport", "The file", ("prefer", "range", "ifRange", "ifNoneMatch"), answers
        ),
        "delete": _operation("releaseExport", "Release the file and keep the record", (), released),
    }


def _cancel() -> _Object:
    answers = {
        "200": _job("The job was over before.", "AsyncResult"),
        "202": _job("The job is being cancelled.", "Location", "Retry-After"),
        **_refusals(),
    }
    return _operation("cancelExport", "Cancel the job and keep its record", (), answers)


def _description() -> _Object:
    answer = {
        "description": "This document.",
        "content": {"application/json": {"schema": {"type": "object"}}},
    }
    return {
        "operationId": "describe",
        "summary": "This document",
        "security": [],
        "responses": {"200": answer},
    }


def _problems() -> _Object:
    content = {
        "application/problem+json": {"schema": _ref("schemas", "Problem")},
        **_schema("Problem"),
    }
    problems = {
        name: {"description": kind.title, "content": content} for name, kind in KINDS.items()
    }
    now = "Nobody can say now, or there is no room now: VB365, the store or the disk. Try again."
    return problems | {
        "upstream-unreachable-now": {
            "description": now,
            "headers": _headers("Retry-After"),
            "content": content,
        }
    }


def _parameter(name: str, place: str, description: str, **schema: Any) -> _Object:
    return {
        "name": name,
        "in": place,
        "description": description,
        "schema": schema or {"type": "string"},
    }


_PARAMETERS: _Object = {
    "version": _path("version", "Number of the API version."),
    "id": {**_path("id", "Id of the job."), "schema": {"type": "string", "format": "uuid"}},
    "async": _parameter(
        "async",
        "query",
        "true, 1, yes or empty asks for a job; false, 0 or no for the file, whatever Prefer says.",
    ),
    "prefer": _parameter(
        "Prefer", "header", "`respond-async`, and `wait=N` seconds to hold the answer."
    ),
    "idempotencyKey": _parameter(
        "Idempotency-Key",
        "header",
        "A kick-off repeated with it gets the first one's job.",
        type="string",
        maxLength=257,
    ),
    "ifNoneMatch": _parameter(
        "If-None-Match", "header", "The ETag of the representation that is known."
    ),
    "ifRange": _parameter("If-Range", "header", "The strong ETag of the file that was begun."),
    "range": _parameter("Range", "header", "`bytes=` ranges, 8 at most."),
    "offset": _parameter("offset", "query", "Jobs to skip.", type="integer", minimum=0, default=0),
    "limit": _parameter("limit", "query", "Jobs at most.", type="integer", minimum=0, default=30),
    "status": _parameter(
        "status", "query", "Only jobs with this status.", enum=[str(status) for status in Status]
    ),
    "restoreSessionId": _parameter(
        "restoreSessionId", "query", "All jobs of this session that the caller may see."
    ),
}

_HEADERS: _Object = {
    name: {"description": description, "schema": {"type": "string"}}
    for name, description in {
        "Accept-Ranges": "bytes",
        "AsyncResult": (
            "VB365's status code; 499, 502 or 504 where it was cancelled, broken or timed out."
        ),
        "Content-Disposition": "The file's name.",
        "Content-Location": "The job's, or its result's, URL.",
        "Content-Range": "The range, or the file's size.",
        "ETag": "Weak of the job document, strong of the file.",
        "Idempotency-Replayed": "true: the job was started by an earlier request.",
        "Last-Modified": "When the file was complete.",
        "Link": 'The status monitor, rel="monitor".',
        "Location": "The job's absolute URL, to be polled.",
        "Preference-Applied": "The preferences that were applied.",
        "Repr-Digest": "SHA-256 of the file (RFC 9530).",
        "Retry-After": "Whole seconds until the next request pays.",
        "Sunset": "When the file, or the record, goes (RFC 8594).",
        "Vary": "Prefer",
        "X-Content-Type-Options": "nosniff",
        "X-Progress": "Phase and percent.",
    }.items()
}


def _nullable(kind: str, **more: Any) -> _Object:
    return {"type": [kind, "null"], **more}


def _enum(
    values: type[Status] | type[Phase] | type[ResultState] | type[ErrorCode], *left_out: str
) -> _Object:
    return {
        "type": "string",
        "enum": [str(value) for value in values if str(value) not in left_out],
    }


def _record(*required: str, **properties: _Object) -> _Object:
    return {
        "type": "object",
        "properties": properties,
        "required": list(required) or list(properties),
    }


_MOMENT = {"type": "string", "format": "date-time"}
_NO_MOMENT = _nullable("string", format="date-time")
_COUNT = {"type": "integer", "minimum": 0}
_NO_COUNT = _nullable("integer", minimum=0)
_TEXT = {"type": "string"}
_NO_TEXT = _nullable("string")
_LINK = _record(href=_TEXT)

_SCHEMAS: _Object = {
    "Problem": _record(
        *("type", "title", "status", "detail", "instance", "message"),
        type={"type": "string", "enum": [f"urn:vb365-async:problem:{name}" for name in KINDS]},
        title=_TEXT,
        status=_COUNT,
        detail=_TEXT,
        instance=_TEXT,
        message=_TEXT,
        errorCode=_TEXT,
    ),
    "Page": _record(
        offset=_COUNT,
        limit=_COUNT,
        results={"type": "array", "items": _ref("schemas", "Job")},
        _links={"type": "object", "additionalProperties": _LINK},
    ),
    "Job": _record(
        *(
            "id",
            "type",
            "status",
            "phase",
            "title",
            "message",
            "order",
            "creationTime",
            "startTime",
            "endTime",
        ),
        *(
            "lastUpdateTime",
            "expirationTime",
            "eTag",
            "attempt",
            "progress",
            "request",
            "result",
            "error",
            "_links",
        ),
        id={"type": "string", "format": "uuid"},
        type={"type": "string", "enum": ["Export", "Save"]},
        status=_enum(Status),
        phase=_enum(Phase, Phase.FORGOTTEN),
        title=_TEXT,
        message=_TEXT,
        order=_COUNT,
        creationTime=_MOMENT,
        startTime=_MOMENT,
        endTime=_NO_MOMENT,
        lastUpdateTime=_MOMENT,
        expirationTime=_NO_MOMENT,
        eTag=_COUNT,
        attempt=_COUNT,
        itemSizeBytes=_COUNT,
        progress=_record(
            percent=_NO_COUNT,
            bytesReceived=_COUNT,
            bytesTotal=_NO_COUNT,
            bytesPerSecond=_NO_COUNT,
            secondsRemaining=_NO_COUNT,
        ),
        request=_record(
            method=_TEXT, path=_TEXT, restoreSessionId=_NO_TEXT, idempotencyKey=_NO_TEXT
        ),
        result={"anyOf": [_ref("schemas", "Result"), {"type": "null"}]},
        error={"anyOf": [_ref("schemas", "Error"), {"type": "null"}]},
        _links={"type": "object", "additionalProperties": _LINK},
    ),
    "Result": _record(
        *("state", "href", "mediaType", "format", "fileName", "size"),
        state=_enum(ResultState),
        href=_TEXT,
        mediaType=_TEXT,
        format=_nullable("string", enum=["Pst", "Zip", "Msg", "Other", None]),
        fileName=_NO_TEXT,
        size=_NO_COUNT,
        eTag=_TEXT,
        digest=_record(**{"sha-256": _TEXT}),
        sha256={"type": "string", "pattern": "^[0-9a-f]{64}$"},
        expirationTime=_MOMENT,
    ),
    "Error": _record(
        code=_enum(ErrorCode),
        message=_TEXT,
        retryable={"type": "boolean"},
        upstream={"anyOf": [_ref("schemas", "UpstreamAnswer"), {"type": "null"}]},
    ),
    "UpstreamAnswer": _record(
        status=_COUNT, contentType=_NO_TEXT, body={}, truncated={"type": "boolean"}
    ),
}
