"""Every store there is, opened for a test: a new one joins the suite with a line in `JOBS`,
`SHARED` or `ARTIFACTS`.
"""

from __future__ import annotations

import asyncio
import errno
import fcntl
import hashlib
import os
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from contextlib import asynccontextmanager
from pathlib import Path
from uuid import uuid4
from weakref import WeakValueDictionary

import pytest
from blockbuster import BlockBusterFunction, blockbuster_ctx

from proxy.ports import ArtifactStore, JobStore, SharedJobs, StoreUnavailable
from proxy.ports.outbox import OutboxJobs
from proxy.stores.disk_jobs.store import DiskJobs
from proxy.stores.file_artifacts import files as artifact_files
from proxy.stores.file_artifacts import spool
from proxy.stores.file_artifacts.store import FileArtifacts
from proxy.stores.object_artifacts import partial as object_partial
from proxy.stores.object_artifacts.bucket import Bucket
from proxy.stores.object_artifacts.location import Location
from proxy.stores.object_artifacts.store import ObjectArtifacts
from proxy.stores.redis_jobs.store import RedisJobs
from tests.support import object_stores
from tests.support.fakes import MemoryArtifacts, MemoryJobs
from tests.support.object_relay import relay_in_thread
from tests.support.redis_server import REDIS, RedisServer, running, valkey
from tests.support.shared import SharedStore

Fail = Callable[[ArtifactStore, str], None]
OpenArtifacts = Callable[[], Awaitable[ArtifactStore]]
_MEMORY: WeakValueDictionary[Path, MemoryArtifacts] = WeakValueDictionary()
#: Opens a handle of one store, with a lease of so many seconds.
OpenShared = Callable[[float], Awaitable[SharedJobs]]


async def _memory_jobs(request: pytest.FixtureRequest, directory: Path) -> OutboxJobs:
    return MemoryJobs()


async def _disk_jobs(request: pytest.FixtureRequest, directory: Path) -> OutboxJobs:
    return await DiskJobs.open(directory)


async def _memory_artifacts(directory: Path, service: str) -> ArtifactStore:
    store = MemoryArtifacts(shared=_MEMORY.get(directory))
    _MEMORY[directory] = store
    return store


async def _file_artifacts(directory: Path, service: str) -> ArtifactStore:
    return await FileArtifacts.at(directory)


async def _redis_jobs(request: pytest.FixtureRequest, directory: Path) -> OutboxJobs:
    server: RedisServer = request.getfixturevalue("valkey_server")
    return await RedisJobs.open(f"{server.url}?prefix={uuid4()}")


def _redis_shared(request: pytest.FixtureRequest) -> OpenShared:
    server: RedisServer = request.getfixturevalue("valkey_server")
    url = f"{server.url}?prefix={uuid4()}"
    return lambda lease: RedisJobs.open(url, lease=lease)


class _Ticking(SharedStore):
    """A store whose clock is the machine's."""

    @property
    def clock(self) -> float:
        return time.time()

    @clock.setter
    def clock(self, now: float) -> None:
        """Nobody moves it."""


def _memory_shared(request: pytest.FixtureRequest) -> OpenShared:
    store = _Ticking()

    async def opened(lease: float) -> SharedJobs:
        return store.handle(lease)

    return opened


async def _object_artifacts(directory: Path, service: str) -> ArtifactStore:
    prefix = hashlib.sha256(str(directory).encode()).hexdigest()
    return await ObjectArtifacts.at(Location.parse(service.format(prefix=prefix)))


JOBS = {"memory": _memory_jobs, "disk": _disk_jobs, "redis": _redis_jobs}
SHARED = {"memory": _memory_shared, "redis": _redis_shared}
#: The function that opens the store, and the fixture that runs its service.
ARTIFACTS = {
    "memory": (_memory_artifacts, None),
    "file": (_file_artifacts, None),
    "s3": (_object_artifacts, "s3"),
    "gs": (_object_artifacts, "gs"),
    "az": (_object_artifacts, "az"),
}


@pytest.fixture
def s3(s3_endpoint: str) -> str:
    """The URL of a prefix in a bucket of a real S3 server."""
    return f"s3://tests/{{prefix}}?endpoint={s3_endpoint}&allow_http=true"


