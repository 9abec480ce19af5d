"""Background tasks, and changes that are never interrupted."""

from __future__ import annotations

import asyncio
import gc
from typing import Any

import pytest
from structlog.testing import capture_logs

from proxy.core.errors import Problem
from proxy.jobs.tasks import Tasks
from proxy.ports import StoreUnavailable


@pytest.mark.parametrize(
    ("why", "level"),
    [
        (StoreUnavailable("the volume hangs"), "warning"),
        (Problem("capacity-exhausted", "Not enough free disk space."), "warning"),
        (RuntimeError("a fault"), "error"),
    ],
)
async def test_a_change_that_fails_after_its_caller_has_left_is_logged_once(
    why: Exception, level: str
) -> None:
    """A store that is away is no fault of the proxy: there is no traceback."""
    reported: list[dict[str, Any]] = []
    asyncio.get_running_loop().set_exception_handler(lambda _, context: reported.append(context))
    tasks, go = Tasks(), asyncio.Event()

    async def change() -> None:
        await go.wait()
        raise why

    caller = asyncio.ensure_future(tasks.undivided(change()))
    await asyncio.sleep(0)
    caller.cancel()
    await asyncio.wait([caller])
    with capture_logs() as logs:
        go.set()
        await tasks.settle()
        del caller
        gc.collect()
        await asyncio.sleep(0)
    assert [line["log_level"] for line in logs] == [level]
    assert reported == []


class Full(set[Any]):
    """There is no memory for another element."""

    def add(self, element: Any) -> None:
        raise MemoryError


@pytest.mark.parametrize("created", [True, False])
async def test_work_for_whose_task_there_is_no_memory_does_not_run(
    created: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its caller may begin it again."""
    tasks, ran = Tasks(), list[int]()

    async def work() -> None:
        ran.append(1)

    def create(*args: Any, **more: Any) -> None:
        raise MemoryError

    if created:
        monkeypatch.setattr(tasks, "_running", Full())
    else:
        monkeypatch.setattr(asyncio, "create_task", create)
    with pytest.raises(MemoryError):
        tasks.spawn(work())
    await asyncio.sleep(0)
    assert not ran


class Callbackless(set[Any]):
    """There is no memory for the first of its methods that is looked up to remove an element."""

    lacking = True

    @property
    def discard(self) -> Any:
        if self.lacking:
            self.lacking = False
            raise MemoryError
        return super().discard


async def test_a_task_that_found_no_memory_for_its_callbacks_delays_no_stop() -> None:
    """The stop waited for its end again and again, at full CPU, though it had ended."""
    tasks = Tasks()
    tasks._running = Callbackless()
    with pytest.raises(MemoryError):
        tasks.spawn(asyncio.sleep(0))
    assert not tasks._running
    async with asyncio.timeout(20):
        await tasks.cancel()
