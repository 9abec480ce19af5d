"""The schemas of the OpenAPI description: the job document and what it contains, the page of a
list, and errors (CONTRACT §4, §5, §11).
"""

from __future__ import annotations

from typing import Any

from proxy.core.errors import KINDS, PROBLEM_TYPE
from proxy.core.job import ErrorCode, Origin, Phase, ResultState, Status

Object = dict[str, Any]


def ref(kind: str, name: str) -> Object:
    """A reference to a component of the document, such as `ref("schemas", "Job")`."""
    return {"$ref": f"#/components/{kind}/{name}"}


def text(description: str, **more: Any) -> Object:
    """The schema of a string."""
    return {"type": "string", "description": description, **more}


def flag(description: str) -> Object:
    """The schema of a boolean."""
    return {"type": "boolean", "description": description}


def count(description: str, **more: Any) -> Object:
    """The schema of a number from 0 on."""
    return {"type": "integer", "minimum": 0, "description": description, **more}


def moment(description: str) -> Object:
    """The schema of a moment in UTC."""
    return text(description, format="date-time")


def record(description: str, required: str | None = None, /, **properties: Object) -> Object:
    """The schema of an object with these members. `required` lists those that are always there,
    all by default.
    """
    return {
        "type": "object",
        "description": description,
        "properties": properties,
        "required": list(properties) if required is None else required.split(),
    }


def _enum(
    description: str, values: type[Status | Phase | ResultState | ErrorCode | Origin], *out: str
) -> Object:
    return text(description, enum=[str(value) for value in values if str(value) not in out])


def _or_null(schema: Object) -> Object:
    return {**schema, "type": [schema["type"], "null"]}


def _ref_or_null(name: str, description: str) -> Object:
    return {"anyOf": [ref("schemas", name), {"type": "null"}], "description": description}


_LINKS: Object = {
    "type": "object",
    "description": "Related resources by relation.",
    "additionalProperties": record("A link.", href=text("The URL.")),
}

_JOB: Object = record(
    "An export job. It is a valid RESTRestoreSessionEvent of VB365's API v6, v7 and v8.",
    "id type status phase title message order creationTime startTime endTime lastUpdateTime "
    "expirationTime eTag attempt origin joined progress request result error _links",
    id=text("The id of the job.", format="uuid"),
    type=text("Export for exportToPst and export, Save for save.", enum=["Export", "Save"]),
    status=_enum("The outcome; all but Running are final.", Status),
    phase=_enum("What is happening now.", Phase, Phase.FORGOTTEN),
    title=text("The last path segment of the export."),
    message=text("The state in a sentence, for people."),
    order=count("Always 0."),
    creationTime=moment("When the job was accepted."),
    startTime=moment("When VB365 was asked; of a queued job, when it was accepted."),
    endTime=_or_null(moment("When the job ended.")),
    lastUpdateTime=moment("When this document last changed."),
    expirationTime=_or_null(moment("When the file will be deleted.")),
    eTag=count("The number of this version of the document, as in the ETag field."),
    attempt=count("How often VB365 was asked for the whole file."),
    origin=_enum("What started the job.", Origin),
    joined=count("The number of later requests that this job serves too."),
    itemSizeBytes=count("The size of the file in bytes, once it is known."),
    progress=ref("schemas", "Progress"),
    request=ref("schemas", "Request"),
    result=_ref_or_null("Result", "The file; null until VB365 begins to send it."),
    error=_ref_or_null("Error", "Why the export failed; null otherwise."),
    _links=_LINKS,
)

_RESULT: Object = record(
    "The exported file.",
    "state href mediaType format fileName size",
    state=_enum("Whether the file can be downloaded.", ResultState),
    href=text("The URL of the file."),
    mediaType=text("VB365's Content-Type."),
    format={
        "type": ["string", "null"],
        "enum": ["Pst", "Zip", "Msg", "Other", None],
        "description": "The kind of file, by its first bytes; null until they are there.",
    },
    fileName=_or_null(text("A safe name for the file.")),
    size=_or_null(count("Bytes; null if it is not known.")),
    eTag=text("The entity tag of the file, with its quotes."),
    digest=record("Digests of the file.", **{"sha-256": text("SHA-256 in base64.")}),
    sha256=text("SHA-256 in hexadecimal.", pattern="^[0-9a-f]{64}$"),
    expirationTime=moment("When the file will be deleted."),
)

_PROBLEM: Object = record(
    "An error of the proxy (RFC 9457), which is also an error of VB365's own shape.",
    "type title status detail instance message",
    type=text("The kind of error.", enum=[f"{PROBLEM_TYPE}{name}" for name in KINDS]),
    title=text("The kind of error in words."),
    status=count("The status code of the response."),
    detail=text("What is wrong, and what to do."),
    instance=text("The path of the request."),
    message=text("As `detail`, where VB365's clients look for it."),
    errorCode=text("VB365's code for such an error; from v8 on."),
    requestId=text("The id of the request, as in the log of the proxy."),
)

#: By name, for `components.schemas`.
SCHEMAS: Object = {
    "AsyncSwitch": text(
        "True or false; empty is true.", enum=["true", "1", "yes", "", "false", "0", "no"]
    ),
    "Problem": _PROBLEM,
    "UpstreamError": record(
        "An error of VB365 (its RESTExceptionInfo), relayed unchanged.",
        "message",
        message=text("What is wrong."),
        errorCode=_or_null(text("The kind of error; from v7 on.")),
        stackTrace=_or_null(text("Where VB365 failed; v8.")),
    ),
    "Page": record(
        "A page of jobs.",
        offset=count("The number of jobs before this page."),
        limit=count("The maximum number of jobs of this page."),
        results={
            "type": "array",
            "items": ref("schemas", "Job"),
            "description": "The jobs, newest first.",
        },
        _links=_LINKS,
    ),
    "Job": _JOB,
    "Progress": record(
        "How far the transfer of the file to the proxy is.",
        percent=_or_null(count("Rounded down; null if the size is not known.", maximum=100)),
        bytesReceived=count("Bytes that are stored."),
        bytesTotal=_or_null(count("Bytes of the file; null if their number is not known.")),
        bytesPerSecond=_or_null(count("The present rate; null if there is none.")),
        secondsRemaining=_or_null(count("The estimated rest of the transfer; null without one.")),
    ),
    "Request": record(
        "The request that started the job.",
        method=text("Always POST."),
        path=text("Its path, without the query."),
        restoreSessionId=_or_null(text("The restore session; null for reports.")),
        idempotencyKey=_or_null(text("Its Idempotency-Key; null without one.")),
    ),
    "Result": _RESULT,
    "Error": record(
        "Why an export failed.",
        code=_enum("The kind of failure.", ErrorCode),
        message=text("The reason, in VB365's words where there are any."),
        retryable=flag("Whether the same export may succeed if it is started again."),
        upstream=_ref_or_null("UpstreamResponse", "VB365's response; null if there was none."),
    ),
    "UpstreamResponse": record(
        "VB365's response to the export.",
        status=count("Its status code."),
        contentType=_or_null(text("Its Content-Type.")),
        body={"description": "Its body: parsed if it is JSON of at most 64 KiB, else text."},
        truncated=flag("Whether the body is only the beginning."),
    ),
}
