"""What the rooms hand each other: the Protocols of the stores and of the upstream, and the values
that cross them.
"""

from __future__ import annotations

from collections.abc import AsyncGenerator, Callable, Collection, Sequence
from dataclasses import dataclass
from typing import Protocol

from proxy.core.job import Job
from proxy.core.retention import Stage

#: One field line as it stood on the wire: name and value, case and bytes kept.
Field = tuple[bytes, bytes]
Fields = Sequence[Field]


class StoreUnavailable(Exception):
    """The store could not be asked or written; nothing changed as far as is known (CONTRACT §11
    store-unavailable).
    """


class PartialLost(StoreUnavailable):
    """A partial file is closed, was removed, or another writer has begun it again: trying again
    cannot help.
    """


class StorageFull(Exception):
    """There is no room for the bytes (CONTRACT §5 StorageFull)."""


class LengthMismatch(Exception):
    """A partial file does not have the length it was to be committed with: it stays uncommitted."""


@dataclass(frozen=True, slots=True)
class Counts:
    """Numbers of jobs: a caller's `live` ones, which have not ended, all of its `records`, and the
    `total` of all callers; tombstones count as records.
    """

    live: int
    records: int
    total: int


class JobStore(Protocol):
    """Keeps job records durably. Every method may raise `StoreUnavailable`."""

    async def add(self, job: Job, body: bytes) -> Job:
        """Persist a new job and its request body, durably and before returning; returns `job`.

        If a job of one of the same `owners` with the same `request.idempotency_key` (not None, not
        forgotten) exists, nothing is written and that job is returned instead, also among
        concurrent calls (CONTRACT §8).
        """

    async def get(self, id: str) -> Job | None:
        """The job (tombstones too), or None."""

    async def find(self, owner: str, idempotency_key: str) -> Job | None:
        """The job with that idempotency key of which `owner` is one of the `owners`, tombstones
        left out.
        """

    async def body(self, id: str) -> bytes | None:
        """The request body that was stored with the job; None when it is gone."""

    async def replace(self, old: Job, new: Job) -> bool:
        """Store `new` iff the stored version is still `old.version`: the one concurrency primitive
        of the house.

        A terminal or forgotten `new` drops the stored body; a forgotten one frees its idempotency
        key.
        """

    async def remove(self, job: Job) -> bool:
        """Drop record, body and key iff the stored version is still `job.version`."""

    async def list(self, *, owner: str | None = None, session: str | None = None) -> list[Job]:
        """Jobs, tombstones too, newest first (`created`, then `id`); those that have `owner` among
        their `owners` and/or belong to one restore session (`request.session`, compared
        case-insensitively).
        """

    async def counts(self, owners: Collection[str]) -> Counts:
        """How many jobs there are; a job that has several of the `owners` counts once. Does not
        read the records.
        """

    async def spent(self, owners: Collection[str] | None, limit: int) -> Sequence[Job]:
        """The first `limit` records that may go to make space, of the owners or of all, by
        `core.retention.spent`.
        """

    async def due(self, stage: Stage, until: float) -> Sequence[Job]:
        """The jobs of the stage whose moment (`core.retention.stage`) is at most `until`, in that
        order. Reads no other records.
        """

    async def wait(self, id: str, version: int, timeout: float) -> Job | None:
        """Return as soon as the job's version differs from `version`, or after `timeout` seconds:
        the job as it then is, None when it is gone.
        """

    async def probe(self) -> None:
        """Return iff a change could be stored now."""

    async def close(self) -> None:
        """Flush and let go. The store is not used afterwards."""


@dataclass(frozen=True, slots=True)
class Artifact:
    """A committed file: `size` in bytes, `sha256` the raw digest, `created` in Unix seconds."""

    id: str
    size: int
    sha256: bytes
    created: float


class Partial(Protocol):
    """A file being written. Nothing of it is visible to `ArtifactStore.get` before `commit`
    returned.
    """

    @property
    def offset(self) -> int:
        """Bytes accepted so far."""

    async def write(self, chunk: bytes) -> None:
        """Append. Raises `StoreUnavailable` if the chunk was not accepted because what was accepted
        before it could not be stored: that stays in memory, and the same call may be repeated until
        it returns. Raises `StorageFull` or `PartialLost`: only `discard` and `keep` may follow.
        """

    async def read(self, start: int, stop: int) -> bytes:
        """The bytes [start, stop) of those accepted, `stop` at most `offset`. May be repeated after
        `StoreUnavailable`; raises `StorageFull` and `PartialLost` as `write` does."""

    async def commit(self, size: int, record_copy: Callable[[Artifact], bytes]) -> Artifact:
        """Make the file durable and visible, in one atomic step, iff it holds exactly `size` bytes
        (else raises `LengthMismatch`). `memo(artifact)` is stored with it, to rebuild a lost job
        record from. After a raise nothing is visible, and the call may be repeated after
        `StoreUnavailable`, but not after `PartialLost`.
        """

    async def keep(self) -> None:
        """Stop writing; what was accepted stays for `ArtifactStore.resume`. A cancellation does not
        interrupt it.
        """

    async def discard(self) -> None:
        """Stop writing and remove every byte. A cancellation does not interrupt it."""


