"""The state machine of a job as one table (CONTRACT §5, §7, §10)."""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from dataclasses import replace
from typing import Any

from proxy.core import timeline
from proxy.core.digests import shortened
from proxy.core.events import (
    Answered,
    Assigned,
    Cancelled,
    CancelRequested,
    Claimed,
    Delivered,
    Detached,
    Event,
    Expired,
    Extended,
    Failed,
    Finalizing,
    Forgotten,
    Identified,
    Interrupted,
    Joined,
    Received,
    Released,
    Restarted,
    Resumed,
    Shown,
    Succeeded,
)
from proxy.core.job import (
    Delivery,
    ExportRequest,
    Job,
    JobError,
    Phase,
    ResultState,
    Status,
    refused,
)

#: Bytes of JSON above which the request target of an ended job, and the error body of a refused
#: job, are shortened.
_LONG_TARGET, _LONG_BODY = 2048, 1024
_LONG_SEGMENT = 255


class IllegalTransition(Exception):
    """The event does not apply in the phase of the job, which is unchanged."""

    def __init__(self, phase: Phase, event: Event) -> None:
        super().__init__(f"{type(event).__name__} does not apply to a job in phase {phase}")
        self.phase = phase
        self.event = event


_Q, _G, _T, _F, _X, _S, _C, _O = Phase
__: Phase | None = None

#: The phase after each event in each phase; None where the event does not apply. Every event has a
#: row and every row a cell for each phase. CONTRACT §7: cancel beats a late response of VB365
#: (CANCELLING leads only to COMPLETED, and not by Succeeded); a persisted success beats a late
#: cancel (CancelRequested does not apply in COMPLETED).
TRANSITIONS: dict[type[Event], tuple[Phase | None, ...]] = {
    # The columns are the phases: Queued, Generating, Transferring, Finalizing, Cancelling,
    # Suspended, Completed, Forgotten.
    #                 Que  Gen  Tra  Fin  Can  Sus  Com  For
    Assigned:        (_Q, __, __, __, __, __, __, __),
    Claimed:         (_G, __, __, __, __, __, __, __),
    Answered:        (__, _T, _T, __, __, __, __, __),
    Received:        (__, __, _T, __, __, __, __, __),
    Restarted:       (__, _G, _G, __, __, __, __, __),
    Finalizing:      (__, __, _F, __, __, __, __, __),
    Succeeded:       (__, __, __, _C, __, _C, __, __),
    Failed:          (_C, _C, _C, _C, __, _C, __, __),
    Shown:           (_Q, _G, _T, _F, __, _S, __, __),
    Identified:      (_Q, _G, _T, _F, _X, _S, _C, __),
    CancelRequested: (_X, _X, _X, _X, _X, _X, __, __),
    Cancelled:       (__, __, __, __, _C, __, __, __),
    Interrupted:     (_S, _S, _S, _S, __, _S, __, __),
    Resumed:         (__, __, __, __, __, _Q, __, __),
    Expired:         (__, __, __, __, __, __, _C, __),
    Extended:        (__, __, __, __, __, __, _C, __),
    Released:        (__, __, __, __, __, __, _C, __),
    Joined:          (_Q, _G, _T, _F, __, _S, _C, __),
    Detached:        (_Q, _G, _T, _F, __, _S, _C, __),
    Delivered:       (__, __, __, __, __, __, _C, __),
    Forgotten:       (_O, _O, _O, _O, _O, _O, _O, _O),
}  # fmt: skip


def _assigned(job: Job, event: Assigned, now: float) -> Job:
    return replace(job, holder=event.holder, fence=job.fence + 1, published=0)


def _claimed(job: Job, event: Claimed, now: float) -> Job:
    """CONTRACT §5: a continuation with Range stays in its attempt.

    Fewer bytes may be stored than were reported before an interruption. The reported number stays,
    because the percentage never falls within an attempt.
    """
    if event.offset:
        return replace(
            job, holder=event.holder, received=max(job.received, event.offset), rate=None
        )
    started = job.started if job.started is not None else now
    return replace(_next_attempt(job), holder=event.holder, started=started)


