"""The background tasks of the runner."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Coroutine
from contextvars import Context
from typing import Any, TypeVar

import structlog

from proxy.core.errors import Problem
from proxy.ports import StoreUnavailable

log = structlog.get_logger(__name__)

_T = TypeVar("_T")

#: Seconds that a stop waits for records that are written in the background.
_RECORDS = 3.0
#: Seconds after which a stop names what it still waits for.
_LATE = 5.0

#: Runs work in the background.
Spawn = Callable[[Coroutine[None, None, None]], asyncio.Task[None]]


class NotBegun(MemoryError):
    """There was no memory for a task: nothing of its work has run."""


class Tasks:
    """Tasks that end at the latest with the runner, and changes that are never interrupted."""

    def __init__(self) -> None:
        self._running: set[asyncio.Task[None]] = set()
        self._changes: set[asyncio.Task[Any]] = set()
        self._records: set[asyncio.Task[None]] = set()

    def __len__(self) -> int:
        return len(self._running) + len(self._changes)

    def spawn(
        self, work: Coroutine[None, None, None], name: str | None = None
    ) -> asyncio.Task[None]:
        """Run `work` in the background. A failure is logged. Raises `NotBegun`.

        Its log lines do not have the request id of the call that it happens to start in.
        """
        return self._begin(work, self._running, _log_failure, name=name, context=Context())

    def _begin(
        self,
        work: Coroutine[None, None, _T],
        tasks: set[asyncio.Task[_T]],
        *callbacks: Callable[[asyncio.Task[_T]], None],
        **options: Any,
    ) -> asyncio.Task[_T]:
        task = None
        try:
            task = asyncio.create_task(work, **options)
            tasks.add(task)
            for each in (tasks.discard, *callbacks):
                task.add_done_callback(each)
        except MemoryError as why:
            if task is None:
                work.close()
            else:
                task.cancel()  # before its first step
                tasks.discard(task)
            raise NotBegun from why
        return task

    def record(self, work: Coroutine[None, None, None]) -> asyncio.Task[None]:
        """As `spawn`, for work that records what has happened: a stop waits for it a little."""
        task = self.spawn(work)
        self._records.add(task)
        task.add_done_callback(self._records.discard)
        return task

    async def undivided(self, work: Coroutine[None, None, _T]) -> _T:
        """Run `work` to its end even if the calling task is cancelled: a change of a record and
        what must follow it are not separated. Its failure is logged then. Raises
        `NotBegun`.
        """
        task = self._begin(work, self._changes)
        try:
            return await asyncio.shield(task)
        except asyncio.CancelledError:
            task.add_done_callback(_log_failure)
            raise
        finally:
            # its exception refers to this frame: the cycle would keep what the work's frames have,
            # such as a body, until the garbage collector finds it
            del task

    async def settle(self) -> None:
        """Wait for the changes under way, and some seconds for the records."""
        await asyncio.gather(*self._changes, return_exceptions=True)
        if self._records:
            await asyncio.wait(self._records, timeout=_RECORDS)

    async def cancel(self) -> None:
        """Cancel what runs in the background, and wait for its end."""
        while self._running:
            for task in self._running:
                task.cancel()
            _, late = await asyncio.wait(self._running, timeout=_LATE)
            if late:
                log.warning("still stopping", work=sorted(task.get_name() for task in late))
                await asyncio.wait(late)


def _log_failure(task: asyncio.Task[Any]) -> None:
    if task.cancelled() or (why := task.exception()) is None:
        return
    if isinstance(why, (Problem, StoreUnavailable)):
        log.warning("not possible now", reason=str(why))
    else:
        log.error("background task failed", exc_info=why)
