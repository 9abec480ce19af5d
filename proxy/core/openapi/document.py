"""The OpenAPI 3.1 document, and the operations on jobs (CONTRACT §2)."""

from __future__ import annotations

from typing import Any

from proxy.core.errors import KINDS
from proxy.core.openapi.components import (
    HEADERS,
    PARAMETERS,
    examples,
    header_refs,
    json_content,
    path_parameter,
    problem_responses,
)
from proxy.core.openapi.exports import BODIES, OPERATIONS, Operation
from proxy.core.openapi.schemas import SCHEMAS, Object, ref, text
from proxy.core.paths import description_url, job_links, list_url

_TAGS = {
    "Jobs": "Exports that run at the proxy.",
    "Organization": "Exports of a whole organization.",
    "Mailboxes": "Exports from mailboxes.",
    "OneDrives": "Exports from OneDrives.",
    "Sites": "Exports from SharePoint sites.",
    "Teams": "Exports from teams.",
    "Description": "This description.",
}
_INTRODUCTION = """\
Asynchronous exports for the Veeam Backup for Microsoft 365 REST API. All other requests to this \
server are answered by Veeam Backup for Microsoft 365 (VB365) itself, and described there.

Send an export with `Prefer: respond-async`, poll the URL in `Location` while it returns 202, then \
append `/result` to it and download the file. The version in a path below `{segment}` is optional, \
and any version is accepted."""


def describe(version: str, segment: str, server: str = "/") -> Object:
    """The document: the resources below `segment`, and the exports. `version` is that of the
    product, `server` the base URL.
    """
    return {
        "openapi": "3.1.0",
        "info": {
            "title": "vb365-async-proxy",
            "version": version,
            "summary": "Asynchronous exports for Veeam Backup for Microsoft 365.",
            "description": _INTRODUCTION.format(segment=segment),
            "license": {"name": "Apache-2.0", "identifier": "Apache-2.0"},
        },
        "servers": [{"url": server, "description": "This proxy."}],
        "security": [{"bearer": []}],
        "tags": [{"name": name, "description": about} for name, about in _TAGS.items()],
        "paths": {**_exports(), **_resources(segment)},
        "components": {
            "securitySchemes": {
                "bearer": {
                    "type": "http",
                    "scheme": "bearer",
                    "description": "The access token of VB365, from `POST /v8/token`.",
                }
            },
            "parameters": PARAMETERS,
            "headers": HEADERS,
            "responses": problem_responses(),
            "schemas": {**SCHEMAS, **BODIES},
            "examples": examples(segment),
        },
    }


_FILE = {"application/octet-stream": {"schema": text("The file.", format="binary")}}
_OF_FILE = (
    *("ETag", "Last-Modified", "Accept-Ranges", "Content-Disposition", "Repr-Digest", "Sunset"),
    "X-Content-Type-Options",
)
#: What VB365 responds to an export with, by status; within the grace period it is relayed.
_RELAYED = {
    "400": "VB365 cannot read the request.",
    "403": "The caller may not do this.",
    "404": "The restore session or the object does not exist.",
    "409": "The state of the restore session does not allow this.",
    "500": "VB365 failed, for instance because Outlook is not installed.",
}


def _exports() -> Object:
    base = "/v{version}/RestoreSessions/{restoreSessionId}"
    return {
        f"{base}/{each.path}": {
            "parameters": [
                ref("parameters", "version"),
                ref("parameters", "restoreSessionId"),
                *(
                    path_parameter(name, text(f"The {_words(name)}, percent-encoded."), "1")
                    for name in each.ids
                ),
            ],
            "post": _kickoff(each),
        }
        for each in OPERATIONS
    }


def _words(name: str) -> str:
    return f"id of the {name.removesuffix('Id').replace('oneDrive', 'OneDrive')}"


def _kickoff(export: Operation) -> Object:
    own = ("Location", "Content-Location", "Link", "Retry-After", "Preference-Applied", "Vary")
    errors = _problems(
        *("invalid-async-parameter", "job-not-found", "request-too-large"),
        "idempotency-key-reused",
        *("quota-exceeded", "upstream-unreachable", "unavailable", "upstream-timeout"),
    )
    more: Object = {}
    if export.body is not None:
        more["requestBody"] = {
            "required": True,
            "description": "What VB365 is asked for.",
            "content": {"application/json": {"schema": ref("schemas", export.body)}},
        }
    return _operation(
        export.id,
        f"Export {export.content}",
        export.tag,
        ("async", "prefer", "idempotencyKey"),
        {
            "200": {
                "description": (
                    "The file: the export was synchronous, or succeeded within `Prefer: wait=N`."
                ),
                "headers": header_refs(*_OF_FILE, "Content-Location", "Preference-Applied"),
                "content": _FILE,
            },
            "202": _job("The job that was started.", "running", *own, "Idempotency-Replayed"),
            "401": {"description": "VB365 rejects the credentials; without a body."},
            **errors,
            **{status: _relayed(about, errors.get(status)) for status, about in _RELAYED.items()},
        },
        description="Becomes a job with `Prefer: respond-async` or `?async=true`. "
        "Without either, VB365 sends the file in the response, after minutes.",
        **more,
    )