def _answered(job: Job, event: Answered, now: float) -> Job:
    return replace(
        job,
        answered=job.answered if job.answered is not None else now,
        file=event.file,
        result=ResultState.PENDING,
        accepted=True,
        attended=False,
    )


def _received(job: Job, event: Received, now: float) -> Job:
    return replace(
        job,
        received=max(job.received, event.received),
        published=max(job.published, event.published),
        rate=event.rate,
        format=event.format,
    )


def _restarted(job: Job, event: Restarted, now: float) -> Job:
    return _next_attempt(job)


def _next_attempt(job: Job) -> Job:
    return replace(
        job,
        attempt=job.attempt + 1,
        answered=None,
        received=0,
        published=0,
        rate=None,
        file=None,
        format=None,
        result=None,
    )


def _finalizing(job: Job, event: Finalizing, now: float) -> Job:
    return replace(job, received=event.received, rate=None)


def _succeeded(job: Job, event: Succeeded, now: float) -> Job:
    return replace(
        job,
        request=_kept(job.request),
        status=Status.WARNING if event.warning else Status.SUCCESS,
        holder=None,
        sealed=None,
        ended=now,
        expires=event.expires,
        suspended=None,
        received=event.size,
        rate=None,
        file=job.file if event.file is None else event.file,
        size=event.size,
        digest=event.digest,
        format=event.format,
        result=ResultState.AVAILABLE,
    )


def _without_file(job: Job) -> ResultState | None:
    return ResultState.INCOMPLETE if job.result is not None else None


def _failed(job: Job, event: Failed, now: float) -> Job:
    answered = event.error.status not in (None, 401) and not event.denied
    failed = replace(
        job,
        request=_kept(job.request),
        accepted=job.accepted or event.accepted or answered,
        denied=job.denied or event.denied,
        status=Status.FAILED,
        holder=None,
        sealed=None,
        ended=now,
        suspended=None,
        rate=None,
        error=event.error,
        result=_without_file(job),
    )
    return _shortened(failed, event.error) if refused(failed) else failed


def _kept(request: ExportRequest) -> ExportRequest:
    """What an ended job keeps of its request, which may be 256 KiB long and is not sent again. A
    version segment that is cut is still an alias of the one that was sent.
    """
    session = request.session
    if session is not None and len(session) > _LONG_SEGMENT:
        session = f"sha256-{hashlib.sha256(session.encode('latin-1')).hexdigest()}"
    return replace(
        request,
        api=request.api[:16],
        session=session,
        target=shortened(request.target, limit=_LONG_TARGET),
        title=request.title[:_LONG_SEGMENT],
        content_type=None,
        accept=None,
        accept_language=None,
        host=None,
    )


def _shortened(job: Job, error: JobError) -> Job:
    """The refused job without long values."""
    body = None if error.body is None else shortened(error.body, limit=_LONG_BODY)
    return replace(
        job,
        error=replace(
            error,
            message=shortened(error.message, limit=_LONG_BODY),
            content_type=None if error.content_type is None else error.content_type[:_LONG_SEGMENT],
            body=body,
            truncated=error.truncated or body != error.body,
        ),
    )


def _abandoned(job: Job, now: float) -> float | None:
    return now if job.phase is Phase.GENERATING else job.abandoned


def _shown(job: Job, event: Shown, now: float) -> Job:
    return replace(job, attended=False)


def _identified(job: Job, event: Identified, now: float) -> Job:
    known = event.owner in job.owners
    return replace(
        job, aliases=job.aliases if known else (*job.aliases, event.owner), accepted=True
    )


def _cancel_requested(job: Job, event: CancelRequested, now: float) -> Job:
    return replace(job, abandoned=_abandoned(job, now))


def _cancelled(job: Job, event: Cancelled, now: float) -> Job:
    return replace(
        job,
        request=_kept(job.request),
        status=Status.CANCELLED,
        holder=None,
        sealed=None,
        ended=now,
        suspended=None,
        rate=None,
        result=_without_file(job),
    )


