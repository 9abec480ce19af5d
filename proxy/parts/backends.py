"""The stores that the settings name: `storage.jobs`, `storage.artifacts` and the owner key.

Their libraries are imported only if they are used.
"""

from __future__ import annotations

import asyncio
import contextlib
import hashlib
import uuid
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Protocol

import structlog

from proxy.config.settings import Settings
from proxy.parts import same_files
from proxy.parts.start import Clock, StartFailed
from proxy.parts.store_clock import StoreClock
from proxy.ports import ArtifactStore, StorageFull, StoreUnavailable
from proxy.ports.artifacts import GIVEN_UP, Identified
from proxy.ports.outbox import OutboxJobs, SharedOutboxJobs
from proxy.stores.disk_jobs.place import FilesPlace
from proxy.stores.disk_jobs.store import DiskJobs
from proxy.stores.durable import read_small
from proxy.stores.file_artifacts.store import FileArtifacts
from proxy.stores.owner_key import owner_key

if TYPE_CHECKING:
    from proxy.stores.redis_jobs.store import RedisJobs

log = structlog.get_logger(__name__)


class _Artifacts(ArtifactStore, Identified, Protocol):
    """An artifact store with an id."""


#: Seconds between two checks of the settings of a shared store.
_NOTES_PAUSE = 60.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Stores:
    """The open stores. `shared` is the job store if replicas share it, `key` the key of all owner
    hashes, and `now` the clock of the jobs, which is that of a shared store.
    """

    jobs: OutboxJobs
    artifacts: ArtifactStore
    key: bytes
    notes: Notes
    now: Clock
    shared: SharedOutboxJobs | None = None
    clock: StoreClock | None = None


class Notes:
    """What an operator should correct about the job store, although it works."""

    def __init__(self, ask: Callable[[], Awaitable[Sequence[str]]]) -> None:
        self._ask = ask
        self._found: Sequence[str] = ()

    @property
    def text(self) -> str | None:
        """All notes, None without any."""
        return " ".join(self._found) or None

    async def look(self) -> None:
        """Ask the store. A note that is new is logged."""
        with contextlib.suppress(StoreUnavailable):
            found = await self._ask()
            for note in found:
                if note not in self._found:
                    log.warning("job store", note=note)
            self._found = found

    async def watch(self) -> None:
        """Look until cancelled."""
        while True:
            await asyncio.sleep(_NOTES_PAUSE)
            await self.look()


async def open_stores(settings: Settings, closing: contextlib.AsyncExitStack, now: Clock) -> Stores:
    """Open the stores, to be closed by `closing`. Raises `StartFailed`."""
    try:
        if settings.storage.jobs == "disk":
            return await _single(settings, closing, now)
        return await _shared(settings, closing, now)
    except StoreUnavailable as why:
        raise unavailable(settings, why) from why


async def try_shared(settings: Settings, now: Clock) -> Sequence[str]:
    """Open those stores that are not on this machine's disk, and close them again. Return what an
    operator should correct about them. Raises an `ExceptionGroup` of `StartFailed`.
    """
    notes: Sequence[str] = ()
    failures: list[StartFailed] = []
    async with contextlib.AsyncExitStack() as closing:
        try:
            if settings.storage.jobs != "disk":
                jobs = await _redis(settings)
                closing.push_async_callback(jobs.close)
                notes = await jobs.notes()
        except StoreUnavailable as why:
            failures.append(StartFailed(f"storage.jobs: {why}"))
        except StartFailed as why:
            failures.append(why)
        try:
            if settings.storage.artifacts != "file":
                await _artifacts(settings, closing, now)
        except StoreUnavailable as why:
            failures.append(StartFailed(f"storage.artifacts: {why}"))
        except StartFailed as why:
            failures.append(why)
    if failures:
        raise ExceptionGroup("stores", failures)
    return notes


def unavailable(settings: Settings, why: StoreUnavailable) -> StartFailed:
    """Why the proxy cannot start, if a store is not available."""
    storage, text = settings.storage, str(why)
    if text.startswith("storage."):
        return StartFailed(text)
    if (storage.jobs, storage.artifacts) == ("disk", "file"):
        return StartFailed(f"storage.dir {storage.dir}: {text}")
    return StartFailed(f"storage: {text}")


async def _single(settings: Settings, closing: contextlib.AsyncExitStack, now: Clock) -> Stores:
    directory = settings.storage.dir
    jobs = await DiskJobs.open(directory)
    closing.push_async_callback(jobs.close)
    artifacts = await _own_files(jobs, settings, closing, now)
    for note in jobs.notes:
        log.error("job database", note=note)
    key = await asyncio.to_thread(owner_key, directory / "owner.key")

    async def none() -> Sequence[str]:
        return ()

    return Stores(jobs=jobs, artifacts=artifacts, key=key, notes=Notes(none), now=now)


