"""Logs when the job store becomes unavailable, and when it is available again: once per change."""

from __future__ import annotations

import time
from collections.abc import Callable

import structlog

log = structlog.get_logger(__name__)


class Availability:
    """Whether the last operation of a store has failed. `seconds` never jumps."""

    def __init__(self, seconds: Callable[[], float] = time.monotonic) -> None:
        self._seconds = seconds
        self._since: float | None = None

    def failed(self, why: BaseException) -> None:
        """Note that an operation has failed."""
        if self._since is None:
            self._since = self._seconds()
            log.error("store.down", cause=str(why))

    def worked(self) -> None:
        """Note that an operation has succeeded."""
        if self._since is not None:
            down, self._since = self._seconds() - self._since, None
            log.info("store.up", seconds_down=round(down, 3))
