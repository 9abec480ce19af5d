"""A process that uses both stores until it is killed, and prints what it begins and what has
returned. Run as `python -m tests.faults.store_child DIRECTORY SEED`.
"""

from __future__ import annotations

import asyncio
import hashlib
import json
import os
import random
import sys
from dataclasses import replace
from pathlib import Path

from proxy.core.job import Job
from proxy.ports import Artifact
from proxy.stores.disk_jobs.store import DiskJobs
from proxy.stores.file_artifacts.store import FileArtifacts
from tests.support.fakes import new_job


def say(*words: object) -> None:
    """Write one line to the pipe, unbuffered, so that a kill cannot lose it."""
    os.write(1, json.dumps(words).encode() + b"\n")


def content_of(id: str, size: int) -> bytes:
    """The bytes of the job's file, which the parent knows too."""
    return (hashlib.sha256(id.encode()).digest() * (size // 32 + 1))[:size]


async def live(jobs: DiskJobs, artifacts: FileArtifacts, chance: random.Random) -> None:
    """Take one job from its creation to one of its outcomes."""
    job = new_job(chance.randrange(1000), key=str(chance.randrange(10**9)))
    say("adding", job.id)
    await jobs.add(job, job.id.encode())
    say("added", job.id)
    for _ in range(chance.randrange(4)):
        job = await advance(jobs, job)
    await store(artifacts, job, chance)
    if chance.random() < 0.4:
        say("removing", job.id)
        await artifacts.remove(job.id)
        await jobs.remove(job)
        say("removed", job.id)


async def advance(jobs: DiskJobs, job: Job) -> Job:
    newer = replace(job, version=job.version + 1)
    assert await jobs.replace(job, newer)
    say("replaced", newer.id, newer.version)
    return newer


async def store(artifacts: FileArtifacts, job: Job, chance: random.Random) -> None:
    content = content_of(job.id, chance.choice([0, 10, 100_000, 3_000_000]))
    partial = await artifacts.create(job.id)
    say("created", job.id)
    for at in range(0, len(content), 400_000):
        await partial.write(content[at : at + 400_000])
    if chance.random() < 0.3:
        await partial.keep()
        say("kept", job.id, len(content))
        return

    def record_copy(artifact: Artifact) -> bytes:
        return artifact.sha256

    say("committing", job.id)
    await partial.commit(len(content), record_copy)
    say("committed", job.id, len(content))


async def main(directory: Path, seed: int) -> None:
    """Run four jobs at a time, forever."""
    say("opening")
    jobs, artifacts = await DiskJobs.open(directory), await FileArtifacts.at(directory)
    say("opened", *jobs.notes)

    async def worker(number: int) -> None:
        chance = random.Random(seed * 10 + number)
        while True:
            await live(jobs, artifacts, chance)

    await asyncio.gather(*(worker(number) for number in range(4)))


if __name__ == "__main__":
    asyncio.run(main(Path(sys.argv[1]), int(sys.argv[2])))