def _interrupted(job: Job, event: Interrupted, now: float) -> Job:
    """CONTRACT §10: a request from zero that VB365 answered with 401 is no attempt."""
    rejected = event.expired and job.phase is Phase.GENERATING and job.answered is None
    attempt = max(0, job.attempt - rejected)
    return replace(
        job,
        holder=None,
        replica=None,
        sealed=None if event.expired else job.sealed,
        attempt=attempt,
        started=job.started if attempt else None,
        rate=None,
        suspended=now if job.suspended is None else job.suspended,
        denied=event.denied,
        attended=False,
    )


def _resumed(job: Job, event: Resumed, now: float) -> Job:
    return replace(
        job,
        suspended=None,
        sealed=event.sealed,
        borrowed=job.borrowed or event.borrowed,
        replica=event.replica,
    )


def _expired(job: Job, event: Expired, now: float) -> Job:
    available = job.result is ResultState.AVAILABLE
    return replace(job, result=ResultState.EXPIRED if available else job.result)


def _extended(job: Job, event: Extended, now: float) -> Job:
    known = job.expires
    if job.result is not ResultState.AVAILABLE or known is None or known <= now:
        return job
    return replace(job, expires=max(known, event.expires))


def _released(job: Job, event: Released, now: float) -> Job:
    available = job.result is ResultState.AVAILABLE
    return replace(job, result=ResultState.DELETED if available else job.result)


def _joined(job: Job, event: Joined, now: float) -> Job:
    return replace(job, joined=job.joined + event.count, attended=False)


def _detached(job: Job, event: Detached, now: float) -> Job:
    return replace(job, detached=True, unshown=job.unshown + 1)


def _delivered(job: Job, event: Delivered, now: float) -> Job:
    known = job.delivery
    return replace(
        job,
        delivery=Delivery(
            sent=known.sent + event.sent,
            count=known.count + event.count,
            last=now,
            whole=known.whole or event.whole,
        ),
        unshown=job.unshown + 1,
    )


def _forgotten(job: Job, event: Forgotten, now: float) -> Job:
    """A tombstone keeps what identifies the job, its owner and its session, and nothing else."""
    request = replace(_kept(job.request), target="", idempotency_key=None, fingerprint="")
    return replace(
        job,
        request=request,
        holder=None,
        sealed=None,
        rate=None,
        status=job.status if job.terminal else Status.CANCELLED,
        ended=job.ended if job.ended is not None else now,
        file=None,
        error=None,
        digest=None,
        result=None,
        client=None,
        delivery=Delivery(),
        abandoned=_abandoned(job, now),
    )


_EFFECTS: dict[type[Event], Callable[[Job, Any, float], Job]] = {
    Assigned: _assigned,
    Claimed: _claimed,
    Answered: _answered,
    Received: _received,
    Restarted: _restarted,
    Finalizing: _finalizing,
    Succeeded: _succeeded,
    Failed: _failed,
    Shown: _shown,
    Identified: _identified,
    CancelRequested: _cancel_requested,
    Cancelled: _cancelled,
    Interrupted: _interrupted,
    Resumed: _resumed,
    Expired: _expired,
    Extended: _extended,
    Released: _released,
    Joined: _joined,
    Detached: _detached,
    Delivered: _delivered,
    Forgotten: _forgotten,
}
_COLUMN = {phase: column for column, phase in enumerate(Phase)}


def advance(job: Job, event: Event, now: float) -> Job:
    """The job after `event` at the Unix second `now`, with its version incremented.

    Raises `IllegalTransition` if the event does not apply.
    """
    phase = TRANSITIONS[type(event)][_COLUMN[job.phase]]
    if phase is None:
        raise IllegalTransition(job.phase, event)
    changed = _EFFECTS[type(event)](job, event, now)
    return replace(
        changed,
        phase=phase,
        version=job.version + 1,
        updated=now if changed.unshown == job.unshown else job.updated,
        timeline=() if phase is Phase.FORGOTTEN else timeline.continued(job, changed, event, now),
    )
