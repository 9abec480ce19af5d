"""The export job as a value (CONTRACT §5, §7, §9).

A `Job` is frozen. `core.transitions.advance` returns the job after an event; the caller stores it
(`JobStore.replace`).
"""

from __future__ import annotations

from dataclasses import dataclass, field
from enum import StrEnum


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


class Origin(StrEnum):
    """How the job came about (CONTRACT §14): the kick-off asked for it, or `exports.rescue_sync`
    made it.
    """

    ASYNC = "Async"
    RESCUE = "Rescue"


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
    `reason` and `lines` repeat the response to a rescued export (CONTRACT §14): its reason phrase
    and its field lines without Set-Cookie and the hop-by-hop ones, as latin-1 text. None for other
    jobs, and if they are too long.
    """

    media_type: str
    file_name: str | None
    size: int | None
    etag: str | None
    last_modified: str | None = None
    reason: str | None = None
    lines: str | None = None


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
class Delivery:
    """What was downloaded of the file: `sent` bytes, the last of them at `last`, and `count`
    responses that were sent to their end. `whole`: one of these was the whole file.
    """

    sent: int = 0
    count: int = 0
    last: float | None = None
    whole: bool = False


@dataclass(frozen=True, slots=True)
class Moment:
    """A moment of the time line: Unix seconds, the event as CONTRACT §16 names it, and a detail
    that may be empty.
    """

    at: float
    event: str
    detail: str = ""


@dataclass(frozen=True, slots=True)
class Message:
    """A message about a job that a webhook endpoint is still to get (`core.outbox`): its topic, the
    hash of the endpoint's URL ("" before the message is due), the Unix second of the next try, and
    the number of tries that failed.
    """

    topic: str
    endpoint: str
    due: float
    failures: int = 0


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
    - `published` is the number of the first bytes of the growing file that other replicas can read
      (CONTRACT §14). 0 where replicas share nothing, and for jobs that are not rescued.
    - `digest` is the base64 SHA-256 of the file.
    - `sealed` holds the encrypted request fields of a job that still needs VB365, if `secrets.key`
      is set (CONTRACT §9).
    - `borrowed`: the job was resumed with the credentials of a caller other than its owner.
    - `abandoned` is the time at which the job was cancelled or deleted while VB365 generated the
      file. VB365 may continue (CONTRACT §3.5 `cancel_hold`).
    - `accepted`: VB365 accepted the caller, in an access check before or during the kick-off, or by
      a response to the POST other than 401.
    - `denied`: the job was suspended, or failed, and VB365 did not.
    - `joined` is the number of further requests that joined a rescued export (CONTRACT §14).
    - `detached`: no further request joins the rescued export.
    - `client` is the address of the client that sent the kick-off.
    - `outbox` has what webhooks are still to get. A change of it alone is not shown (`unshown`),
      and it is left out when jobs are compared.
    - `unshown` counts the versions that changed nothing of the job document.
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
    published: int = 0
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
    origin: Origin = Origin.ASYNC
    joined: int = 0
    detached: bool = False
    client: str | None = None
    delivery: Delivery = Delivery()
    timeline: tuple[Moment, ...] = ()
    outbox: tuple[Message, ...] = field(default=(), compare=False)
    unshown: int = 0

    @property
    def owners(self) -> tuple[str, ...]:
        """All hashes of the caller that owns the job."""
        return (self.owner, *self.aliases)

    @property
    def sort_key(self) -> tuple[float, str]:
        """Lists of jobs are in descending order of it (CONTRACT §4)."""
        return self.created, self.id

    @property
    def shown_version(self) -> int:
        """The version of the job document: an entity tag made of it does not change while the
        document stays the same.
        """
        return self.version - self.unshown

    @property
    def terminal(self) -> bool:
        """Whether the status is final."""
        return self.status is not Status.RUNNING

    @property
    def forgotten(self) -> bool:
        """Whether this is the tombstone of a deleted job."""
        return self.phase is Phase.FORGOTTEN


def rejected(job: Job) -> bool:
    """Whether the job is suspended because VB365 answered 401, and VB365 never accepted its caller.
    Anyone can create such jobs.
    """
    return job.phase is Phase.SUSPENDED and job.denied and not job.accepted


def refused(job: Job) -> bool:
    """Whether VB365 answered 401 to the job, or another error although it rejects the caller, and
    never accepted its caller (CONTRACT §3.5). Anyone can create such jobs.
    """
    if job.accepted or job.status is not Status.FAILED or job.error is None:
        return False
    if job.error.status is None:
        return job.denied and job.error.code is ErrorCode.INTERRUPTED
    return job.error.status == 401 or job.denied
