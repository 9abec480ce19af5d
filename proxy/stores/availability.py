"""Logs when a store becomes unavailable, and when it is available again: once per change."""

from __future__ import annotations

import time
from collections.abc import Callable

import structlog

log = structlog.get_logger(__name__)


class Availability:
    """Whether the last operation of a store has failed. `store` is its setting without the section
    ("jobs", "artifacts"); `seconds` never jumps.
    """

    def __init__(self, store: str, seconds: Callable[[], float] = time.monotonic) -> None:
        self._store = store
        self._seconds = seconds
        self._since: float | None = None

    def failed(self, why: BaseException) -> None:
        """Note that an operation has failed."""
        if self._since is None:
            self._since = self._seconds()
            log.error("store.down", store=self._store, cause=str(why))

    def worked(self) -> None:
        """Note that an operation has succeeded."""
        if self._since is not None:
            down, self._since = self._seconds() - self._since, None
            log.info("store.up", store=self._store, seconds_down=round(down, 3))
