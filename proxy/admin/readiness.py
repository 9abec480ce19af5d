"""Whether the proxy can do its work: VB365 reachable, stores usable, space free (CONTRACT §15 `/readyz`)."""

from __future__ import annotations

from time import monotonic

from proxy.ports import ArtifactStore, JobStore, StoreUnavailable, Upstream, UpstreamFailure

#: Seconds for which an answer holds, so that probes cost U next to nothing.
_FRESH = 1.0


class Readiness:
    """What is wrong, by name; None where nothing is. `patience` in seconds, `min_free` in bytes."""

    def __init__(
        self, *, upstream: Upstream, jobs: JobStore, artifacts: ArtifactStore, patience: float, min_free: int
    ) -> None:
        self._upstream = upstream
        self._jobs = jobs
        self._artifacts = artifacts
        self._patience = patience
        self._min_free = min_free
        self._answer: dict[str, str | None] = {}
        self._until = 0.0

    async def __call__(self) -> dict[str, str | None]:
        """The checks, made anew at most once a second."""
        if monotonic() >= self._until:
            self._answer = {"upstream": await self._ask_upstream(), "storage": await self._ask_storage()}
            self._until = monotonic() + _FRESH
        return self._answer

    async def _ask_upstream(self) -> str | None:
        """Any answer will do: even a 404 shows that VB365 is there."""
        try:
            response = await self._upstream.send(
                b"GET", b"/v8/Health", [], timeout=self._patience, stall=self._patience
            )
        except UpstreamFailure as why:
            return str(why)
        response.close()
        return None

    async def _ask_storage(self) -> str | None:
        try:
            free = await self._artifacts.free()
            await self._jobs.probe()
        except StoreUnavailable as why:
            return str(why)
        return None if free >= self._min_free else f"{free} bytes are free, storage.min_free is {self._min_free}"
