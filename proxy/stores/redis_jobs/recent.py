"""Records that were read within the last second, so that polls cost the store little.

CONTRACT §18 lets a change on another replica take effect within a second. A record is used again
only while the feed of changes is connected, until the feed reports a change of the job or this
replica makes one, and never after a second.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable

from proxy.core.job import Job
from proxy.stores.redis_jobs.entries import unpack

#: Records whose data is kept: 2 MiB, and few of them are larger than 1 KiB.
_UNPACKED, _LARGEST = 2_000, 4096
#: Seconds, less than CONTRACT §18 allows: a report on the feed takes a moment.
_LIFETIME = 0.8
_MOST = 10_000


class UnpackedJobs:
    """The jobs that were unpacked last. Most records that are read are as they were before."""

    def __init__(self) -> None:
        self._known: OrderedDict[str, tuple[bytes, Job]] = OrderedDict()

    def unpack(self, id: str, data: bytes) -> Job:
        """As `entries.unpack`, for the record of the job `id`."""
        found = self._known.get(id)
        if found is not None and found[0] == data:
            self._known.move_to_end(id)
            return found[1]
        job = unpack(data)
        if len(data) <= _LARGEST:
            self._known[id] = data, job
            self._known.move_to_end(id)
            if len(self._known) > _UNPACKED:
                self._known.popitem(last=False)
        return job


class RecentJobs:
    """Recently read jobs by id. `seconds` never jumps."""

    def __init__(self, seconds: Callable[[], float]) -> None:
        self._seconds = seconds
        self._read: OrderedDict[str, tuple[Job, float]] = OrderedDict()
        #: Reads on their way: a change that is reported meanwhile makes their result worthless.
        self._reading: dict[str, object] = {}

    def get(self, id: str) -> Job | None:
        """The job if it was read a moment ago, else None."""
        found = self._read.get(id)
        if found is None:
            return None
        job, until = found
        if self._seconds() < until:
            return job
        del self._read[id]
        return None

    def begin(self, id: str) -> object:
        """Note that a read begins. Pass the result to `put`. Reads at the same time share it, so
        that the result of one of many polls is kept.
        """
        return self._reading.setdefault(id, object())

    def put(self, id: str, token: object, job: Job | None) -> None:
        """Remember what was read, unless the job has changed since the read began."""
        if self._reading.get(id) is not token:
            return
        del self._reading[id]
        if job is not None:
            self._read[id] = job, self._seconds() + _LIFETIME
            self._read.move_to_end(id)
            while len(self._read) > _MOST:
                self._read.popitem(last=False)

    def drop(self, id: str) -> None:
        """Forget a job that changes."""
        self._read.pop(id, None)
        self._reading.pop(id, None)

    def clear(self) -> None:
        """Forget all jobs: any of them may have changed."""
        self._read.clear()
        self._reading.clear()
