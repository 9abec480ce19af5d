"""Threads that hang in the files of a volume, such as that of a network file system whose server is
away: what does not need the files does not wait for them (CONTRACT §3, §16).
"""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

from proxy.ports import StoreUnavailable
from proxy.stores.file_artifacts import files, gauge, spool
from proxy.stores.file_artifacts import store as file_store
from proxy.stores.file_artifacts.store import FileArtifacts
from tests.contract.conftest import MakeStage
from tests.support.wire import ask

NOW = "respond-async, wait=0"


@pytest.fixture
def volume() -> Iterator[threading.Event]:
    """What hangs, until the event is set."""
    alive = threading.Event()
    yield alive
    alive.set()


async def test_free_space_is_measured_while_all_threads_of_files_hang(
    tmp_path: Path, volume: threading.Event
) -> None:
    store = await FileArtifacts.at(tmp_path)
    hanging = [store.begin(volume.wait) for _ in range(2 * file_store._THREADS)]
    async with asyncio.timeout(20):
        assert await store.free() > 0
        volume.set()
        await asyncio.gather(*hanging)
    await store.close()


async def test_a_measurement_that_hangs_is_an_error_for_all_and_not_repeated(
    tmp_path: Path, volume: threading.Event, monkeypatch: pytest.MonkeyPatch
) -> None:
    calls: list[Path] = []

    def hang(root: Path) -> int:
        calls.append(root)
        volume.wait()
        return 7

    monkeypatch.setattr(gauge, "_PATIENCE", 0.05)
    monkeypatch.setattr(files, "free", hang)
    store = await FileArtifacts.at(tmp_path)
    for _ in range(3):
        with pytest.raises(StoreUnavailable, match="artifacts does not respond"):
            await store.free()
    assert len(calls) == 1
    volume.set()
    monkeypatch.setattr(gauge, "_PATIENCE", 20)
    assert [await store.free(), await store.free()] == [7, 7]
    await store.close()


async def test_kickoffs_and_polls_do_not_wait_for_files_that_hang(
    make_stage: MakeStage, volume: threading.Event, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(file_store, "_THREADS", 1)
    create, entered = spool.Spool.create, threading.Event()

    def hang(*args: object, **more: object) -> spool.Spool:
        entered.set()
        volume.wait()
        return create(*args, **more)  # type: ignore[arg-type]

    monkeypatch.setattr(spool.Spool, "create", hang)
    stage = await make_stage()
    async with asyncio.timeout(20):
        jobs = [await stage.begun(stage.export, Prefer=NOW)]
        await asyncio.to_thread(entered.wait)
        jobs.append(await stage.begun(stage.export, Prefer=NOW))
        for job in jobs:
            assert (await stage.get(job)).json()["status"] == "Running"
        ready = await ask(stage.running.admin_url, "GET", "/readyz", {})
        assert ready.status == 200
        volume.set()
        for job in jobs:
            assert (await stage.finished(job)).json()["status"] == "Success"
