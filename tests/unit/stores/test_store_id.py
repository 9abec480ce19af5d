"""The id that an artifact store keeps beside its files (CONTRACT §11, §15): while it is gone, files
are not missing, but the store is not available.
"""

from __future__ import annotations

import asyncio
import errno
import itertools
import os
import shutil
import threading
import time
from collections.abc import AsyncIterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any
from uuid import uuid4

import pytest

from proxy.admin.readiness import Readiness
from proxy.jobs.reservations import Reservations
from proxy.ports import PartialLost, StoreUnavailable, UpstreamUnreachable
from proxy.ports.artifacts import STORE_ID
from proxy.stores.file_artifacts import volume
from proxy.stores.file_artifacts.store import FileArtifacts
from proxy.stores.file_artifacts.volume import Volume
from proxy.stores.object_artifacts import store as object_store
from proxy.stores.object_artifacts.bucket import Bucket
from proxy.stores.object_artifacts.store import ObjectArtifacts
from tests.support.artifacts import begun, committed, new_id, note
from tests.support.fakes import MemoryJobs
from tests.unit.stores.conftest import ARTIFACTS


async def replaced(store: FileArtifacts | ObjectArtifacts, id: str | None) -> None:
    """Another volume is mounted, or another bucket is there; without an id if it is None."""
    if isinstance(store, FileArtifacts):
        path = store._root / STORE_ID
        path.unlink(missing_ok=True)
        if id is not None:
            path.write_text(f"{id}\n")
        return
    await store.bucket.remove([STORE_ID])
    if id is not None:
        await store.bucket.store(STORE_ID, f"{id}\n".encode())


@pytest.fixture(params=["file", "s3"])
async def store(
    request: pytest.FixtureRequest, tmp_path: Path
) -> AsyncIterator[FileArtifacts | ObjectArtifacts]:
    make, service = ARTIFACTS[request.param]
    opened = await make(tmp_path, "" if service is None else request.getfixturevalue(service))
    assert isinstance(opened, FileArtifacts | ObjectArtifacts)
    yield opened
    await opened.close()


async def test_what_a_volume_does_not_have_is_not_removed_and_nothing_is_stored(
    tmp_path: Path,
) -> None:
    """A job whose file could not be removed is not forgotten: the file would come back with it."""
    store = await FileArtifacts.at(tmp_path)
    await store.identify(str(uuid4()))
    there = await committed(store)
    _, partial = await begun(store, b"12345")
    await partial.read(0, 5)
    (tmp_path / "artifacts").rename(tmp_path / "elsewhere")
    (tmp_path / "artifacts").mkdir()
    for asked in (
        store.remove(there),
        store.create(new_id()),
        store.missing([(there, 0)]),
        store.ids(),
        store.free(),
        partial.commit(5, note),
    ):
        with pytest.raises(StoreUnavailable, match="mount it again") as caught:
            await asked
        assert not isinstance(caught.value, PartialLost)
    shutil.rmtree(tmp_path / "artifacts")
    (tmp_path / "elsewhere").rename(tmp_path / "artifacts")
    assert (await partial.commit(5, note)).size == 5
    assert len(await store.ids()) == 2
    await store.remove(there)
    await store.close()


def test_replicas_that_start_at_the_same_moment_agree(tmp_path: Path) -> None:
    """The first one wins, also if the others read while it writes."""
    ids = [str(uuid4()) for _ in range(8)]
    with ThreadPoolExecutor(len(ids)) as threads:
        found = set(threads.map(lambda offered: Volume(tmp_path).identify(offered), ids))
    assert len(found) == 1
    assert found <= set(ids)


