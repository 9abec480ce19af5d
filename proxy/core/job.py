"""The export job and its state machine (CONTRACT §5, §7, §10).

A `Job` is a frozen value. `advance(job, event, now)` returns the job after an event, or raises
`IllegalTransition`; `TRANSITIONS` is the whole machine as one table. The caller stores the result
(`JobStore.replace`).
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable
from dataclasses import asdict, dataclass, fields, replace
from enum import StrEnum
from typing import Any, TypeVar

from proxy.core.digests import shortened

#: Bytes of JSON above which the request target of an ended job, and the error body of a refused
#: job, are shortened.
_LONG_TARGET, _LONG_BODY = 2048, 1024
_LONG_SEGMENT = 255


class Status(StrEnum):
    """The outcome, named as in VB365's events (CONTRACT §5). All but RUNNING are final."""

    RUNNING = "Running"
    SUCCESS = "Success"
    WARNING = "Warning"
    FAILED = "Failed"
    CANCELLED = "Cancelled"


class Phase(StrEnum):
    """The current step of a job. FORGOTTEN marks the tombstone of a deleted job and is not shown in
    documents.
    """

    QUEUED = "Queued"
    GENERATING = "Generating"
    TRANSFERRING = "Transferring"
    FINALIZING = "Finalizing"
    CANCELLING = "Cancelling"
    SUSPENDED = "Suspended"
    COMPLETED = "Completed"
    FORGOTTEN = "Forgotten"


class ResultState(StrEnum):
    """The state of the file (CONTRACT §5 `result.state`)."""

    PENDING = "Pending"
    AVAILABLE = "Available"
    EXPIRED = "Expired"
    DELETED = "Deleted"
    INCOMPLETE = "Incomplete"


class ErrorCode(StrEnum):
    """Why a job failed (CONTRACT §5 `error.code`)."""

    REJECTED = "UpstreamRejected"
    ERROR = "UpstreamError"
    UNREACHABLE = "UpstreamUnreachable"
    TIMEOUT = "UpstreamTimeout"
    TRUNCATED = "UpstreamTruncated"
    STORAGE_FULL = "StorageFull"
    INTERRUPTED = "Interrupted"
    INTERNAL = "Internal"


@dataclass(frozen=True, slots=True, kw_only=True)
class ExportRequest:
    """What is stored of the kick-off request: never a credential (CONTRACT §9). The store keeps the
    body separately.

    `target` is the raw request target without `async`, and `session` the raw id segment of the
    restore session, None for reports; both are bytes as latin-1 text. `fingerprint` is the hex
    SHA-256 of method, target and body (CONTRACT §8). `host` is None if the kick-off had none, and
    in records of version 0.1.0.
    """

    method: str
    target: str
    api: str
    session: str | None
    title: str
    content_type: str | None
    accept: str | None
    accept_language: str | None
    idempotency_key: str | None
    fingerprint: str
    host: str | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class FileFacts:
    """The facts of the file in the head of VB365's 200 response: `size` in bytes if announced,
    `etag` and `last_modified` as sent.

    `file_name` is the sanitised name, None if VB365 sent none: then `core.naming` makes one.
    """

    media_type: str
    file_name: str | None
    size: int | None
    etag: str | None
    last_modified: str | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class JobError:
    """Why a job failed. `status`, `content_type` and `body` are those of VB365's response, if there
    was one.
    """

    code: ErrorCode
    message: str
    retryable: bool
    status: int | None = None
    content_type: str | None = None
    body: str | None = None
    truncated: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class Job:
    """One export. Times are in Unix seconds, sizes in bytes. `version` is incremented by every
    change.

    - `owner` is the keyed hash of the caller; `aliases` are further hashes of the same caller, such
      as those of its credentials if `owner` is that of its identity (CONTRACT §8).
    - `holder` is the runner that runs the job.
    - `answered` is the time of the first byte of the attempt.
    - `replica` is the one that has the job's credentials in memory, and `fence` the number of
      claims, which names the file of the job; both are set only where replicas share the store
      (CONTRACT §18).
    - `digest` is the base64 SHA-256 of the file.
    - `sealed` holds the encrypted request fields of a job that still needs VB365, if `secrets.key`
      is set (CONTRACT §9).
    - `borrowed`: the job was resumed with the credentials of a caller other than its owner.
    - `abandoned` is the time at which the job was cancelled or deleted while VB365 generated the
      file. VB365 may continue (CONTRACT §3.5 `cancel_hold`).
    - `accepted`: VB365 accepted the caller, in an access check or by a response to the POST other
      than 401.
    - `denied`: the job was suspended because VB365 did not.
    - `attended`: its kick-off may still be answered with VB365's first response in place of a job.
      Set only where replicas share the store; elsewhere the process itself knows (CONTRACT §3.7).
    """

    id: str
    version: int
    owner: str
    request: ExportRequest
    created: float
    updated: float
    started: float | None = None
    answered: float | None = None
    ended: float | None = None
    expires: float | None = None
    suspended: float | None = None
    status: Status = Status.RUNNING
    phase: Phase = Phase.QUEUED
    holder: str | None = None
    attempt: int = 0
    file: FileFacts | None = None
    format: str | None = None
    received: int = 0
    rate: int | None = None
    result: ResultState | None = None
    size: int | None = None
    digest: str | None = None
    error: JobError | None = None
    sealed: str | None = None
    borrowed: bool = False
    aliases: tuple[str, ...] = ()
    abandoned: float | None = None
    accepted: bool = False
    denied: bool = False
    replica: str | None = None
    fence: int = 0
    attended: bool = False

    @property
    def owners(self) -> tuple[str, ...]:
        """All hashes of the caller that owns the job."""
        return (self.owner, *self.aliases)

    @property
    def terminal(self) -> bool:
        """Whether the status is final."""
        return self.status is not Status.RUNNING

    @property
    def forgotten(self) -> bool:
        """Whether this is the tombstone of a deleted job."""
        return self.phase is Phase.FORGOTTEN


