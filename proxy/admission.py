"""Whether one more job is accepted (CONTRACT §3.5): quota, queue, free space. Every refusal names its numbers."""

from __future__ import annotations

from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass

from proxy.core.amounts import plural
from proxy.core.errors import Problem
from proxy.ports import JobStore
from proxy.runs import Run
from proxy.slots import Slots
from proxy.space import Space

_RETRY_AFTER = 30


@dataclass(frozen=True, slots=True, kw_only=True)
class Limits:
    """How much may run, wait and be stored (CONTRACT §15): counts of jobs, sizes in bytes, times in seconds."""

    max_running: int
    max_queued: int
    max_per_caller: int
    min_free: int
    max_bytes: int | None
    max_running_per_caller: int = 0
    cancel_hold: float = 0.0


class Admission:
    """Lets kick-offs in one by one. A job that is about to be added counts as if it were there already."""

    def __init__(self, *, jobs: JobStore, slots: Slots[Run], space: Space, limits: Limits) -> None:
        self._jobs = jobs
        self._slots = slots
        self._space = space
        self._limits = limits
        self._arriving: list[Sequence[str]] = []

    @asynccontextmanager
    async def __call__(self, owners: Sequence[str], now: float) -> AsyncIterator[None]:
        """Reserve a place for one more job of the caller while the block runs. `now` in Unix seconds.

        `owners` are all the hashes of the caller: a job counts once, under whichever of them it was taken.
        Raises `Problem` 429 or 503, `StoreUnavailable`.
        """
        await self._space.measure()
        live = {job.id for owner in owners for job in await self._jobs.list(owner=owner) if not job.terminal}
        # no await between the checks and the reservation: two kick-offs never share the last place
        self._slots.expire(now)
        self._check_quota(owners, len(live))
        self._check_queue()
        if (shortage := self._space.shortage()) is not None:
            raise Problem("capacity-exhausted", f"Not enough space: {shortage}.", retry_after=_RETRY_AFTER)
        self._arriving.append(owners)
        try:
            yield
        finally:
            self._arriving.remove(owners)

    def _check_quota(self, owners: Sequence[str], live: int) -> None:
        held = self._slots.held(*owners)
        unfinished = live + held + sum(not set(owners).isdisjoint(others) for others in self._arriving)
        if unfinished < self._limits.max_per_caller:
            return
        detail = f"You already have {plural(unfinished, 'unfinished export')} (exports.max_per_caller)."
        if held:
            cancelled = plural(held, "cancelled one")
            detail += f" That includes {cancelled} that VB365 may still work on (exports.cancel_hold)."
        raise Problem("quota-exceeded", detail, retry_after=_RETRY_AFTER)

    def _check_queue(self) -> None:
        waiting = self._slots.waiting + len(self._arriving)
        if waiting >= self._limits.max_queued + self._slots.free:
            verb = "is" if waiting == 1 else "are"
            detail = f"{plural(waiting, 'export')} {verb} waiting (exports.max_queued)."
            raise Problem("capacity-exhausted", detail, retry_after=_RETRY_AFTER)
