"""When a result, a record and a tombstone end, and which records may be removed early (CONTRACT
§3.5, §7, §9).
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum

from proxy.core.events import Expired
from proxy.core.job import Job, Phase, ResultState, Status, refused, rejected
from proxy.core.outbox import undelivered
from proxy.core.transitions import advance

#: Seconds that a record waits for the delivery of its messages (CONTRACT §17): more than all tries
#: take.
_UNDELIVERED = 24 * 3600.0


class Stage(StrEnum):
    """A stage of a job that ends at some moment. Stores order the jobs of each stage by it."""

    CANCELLING = "cancelling"
    SUSPENDED = "suspended"
    REJECTED = "rejected"
    AVAILABLE = "available"
    ENDED = "ended"
    REFUSED = "refused"
    FORGOTTEN = "forgotten"


def stage(job: Job) -> tuple[Stage, float] | None:
    """The job's stage and its moment in Unix seconds: the expiry of an available file, otherwise
    the start of the stage. None while the job is queued or running.
    """
    if job.forgotten:
        return Stage.FORGOTTEN, job.updated
    if job.phase is Phase.CANCELLING:
        return Stage.CANCELLING, job.updated
    if job.phase is Phase.SUSPENDED:
        since = job.updated if job.suspended is None else job.suspended
        return Stage.REJECTED if rejected(job) else Stage.SUSPENDED, since
    if not job.terminal:
        return None
    ended = job.updated if job.ended is None else job.ended
    if job.result is ResultState.AVAILABLE:
        return Stage.AVAILABLE, ended if job.expires is None else job.expires
    return Stage.REFUSED if refused(job) else Stage.ENDED, ended


def spent(job: Job) -> tuple[bool, float, str] | None:
    """The sort key of a record that may be removed to make space, the first to remove lowest.

    Jobs of callers that VB365 never accepted come first, then the job that ended longest ago. None
    for a record that must stay: its job has not ended, or its file is available.
    """
    if not (job.terminal or job.forgotten) or job.result is ResultState.AVAILABLE:
        return None
    proven = job.accepted or job.status in (Status.SUCCESS, Status.WARNING)
    return proven, job.updated if job.ended is None else job.ended, job.id


def keeps_bytes(job: Job) -> bool:
    """Whether the bytes stored for the job must stay: it has not ended, or its file is available.

    A job that is being cancelled keeps them until its transfer is closed.
    """
    return not job.terminal or job.result is ResultState.AVAILABLE


def file_expired(job: Job, now: float) -> bool:
    """Whether the result has expired by `now`, even if the sweeper has not marked it yet. Such a
    file is never served (CONTRACT §7).
    """
    if job.result is ResultState.EXPIRED:
        return True
    return job.result is ResultState.AVAILABLE and job.expires is not None and now >= job.expires


def as_of(job: Job, now: float) -> Job:
    """The job as it is shown at `now`: an expired result is Expired even if the sweeper has not
    marked it yet (CONTRACT §7).
    """
    if job.result is ResultState.AVAILABLE and file_expired(job, now):
        return advance(job, Expired(), now)
    return job


@dataclass(frozen=True, slots=True, kw_only=True)
class Retention:
    """How long results, then their records, and tombstones are kept, in seconds (CONTRACT §7).

    `refused` is the limit for suspended jobs, then for records, of unauthenticated callers
    (CONTRACT §3.5).
    """

    result: float
    record: float
    tombstone: float = 24 * 3600.0
    refused: float = 600.0

    def record_ends(self, job: Job) -> float | None:
        """The Unix second from which the record no longer exists. None until the job has ended."""
        if job.forgotten:
            return job.updated + self.tombstone
        if job.ended is None:
            return None
        if refused(job):
            return job.ended + self._refused
        # an operator may have extended the time of the file
        return max(job.ended + self.result, job.expires or 0.0) + self.record

    def record_over(self, job: Job, now: float) -> bool:
        """Whether the record no longer exists at `now`, even if it has not been removed yet."""
        ends = self.record_ends(job)
        return ends is not None and now >= ends

    def removable(self, job: Job, now: float) -> bool:
        """Whether the record is to be removed at `now`: it is over, and its messages have been sent
        about it, or a day has passed since. Records that anyone can create do not wait.
        """
        ends = self.record_ends(job)
        if ends is None or now < ends:
            return False
        waits = undelivered(job) and not refused(job)
        return not waits or now >= ends + _UNDELIVERED

    def suspension_over(self, job: Job, now: float, *, suspend_ttl: float) -> bool:
        """Whether the job is suspended and to end at `now`: nobody resumed it in time (CONTRACT
        §9).
        """
        found = stage(job)
        due = self.due(now, suspend_ttl=suspend_ttl)
        return job.phase is Phase.SUSPENDED and found is not None and found[1] <= due[found[0]]

    def due(self, now: float, *, suspend_ttl: float) -> dict[Stage, float]:
        """The jobs that a sweep at `now` examines: in each stage, those whose moment is at most
        this Unix second.
        """
        return {
            Stage.CANCELLING: now,
            Stage.SUSPENDED: now - suspend_ttl,
            Stage.REJECTED: now - min(self.refused, suspend_ttl),
            Stage.AVAILABLE: now,
            Stage.ENDED: now - (self.result + self.record),
            Stage.REFUSED: now - self._refused,
            Stage.FORGOTTEN: now - self.tombstone,
        }

    @property
    def _refused(self) -> float:
        return min(self.refused, self.result + self.record)
