"""What the packages ask of an artifact store."""

from __future__ import annotations

from collections.abc import AsyncGenerator, Callable, Collection
from dataclasses import dataclass
from typing import Protocol, runtime_checkable


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

    def publish(self) -> int:
        """The number of the first bytes that other replicas can read with `Published`. Begin to
        make the others readable, for a later call. It may be called during other calls, until
        `commit`, `keep` or `discard`.
        """

    async def commit(self, size: int, record_copy: Callable[[Artifact], bytes]) -> Artifact:
        """Make the file durable and visible in one atomic step. Raises `LengthMismatch` unless it
        has exactly `size` bytes.

        `record_copy(artifact)` is stored with it, to restore a lost job record. After an exception
        nothing is visible; the call may be repeated after `StoreUnavailable`, not after
        `PartialLost`, which means that the file is gone or another writer has it.
        """

    async def keep(self) -> None:
        """Stop writing and keep the accepted bytes for `ArtifactStore.resume`, unless a writer with
        a greater fence has the file: then nothing of this one is left. Cancellation does not
        interrupt it.
        """

    async def discard(self) -> None:
        """Stop writing and remove all bytes. Cancellation does not interrupt it."""


class Source(Protocol):
    """Bytes that arrive over a network and are read by a thread."""

    def pour(self, append: Callable[[bytes | memoryview], None]) -> bool:
        """Pass the bytes that have arrived, or arrive at once, to `append`, piece by piece. It
        blocks, for a moment only. Returns whether there may be more without waiting.

        A piece is valid until `append` returns. If that raises, the next call begins with the same
        piece.
        """


@runtime_checkable
class Fillable(Protocol):
    """An optional capability of a `Partial`: a thread reads bytes and appends them at once."""

    async def fill(self, source: Source) -> bool:
        """Append what the source has now. Return whether it may have more without waiting.

        Raises as `Partial.write` does, and may be repeated after `StoreUnavailable`; `offset`
        counts what was appended before that. Cancellation is raised once the thread has stopped.
        """


class Readable(Protocol):
    """An open file."""

    def chunks(self, start: int, stop: int) -> AsyncGenerator[bytes | bytearray, None]:
        """The bytes [start, stop). Raises `StoreUnavailable` instead of ending early."""

    async def close(self) -> None:
        """Close the file. Idempotent; cancellation does not interrupt it."""


class Reader(Readable, Protocol):
    """An open artifact. It stays readable even if the artifact is removed meanwhile (CONTRACT
    §6).
    """

    artifact: Artifact


class Tail(Protocol):
    """A follower of a partial file, at its own pace: the writer never waits for it. It has at most
    256 KiB in memory.
    """

    async def read(self, start: int) -> bytes | bytearray:
        """The accepted bytes from `start` on, at least one of them: waits until there are some.
        b"" if the file was committed with `start` bytes.

        Raises `PartialLost` once its writer keeps or discards the file instead, and
        `StoreUnavailable`.
        """

    async def close(self) -> None:
        """Release the file. Idempotent; cancellation does not interrupt it."""


@runtime_checkable
class Followable(Protocol):
    """An optional capability of an artifact store: files can be read while they grow."""

    def tail(self, id: str, fence: int = 0) -> Tail | None:
        """A follower of the job's partial file, None unless this process writes it now."""


@runtime_checkable
class Published(Protocol):
    """An optional capability of an artifact store that replicas share: what one of them writes can
    be read by the others while it grows.
    """

    async def open_published(self, id: str, fence: int, size: int) -> Readable | None:
        """The first `size` bytes of the job's partial file, which its writer has published, or of
        the artifact that it has become. None if there are fewer: a shared volume may show the
        changes of others late.

        The file may be another one than that of which `size` bytes were published: only the digest
        of the artifact proves which one was read.
        """


@runtime_checkable
class Searchable(Protocol):
    """An optional capability of an artifact store: many artifacts are looked up at once."""

    async def missing(self, wanted: Collection[tuple[str, int]]) -> set[str]:
        """The job ids, of these job ids and fences, that have no artifact for `get`."""


#: The name under which an artifact store keeps its id beside the files.
STORE_ID = "store-id"
#: What an operator writes in place of the expected id, to do without the files.
GIVEN_UP = "none"


class Identified(Protocol):
    """What `parts` asks of an artifact store at the start: whether it has the files of the jobs.

    A volume that is not mounted, or a bucket that was emptied, is not a store whose files are lost.
    """

    async def identity(self) -> str | None:
        """The id that is kept with the files, None without one. Raises `StoreUnavailable`."""

    async def identify(self, id: str) -> str:
        """Keep the id with the files, unless they have one; return theirs.

        From then on a file counts as missing only while this id is there. Otherwise
        `StoreUnavailable` is raised.
        """


@runtime_checkable
class Checked(Protocol):
    """An optional capability of an artifact store that may be away although `free` returns."""

    async def check(self) -> None:
        """Raise `StoreUnavailable` if it is not, or not with the id that it had at the start."""


class ArtifactStore(Protocol):
    """Keeps the files of jobs by job id and fence. Every method may raise `StoreUnavailable`.

    Where replicas share the store, each claim of a job has a greater fence than the one before
    (`Job.fence`, CONTRACT §18). The file of the job is the one written under the fence that its
    record names. What a writer with a lower fence still does, such as a process that was stopped
    and continues, neither becomes part of that file nor changes it. Without replicas the fence is
    0.
    """

    async def create(self, id: str, fence: int = 0) -> Partial:
        """Start the job's file from zero. Earlier partial files of the job are removed, except
        those of greater fences.
        """

    async def resume(self, id: str, fence: int = 0) -> Partial | None:
        """Continue the job's partial file, with its length as `offset` and its digest. None if
        there is none.

        If there is no file under this fence, the bytes stored under the highest lower fence are
        taken over, committed or not: from then on the writer with that fence has lost its file.
        """

    async def get(self, id: str, fence: int = 0) -> Artifact | None:
        """The artifact that was committed under the fence, or None."""

    async def record_copy(self, id: str, fence: int | None = 0) -> bytes | None:
        """The record copy that `commit` stored with the artifact, or None. Without a fence that of
        the highest one: which one counts is not known where the record is lost.
        """

    async def open(self, id: str, fence: int = 0) -> Reader | None:
        """A reader of the committed artifact, or None."""

    async def remove(self, id: str) -> None:
        """Remove the artifacts and partial files of the job under all fences. Idempotent."""

    async def ids(self) -> set[str]:
        """Ids of jobs that have a committed or a partial file."""

    async def free(self) -> int:
        """Bytes that can still be stored."""

    async def used(self) -> int:
        """Bytes stored in committed and partial files."""

    async def close(self) -> None:
        """Release all resources. The store is not used afterwards."""