class Reader(Protocol):
    """An open artifact. It stays readable to the end even if the artifact is removed meanwhile
    (CONTRACT §6).
    """

    artifact: Artifact

    def chunks(self, start: int, stop: int) -> AsyncGenerator[bytes | bytearray, None]:
        """The bytes [start, stop). Raises `StoreUnavailable` if they cannot all be had: never a
        short read.
        """

    async def close(self) -> None:
        """Let go of the file. Idempotent; a cancellation does not interrupt it."""


class ArtifactStore(Protocol):
    """Keeps the files of jobs, by job id. Every method may raise `StoreUnavailable`."""

    async def create(self, id: str) -> Partial:
        """Begin the job's file from zero; an earlier partial file of the job is dropped."""

    async def resume(self, id: str) -> Partial | None:
        """Go on with the job's kept partial file (`offset` = its length, digest included); None if
        there is none.
        """

    async def get(self, id: str) -> Artifact | None:
        """The committed artifact, or None."""

    async def record_copy(self, id: str) -> bytes | None:
        """What `commit` stored with the artifact."""

    async def open(self, id: str) -> Reader | None:
        """A reader of the committed artifact, or None."""

    async def remove(self, id: str) -> None:
        """Remove the artifact and any partial file of the job. Idempotent."""

    async def ids(self) -> set[str]:
        """Ids of which anything is stored, committed or partial."""

    async def free(self) -> int:
        """Bytes that can still be stored."""

    async def used(self) -> int:
        """Bytes that are stored, committed and partial."""

    async def close(self) -> None:
        """Let go. The store is not used afterwards."""


class UpstreamFailure(Exception):
    """No complete answer of U. `delivered` tells whether U may have seen the request."""

    def __init__(self, message: str, *, delivered: bool) -> None:
        super().__init__(message)
        self.delivered = delivered


class UpstreamUnreachable(UpstreamFailure):
    """Refused, unresolvable, TLS not trusted, or reset before the answer's head (CONTRACT §11,
    502).
    """


class LocalShortage(UpstreamUnreachable):
    """This machine has no descriptor, port, buffer or memory to connect with: VB365 never saw the
    request, and nothing is known of VB365.
    """

    def __init__(self, message: str, *, delivered: bool = False) -> None:
        super().__init__(message, delivered=delivered)


class UpstreamTimedOut(UpstreamFailure):
    """Connecting, the head or the next bytes took too long (CONTRACT §11, 504)."""


class UpstreamBroken(UpstreamFailure):
    """The answer's body ended before its framing said so, or its framing is malformed (CONTRACT
    §10).
    """


class Response(Protocol):
    """An answer of U whose head is in. Interim (1xx) answers are left out."""

    status: int
    reason: bytes
    fields: Fields
    #: Content-Length of the body, None when it is not announced.
    length: int | None
    #: True when the framing proves the end (Content-Length, chunked, or no body); False when the
    #: close ends it.
    delimited: bool

    async def read(self) -> bytes:
        """The next bytes of the body, b"" at its end. Raises `UpstreamBroken`, `UpstreamTimedOut`
        (stall).
        """

    def close(self) -> None:
        """Close the connection unless the body was read to its end. Idempotent."""


@dataclass(frozen=True, slots=True)
class WholeResponse:
    """A response of VB365 with its body, to be handed to the caller as it is.

    `complete` is False if the body broke or was too large to be read whole.
    """

    status: int
    reason: bytes
    fields: Fields
    body: bytes
    complete: bool = True


class Upstream(Protocol):
    """The proxy's own calls to VB365: jobs, preflight and access checks. Nothing is ever sent
    twice.
    """

    async def send(
        self,
        method: bytes,
        target: bytes,
        fields: Fields,
        body: bytes = b"",
        *,
        timeout: float,
        stall: float,
    ) -> Response:
        """Send one request and return its answer's head, at most `timeout` seconds after the call;
        `stall` bounds the silence between body bytes, in seconds.

        `fields` are sent as they are, in order; Content-Length is added for a body or when POST has
        none; Host must be among them unless the upstream's own is meant. Raises
        `UpstreamUnreachable` (`LocalShortage` if this machine could not connect),
        `UpstreamTimedOut`, `UpstreamBroken` (a malformed head).
        """

    async def close(self) -> None:
        """Close idle connections."""
