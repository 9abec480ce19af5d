"""A job store that adds the messages of webhooks to each record (CONTRACT §17).

Theory of operation. The messages that a change causes are stored with the change itself, in the
same commit: no crash loses one. Its caller still has the job as it was before the messages were
added. So this remembers what it has added to the stored version of a job, and a
change of exactly that version keeps it.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace

import structlog

from proxy.core import outbox
from proxy.core.job import Job, Message
from proxy.core.outbox import Subscription
from proxy.jobs.forwarded import ForwardedJobs, ForwardedSharedJobs
from proxy.ports import Bounds, SlotLimits, Turn
from proxy.ports.counts import WebhookCounts
from proxy.ports.outbox import OutboxJobs, SharedOutboxJobs

log = structlog.get_logger(__name__)

#: Jobs whose added messages are remembered. Changes of the oldest are complete by then.
_REMEMBERED = 20_000


class NotedJobs(ForwardedJobs):
    """An `OutboxJobs` store that adds the messages of each change.

    `now` is the wall clock. Callbacks in `listeners` are called after a message has been stored.
    """

    def __init__(
        self,
        jobs: OutboxJobs,
        to: Subscription,
        counts: WebhookCounts,
        now: Callable[[], float],
    ) -> None:
        super().__init__(jobs)
        self._outboxes = jobs
        self._to = to
        self._counts = counts
        self._now = now
        self.listeners: list[Callable[[], None]] = []
        #: By job, the stored version and its messages, while others may have it without them.
        self._added: dict[str, tuple[int, tuple[Message, ...]]] = {}

    async def add(self, job: Job, body: bytes) -> Job:
        """As `JobStore.add`."""
        noted = self._noted(None, job)
        stored = await self._jobs.add(noted, body)
        self._stored(job, noted, stored=stored.id == job.id)
        return stored

    async def replace(self, old: Job, new: Job) -> bool:
        """As `JobStore.replace`."""
        noted = self._noted(old, new)
        replaced = await self._jobs.replace(old, noted)
        self._stored(new, noted, stored=replaced)
        return replaced

    async def remove(self, job: Job) -> bool:
        """As `JobStore.remove`. Messages that are not delivered yet go with the record."""
        removed = await self._jobs.remove(job)
        if removed:
            self._added.pop(job.id, None)
            # a job that VB365 refused at once was never shown, and is reported to nobody
            lost = [each for each in job.outbox if each.endpoint != outbox.PLANNED]
            if lost and job.terminal:
                self._counts.given_up += len(lost)
                types = sorted({outbox.type_of(each.topic) for each in lost})
                log.error("webhook.lost", job=job.id, types=types, messages=len(lost))
        return removed

    async def pending(self, endpoint: str, until: float, limit: int) -> Sequence[Job]:
        """As `Outbox.pending`."""
        return await self._outboxes.pending(endpoint, until, limit)

    async def backlog(self, endpoint: str) -> int:
        """As `Outbox.backlog`."""
        return await self._outboxes.backlog(endpoint)

    async def change_outbox(self, old: Job, new: Job) -> bool:
        """As `replace`, for a change of the outbox alone."""
        replaced = await self._jobs.replace(old, new)
        if replaced:
            self._added.pop(old.id, None)
            self._tell(new)
        return replaced

    def _noted(self, old: Job | None, new: Job) -> Job:
        version, messages = self._added.get(new.id, (0, ()))
        if old is not None and old.version == version:
            new = replace(new, outbox=messages)
        return outbox.noted(old, new, self._to, self._now())

    def _stored(self, given: Job, noted: Job, *, stored: bool) -> None:
        if not stored:
            return  # another change may still be of the version that is remembered
        self._added.pop(given.id, None)
        if noted.outbox != given.outbox:
            self._added[given.id] = noted.version, noted.outbox
            if len(self._added) > _REMEMBERED:
                del self._added[next(iter(self._added))]
            self._tell(noted)

    def _tell(self, job: Job) -> None:
        if job.outbox:
            for listener in self.listeners:
                listener()


class NotedSharedJobs(NotedJobs, ForwardedSharedJobs):
    """A `SharedOutboxJobs` store that adds the messages of each change that this replica makes."""

    def __init__(
        self,
        jobs: SharedOutboxJobs,
        to: Subscription,
        counts: WebhookCounts,
        now: Callable[[], float],
    ) -> None:
        super().__init__(jobs, to, counts, now)
        self._shared = jobs

    async def add_within(
        self, job: Job, body: bytes, bounds: Bounds, started: Job | None = None
    ) -> Job | None:
        """As `SharedJobs.add_within`."""
        noted = self._noted(None, job)
        with_slot = None if started is None else self._noted(None, started)
        stored = await self._shared.add_within(noted, body, bounds, with_slot)
        if stored is not None and stored is with_slot and started is not None:
            self._stored(started, with_slot, stored=True)
        else:
            self._stored(job, noted, stored=stored is not None and stored.id == job.id)
        return stored

    async def claim(self, old: Job, new: Job, slots: SlotLimits) -> Turn:
        """As `SharedJobs.claim`."""
        noted = self._noted(old, new)
        turn = await self._shared.claim(old, noted, slots)
        self._stored(new, noted, stored=turn is Turn.TAKEN)
        return turn