async def _own_files(
    jobs: DiskJobs, settings: Settings, closing: contextlib.AsyncExitStack, now: Clock
) -> _Artifacts:
    """Open the artifact store. Raises `StoreUnavailable` if it is not that of the jobs."""
    known, place = FilesPlace(settings.storage.dir), _place(settings)
    promised = same_files.with_files(await jobs.list(), now())
    try:
        known_id = await asyncio.to_thread(known.known_id, place, len(promised))
        artifacts = await _artifacts(settings, closing, now)
        store_id = await same_files.identified(
            artifacts,
            known=known_id,
            new=_new_id,
            promised=promised,
            where=_where(settings),
            give_up=known.give_up,
        )
        await asyncio.to_thread(known.keep, place, store_id)
    except OSError as why:
        raise StoreUnavailable(str(why)) from why
    return artifacts


def _place(settings: Settings) -> str:
    """The place of the files, without options such as an endpoint."""
    return settings.storage.artifacts.partition("?")[0].rstrip("/")


def _where(settings: Settings) -> str:
    place = _place(settings)
    return str(settings.storage.dir / "artifacts") if place == "file" else place


async def _shared(settings: Settings, closing: contextlib.AsyncExitStack, now: Clock) -> Stores:
    jobs = await _redis(settings)
    closing.push_async_callback(jobs.close)
    clock = StoreClock(jobs.time, now)
    await clock.start()
    artifacts = await _artifacts(settings, closing, clock.now)
    await _join(jobs, settings, artifacts, clock.now)
    notes = Notes(jobs.notes)
    await notes.look()
    return Stores(
        jobs=jobs,
        artifacts=artifacts,
        key=await jobs.owner_key(),
        notes=notes,
        now=clock.now,
        shared=jobs,
        clock=clock,
    )


async def _redis(settings: Settings) -> RedisJobs:
    try:
        from proxy.stores.redis_jobs.store import RedisJobs
        from proxy.stores.redis_jobs.url import BadUrl
    except ImportError as why:
        raise _missing("storage.jobs", why) from why
    try:
        return await RedisJobs.open(settings.storage.jobs, lease=settings.cluster.lease)
    except BadUrl as why:
        raise StartFailed(str(why)) from why


async def _join(jobs: RedisJobs, settings: Settings, artifacts: _Artifacts, now: Clock) -> None:
    """Join the cluster. Raises `WrongCluster` if this replica has other files or keys."""
    from proxy.stores.redis_jobs.cluster import Identity

    keys = settings.secrets.keys
    fingerprints = (hashlib.sha256(key.get_secret_value().encode()).hexdigest() for key in keys)
    identity = Identity(
        secrets=frozenset(each[:16] for each in fingerprints), artifacts=_place(settings)
    )
    known = await jobs.files_id()
    bucket = settings.storage.artifacts != "file"
    if bucket:
        await jobs.join(identity)

    async def new() -> str:
        if not bucket:
            earlier = await asyncio.to_thread(_earlier_id, settings.storage.dir)
            return (earlier if known is None else None) or await _new_id()
        # its name is the same for all replicas, so that they agree on the id
        if known in (None, GIVEN_UP):
            return await jobs.offered_id(await _new_id())
        return known

    store_id = await same_files.identified(
        artifacts,
        known=known,
        new=new,
        promised=same_files.with_files(await jobs.list(), now()),
        where=_where(settings),
        give_up=jobs.give_up,
    )
    if not bucket:  # only the volume itself tells whether replicas share it
        description = f"file (on the volume with the id {store_id} in storage.dir)"
        identity = replace(identity, artifacts=description)
    await jobs.join(replace(identity, files=store_id))


async def _new_id() -> str:
    return str(uuid.uuid4())


def _earlier_id(directory: Path) -> str | None:
    """The id of a volume that an earlier version has written."""
    with contextlib.suppress(OSError, ValueError):
        return str(uuid.UUID(read_small(directory / "volume-id").decode("ascii").strip()))
    return None


async def _artifacts(
    settings: Settings, closing: contextlib.AsyncExitStack, now: Clock
) -> _Artifacts:
    if settings.storage.artifacts == "file":
        files = await FileArtifacts.at(settings.storage.dir, clock=now)
        closing.push_async_callback(files.close)
        return files
    try:
        from proxy.stores.object_artifacts.location import Location
        from proxy.stores.object_artifacts.store import ObjectArtifacts
    except ImportError as why:
        raise _missing("storage.artifacts", why) from why
    try:
        objects = await ObjectArtifacts.at(Location.parse(settings.storage.artifacts), clock=now)
        closing.push_async_callback(objects.close)
        await objects.probe()
    except ValueError as why:
        raise StartFailed(str(why)) from why
    except (StoreUnavailable, StorageFull) as why:
        raise StartFailed(f"storage.artifacts: {why}") from why
    return objects


def _missing(setting: str, why: ImportError) -> StartFailed:
    return StartFailed(
        f"{setting} needs a package that is not installed ({why.name}): "
        'pip install "vb365-async-proxy[cluster]"'
    )