@dataclass(frozen=True, slots=True)
class Assigned:
    """A replica has given the job a slot, and a new fence to write its file under (CONTRACT §18).
    It is Queued until the replica has opened the file.
    """

    holder: str


@dataclass(frozen=True, slots=True)
class Claimed:
    """A runner has started the job. It continues after `offset` stored bytes; 0 starts a new
    generation.
    """

    holder: str
    offset: int = 0


@dataclass(frozen=True, slots=True)
class Answered:
    """The head of VB365's 200 response, or of a 206 that continues the file, has arrived."""

    file: FileFacts


@dataclass(frozen=True, slots=True)
class Received:
    """`received` bytes are stored in this attempt. `rate` is in bytes per second; `format` is
    detected by the first bytes.
    """

    received: int
    rate: int | None
    format: str | None


@dataclass(frozen=True, slots=True)
class Restarted:
    """The attempt has ended, and a new one starts from zero (CONTRACT §10)."""


@dataclass(frozen=True, slots=True)
class Finalizing:
    """The whole body is stored and its length is verified."""

    received: int


@dataclass(frozen=True, slots=True)
class Succeeded:
    """The artifact is committed. `size` is in bytes, `digest` the base64 SHA-256, `expires` a Unix
    second.
    """

    size: int
    digest: str
    expires: float
    format: str | None
    warning: bool = False


@dataclass(frozen=True, slots=True)
class Failed:
    """The job failed. `accepted`: VB365 accepted the caller in an access check."""

    error: JobError
    accepted: bool = False


@dataclass(frozen=True, slots=True)
class Shown:
    """Another replica than that of the kick-off shows the job to a caller: it is not dropped."""


@dataclass(frozen=True, slots=True)
class Identified:
    """VB365 has confirmed the identity of the caller after the kick-off. `owner` is its hash."""

    owner: str


@dataclass(frozen=True, slots=True)
class CancelRequested:
    """The caller cancels the job."""


@dataclass(frozen=True, slots=True)
class Cancelled:
    """The connection to VB365 is closed and the partial file is removed."""


@dataclass(frozen=True, slots=True)
class Interrupted:
    """The job is suspended until the next call of a caller who may see it, after a restart or
    because its token expired (CONTRACT §9).

    `denied`: VB365 answered 401, and has not accepted the caller in an access check either.
    `expired`: VB365 answered 401, so that sealed credentials are of no more use.
    """

    denied: bool = False
    expired: bool = False


@dataclass(frozen=True, slots=True)
class Resumed:
    """The job has credentials and is queued again. `sealed` is their encrypted form, if stored;
    `borrowed`: they are not those of its owner; `replica` has them in memory.
    """

    sealed: str | None = None
    borrowed: bool = False
    replica: str | None = None


@dataclass(frozen=True, slots=True)
class Expired:
    """The result has expired."""


@dataclass(frozen=True, slots=True)
class Released:
    """The caller deleted the file."""


@dataclass(frozen=True, slots=True)
class Forgotten:
    """The caller deleted the job. A tombstone makes DELETE idempotent (CONTRACT §7)."""


Event = (
    Assigned
    | Claimed
    | Answered
    | Received
    | Restarted
    | Finalizing
    | Succeeded
    | Failed
    | Shown
    | Identified
    | CancelRequested
    | Cancelled
    | Interrupted
    | Resumed
    | Expired
    | Released
    | Forgotten
)


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
    Released:        (__, __, __, __, __, __, _C, __),
    Forgotten:       (_O, _O, _O, _O, _O, _O, _O, _O),
}  # fmt: skip


def _assigned(job: Job, event: Assigned, now: float) -> Job:
    return replace(job, holder=event.holder, fence=job.fence + 1)


