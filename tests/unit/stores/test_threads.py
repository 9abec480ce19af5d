"""The threads of the stores."""

from __future__ import annotations

import asyncio
import gc
import hashlib
import os
import sys
import threading
import weakref
from collections.abc import Awaitable, Callable
from concurrent.futures import Future, wait
from pathlib import Path
from typing import Any

import pytest

from proxy.ports import StoreUnavailable
from proxy.stores.file_artifacts.partial import FilePartial
from proxy.stores.file_artifacts.store import FileArtifacts
from proxy.stores.threads import Patience, Threads, begin, ended, undisturbed
from tests.support.threads import no_new_thread
from tests.support.wire import LIMIT

ID = "5f0c6d3e-0000-4000-8000-000000000000"


@pytest.mark.skipif(
    sys.platform != "linux",
    reason="only Linux has a priority for each thread: it is not tested here",
)
async def test_a_thread_that_receives_an_export_yields_to_the_event_loop(tmp_path: Path) -> None:
    def priority() -> int:
        return os.getpriority(os.PRIO_PROCESS, 0)

    artifacts = await FileArtifacts.at(tmp_path)
    try:
        own = priority()
        assert await artifacts.begin(priority) == own
        assert await artifacts.receive(priority) == min(19, own + 10)
    finally:
        await artifacts.close()


async def test_a_store_for_which_the_system_starts_no_thread_does_not_open(tmp_path: Path) -> None:
    with no_new_thread(), pytest.raises(StoreUnavailable, match="starts no more threads"):
        await FileArtifacts.at(tmp_path)


@pytest.mark.parametrize("why", [None, MemoryError()])
def test_after_a_lack_of_threads_all_of_them_work(why: Exception | None) -> None:
    """One that hangs would otherwise stop all work for ever."""
    threads = Threads(4, "test")
    try:
        with no_new_thread(why):
            wait([threads.submit(int) for _ in range(100)])
        together = threading.Barrier(4)
        working = [threads.submit(together.wait, LIMIT) for _ in range(4)]
        assert {each.result() for each in working} == {0, 1, 2, 3}
    finally:
        threads.shutdown()


def lack_memory(monkeypatch: pytest.MonkeyPatch) -> None:
    """The next work finds no memory once it is in the queue, as for its thread or its future."""
    put, lacks = Threads.put, [True]

    def lacking(threads: Threads, work: Any) -> None:
        put(threads, work)
        if lacks:
            lacks.pop()
            raise MemoryError

    monkeypatch.setattr(Threads, "put", lacking)


