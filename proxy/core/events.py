"""What can happen to a job (CONTRACT §5, §7, §10): the events that `core.transitions` applies."""

from __future__ import annotations

from dataclasses import dataclass

from proxy.core.job import FileFacts, JobError


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
    detected by the first bytes. The first `published` bytes can be read by other replicas.
    """

    received: int
    rate: int | None
    format: str | None
    published: int = 0


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
    second. `file` is None if the record has the facts of the file.
    """

    size: int
    digest: str
    expires: float
    format: str | None
    warning: bool = False
    file: FileFacts | None = None


@dataclass(frozen=True, slots=True)
class Failed:
    """The job failed. VB365 accepted (`accepted`) or rejected (`denied`) the caller in an access
    check.
    """

    error: JobError
    accepted: bool = False
    denied: bool = False


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

    `denied`: VB365 answered 401 to the first request of the job, and has not accepted the caller in
    an access check either.
    `expired`: VB365 answered 401, so that sealed credentials are of no more use, and a request from
    zero was no attempt.
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
class Extended:
    """An operator keeps the file until the Unix second `expires`, if it would expire before
    (CONTRACT §16).
    """

    expires: float


@dataclass(frozen=True, slots=True)
class Released:
    """The caller deleted the file."""


@dataclass(frozen=True, slots=True)
class Joined:
    """`count` further requests of the caller have joined a rescued export (CONTRACT §14)."""

    count: int = 1


@dataclass(frozen=True, slots=True)
class Detached:
    """No further request joins the rescued export: `exports.rescue_ttl` has passed, or its response
    cannot be repeated (CONTRACT §14).
    """


@dataclass(frozen=True, slots=True)
class Delivered:
    """`sent` bytes of the file have been sent. `count` of the responses that had them, with the
    file or parts of it, were sent to their end; `whole`: one of these was the whole file.
    """

    sent: int
    whole: bool
    count: int = 1


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
    | Extended
    | Released
    | Joined
    | Detached
    | Delivered
    | Forgotten
)