def _claimed(job: Job, event: Claimed, now: float) -> Job:
    """CONTRACT §5: a continuation with Range stays in its attempt.

    Fewer bytes may be stored than were reported before an interruption. The reported number stays,
    because the percentage never falls within an attempt.
    """
    if event.offset:
        return replace(
            job, holder=event.holder, received=max(job.received, event.offset), rate=None
        )
    return replace(
        job,
        holder=event.holder,
        started=job.started if job.started is not None else now,
        attempt=job.attempt + 1,
        answered=None,
        received=0,
        rate=None,
        file=None,
        format=None,
        result=None,
    )


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
        job, received=max(job.received, event.received), rate=event.rate, format=event.format
    )


def _restarted(job: Job, event: Restarted, now: float) -> Job:
    return replace(
        job,
        attempt=job.attempt + 1,
        answered=None,
        received=0,
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
        size=event.size,
        digest=event.digest,
        format=event.format,
        result=ResultState.AVAILABLE,
    )


def _without_file(job: Job) -> ResultState | None:
    return ResultState.INCOMPLETE if job.result is not None else None


def _failed(job: Job, event: Failed, now: float) -> Job:
    answered = event.error.status not in (None, 401)
    failed = replace(
        job,
        request=_kept(job.request),
        accepted=job.accepted or event.accepted or answered,
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


def refused(job: Job) -> bool:
    """Whether VB365 answered 401 to the job and never accepted its caller (CONTRACT §3.5). Anyone
    can create such jobs.
    """
    if job.accepted or job.status is not Status.FAILED or job.error is None:
        return False
    return job.error.status == 401 or (job.denied and job.error.code is ErrorCode.INTERRUPTED)


def _kept(request: ExportRequest) -> ExportRequest:
    """What an ended job keeps of its request, which may be 256 KiB long and is not sent again."""
    return replace(
        request,
        target=shortened(request.target, limit=_LONG_TARGET),
        title=request.title[:_LONG_SEGMENT],
        content_type=None,
        accept=None,
        accept_language=None,
        host=None,
    )


def _shortened(job: Job, error: JobError) -> Job:
    """The refused job without long values. A version segment that is cut is still an alias of the
    one that was sent.
    """
    request = job.request
    body = None if error.body is None else shortened(error.body, limit=_LONG_BODY)
    session = request.session
    if session is not None and len(session) > _LONG_SEGMENT:
        session = f"sha256-{hashlib.sha256(session.encode('latin-1')).hexdigest()}"
    return replace(
        job,
        request=replace(request, api=request.api[:16], session=session),
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
    since = job.suspended if job.suspended is not None else now
    return replace(
        job,
        holder=None,
        replica=None,
        sealed=None if event.expired else job.sealed,
        rate=None,
        suspended=since,
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


def _released(job: Job, event: Released, now: float) -> Job:
    available = job.result is ResultState.AVAILABLE
    return replace(job, result=ResultState.DELETED if available else job.result)


def _forgotten(job: Job, event: Forgotten, now: float) -> Job:
    """A tombstone keeps what identifies the job, its owner and its session, and nothing else."""
    request = replace(
        job.request, target="", content_type=None, idempotency_key=None, fingerprint="", host=None
    )
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
    Released: _released,
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
    return replace(changed, phase=phase, version=job.version + 1, updated=now)


_T_ = TypeVar("_T_")


def _revive(kind: type[_T_], raw: dict[str, Any], **decoded: Any) -> _T_:
    known = _MEMBERS[kind]
    return kind(**({name: value for name, value in raw.items() if name in known} | decoded))


_MEMBERS: dict[type[Any], frozenset[str]] = {
    kind: frozenset(member.name for member in fields(kind))
    for kind in (Job, ExportRequest, FileFacts, JobError)
}


def encode(job: Job) -> bytes:
    """The job as UTF-8 JSON, as stores keep it."""
    raw = asdict(job)
    raw["answer"] = raw.pop("file")  # its name since version 0.1.0
    return json.dumps(raw, separators=(",", ":")).encode()


def decode(data: bytes) -> Job:
    """The job from the output of `encode`. Unknown members, of a newer version, are ignored.

    Raises ValueError if the data is not a job.
    """
    try:
        raw = json.loads(data)
        error = raw["error"]
        return _revive(
            Job,
            raw,
            request=_revive(ExportRequest, raw["request"]),
            status=Status(raw["status"]),
            phase=Phase(raw["phase"]),
            file=None if raw["answer"] is None else _revive(FileFacts, raw["answer"]),
            result=None if raw["result"] is None else ResultState(raw["result"]),
            error=None
            if error is None
            else _revive(JobError, error, code=ErrorCode(error["code"])),
            aliases=tuple(raw.get("aliases", ())),
            # version 0.1.0 did not record it: its jobs keep the normal retention
            accepted=bool(raw.get("accepted", True)),
        )
    except (KeyError, TypeError, AttributeError, RecursionError) as why:
        raise ValueError(f"not a job record: {why!r}") from why
