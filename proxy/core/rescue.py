"""Rescued exports: which request joins which job (CONTRACT §14).

Clients that never ask for a job time out and send the same POST again. The export of the first one
runs as a job, and the others join it: requests of the same caller, with the same target and body.
"""

from __future__ import annotations

from enum import Enum

from proxy.core.job import Job, Origin, Phase, ResultState
from proxy.core.retention import file_expired

#: A client's Idempotency-Key has no space, so that no client can name such a key.
_PREFIX = "rescue "


class Offer(Enum):
    """What a job is to an identical request of its caller."""

    #: The request gets its file, now or as it grows.
    JOIN = "join"
    #: The same, once the job is resumed with the credentials of the request.
    RESUME = "resume"
    #: No request joins the job, and it must not keep others from starting a new one.
    OVER = "over"
    #: No request joins the job.
    NONE = "none"


def rescue_key(fingerprint: str) -> str:
    """The key under which stores find the job of a rescued export with this fingerprint."""
    return _PREFIX + fingerprint


def unique_key(job: Job) -> str | None:
    """The key that no other job of the same caller may have at the same time: the Idempotency-Key
    (CONTRACT §8), or for a rescued export that can be joined the one made of its fingerprint.
    """
    if job.forgotten:
        return None
    if job.origin is Origin.ASYNC:
        return job.request.idempotency_key
    return rescue_key(job.request.fingerprint) if _is_open(job) else None


def claims(job: Job) -> list[tuple[str, str]]:
    """The keys that the job takes: its `unique_key` under each of its owners (CONTRACT §8, §14)."""
    key = unique_key(job)
    return [] if key is None else [(owner, key) for owner in job.owners]


def gained(old: Job, new: Job) -> list[tuple[str, str]]:
    """The keys that `new` takes and `old` does not."""
    before = claims(old)
    return [claim for claim in claims(new) if claim not in before]


def _is_open(job: Job) -> bool:
    if job.detached or job.delivery.whole or job.phase is Phase.CANCELLING:
        return False
    return not job.terminal or job.result is ResultState.AVAILABLE


def tentative(job: Job) -> bool:
    """Whether the job waits for its first slot. If none becomes free within `exports.grace`, its
    request is relayed and its record is removed: no caller is shown it before that is decided.
    """
    waits = job.origin is Origin.RESCUE and job.phase is Phase.QUEUED and not job.attempt
    return waits and all(moment.event != "resumed" for moment in job.timeline)


def unanswered(job: Job) -> bool:
    """Whether VB365's first response to the job is still to come, also after an interruption. If it
    is not 200, its requests get it and the record is removed.
    """
    return job.origin is Origin.RESCUE and job.answered is None and not job.terminal


def offer(job: Job, *, now: float, ttl: float) -> Offer:
    """What the job is to an identical request at the Unix second `now`. `ttl` is
    `exports.rescue_ttl` in seconds.

    A finished job can be joined until its file was delivered whole once, or for `ttl`. A failed,
    cancelled or deleted one is never joined, nor one whose response cannot be repeated because its
    head is too large to be stored.
    """
    if job.origin is not Origin.RESCUE or job.forgotten or not _is_open(job):
        return Offer.NONE
    if job.file is not None and job.file.lines is None:
        return Offer.OVER
    if not job.terminal:
        return Offer.RESUME if job.phase is Phase.SUSPENDED else Offer.JOIN
    ended = job.updated if job.ended is None else job.ended
    if file_expired(job, now) or now >= ended + ttl:
        return Offer.OVER
    return Offer.JOIN
