"""Blocking work in threads, and cancellation."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Any, TypeVar

_T = TypeVar("_T")


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
