"""How a partial file is begun, continued, or taken over from a lower fence."""

from __future__ import annotations

import asyncio
import hashlib
import secrets
from collections.abc import AsyncIterator, Iterable, Iterator
from contextlib import contextmanager, suppress

from proxy.ports import Artifact, StoreUnavailable
from proxy.stores.object_artifacts.bucket import Bucket
from proxy.stores.object_artifacts.documents import read_commit, read_head
from proxy.stores.object_artifacts.failures import Missing
from proxy.stores.object_artifacts.interface import Store
from proxy.stores.object_artifacts.layout import (
    Commit,
    Files,
    Head,
    Place,
    Run,
    Segment,
    by_fence,
    length,
)
from proxy.stores.object_artifacts.partial import ObjectPartial


def new_token() -> str:
    """A token for a writer."""
    return secrets.token_hex(8)


class Writers:
    """The tokens of writers. The head of one whose opening failed may be stored later, over that of
    the next one, which therefore gets the same token: it still finds its file to be its own.
    """

    def __init__(self) -> None:
        self._unconfirmed: dict[Place, str] = {}

    @contextmanager
    def opening(self, place: Place) -> Iterator[str]:
        """The token of the writer that the block opens."""
        token = self._unconfirmed.setdefault(place, new_token())
        yield token
        # not after a failure; another writer never stores segments under this token
        del self._unconfirmed[place]

    def forget(self, id: str) -> None:
        """Forget the writers of a job that is removed."""
        for place in [each for each in self._unconfirmed if each.id == id]:
            del self._unconfirmed[place]


async def survey(bucket: Bucket, id: str) -> dict[int, Files]:
    """What is stored of the job under each fence."""
    return by_fence(id, await bucket.sizes(Place(id).job))


async def begin(store: Store, place: Place, token: str) -> ObjectPartial:
    """Start the file from zero, for the writer with the token."""
    bucket, head = store.bucket, Head(token)
    await bucket.store(place.head, head.encode())
    await store.tidy(place, await _committed_runs(bucket, place), head=True)
    return ObjectPartial(store, place, head, hashlib.sha256())


async def _committed_runs(bucket: Bucket, place: Place) -> tuple[Run, ...]:
    found = await read_commit(bucket, place)
    return () if found is None else found.runs


async def published(bucket: Bucket, place: Place, size: int) -> Commit | None:
    """The segments of the partial file, or of the artifact, if they have `size` bytes. Their digest
    is not known.
    """
    files = (await survey(bucket, place.id)).get(place.fence, Files())
    runs = await _source_runs(bucket, place, files)
    if (stored := length(runs)) < size:
        return None
    return Commit(Artifact(place.id, stored, b"", 0.0), runs, b"")


async def resume(store: Store, place: Place, token: str) -> ObjectPartial | None:
    """Continue the file, or take it over from the highest lower fence, for the writer with the
    token. None if there is none.
    """
    bucket = store.bucket
    found = await survey(bucket, place.id)
    own = found.get(place.fence, Files())
    if own.head and (head := await read_head(bucket, place)) is not None:
        artifact = await read_commit(bucket, place) if own.commit else None
        if artifact is not None and _wrote(head, artifact):
            return None  # left behind by the commit
        runs = own.following(head)
        digest, count = await _hash_stored(store, place.listed(runs))
        return await _opened(store, place, Head(token, _first(runs, count)), digest)
    if own.commit:
        return None
    return await _take_over(store, place, token, found)


async def is_written_again(bucket: Bucket, place: Place, artifact: Commit) -> bool:
    """Whether there is a partial file under the fence that did not become the artifact."""
    head = await read_head(bucket, place)
    return head is not None and not _wrote(head, artifact)


def _wrote(head: Head, artifact: Commit) -> bool:
    """Whether the artifact is what its writer made of the partial file. It stored no segment of its
    own if it had found all of them.
    """
    own = head.token in {run.token for run in artifact.runs}
    return own or (bool(head.runs) and head.runs == artifact.runs)


async def _opened(store: Store, place: Place, head: Head, digest: hashlib._Hash) -> ObjectPartial:
    await store.bucket.store(place.head, head.encode())
    return ObjectPartial(store, place, head, digest)


async def _hash_stored(store: Store, segments: Iterable[Segment]) -> tuple[hashlib._Hash, int]:
    """The digest of the segments, and their number, up to the first that is gone: some stores list
    the names of objects that were removed.
    """
    digest, count = hashlib.sha256(), 0
    with suppress(Missing):
        async for piece in _read(store.bucket, segments):
            await store.begin(digest.update, piece)
            count += 1
    return digest, count


def _first(runs: tuple[Run, ...], count: int) -> tuple[Run, ...]:
    """The first `count` segments of the runs."""
    found = []
    for run in runs:
        found.append(Run(run.token, run.sizes[:count]))
        count -= len(found[-1].sizes)
    return tuple(found)


async def _take_over(
    store: Store, place: Place, token: str, found: dict[int, Files]
) -> ObjectPartial | None:
    """Copy what the highest lower fence has. The copies belong to the file when its head is stored;
    until then the lower fence keeps everything.
    """
    lower = [fence for fence, files in found.items() if fence < place.fence and _has_file(files)]
    if not lower:
        return None
    source = Place(place.id, max(lower))
    runs = await _source_runs(store.bucket, source, found[source.fence])
    digest, copier = hashlib.sha256(), new_token()
    sizes: list[int] = []
    with suppress(Missing):  # its writer removes it meanwhile: what was copied is its beginning
        async for piece in _read(store.bucket, source.listed(runs)):
            await store.begin(digest.update, piece)
            copy = bytearray(piece)
            await store.bucket.store(place.segment(len(sizes), copier), copy)
            sizes.append(len(piece))
    copies = (Run(copier, tuple(sizes)),)
    partial = await _opened(store, place, Head(token, copies), digest)
    with suppress(StoreUnavailable):  # it is removed with the job
        await store.tidy(place, copies, head=True)
    return partial


def _has_file(files: Files) -> bool:
    return files.head or files.commit


async def _source_runs(bucket: Bucket, source: Place, files: Files) -> tuple[Run, ...]:
    if files.commit and (artifact := await read_commit(bucket, source)) is not None:
        return artifact.runs
    head = await read_head(bucket, source)
    return () if head is None else files.following(head)


async def _read(bucket: Bucket, segments: Iterable[Segment]) -> AsyncIterator[memoryview]:
    """The content of each segment; the next is read ahead. Raises `Missing`."""
    ahead: asyncio.Task[memoryview] | None = None
    try:
        for segment in segments:
            reading = asyncio.ensure_future(bucket.read_range(segment.key, 0, segment.size))
            ahead, before = reading, ahead
            if before is not None:
                yield await before
        if ahead is not None:
            yield await ahead
    finally:
        if ahead is not None:
            ahead.cancel()
            await asyncio.gather(ahead, return_exceptions=True)
