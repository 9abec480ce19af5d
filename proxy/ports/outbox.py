"""What webhooks ask of a job store."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol

from proxy.core.job import Job
from proxy.ports.jobs import JobStore
from proxy.ports.shared_jobs import SharedJobs


class Outbox(Protocol):
    """A capability of a job store: it finds the jobs with undelivered messages."""

    async def pending(self, endpoint: str, until: float, limit: int) -> Sequence[Job]:
        """The first `limit` jobs with a message for the endpoint, a `core.outbox.line`, that is due
        at most at `until`, by the moment of their first one. Reads no other records.
        """

    async def backlog(self, endpoint: str) -> int:
        """The number of jobs with a message for the same, due or not."""


class OutboxJobs(JobStore, Outbox, Protocol):
    """A `JobStore` with an outbox."""


class SharedOutboxJobs(SharedJobs, Outbox, Protocol):
    """A `SharedJobs` store with an outbox."""
