"""How often and when the POST of an export is repeated (CONTRACT §10)."""

from __future__ import annotations

import asyncio

import structlog

from proxy.core.job import ErrorCode
from proxy.jobs.outcome import error
from proxy.jobs.run import JobFailed
from proxy.ports import UpstreamFailure, UpstreamTimedOut

log = structlog.get_logger(__name__)

#: Seconds.
_BACKOFF = (0.5, 2.0, 5.0, 15.0, 30.0)


class Retries:
    """Counts consecutive POSTs without a new byte: at most `attempts`.

    POSTs that VB365 did not receive, for example during its restart, are limited by time instead:
    by `stall_timeout` seconds of waiting.
    """

    def __init__(self, id: str, *, attempts: int, stall_timeout: float) -> None:
        self._id = id
        self._attempts = attempts
        self._stall_timeout = stall_timeout
        self._fruitless = 0
        self._unreceived = 0.0

    def progress(self, before: int, offset: int) -> bool:
        """Return whether `offset` exceeds `before`, an earlier one. If so, reset the counts."""
        if offset == before:
            return False
        self._fruitless, self._unreceived = 0, 0.0
        return True

    async def pause(self, why: UpstreamFailure, offset: int, *, progress: bool = False) -> None:
        """Count the failure and wait before the next POST. Raises `JobFailed` after too many."""
        log.warning("transfer interrupted", job=self._id, offset=offset, reason=str(why))
        if progress:
            await asyncio.sleep(_BACKOFF[0])
            return
        if not why.delivered and self._unreceived < self._stall_timeout:
            pause = _BACKOFF[min(int(self._unreceived), len(_BACKOFF) - 1)]
            self._unreceived += pause
            await asyncio.sleep(pause)
            return
        self._fruitless += 1
        if self._fruitless > self._attempts:
            code = ErrorCode.TIMEOUT if isinstance(why, UpstreamTimedOut) else ErrorCode.TRUNCATED
            raise JobFailed(
                error(code, f"The transfer broke {self._fruitless} times without progress: {why}")
            )
        await asyncio.sleep(_BACKOFF[min(self._fruitless, len(_BACKOFF)) - 1])
