"""What time and limits do to records: when something is due, and which may go (CONTRACT §3.5, §7,
§9).
"""

from __future__ import annotations

from enum import StrEnum

from proxy.core.job import Job, Phase, ResultState, refused


class Stage(StrEnum):
    """What a job waits for that only time brings; a store keeps the jobs of a stage in the order of
    their moment.
    """

    CANCELLING = "cancelling"
    SUSPENDED = "suspended"
    AVAILABLE = "available"
    ENDED = "ended"
    REFUSED = "refused"
    FORGOTTEN = "forgotten"


def stage(job: Job) -> tuple[Stage, float] | None:
    """The job's stage, and the moment (Unix seconds) that counts in it: of a file its expiry, else
    when the stage began. None while the job queues or runs.
    """
    if job.forgotten:
        return Stage.FORGOTTEN, job.updated
    if job.phase is Phase.CANCELLING:
        return Stage.CANCELLING, job.updated
    if job.phase is Phase.SUSPENDED:
        return Stage.SUSPENDED, job.updated if job.suspended is None else job.suspended
    if not job.terminal:
        return None
    ended = job.updated if job.ended is None else job.ended
    if job.result is ResultState.AVAILABLE:
        return Stage.AVAILABLE, ended if job.expires is None else job.expires
    return Stage.REFUSED if refused(job) else Stage.ENDED, ended


def spent(job: Job) -> tuple[bool, float, str] | None:
    """The rank of a record that may go to make space for others, the first to go lowest; None for
    one that must stay: of a job that runs, or whose file is promised.

    Those that strangers left go before those of VB365's users, then the one that ended longest ago.
    """
    if not (job.terminal or job.forgotten) or job.result is ResultState.AVAILABLE:
        return None
    return not refused(job), job.updated if job.ended is None else job.ended, job.id