async def test_work_whose_caller_finds_no_memory_for_it_does_not_run(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """The caller closes what it would use."""
    threads, run = Threads(1, "test"), list[str]()
    try:
        lack_memory(monkeypatch)
        with pytest.raises(MemoryError):
            await begin(threads, lambda: run.append("first"))
        await begin(threads, lambda: run.append("second"))
    finally:
        threads.shutdown()
    assert run == ["second"]


async def test_a_result_for_which_there_is_no_memory_is_reported_later(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Nothing else would end the wait for it."""
    loop, lacks = asyncio.get_running_loop(), [True, True]
    report = loop.call_soon_threadsafe

    def lacking(*args: Any, **kwargs: Any) -> Any:
        if lacks:
            lacks.pop()
            raise MemoryError
        return report(*args, **kwargs)

    threads = Threads(1, "test")
    monkeypatch.setattr(loop, "call_soon_threadsafe", lacking)
    try:
        async with asyncio.timeout(LIMIT):
            assert await begin(threads, lambda: 7) == 7
    finally:
        threads.shutdown()


def end_a_thread(threads: Threads, monkeypatch: pytest.MonkeyPatch) -> None:
    """Let the only thread take work, and find no memory for it."""
    with monkeypatch.context() as lacking:
        lacking.setattr(Future, "set_running_or_notify_cancel", _no_memory)
        threads.submit(int)
        (thread,) = threads._threads
        thread.join(LIMIT)
        assert not thread.is_alive()


async def test_a_thread_that_finds_no_memory_loses_no_work_and_is_replaced(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Work that a thread has taken out of the queue is nowhere else."""
    threads = Threads(1, "test")
    try:
        async with asyncio.timeout(LIMIT):
            await begin(threads, int)  # its first thread has begun
            with monkeypatch.context() as lacking:
                lacking.setattr(Future, "set_running_or_notify_cancel", _no_memory)
                assert await begin(threads, lambda: 7) == 7
            end_a_thread(threads, monkeypatch)
            assert await begin(threads, lambda: 8) == 8
    finally:
        threads.shutdown()


async def test_a_thread_is_replaced_however_often_it_was_counted_as_idle(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Up to Python 3.11 it is counted after each work, also if more is in the queue."""
    threads = Threads(1, "test")
    try:
        await asyncio.gather(*(begin(threads, int) for _ in range(10)))
        end_a_thread(threads, monkeypatch)
        async with asyncio.timeout(LIMIT):
            assert await begin(threads, lambda: 8) == 8
    finally:
        threads.shutdown()


async def test_a_thread_that_finds_no_memory_to_count_itself_does_the_next_work(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """It is replaced with the next work only: what is in the queue by then would wait for it."""
    monkeypatch.setattr(threading.Semaphore, "release", _no_memory)
    threads = Threads(1, "test")
    try:
        async with asyncio.timeout(LIMIT):
            assert await asyncio.gather(*(begin(threads, int) for _ in range(10))) == [0] * 10
    finally:
        threads.shutdown()


async def test_work_for_which_no_thread_is_left_nor_started_is_refused(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """It would wait for the next work, which may wait for it."""
    threads = Threads(1, "test")
    try:
        end_a_thread(threads, monkeypatch)
        with no_new_thread(), pytest.raises(MemoryError):
            begin(threads, int)
        async with asyncio.timeout(LIMIT):
            assert await begin(threads, lambda: 8) == 8
    finally:
        threads.shutdown()


def _no_memory(*_: object) -> None:
    raise MemoryError


async def test_10_bytes_that_find_no_memory_for_their_thread_are_stored_once(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    content = os.urandom(1 << 20)
    artifacts = await FileArtifacts.at(tmp_path)
    try:
        written = await artifacts.create(ID)
        lack_memory(monkeypatch)
        with pytest.raises(MemoryError):
            await written.write(content)
        await written.keep()
        resumed = await artifacts.resume(ID)
        assert resumed is not None
        assert resumed.offset == len(content)
        assert await resumed.read(0, len(content)) == content
    finally:
        await artifacts.close()


async def test_10_bytes_are_stored_once_if_there_is_no_memory_to_sync_them(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    lacking, appended = [MemoryError()], asyncio.Event()

    def sync_early(_: FilePartial) -> None:
        appended.set()
        if lacking:
            raise lacking.pop()

    monkeypatch.setattr(FilePartial, "_sync_early", sync_early)
    content = os.urandom(2 << 20)
    artifacts = await FileArtifacts.at(tmp_path)
    try:
        written = await artifacts.create(ID)
        await written.write(content[: 1 << 20])
        async with asyncio.timeout(LIMIT):
            await appended.wait()
        await written.write(content[1 << 20 :])
        stored = await written.commit(len(content), lambda _: b"")
        assert stored.sha256 == hashlib.sha256(content).digest()
    finally:
        await artifacts.close()


@pytest.mark.parametrize(
    "waiting",
    [
        undisturbed,
        lambda work: ended(work, LIMIT),
        lambda work: Patience("v", 1, 1).wait("a", work, LIMIT),
    ],
)
async def test_3_1_what_a_cancelled_caller_has_in_memory_is_released_at_once(
    waiting: Callable[[asyncio.Future[Any]], Awaitable[None]],
) -> None:
    """A client may leave at any time: what its request has does not wait for the garbage
    collector.
    """
    work: asyncio.Future[None] = asyncio.Future()
    kept: list[weakref.ref[Any]] = []

    async def request() -> None:
        body = asyncio.Event()  # anything
        kept.append(weakref.ref(body))
        await waiting(work)

    gc.disable()
    try:
        task = asyncio.create_task(request())
        await asyncio.sleep(0)
        task.cancel()
        await asyncio.sleep(0)
        work.set_result(None)
        await asyncio.wait([task])
        cancelled = task.cancelled()
        del task
        await asyncio.sleep(0)
        released = kept[0]() is None
    finally:
        gc.enable()
    assert (cancelled, released) == (True, True)
