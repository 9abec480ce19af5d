"""The schemas of the OpenAPI description: the job document and what it contains, the page of a
list, and errors (CONTRACT §4, §5, §11).
"""

from __future__ import annotations

from typing import Any

from proxy.core.errors import KINDS, PROBLEM_TYPE
from proxy.core.job import ErrorCode, Phase, ResultState, Status

Object = dict[str, Any]


def ref(kind: str, name: str) -> Object:
    """A reference to a component of the document, such as `ref("schemas", "Job")`."""
    return {"$ref": f"#/components/{kind}/{name}"}


def _nullable(kind: str, **more: Any) -> Object:
    return {"type": [kind, "null"], **more}


def _enum(values: type[Status | Phase | ResultState | ErrorCode], *left_out: str) -> Object:
    return {
        "type": "string",
        "enum": [str(value) for value in values if str(value) not in left_out],
    }


def _record(*required: str, **properties: Object) -> Object:
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

#: By name, for `components.schemas`.
SCHEMAS: Object = {
    "Problem": _record(
        *("type", "title", "status", "detail", "instance", "message"),
        type={"type": "string", "enum": [f"{PROBLEM_TYPE}{name}" for name in KINDS]},
        title=_TEXT,
        status=_COUNT,
        detail=_TEXT,
        instance=_TEXT,
        message=_TEXT,
        errorCode=_TEXT,
        requestId=_TEXT,
    ),
    "Page": _record(
        offset=_COUNT,
        limit=_COUNT,
        results={"type": "array", "items": ref("schemas", "Job")},
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
        result={"anyOf": [ref("schemas", "Result"), {"type": "null"}]},
        error={"anyOf": [ref("schemas", "Error"), {"type": "null"}]},
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
        upstream={"anyOf": [ref("schemas", "UpstreamAnswer"), {"type": "null"}]},
    ),
    "UpstreamAnswer": _record(
        status=_COUNT, contentType=_NO_TEXT, body={}, truncated={"type": "boolean"}
    ),
}
