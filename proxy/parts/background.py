"""Keeps what runs in the background running."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Awaitable, Callable

import structlog

log = structlog.get_logger(__name__)

#: Seconds from a failure to the next start.
_PAUSE = 1.0


async def keep_running(run: Callable[[], Awaitable[None]]) -> None:
    """Call `run` until it returns or is cancelled. If it fails, for example because there is no
    memory for a moment, it is called again: what guards, counts or confirms must not end unnoticed.
    """
    while True:
        try:
            await run()
            return
        except Exception:
            with contextlib.suppress(MemoryError):
                log.exception("background task failed")
        await asyncio.sleep(_PAUSE)
