"""Readiness checks: VB365 reachable, stores usable, enough space (CONTRACT §16 `/readyz`)."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable

import structlog

from proxy.ports import ArtifactStore, JobStore, StoreUnavailable, Upstream, UpstreamFailure
from proxy.ports.artifacts import Checked

log = structlog.get_logger(__name__)

#: Seconds for which a check's result is cached.
_CACHED = 1.0
#: Seconds that a check may take beyond the timeout for VB365.
_MARGIN = 1.0

#: The reason why a check failed by the check's name, None if it succeeded.
Reasons = dict[str, str | None]


class Readiness:
    """Runs the checks. `timeout` limits VB365's response, in seconds; `now` returns seconds.

    `shortage` returns why there is not enough space for exports, None if there is. It raises
    `StoreUnavailable` if the artifact store does not respond.

    Each check runs at most once at a time, and its result is cached: probes need no credentials, so
    they must not multiply into requests to VB365 and writes to the disk.
    """

    def __init__(
        self,
        *,
        upstream: Upstream,
        jobs: JobStore,
        artifacts: ArtifactStore,
        shortage: Callable[[], Awaitable[str | None]],
        timeout: float,
        now: Callable[[], float],
    ) -> None:
        self._upstream = upstream
        self._jobs = jobs
        self._artifacts = artifacts
        self._shortage = shortage
        self._timeout = timeout
        limit = timeout + _MARGIN
        self._checks = [
            _Check("upstream", self._check_upstream, limit, now),
            _Check("jobs", self._check_jobs, limit, now),
            _Check("artifacts", self._check_artifacts, limit, now),
        ]

    async def __call__(self) -> Reasons:
        """Return the result of every check."""
        found: Reasons = {}
        for reasons in await asyncio.gather(*(check() for check in self._checks)):
            found |= reasons
        return found

    def latest(self) -> Reasons:
        """Return the latest result of every check that has ended at least once."""
        found: Reasons = {}
        for check in self._checks:
            found |= check.result
        return found

    async def _check_upstream(self) -> Reasons:
        """Any response will do: even a 404 shows that VB365 is reachable."""
        try:
            response = await self._upstream.send(
                b"GET", b"/v8/Health", [], timeout=self._timeout, stall=self._timeout
            )
        except UpstreamFailure as why:
            return {"upstream": str(why)}
        response.close()
        return {"upstream": None}

    async def _check_jobs(self) -> Reasons:
        try:
            await self._jobs.probe()
        except StoreUnavailable as why:
            return {"jobs": str(why)}
        return {"jobs": None}

    async def _check_artifacts(self) -> Reasons:
        try:
            if isinstance(self._artifacts, Checked):
                await self._artifacts.check()
            return {"artifacts": None, "space": await self._shortage()}
        except StoreUnavailable as why:
            return {"artifacts": str(why), "space": "not known"}


class _Check:
    """One check, whose result all concurrent callers share. They wait at most `limit` seconds."""

    def __init__(
        self,
        name: str,
        run: Callable[[], Awaitable[Reasons]],
        limit: float,
        now: Callable[[], float],
    ) -> None:
        self._name = name
        self._run = run
        self._limit = limit
        self._now = now
        self._running: asyncio.Task[None] | None = None
        self.result: Reasons = {}
        self._until = float("-inf")

    async def __call__(self) -> Reasons:
        if self._now() < self._until:
            return self.result
        if self._running is None:
            self._running = asyncio.create_task(self._update())
        # a caller that disconnects does not cancel the check for the others, and a check that hangs
        # is not started again
        done, _ = await asyncio.wait([self._running], timeout=self._limit)
        if not done:
            # also for who asks for the latest result: a check may hang as long as what it checks
            self.result = {self._name: f"no response within {self._limit:g} s"}
        return self.result

    async def _update(self) -> None:
        try:
            self.result = await self._run()
        except Exception:
            log.exception("readiness check failed", check=self._name)
            self.result = {self._name: "the check failed; the log says why"}
        finally:
            self._running = None
        self._until = self._now() + _CACHED
