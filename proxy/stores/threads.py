"""Blocking work in threads: its cancellation and its priority."""

from __future__ import annotations

import asyncio
import os
import sys
import threading
from collections.abc import Callable
from contextlib import suppress
from typing import Any, TypeVar

_T = TypeVar("_T")
#: How much nicer a thread that receives an export is than the event loop's. It halves the p99 of
#: small requests beside an export; an export has a tenth of a core that they use up.
_NICER = 10


def yield_to_loop() -> None:
    """Give the calling thread a lower priority than the event loop's. Only Linux has a priority for
    each thread; elsewhere nothing changes.
    """
    if sys.platform == "linux":
        with suppress(OSError):  # a sandbox may forbid it
            thread = threading.get_native_id()
            os.setpriority(os.PRIO_PROCESS, thread, os.getpriority(os.PRIO_PROCESS, 0) + _NICER)


async def undisturbed(
    running: asyncio.Future[_T],
    *,
    stop: Callable[[], None] | None = None,
    unwanted: Callable[[_T], asyncio.Future[None]] | None = None,
) -> _T:
    """Wait for work that runs in a thread and return its result.

    A cancellation calls `stop`. It is raised only after the work has ended and `unwanted` has
    disposed of its result, so that no thread outlives its call.
    """
    cancelled = await _ended(running, stop)
    if cancelled is None:
        return running.result()
    if running.exception() is None and unwanted is not None:
        disposing = unwanted(running.result())
        await _ended(disposing, None)
        disposing.result()
    raise cancelled


async def _ended(
    running: asyncio.Future[Any], stop: Callable[[], None] | None
) -> asyncio.CancelledError | None:
    cancelled: asyncio.CancelledError | None = None
    while not running.done():
        try:
            await asyncio.wait([running])
        except asyncio.CancelledError as why:
            cancelled = why
            if stop is not None:
                stop()
    return cancelled
