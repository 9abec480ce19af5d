"""The events of jobs in the log, all in one place (docs/operations.md "Events").

A change is logged once it is stored, by the process that has made it.
"""

from __future__ import annotations

from typing import Any

import structlog

from proxy.core.job import Job
from proxy.core.job_document import timestamp
from proxy.core.job_events import changes, described, sha256

log = structlog.get_logger(__name__)


def changed(old: Job, new: Job) -> None:
    """Log the change of a record from `old` to `new`."""
    for event in changes(old, new):
        # a tombstone has no target any more
        _log(event.name, old if new.forgotten else new, event.fields, warning=event.warning)


def accepted(job: Job, size: int) -> None:
    """Log that the job is stored. Its request's body has `size` bytes."""
    key = job.request.idempotency_key is not None
    _log("job.accepted", job, {"bytes": size, "idempotent": key})


def queued(job: Job, *, running: int, waiting: int) -> None:
    """Log that the job waits for a slot: so many jobs run, so many wait, this one among them."""
    _log("job.queued", job, {"running": running, "waiting": waiting})


def dropped(job: Job, status: int) -> None:
    """Log that VB365's first response, or the problem in its place, went to the kick-off in place
    of a job (CONTRACT §3.7).
    """
    _log("job.dropped", job, {"status": status})


def withdrawn(job: Job) -> None:
    """Log that a rescued export got no slot within the grace, and is relayed (CONTRACT §14)."""
    _log("job.withdrawn", job, {})


def rescued(job: Job) -> None:
    """Log that a synchronous export runs as this job (CONTRACT §14)."""
    _log("job.rescued", job, {})


def joined(job: Job, *, joined: int, saved: float) -> None:
    """Log that another request, the one with the number `joined`, gets the file of a rescued
    export. `saved` is how many seconds VB365 has worked on it already.
    """
    _log("job.joined", job, {"joined": joined, "seconds_saved": round(saved, 3)})


def delivered(job: Job, *, status: int, sent: int, whole: bool, seconds: float) -> None:
    """Log that `sent` bytes of the file have been sent. `whole`: that is all of it."""
    facts = {"status": status, "bytes": sent, "whole": whole, "seconds": round(seconds, 3)}
    _log("job.delivered", job, facts | {"sha256": sha256(job)})


def operated(act: str, job: Job, *, how: str) -> None:
    """Log that an operator has done something to the job: cancel, delete, release, extend or
    redeliver. `how` says what admitted the operator: "token", "session", or "none" if no token is
    set.
    """
    expires = None if job.expires is None else timestamp(job.expires)
    _log("job.operator_act", job, {"act": act, "auth": how, "expires": expires})


def _log(name: str, job: Job, fields: dict[str, Any], *, warning: bool = False) -> None:
    (log.warning if warning else log.info)(name, **described(job), **fields)