def _relayed(description: str, problem: Object | None) -> Object:
    """A response of VB365. `problem` is the proxy's own with the same status, if there is one."""
    if problem is None:
        return {"description": description, "content": json_content("UpstreamError")}
    either = {"anyOf": [ref("schemas", "Problem"), ref("schemas", "UpstreamError")]}
    return {
        "description": f"{description} Or: an error of the proxy.",
        "content": {
            "application/json": {"schema": either},
            "application/problem+json": {"schema": ref("schemas", "Problem")},
        },
    }


def _resources(segment: str) -> Object:
    exports = list_url("", "v{version}", segment)
    job = job_links("", "v{version}", segment, "{id}")
    version = ref("parameters", "version")
    one = {"parameters": [version, ref("parameters", "id")]}
    return {
        exports: {"parameters": [version], "get": _list()},
        job.status: {**one, **_status()},
        job.result: {**one, **_result()},
        job.cancel: {**one, "post": _cancel()},
        description_url("", segment): {"get": _description()},
    }


def _operation(
    id: str,
    summary: str,
    tag: str,
    parameters: tuple[str, ...],
    responses: Object,
    **more: Any,
) -> Object:
    taken = [ref("parameters", name) for name in parameters]
    return {
        "operationId": id,
        "summary": summary,
        "tags": [tag],
        "parameters": taken,
        "responses": responses,
        **more,
    }


def _on_job(
    id: str, summary: str, parameters: tuple[str, ...], responses: Object, *problems: str
) -> Object:
    errors = _problems("unauthorized", "job-not-found", *problems, "unavailable")
    return _operation(id, summary, "Jobs", parameters, {**responses, **errors})


def _problems(*names: str) -> Object:
    """Error responses by status. The first of those that share a status describes it; `type`
    distinguishes them.
    """
    errors: Object = {}
    for name in names:
        status = "503" if name == "unavailable" else str(KINDS[name].status)
        errors.setdefault(status, ref("responses", name))
    return errors


def _job(description: str, example: str, *headers: str) -> Object:
    return {
        "description": description,
        "headers": header_refs(*headers),
        "content": json_content("Job", example),
    }


def _empty(description: str) -> Object:
    return {"description": description}


def _list() -> Object:
    page = {"description": "A page of jobs, newest first.", "content": json_content("Page")}
    parameters = ("offset", "limit", "status", "restoreSession")
    errors = _problems("bad-request", "unauthorized", "unavailable")
    return _operation(
        "listExports", "The caller's own jobs", "Jobs", parameters, {"200": page, **errors}
    )


def _status() -> Object:
    running = _job("The job is running.", "running", "Location", "Retry-After", "X-Progress")
    over = _job(
        "The job has ended: Success, Warning, Failed or Cancelled.",
        "ended",
        *("AsyncResult", "Sunset"),
    )
    for response in (running, over):
        response["headers"] |= header_refs("ETag")
    responses = {"200": over, "202": running, "304": _empty("The document has not changed.")}
    deleted = {"204": _empty("The job is cancelled, and its file and record are deleted.")}
    return {
        "get": _on_job("getExport", "The job's status", ("prefer", "ifNoneMatch"), responses),
        "delete": _on_job(
            "deleteExport", "Cancel the job, and delete its file and record", (), deleted
        ),
    }


def _result() -> Object:
    ranges = {"multipart/byteranges": {"schema": text("The ranges.", format="binary")}}
    responses = {
        "200": {"description": "The file.", "headers": header_refs(*_OF_FILE), "content": _FILE},
        "206": {
            "description": "The requested ranges.",
            "headers": header_refs(*_OF_FILE, "Content-Range"),
            "content": {**_FILE, **ranges},
        },
        "304": _empty("The client's copy is current."),
    }
    released = {"204": _empty("The file no longer exists.")}
    return {
        "get": _on_job(
            "downloadExport",
            "The file",
            ("prefer", "range", "ifRange", "ifNoneMatch"),
            responses,
            *("result-not-ready", "result-expired", "precondition-failed"),
            "range-not-satisfiable",
        ),
        "delete": _on_job(
            "releaseExport",
            "Delete the file and keep the record",
            (),
            released,
            "result-not-ready",
        ),
    }


def _cancel() -> Object:
    responses = {
        "200": _job("The job had already ended.", "ended", "AsyncResult"),
        "202": _job("The job is being cancelled.", "running", "Location", "Retry-After"),
    }
    return _on_job("cancelExport", "Cancel the job and keep its record", (), responses)


def _description() -> Object:
    response = {
        "description": "This document.",
        "content": {"application/json": {"schema": {"type": "object"}}},
    }
    responses = {"200": response}
    return _operation("describe", "This document", "Description", (), responses, security=[])
