"""Records for the tests of job stores."""

from __future__ import annotations

from dataclasses import replace

from proxy.core.job import ErrorCode, Job, JobError

ERROR = JobError(code=ErrorCode.INTERNAL, message="it broke", retryable=False)
REFUSED = JobError(code=ErrorCode.REJECTED, message="401", retryable=False, status=401)


def bumped(job: Job) -> Job:
    return replace(job, version=job.version + 1, updated=job.updated + 1)
