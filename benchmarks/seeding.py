"""Thousands of jobs on record, made as copies of one: to run them takes minutes."""

from __future__ import annotations

import uuid
from collections.abc import Iterator
from contextlib import closing
from dataclasses import replace
from pathlib import Path

from benchmarks.client import connect, kick_off, request, wait_for_end, wait_for_success
from benchmarks.servers import Servers
from proxy.core.job import Job
from proxy.stores.disk_jobs.database import Change, JobDatabase
from proxy.stores.file_artifacts.files import Places

_BATCH = 5_000


def seeded(
    servers: Servers, upstream: int, count: int, *, files: bool = True
) -> tuple[Path, list[str]]:
    """Return a data directory with so many ended jobs of one caller, each in its own session, and
    the paths of the jobs. The upstream is `Servers.silent_upstream`.

    With `files` they have succeeded, otherwise they were cancelled.
    """
    data = servers.new_directory("seeded") / "data"
    with (
        servers.proxy(upstream, settings={"STORAGE__DIR": str(data)}) as proxy,
        connect(proxy) as connection,
    ):
        path = kick_off(connection, "exportToPst" if files else "save")
        if files:
            wait_for_success(connection, path)
        else:
            request(connection, "POST", path + "/cancel", 202)
            wait_for_end(connection, path)
    database = JobDatabase(data)
    (job,) = database.open().jobs
    with closing(database):
        copies = list(_copies(job, count - 1))
        for at in range(0, len(copies), _BATCH):
            batch = copies[at : at + _BATCH]
            if any(database.commit([Change(each.id, each, None) for each in batch])):
                raise RuntimeError("the records cannot be written")
    if files:
        for each in copies:
            _link(data, job, each)
    return data, [path.replace(job.id, each.id) for each in (job, *copies)]


def _copies(job: Job, count: int) -> Iterator[Job]:
    old = job.request.session or ""
    for at in range(count):
        session = str(uuid.uuid4())
        target = job.request.target.replace(old, session)
        request = replace(job.request, session=session, target=target)
        yield replace(job, id=str(uuid.uuid4()), created=job.created - at * 0.001, request=request)


def _link(data: Path, job: Job, copy: Job) -> None:
    """Give the copy the file of the job."""
    one, other = (Places(data / "artifacts" / each.id[:2], each.id) for each in (job, copy))
    other.directory.mkdir(mode=0o700, exist_ok=True)
    other.file.hardlink_to(one.file)
    other.sidecar.hardlink_to(one.sidecar)
