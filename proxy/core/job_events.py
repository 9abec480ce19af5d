"""The events of a job for the log, from its record before and after a change
(docs/operations.md "Events").

Fields have no credential, no query and no body (CONTRACT §9). Times are in seconds, sizes in bytes.
"""

from __future__ import annotations

import base64
from dataclasses import dataclass, field
from typing import Any

from proxy.core.exports import split_target
from proxy.core.job import Job, Phase, ResultState, Status

#: Characters of an export's path that are logged.
_LONGEST = 300
#: Hex digits of the caller's hash that are logged.
_CALLER = 8


@dataclass(frozen=True, slots=True)
class JobEvent:
    """An event. `warning`: an operator should read it."""

    name: str
    fields: dict[str, Any] = field(default_factory=dict)
    warning: bool = False


def described(job: Job) -> dict[str, Any]:
    """The fields that every event of the job has."""
    return {
        "job": job.id,
        "export": _export(job),
        "session": job.request.session,
        "caller": job.owner[:_CALLER],
    }


def changes(old: Job, new: Job) -> list[JobEvent]:
    """The events of a change from `old` to `new`, in order."""
    found = []
    if new.phase is not old.phase:
        found += _of_phase(old, new)
    if new.terminal and not old.terminal:
        found.append(_ended(new))
    if new.forgotten and not old.forgotten:
        found.append(JobEvent("job.deleted", {"bytes": old.size, "sha256": sha256(old)}))
    elif old.result is ResultState.AVAILABLE and new.result is ResultState.DELETED:
        found.append(JobEvent("job.released", {"bytes": new.size}))
    elif old.result is ResultState.AVAILABLE and new.result is ResultState.EXPIRED:
        found.append(JobEvent("job.expired", {"bytes": new.size}))
    return found


def _of_phase(old: Job, new: Job) -> list[JobEvent]:
    match new.phase:
        case Phase.GENERATING if old.phase is Phase.QUEUED:
            attempt = {"attempt": new.attempt, "offset": new.received}
            return [JobEvent("job.started", {"seconds_queued": _queued(new)} | attempt)]
        case Phase.TRANSFERRING:
            facts = new.file
            return [
                JobEvent(
                    "job.first_byte",
                    {
                        "seconds_generating": _generating(new),
                        "size": None if facts is None else facts.size,
                        "media_type": None if facts is None else facts.media_type,
                        "offset": new.received,
                    },
                )
            ]
        case Phase.CANCELLING:
            return [JobEvent("job.cancelled", {"bytes": new.received})]
        case Phase.SUSPENDED:
            return [JobEvent("job.suspended", {"phase": old.phase.value, "bytes": new.received})]
        case Phase.QUEUED:
            return [JobEvent("job.resumed", {"bytes": new.received, "borrowed": new.borrowed})]
    return []


def _ended(job: Job) -> JobEvent:
    error = job.error
    received = job.received if job.size is None else job.size
    transferring = _between(job.answered, job.ended)
    fields = {
        "outcome": job.status.value,
        "code": None if error is None else error.code.value,
        "status": None if error is None else error.status,
        "message": None if error is None else error.message,
        "seconds_queued": _queued(job),
        "seconds_generating": _generating(job),
        "seconds_transferring": transferring,
        "bytes": received,
        "rate": round(received / transferring) if transferring else None,
        "attempts": job.attempt,
        "sha256": sha256(job),
    }
    return JobEvent("job.ended", fields, warning=job.status in (Status.FAILED, Status.WARNING))


def sha256(job: Job) -> str | None:
    """The hex digest of the file, None without one."""
    return None if job.digest is None else base64.b64decode(job.digest).hex()


def _queued(job: Job) -> float | None:
    """Seconds from the kick-off until the export was first sent to VB365, or the job ended."""
    return _between(job.created, job.ended if job.started is None else job.started)


def _generating(job: Job) -> float | None:
    """Seconds until the first byte of the last attempt, or the end."""
    return _between(job.started, job.ended if job.answered is None else job.answered)


def _between(start: float | None, end: float | None) -> float | None:
    return None if start is None or end is None else round(max(0.0, end - start), 3)


def _export(job: Job) -> str:
    """What is exported: the verb and the path of the object below its session."""
    path = split_target(job.request.target.encode("latin-1", "replace"))[0].decode("latin-1")
    # /v8/RestoreSessions/{id}/Organization/…/{verb}
    below = path.rstrip("/").split("/")[4:-1] if job.request.session is not None else []
    return " ".join([job.request.title, "/".join(below)]).rstrip()[:_LONGEST]
