"""A job as its status resource shows it: document and header fields (CONTRACT §3, §4, §5)."""

from __future__ import annotations

import json
from base64 import b64decode
from datetime import UTC, datetime
from email.utils import formatdate
from functools import lru_cache
from math import isfinite
from typing import Any

from proxy.core.exports import split_target
from proxy.core.job import ErrorCode, Job, JobError, Phase, ResultState, Status
from proxy.core.naming import result_name
from proxy.core.paths import Links
from proxy.core.retention import Retention

_JSON_BODY_LIMIT = 64 * 1024
_JSON_DEPTH = 100


def etag(job: Job) -> str:
    """The weak validator of the job document (CONTRACT §4)."""
    return f'W/"{job.shown_version}"'


def percent(job: Job) -> int | None:
    """Percentage of the announced bytes, rounded down. None if their number is unknown."""
    total = _total(job)
    if total is None:
        return None
    return 100 if total == 0 else min(100, 100 * job.received // total)


def seconds_remaining(job: Job) -> int | None:
    """Estimated seconds until the transfer ends, rounded up. None if there is no estimate."""
    total = _total(job)
    if total is None or not job.rate or job.phase is not Phase.TRANSFERRING:
        return None
    return -(-(total - job.received) // job.rate)


def retry_after(job: Job, now: float) -> int:
    """Whole seconds to wait before the next poll (CONTRACT §4)."""
    match job.phase:
        case Phase.QUEUED:
            return 10
        case Phase.GENERATING:
            return _clamp((now - (job.started or now)) / 10, 2, 30)
        case Phase.TRANSFERRING:
            rest = seconds_remaining(job)
            return 2 if rest is None else _clamp(rest / 2, 1, 30)
        case Phase.SUSPENDED:
            return 5
        case _:
            return 1


def x_progress(job: Job) -> str:
    """The phase and the percentage if it is known, in less than 100 characters (CONTRACT §4)."""
    known = percent(job)
    transferring = job.phase in (Phase.TRANSFERRING, Phase.FINALIZING)
    return f"{job.phase} {known}%" if transferring and known is not None else str(job.phase)


def async_result(job: Job) -> int:
    """The status code of VB365; without one 499 (cancelled), 504 (timed out) or 502 (any other
    error) (CONTRACT §4).
    """
    if job.status is Status.CANCELLED:
        return 499
    if job.error is None:
        return 200
    if job.error.status is not None:
        return job.error.status
    return 504 if job.error.code is ErrorCode.TIMEOUT else 502


def status_code(job: Job) -> int:
    """The status of the response that shows the job (CONTRACT §4)."""
    return 200 if job.terminal else 202


def headers(job: Job, links: Links, retention: Retention, now: float) -> list[tuple[str, str]]:
    """The header fields of a status response, without Content-Type (CONTRACT §4)."""
    fields = [("ETag", etag(job)), ("Cache-Control", "no-store")]
    if not job.terminal:
        fields += [
            ("Location", links.status),
            ("Retry-After", str(retry_after(job, now))),
            ("X-Progress", x_progress(job)),
        ]
        return fields
    fields.append(("AsyncResult", str(async_result(job))))
    ends = job.expires if job.result is ResultState.AVAILABLE else retention.record_ends(job)
    if ends is not None:
        fields.append(("Sunset", formatdate(ends, usegmt=True)))
    return fields


def accepted(job: Job, links: Links, applied: str | None, now: float) -> list[tuple[str, str]]:
    """The header fields of the 202 response to a kick-off, without Content-Type (CONTRACT §3).

    `applied` is the value of Preference-Applied, if any.
    """
    fields = [
        ("Location", links.status),
        ("Content-Location", links.status),
        ("Link", f'<{links.status}>; rel="monitor"'),
        ("Retry-After", str(1 if job.terminal else retry_after(job, now))),
        ("Vary", "Prefer"),
        ("Cache-Control", "no-store"),
    ]
    if applied is not None:
        fields.append(("Preference-Applied", applied))
    return fields


def document(job: Job, links: Links) -> dict[str, Any]:
    """The job document: a valid RESTRestoreSessionEvent of v6, v7 and v8 (CONTRACT §5)."""
    request = job.request
    total = _total(job)
    hrefs = {"self": {"href": links.status}, "result": {"href": links.result}}
    if not job.terminal:
        hrefs["cancel"] = {"href": links.cancel}
    if request.session is not None:
        hrefs["restoreSession"] = {"href": f"/{request.api}/RestoreSessions/{request.session}"}
    size = {} if total is None else {"itemSizeBytes": total}
    return {
        "id": job.id,
        "type": "Save" if request.title.lower() == "save" else "Export",
        "status": str(job.status),
        "phase": str(job.phase),
        "title": request.title,
        "message": message(job),
        "order": 0,
        "creationTime": timestamp(job.created),
        # required and not nullable in VB365's schemas: a queued job shows when it was accepted
        "startTime": timestamp(job.created if job.started is None else job.started),
        "endTime": None if job.ended is None else timestamp(job.ended),
        "lastUpdateTime": timestamp(job.updated),
        "expirationTime": None if job.expires is None else timestamp(job.expires),
        "eTag": job.shown_version,
        "attempt": job.attempt,
        "origin": str(job.origin),
        "joined": job.joined,
        **size,
        "progress": {
            "percent": percent(job),
            "bytesReceived": job.received,
            "bytesTotal": total,
            "bytesPerSecond": job.rate,
            "secondsRemaining": seconds_remaining(job),
        },
        "request": {
            "method": request.method,
            "path": _path(request.target),
            "restoreSessionId": request.session,
            "idempotencyKey": request.idempotency_key,
        },
        "result": _result(job, links),
        "error": None if job.error is None else _error(job.error),
        "_links": hrefs,
    }


def _path(target: str) -> str:
    """The path of the target. A long one of an ended job is its beginning and a digest."""
    return split_target(target.encode("utf-8"))[0].decode("utf-8")


def body(job: Job, links: Links) -> bytes:
    """The job document as JSON."""
    return json.dumps(document(job, links)).encode()


def _result(job: Job, links: Links) -> dict[str, Any] | None:
    if job.file is None or job.result is None:
        return None
    result: dict[str, Any] = {
        "state": str(job.result),
        "href": links.result,
        "mediaType": job.file.media_type,
        "format": job.format,
        "fileName": result_name(job),
        "size": _total(job),
    }
    if job.result is ResultState.AVAILABLE and job.digest is not None and job.expires is not None:
        result |= {
            "eTag": file_etag(job),
            "digest": {"sha-256": job.digest},
            "sha256": b64decode(job.digest).hex(),
            "expirationTime": timestamp(job.expires),
        }
    return result


def file_etag(job: Job) -> str:
    """The strong validator of the file: its digest, which is the same on all replicas (CONTRACT
    §6).
    """
    return f'"{job.digest}"'


def _error(error: JobError) -> dict[str, Any]:
    upstream = None
    if error.status is not None:
        upstream = {
            "status": error.status,
            "contentType": error.content_type,
            "body": _parsed(error),
            "truncated": error.truncated,
        }
    return {
        "code": str(error.code),
        "message": error.message,
        "retryable": error.retryable,
        "upstream": upstream,
    }


def _parsed(error: JobError) -> Any:
    """The body as a JSON value if it is complete JSON of at most 64 KiB, otherwise as text
    (CONTRACT §5).
    """
    text = error.body
    if text is None or error.truncated or len(text) > _JSON_BODY_LIMIT:
        return text
    return _json_or_text(text)


# a body of many small members takes 50 ms, and clients poll the same job again and again
@lru_cache(maxsize=16)
def _json_or_text(text: str) -> Any:
    try:
        value = json.loads(
            text.removeprefix("\ufeff"), parse_constant=_no_constant, parse_float=_finite
        )
    except (ValueError, RecursionError):
        return text
    return value if _is_shallow(value, _JSON_DEPTH) else text


def _no_constant(name: str) -> Any:
    """Reject NaN and Infinity: a document that contains them is not JSON."""
    raise ValueError(name)


def _finite(digits: str) -> float:
    """The number, unless it overflows: 1e999 would be written as Infinity."""
    number = float(digits)
    return number if isfinite(number) else _no_constant(digits)


def _is_shallow(value: Any, depth: int) -> bool:
    """Whether the value nests at most `depth` levels. Python can read deeper ones than it can
    write.
    """
    if isinstance(value, dict):
        value = list(value.values())
    return not isinstance(value, list) or (
        depth > 0 and all(_is_shallow(member, depth - 1) for member in value)
    )


def _total(job: Job) -> int | None:
    if job.size is not None:
        return job.size
    return None if job.file is None else job.file.size


def message(job: Job) -> str:
    """What the job is doing, or how it ended, as a sentence."""
    if job.error is not None:
        return job.error.message
    match job.phase:
        case Phase.QUEUED:
            return "Waiting for another export to finish"
        case Phase.GENERATING:
            return "Veeam Backup for Microsoft 365 is generating the file"
        case Phase.TRANSFERRING:
            return f"Transferring {_amount(job)}"
        case Phase.FINALIZING:
            return "Verifying and storing the file"
        case Phase.CANCELLING:
            return "Cancelling"
        case Phase.SUSPENDED:
            return "Interrupted. The next status request with valid credentials resumes the export."
        case _:
            return _outcome(job)


def _outcome(job: Job) -> str:
    match job.status:
        case Status.CANCELLED:
            return "The export was cancelled"
        case Status.WARNING:
            return (
                "The file is complete, but Veeam Backup for Microsoft 365 reported a warning "
                "or sent no length to verify"
            )
        case _:
            return f"Exported {_size(job.size or 0)}"


def _amount(job: Job) -> str:
    total = _total(job)
    if total is None:
        return _size(job.received)
    unit, name = _unit(total)
    return f"{job.received / unit:.1f} of {total / unit:.1f} {name}"


def _size(count: int) -> str:
    unit, name = _unit(count)
    return f"{count / unit:.1f} {name}"


def _unit(count: int) -> tuple[int, str]:
    for power, name in ((4, "TiB"), (3, "GiB"), (2, "MiB")):
        if count >= 1024**power:
            return 1024**power, name
    return 1024, "KiB"


def _clamp(value: float, low: int, high: int) -> int:
    return int(max(low, min(high, value)))


def timestamp(moment: float) -> str:
    """A Unix second as all documents write it (RFC 3339, UTC)."""
    return datetime.fromtimestamp(moment, UTC).strftime("%Y-%m-%dT%H:%M:%SZ")
