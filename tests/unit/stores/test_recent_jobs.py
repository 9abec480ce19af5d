"""Records that are used again for less than a second (CONTRACT §18)."""

from __future__ import annotations

from dataclasses import replace

from proxy.core.events import Claimed
from proxy.core.job import Job
from proxy.core.job_codec import encode
from proxy.core.transitions import advance
from proxy.stores.redis_jobs import recent
from proxy.stores.redis_jobs.entries import pack
from proxy.stores.redis_jobs.recent import RecentJobs, UnpackedJobs
from tests.support.fakes import new_job


class Clock:
    def __init__(self) -> None:
        self.now = 0.0

    def __call__(self) -> float:
        return self.now


def read(jobs: RecentJobs, job: Job) -> None:
    jobs.put(job.id, jobs.begin(job.id), job)


def test_a_record_is_used_for_less_than_a_second() -> None:
    clock = Clock()
    jobs, job = RecentJobs(clock), new_job()
    read(jobs, job)
    clock.now = 0.79
    assert jobs.get(job.id) is job
    clock.now = 0.81
    assert jobs.get(job.id) is None


def test_a_reported_change_ends_its_use() -> None:
    jobs, one, other = RecentJobs(Clock()), new_job(), new_job()
    read(jobs, one)
    read(jobs, other)
    jobs.drop(one.id)
    assert jobs.get(one.id) is None
    assert jobs.get(other.id) is other
    jobs.clear()
    assert jobs.get(other.id) is None


def test_a_change_during_the_read_makes_its_result_worthless() -> None:
    """The reply of the store may be older than the change."""
    jobs, job = RecentJobs(Clock()), new_job()
    reading = jobs.begin(job.id)
    jobs.drop(job.id)
    jobs.put(job.id, reading, job)
    assert jobs.get(job.id) is None
    reading = jobs.begin(job.id)
    jobs.clear()
    jobs.put(job.id, reading, job)
    assert jobs.get(job.id) is None


def test_of_reads_at_the_same_time_the_first_reply_counts() -> None:
    """However many begin before it arrives, so that a job that many poll is remembered."""
    jobs, job = RecentJobs(Clock()), new_job()
    first = jobs.begin(job.id)
    others = [jobs.begin(job.id) for _ in range(64)]
    jobs.put(job.id, first, job)
    assert jobs.get(job.id) is job
    jobs.drop(job.id)
    for other in others:
        jobs.put(job.id, other, job)
    assert jobs.get(job.id) is None


def test_the_records_are_bounded() -> None:
    jobs = RecentJobs(Clock())
    kept = [new_job(number) for number in range(recent._MOST + 5)]
    for job in kept:
        read(jobs, job)
    assert [jobs.get(job.id) for job in kept[:5]] == [None] * 5
    assert jobs.get(kept[5].id) is kept[5]


def test_data_that_is_read_again_is_not_unpacked_again() -> None:
    jobs, job = UnpackedJobs(), new_job()
    first = jobs.unpack(job.id, pack(job))
    assert first == job
    assert jobs.unpack(job.id, pack(job)) is first


def test_changed_data_is_unpacked() -> None:
    jobs, job = UnpackedJobs(), new_job()
    newer = advance(job, Claimed("h"), 5.0)
    for each in (job, newer, job):
        assert jobs.unpack(job.id, pack(each)) == each


def test_the_unpacked_jobs_are_bounded() -> None:
    jobs, job = UnpackedJobs(), new_job()
    for number in range(2_100):
        jobs.unpack(str(number), pack(job))
    jobs.unpack("large", encode(replace(job, request=replace(job.request, target="/" * 5000))))
    assert len(jobs._known) == 2_000
    assert "large" not in jobs._known
