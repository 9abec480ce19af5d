"""The interfaces between packages: Protocols of the stores and of the upstream, and the values that
they exchange.
"""

from __future__ import annotations

from collections.abc import AsyncGenerator, Callable, Collection, Sequence
from dataclasses import dataclass
from typing import Protocol

from proxy.core.http.fields import Field as Field
from proxy.core.job import Job
from proxy.core.retention import Stage

#: Header fields as received: names and values with their case and bytes.
Fields = Sequence[Field]


class StoreUnavailable(Exception):
    """The store could not be read or written. As far as is known nothing changed (CONTRACT §11
    store-unavailable).
    """


class PartialLost(StoreUnavailable):
    """The partial file was closed, removed, or started again by another writer. Retrying is
    useless.
    """


class StorageFull(Exception):
    """There is not enough space for the bytes (CONTRACT §5 StorageFull)."""


class LengthMismatch(Exception):
    """The partial file does not have the length to commit. It stays uncommitted."""


@dataclass(frozen=True, slots=True)
class Counts:
    """Numbers of jobs: `live` are the caller's jobs that have not ended, `records` all of the
    caller's and `total` those of all callers. Tombstones count as records.
    """

    live: int
    records: int
    total: int


class JobStore(Protocol):
    """Keeps job records durably. Every method may raise `StoreUnavailable`."""

    async def add(self, job: Job, body: bytes) -> Job:
        """Store a new job and its request body durably, and return the job.

        If one of its `owners` already has a job with the same `request.idempotency_key` (not None)
        that is not forgotten, nothing is written and that job is returned. This also holds among
        concurrent calls (CONTRACT §8).
        """

    async def get(self, id: str) -> Job | None:
        """The job, which may be a tombstone, or None."""

    async def find(self, owner: str, idempotency_key: str) -> Job | None:
        """The job with this idempotency key that has `owner` among its `owners`, or None.
        Tombstones are ignored.
        """

    async def body(self, id: str) -> bytes | None:
        """The request body that was stored with the job. None if it no longer exists."""

    async def replace(self, old: Job, new: Job) -> bool:
        """Store `new` if the stored version is still `old.version`, and return whether it was. This
        is the only concurrency primitive.

        A terminal or forgotten `new` removes the stored body; a forgotten one releases its
        idempotency key.
        """

    async def remove(self, job: Job) -> bool:
        """Remove record, body and key if the stored version is still `job.version`, and return
        whether it was.
        """

    async def list(self, *, owner: str | None = None, session: str | None = None) -> list[Job]:
        """Jobs and tombstones, newest first (`created`, then `id`). `owner` selects those that have
        it among their `owners`, `session` those of one restore session (`request.session`,
        case-insensitive).
        """

    async def counts(self, owners: Collection[str]) -> Counts:
        """Count jobs without reading the records. A job that has several of the `owners` counts
        once.
        """

    async def spent(self, owners: Collection[str] | None, limit: int) -> Sequence[Job]:
        """The first `limit` records that may be removed to make space, of the owners or of all, in
        the order of `core.retention.spent`.
        """

    async def due(self, stage: Stage, until: float) -> Sequence[Job]:
        """The jobs of the stage whose moment (`core.retention.stage`) is at most `until`, ordered
        by it. Reads no other records.
        """

    async def wait(self, id: str, version: int, timeout: float) -> Job | None:
        """Wait until the job's version differs from `version`, at most `timeout` seconds. Returns
        the job, or None if it no longer exists.
        """

    async def probe(self) -> None:
        """Return if a change could be stored now; otherwise raise."""

    async def close(self) -> None:
        """Flush and release all resources. The store is not used afterwards."""


@dataclass(frozen=True, slots=True)
class Artifact:
    """A committed file: `size` in bytes, `sha256` the raw digest, `created` in Unix seconds."""

    id: str
    size: int
    sha256: bytes
    created: float