def test_a_volume_that_is_slow_has_one_id(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A replica that hangs while it writes does not replace what another one has written since."""
    monkeypatch.setattr(volume, "_WRITING", 0.0)
    entered, go, fdopen = threading.Event(), threading.Event(), os.fdopen

    def hanging(*args: Any, **more: Any) -> Any:
        if not entered.is_set():
            entered.set()
            assert go.wait(20)
        return fdopen(*args, **more)

    monkeypatch.setattr(os, "fdopen", hanging)
    with ThreadPoolExecutor(1) as thread:
        slow = thread.submit(Volume(tmp_path).identify, str(uuid4()))
        assert entered.wait(20)
        found = Volume(tmp_path).identify(str(uuid4()))
        go.set()
        assert slow.result() == found == Volume(tmp_path).find()
    assert [each.name for each in tmp_path.iterdir()] == [STORE_ID]


def test_an_id_that_is_being_written_is_waited_for(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path, written = tmp_path / STORE_ID, str(uuid4())
    path.touch()
    monkeypatch.setattr(time, "sleep", lambda _: path.write_text(f"{written}\n"))
    assert Volume(tmp_path).identify(str(uuid4())) == written


def test_an_id_whose_writer_was_killed_is_written_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(volume, "_WRITING", 0.0)
    (tmp_path / STORE_ID).touch()
    found, offered = Volume(tmp_path), str(uuid4())
    assert found.find() is None
    assert found.identify(offered) == Volume(tmp_path).find() == offered


def test_a_volume_without_hard_links_has_an_id(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """CIFS and drvfs may have none."""

    def link(*args: object, **more: object) -> None:
        raise OSError(errno.EPERM, "Operation not permitted")

    monkeypatch.setattr(os, "link", link)
    first = Volume(tmp_path).identify(str(uuid4()))
    assert Volume(tmp_path).identify(str(uuid4())) == first


async def test_the_first_id_stays(store: FileArtifacts | ObjectArtifacts) -> None:
    first = str(uuid4())
    assert await store.identity() is None
    assert await store.identify(first) == first
    assert await store.identify(str(uuid4())) == first
    assert await store.identity() == first
    assert await store.ids() == set()


@pytest.mark.parametrize("other", [None, str(uuid4())], ids=["none", "another"])
async def test_without_its_id_no_file_is_missing(
    store: FileArtifacts | ObjectArtifacts, other: str | None
) -> None:
    await store.identify(str(uuid4()))
    job = new_id()
    assert [await store.get(job), await store.open(job), await store.resume(job)] == [None] * 3
    there = await committed(store)
    await replaced(store, other)
    for ask in (store.get, store.open, store.record_copy, store.resume):
        with pytest.raises(StoreUnavailable, match="that it was at the start"):
            await ask(job)
    found = await store.open(there)
    assert found is not None
    await found.close()


async def test_an_id_that_is_damaged_is_named(store: FileArtifacts | ObjectArtifacts) -> None:
    await replaced(store, "no id")
    with pytest.raises(StoreUnavailable, match=f"{STORE_ID} is damaged: delete it"):
        await store.identity()


async def test_a_bucket_keeps_its_id_although_a_rule_expires_old_objects(
    request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """It is stored again and again, but not in a bucket that was emptied."""
    monkeypatch.setattr(object_store, "_REFRESH", 0.01)
    make, service = ARTIFACTS["s3"]
    opened = await make(tmp_path, request.getfixturevalue(str(service)))
    assert isinstance(opened, ObjectArtifacts)
    stored = list[str]()
    original = Bucket.store

    async def store(bucket: Bucket, key: str, content: bytes | bytearray) -> None:
        stored.append(key)
        await original(bucket, key, content)

    monkeypatch.setattr(Bucket, "store", store)
    id = str(uuid4())  # noqa: A001
    assert await opened.identify(id) == id
    async with asyncio.timeout(20):
        while stored.count(STORE_ID) < 3:  # noqa: ASYNC110
            await asyncio.sleep(0.01)
        assert await opened.identity() == id
        # one that is being stored at this moment may be stored again
        while await opened.identity() is not None:
            await opened.bucket.remove([STORE_ID])
            await asyncio.sleep(0.1)
    before = len(stored)
    await asyncio.sleep(0.1)
    assert len(stored) == before
    await opened.close()


class Refusing:
    """An upstream that nobody reaches."""

    async def send(self, *_: object, **__: object) -> Any:
        raise UpstreamUnreachable("refused", delivered=False)

    async def close(self) -> None:
        """As `Upstream.close`."""


@pytest.mark.parametrize("other", [None, str(uuid4())], ids=["none", "another"])
async def test_16_readyz_names_a_store_that_has_lost_its_id(
    store: FileArtifacts | ObjectArtifacts, other: str | None
) -> None:
    """Its files get 503."""
    space = Reservations(store, min_free=0, max_bytes=None)

    async def shortage() -> str | None:
        await space.measure()
        return space.shortage()

    readiness = Readiness(
        upstream=Refusing(),
        jobs=MemoryJobs(),
        artifacts=store,
        shortage=shortage,
        timeout=20.0,
        now=itertools.count(0.0, 10.0).__next__,
    )
    await store.identify(str(uuid4()))
    assert (await readiness())["artifacts"] is None
    await replaced(store, other)
    assert "that it was at the start" in str((await readiness())["artifacts"])
