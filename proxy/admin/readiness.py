"""Whether the proxy can do its work: VB365 reachable, stores usable, space free (CONTRACT §16
`/readyz`).
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from time import monotonic

import structlog

from proxy.ports import JobStore, StoreUnavailable, Upstream, UpstreamFailure

log = structlog.get_logger(__name__)

#: Seconds for which an answer holds.
_FRESH = 1.0
#: Seconds that a check may take longer than VB365 has for its answer.
_MARGIN = 1.0


Reasons = dict[str, str | None]


class Readiness:
    """What is wrong, by the name of the check; None where nothing is. `patience` in seconds.

    `shortage` says why there is too little space for exports, None when there is enough, and raises
    `StoreUnavailable` when the artifact store cannot be asked.

    However many ask, each check runs once at a time and its answer holds a second: probes need no
    credentials, so they must not multiply into requests to VB365 and writes to the disk.
    """

    def __init__(
        self,
        *,
        upstream: Upstream,
        jobs: JobStore,
        shortage: Callable[[], Awaitable[str | None]],
        patience: float,
    ) -> None:
        self._upstream = upstream
        self._jobs = jobs
        self._shortage = shortage
        self._patience = patience
        limit = patience + _MARGIN
        self._checks = [
            _Check("upstream", self._ask_upstream, limit),
            _Check("jobs", self._ask_jobs, limit),
            _Check("artifacts", self._ask_files, limit),
        ]

    async def __call__(self) -> Reasons:
        """The reason of each check that failed, None of the others."""
        found: Reasons = {}
        for reasons in await asyncio.gather(*(check() for check in self._checks)):
            found |= reasons
        return found

    async def _ask_upstream(self) -> Reasons:
        """Any answer will do: even a 404 shows that VB365 is there. Without fields it gets VB365's
        own Host.
        """
        try:
            response = await self._upstream.send(
                b"GET", b"/v8/Health", [], timeout=self._patience, stall=self._patience
            )
        except UpstreamFailure as why:
            return {"upstream": str(why)}
        response.close()
        return {"upstream": None}

    async def _ask_jobs(self) -> Reasons:
        try:
            await self._jobs.probe()
        except StoreUnavailable as why:
            return {"jobs": str(why)}
        return {"jobs": None}

    async def _ask_files(self) -> Reasons:
        try:
            return {"artifacts": None, "space": await self._shortage()}
        except StoreUnavailable as why:
            return {"artifacts": str(why), "space": "not known"}


class _Check:
    """One question that all who want its answer share; `limit` in seconds bounds how long they wait
    for it.
    """

    def __init__(self, name: str, ask: Callable[[], Awaitable[Reasons]], limit: float) -> None:
        self._name = name
        self._ask = ask
        self._limit = limit
        self._asking: asyncio.Task[None] | None = None
        self._answer: Reasons = {}
        self._until = float("-inf")

    async def __call__(self) -> Reasons:
        if monotonic() < self._until:
            return self._answer
        if self._asking is None:
            self._asking = asyncio.create_task(self._run())
        # whoever leaves does not end the question of the others, and one that hangs is not asked a
        # second time
        done, _ = await asyncio.wait([self._asking], timeout=self._limit)
        if not done:
            return {self._name: f"no answer within {self._limit:g} s"}
        return self._answer

    async def _run(self) -> None:
        try:
            self._answer = await self._ask()
        except Exception:
            log.exception("readiness check failed", check=self._name)
            self._answer = {self._name: "the check failed; the log says why"}
        finally:
            self._asking = None
        self._until = monotonic() + _FRESH
