"""Blocking work beside the event loop."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import TypeVar

_T = TypeVar("_T")


async def undisturbed(
    running: asyncio.Future[_T],
    *,
    stop: Callable[[], None] = lambda: None,
    unwanted: Callable[[_T], object] = lambda result: None,
) -> _T:
    """The outcome of work that a thread has in hand. A cancellation calls `stop` and is raised only when the work has
    ended, its result given to `unwanted`: nothing goes on behind the back of a caller who does the next thing already.
    """
    cancelled: asyncio.CancelledError | None = None
    while not running.done():
        try:
            await asyncio.wait([running])
        except asyncio.CancelledError as why:
            cancelled = why
            stop()
    if cancelled is None:
        return running.result()
    if running.exception() is None:
        unwanted(running.result())
    raise cancelled
