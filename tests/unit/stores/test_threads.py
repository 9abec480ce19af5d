"""The threads of the stores."""

from __future__ import annotations

import asyncio
import gc
import os
import sys
import threading
import weakref
from collections.abc import Awaitable, Callable
from concurrent.futures import wait
from pathlib import Path
from typing import Any

import pytest

from proxy.ports import StoreUnavailable
from proxy.stores.file_artifacts.store import FileArtifacts
from proxy.stores.threads import Patience, Threads, ended, undisturbed
from tests.support.threads import no_new_thread
from tests.support.wire import LIMIT


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


def test_after_a_lack_of_threads_all_of_them_work() -> None:
    """One that hangs would otherwise stop all work for ever."""
    threads = Threads(4, "test")
    try:
        with no_new_thread():
            wait([threads.submit(int) for _ in range(100)])
        together = threading.Barrier(4)
        working = [threads.submit(together.wait, LIMIT) for _ in range(4)]
        assert {each.result() for each in working} == {0, 1, 2, 3}
    finally:
        threads.shutdown()


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