class Partial(Protocol):
    """A file that is being written. `ArtifactStore.get` does not see it until `commit` returns."""

    @property
    def offset(self) -> int:
        """Bytes accepted so far."""

    async def write(self, chunk: bytes) -> None:
        """Append the chunk.

        Raises `StoreUnavailable` if earlier bytes could not be stored: they stay in memory, the
        chunk is not accepted, and the call may be repeated until it returns. After `StorageFull` or
        `PartialLost` only `discard` and `keep` may follow.
        """

    async def read(self, start: int, stop: int) -> bytes:
        """The accepted bytes [start, stop); `stop` is at most `offset`. Raises as `write` does, and
        may be repeated after `StoreUnavailable`.
        """

    async def commit(self, size: int, record_copy: Callable[[Artifact], bytes]) -> Artifact:
        """Make the file durable and visible in one atomic step. Raises `LengthMismatch` unless it
        has exactly `size` bytes.

        `record_copy(artifact)` is stored with it, to restore a lost job record. After an exception
        nothing is visible; the call may be repeated after `StoreUnavailable`, not after
        `PartialLost`.
        """

    async def keep(self) -> None:
        """Stop writing and keep the accepted bytes for `ArtifactStore.resume`. Cancellation does
        not interrupt it.
        """

    async def discard(self) -> None:
        """Stop writing and remove all bytes. Cancellation does not interrupt it."""


class Reader(Protocol):
    """An open artifact. It stays readable even if the artifact is removed meanwhile (CONTRACT
    §6).
    """

    artifact: Artifact

    def chunks(self, start: int, stop: int) -> AsyncGenerator[bytes | bytearray, None]:
        """The bytes [start, stop). Raises `StoreUnavailable` instead of ending early."""

    async def close(self) -> None:
        """Close the file. Idempotent; cancellation does not interrupt it."""


class ArtifactStore(Protocol):
    """Keeps the files of jobs by job id. Every method may raise `StoreUnavailable`."""

    async def create(self, id: str) -> Partial:
        """Start the job's file from zero. An earlier partial file of the job is removed."""

    async def resume(self, id: str) -> Partial | None:
        """Continue the job's partial file, with its length as `offset` and its digest. None if
        there is none.
        """

    async def get(self, id: str) -> Artifact | None:
        """The committed artifact, or None."""

    async def record_copy(self, id: str) -> bytes | None:
        """The record copy that `commit` stored with the artifact, or None."""

    async def open(self, id: str) -> Reader | None:
        """A reader of the committed artifact, or None."""

    async def remove(self, id: str) -> None:
        """Remove the artifact and any partial file of the job. Idempotent."""

    async def ids(self) -> set[str]:
        """Ids of jobs that have a committed or a partial file."""

    async def free(self) -> int:
        """Bytes that can still be stored."""

    async def used(self) -> int:
        """Bytes stored in committed and partial files."""

    async def close(self) -> None:
        """Release all resources. The store is not used afterwards."""


class UpstreamFailure(Exception):
    """VB365 sent no complete response. `delivered`: VB365 may have received the request."""

    def __init__(self, message: str, *, delivered: bool) -> None:
        super().__init__(message)
        self.delivered = delivered


class UpstreamUnreachable(UpstreamFailure):
    """Refused, unresolvable, TLS not trusted, or reset before the head of a response (CONTRACT §11,
    502).
    """


class LocalShortage(UpstreamUnreachable):
    """The local machine lacks a descriptor, port, buffer or memory to connect. The request was not
    sent, and the failure is not VB365's.
    """

    def __init__(self, message: str, *, delivered: bool = False) -> None:
        super().__init__(message, delivered=delivered)


class UpstreamTimedOut(UpstreamFailure):
    """Connecting, the head or the next bytes of the body took too long (CONTRACT §11, 504)."""


class UpstreamBroken(UpstreamFailure):
    """The body ended before its framing said so, or the framing is malformed (CONTRACT §10)."""


class Response(Protocol):
    """A response of VB365 whose head has arrived. Interim (1xx) responses are skipped."""

    status: int
    reason: bytes
    fields: Fields
    #: Content-Length of the body, None if not announced.
    length: int | None
    #: Whether the framing proves the end (Content-Length, chunked, or no body). False if the body
    #: ends with the connection.
    delimited: bool

    async def read(self) -> bytes:
        """The next bytes of the body, b"" at its end. Raises `UpstreamBroken`, or
        `UpstreamTimedOut` if it stalls.
        """

    def close(self) -> None:
        """Close the connection unless the whole body was read. Idempotent."""


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
    """The proxy's own requests to VB365: of jobs, preflights and access checks. None is sent
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
        """Send a request and return its response once the head has arrived, at most `timeout`
        seconds after the call. `stall` is the longest pause between bytes of the body, in seconds.

        `fields` are sent unchanged, in order. Content-Length is added if there is a body or the
        method is POST; Host, of the upstream, if it is missing. Raises `UpstreamUnreachable`
        (`LocalShortage` if this machine could not connect), `UpstreamTimedOut`, or
        `UpstreamBroken` if the head is malformed.
        """

    async def close(self) -> None:
        """Close idle connections."""