@pytest.fixture(scope="session")
def gs(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """The URL of a prefix in a bucket of an emulator of Google Cloud Storage.

    The emulator accepts a PUT with a signature in its query only.
    """
    with (
        pytest.MonkeyPatch.context() as patch,
        object_stores.google(tmp_path_factory.mktemp("gs")) as emulator,
        relay_in_thread(emulator, more="X-Goog-Algorithm=any") as url,
    ):
        patch.setenv("GOOGLE_SERVICE_ACCOUNT_KEY", object_stores.GOOGLE_KEY)
        yield f"gs://tests/{{prefix}}?endpoint={url}&allow_http=true"


@pytest.fixture(scope="session")
def az(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """The URL of a prefix in a container of an emulator of Azure Blob Storage."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("AZURE_STORAGE_ACCOUNT_KEY", object_stores.AZURE_KEY)
        with object_stores.azure(tmp_path_factory.mktemp("az")) as url:
            account = object_stores.AZURE_ACCOUNT
            yield f"az://tests/{{prefix}}?endpoint={url}&account={account}&allow_http=true"


@pytest.fixture(autouse=True)
def nothing_blocks_the_loop() -> Iterator[None]:
    """Any blocking call that the product makes on the event loop fails the test."""
    with blockbuster_ctx("proxy") as guard:
        extra = [
            BlockBusterFunction(module, name, scanned_modules="proxy")
            for module, name in (
                (os, "open"),
                (os, "fsync"),
                (os, "pread"),
                (os, "close"),
                (fcntl, "flock"),
            )
        ]
        for function in extra:
            function.activate()
        yield
        for function in extra:
            function.deactivate()
        del guard


@pytest.fixture(
    scope="module", params=[pytest.param(valkey(), id="valkey"), pytest.param(REDIS, id="redis")]
)
def server(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[RedisServer]:
    """A server of one file's tests. The name of its socket is short: `tmp_path` is too long."""
    with running(tmp_path_factory.mktemp("r"), request.param) as own:
        yield own


@pytest.fixture(params=[pytest.param(open_, id=name) for name, open_ in JOBS.items()])
async def jobs(request: pytest.FixtureRequest, tmp_path: Path) -> AsyncIterator[JobStore]:
    store = await request.param(request, tmp_path)
    yield store
    await store.close()


def _param(name: str) -> object:
    missing = name == "az" and object_stores.azurite() is None
    reason = "azurite is not installed (make system): Azure's buckets are not tested"
    return pytest.param(name, marks=pytest.mark.skipif(missing, reason=reason))


@pytest.fixture(params=[_param(name) for name in ARTIFACTS])
def open_artifacts(
    request: pytest.FixtureRequest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> OpenArtifacts:
    open_, needs = ARTIFACTS[request.param]
    service = "" if needs is None else request.getfixturevalue(needs)
    monkeypatch.setattr(object_partial, "SEGMENT", 256 << 10)  # so that each file has several

    async def opened() -> ArtifactStore:
        return await open_(tmp_path, service)

    return opened


def _fail_objects(monkeypatch: pytest.MonkeyPatch, method: str) -> None:
    original = Bucket.store

    async def segment(bucket: Bucket, key: str, content: bytes | bytearray) -> None:
        """The object is stored, and the response is lost."""
        await original(bucket, key, content)
        if "-" in key.rpartition("/")[2]:
            monkeypatch.setattr(Bucket, "store", original)
            raise StoreUnavailable("the store fails once")

    async def artifact(bucket: Bucket, key: str, content: bytes | bytearray) -> None:
        if key.endswith(".json"):
            monkeypatch.setattr(Bucket, "store", original)
            raise StoreUnavailable("the store fails once")
        await original(bucket, key, content)

    monkeypatch.setattr(Bucket, "store", segment if method == "write" else artifact)


@pytest.fixture(
    params=[OSError(errno.EMFILE, "the disk fails once"), MemoryError()],
    ids=["OSError", "MemoryError"],
)
def fail(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> Fail:
    """Let the store's next "write" or "commit" fail halfway: some of its bytes are on the disk
    already.
    """

    def write(descriptor: int, chunk: bytes) -> None:
        monkeypatch.undo()
        os.write(descriptor, b"foreign" + chunk[: len(chunk) // 2])
        raise request.param

    def sidecar(path: Path, data: bytes, *, durable: bool) -> None:
        monkeypatch.undo()
        path.write_bytes(data[: len(data) // 2])
        raise request.param

    def fail(store: ArtifactStore, method: str) -> None:
        if isinstance(store, MemoryArtifacts):
            store.faults[method].append(StoreUnavailable("the disk fails once"))
        elif isinstance(store, ObjectArtifacts):
            _fail_objects(monkeypatch, method)
        elif method == "write":
            monkeypatch.setattr(spool, "_write_all", write)
        else:
            monkeypatch.setattr(artifact_files, "write_file", sidecar)

    return fail


@pytest.fixture
async def replica(
    artifacts: ArtifactStore, open_artifacts: OpenArtifacts
) -> AsyncIterator[ArtifactStore]:
    """The same store as `artifacts`, opened by another replica."""
    store = await open_artifacts()
    yield store
    await store.close()


@pytest.fixture
async def artifacts(open_artifacts: OpenArtifacts) -> AsyncIterator[ArtifactStore]:
    store = await open_artifacts()
    yield store
    await store.close()


@pytest.fixture(params=[pytest.param(make, id=name) for name, make in SHARED.items()])
def open_shared(request: pytest.FixtureRequest) -> OpenShared:
    """Opens handles of one store, which are closed by the caller."""
    opened: OpenShared = request.param(request)
    return opened


@asynccontextmanager
async def handles(
    open_shared: OpenShared, count: int, lease: float = 60.0
) -> AsyncIterator[list[SharedJobs]]:
    """Handles of one store, each with a lease. Their feeds have no gap at the beginning."""
    stores = [await open_shared(lease) for _ in range(count)]
    try:
        for store in stores:
            await store.renew(running=0, promised=0)
            if isinstance(store, RedisJobs):
                async with asyncio.timeout(20):
                    await store._feed.connected.wait()
        yield stores
    finally:
        for store in stores:
            await store.close()


@pytest.fixture
async def two(open_shared: OpenShared) -> AsyncIterator[list[SharedJobs]]:
    async with handles(open_shared, 2) as stores:
        yield stores


@pytest.fixture
async def three(open_shared: OpenShared) -> AsyncIterator[list[SharedJobs]]:
    async with handles(open_shared, 3) as stores:
        yield stores
