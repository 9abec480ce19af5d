"""`kill -9` at any moment: a call that returned has its effect, one that did not has it completely
or not at all.
"""

from __future__ import annotations

import asyncio
import hashlib
import json
import random
import subprocess
import sys
import threading
from collections import defaultdict
from dataclasses import dataclass, field
from pathlib import Path

import pytest

from proxy.stores.disk_jobs.store import DiskJobs
from proxy.stores.file_artifacts.store import FileArtifacts
from tests.faults.store_child import content_of
from tests.unit.stores.test_disk_jobs import DAMAGE, fill

ROOT = Path(__file__).parents[2]
ROUNDS = 8


@dataclass
class Log:
    """What the children printed, by job."""

    steps: defaultdict[str, list[str]] = field(default_factory=lambda: defaultdict(list))
    versions: dict[str, int] = field(default_factory=dict)
    sizes: dict[str, int] = field(default_factory=dict)
    notes: list[str] = field(default_factory=list)

    def take(self, line: bytes) -> None:
        word, *rest = json.loads(line)
        if word == "opened":
            self.notes += rest
        elif rest:
            self.steps[rest[0]].append(word)
            if word == "replaced":
                self.versions[rest[0]] = rest[1]
            elif word in ("kept", "committed"):
                self.sizes[rest[0]] = rest[1]


def run_and_kill(directory: Path, seed: int, log: Log) -> None:
    """Start a child and kill it after a number of lines, or a moment after it began to open the
    stores.
    """
    chance = random.Random(seed)
    command = [sys.executable, "-m", "tests.faults.store_child", str(directory), str(seed)]
    with subprocess.Popen(command, cwd=ROOT, stdout=subprocess.PIPE) as child:
        assert child.stdout is not None
        guard = threading.Timer(60, child.kill)
        guard.start()
        for _ in range(chance.choice([1, 2, 40, 300, 800, 1200])):
            log.take(child.stdout.readline())
        threading.Event().wait(chance.random() * 0.02)
        child.kill()
        for line in child.stdout:
            log.take(line)
        guard.cancel()
    assert child.returncode == -9


async def check(directory: Path, log: Log) -> None:
    jobs, artifacts = await DiskJobs.open(directory), await FileArtifacts.at(directory)
    assert [*jobs.notes, *log.notes] == []
    for job in await jobs.list():
        assert "adding" in log.steps[job.id]
    for each, steps in log.steps.items():
        await check_record(jobs, each, steps, log.versions.get(each, 1))
        await check_file(artifacts, each, steps, log.sizes.get(each))
    assert await artifacts.ids() <= log.steps.keys()
    await check_no_orphans(directory, artifacts)
    await jobs.close()
    await artifacts.close()


async def check_record(jobs: DiskJobs, id: str, steps: list[str], version: int) -> None:
    job = await jobs.get(id)
    if "removed" in steps:
        assert job is None
    elif "added" in steps and "removing" not in steps:
        assert job is not None
        assert job.version in (version, version + 1)
    if job is not None:
        assert await jobs.body(id) == id.encode()
        assert await jobs.find(job.owner, str(job.request.idempotency_key)) == job


async def check_file(artifacts: FileArtifacts, id: str, steps: list[str], size: int | None) -> None:
    artifact = await artifacts.get(id)
    if "removed" in steps:
        assert id not in await artifacts.ids()
    elif "removing" not in steps:
        assert (artifact is not None) or "committed" not in steps
        assert (artifact is None) or "committing" in steps
    if artifact is not None:
        await check_content(artifacts, id, size)
    elif "kept" in steps and "removing" not in steps:
        partial = await artifacts.resume(id)
        assert partial is not None
        assert partial.offset == size
        await partial.keep()


async def check_content(artifacts: FileArtifacts, id: str, size: int | None) -> None:
    reader = await artifacts.open(id)
    assert reader is not None
    content = b"".join([piece async for piece in reader.chunks(0, reader.artifact.size)])
    await reader.close()
    assert size in (None, reader.artifact.size)
    assert content == content_of(id, reader.artifact.size)
    assert (
        reader.artifact.sha256
        == hashlib.sha256(content).digest()
        == await artifacts.record_copy(id)
    )


async def check_no_orphans(directory: Path, artifacts: FileArtifacts) -> None:
    """Check that every file belongs to an id in the store, so that removing the ids leaves
    nothing.
    """
    names = await asyncio.to_thread(
        lambda: [path.name for path in (directory / "artifacts").rglob("*.*")]
    )
    assert {name.partition(".")[0] for name in names} == await artifacts.ids()


def test_a_killed_process_loses_no_job_and_leaves_no_orphan(tmp_path: Path) -> None:
    """§3.6, §15: every accepted job, every committed file and nothing else; several rounds in one
    directory.
    """
    log = Log()
    for number in range(ROUNDS):
        run_and_kill(tmp_path, number, log)
        asyncio.run(check(tmp_path, log))
    steps = [word for words in log.steps.values() for word in words]
    assert {"added", "replaced", "kept", "committed", "removed"} <= set(steps)

    async def clean() -> None:
        artifacts = await FileArtifacts.at(tmp_path)
        for each in await artifacts.ids():
            await artifacts.remove(each)
        assert await artifacts.used() == 0
        await artifacts.close()

    asyncio.run(clean())
    assert list((tmp_path / "artifacts").rglob("*.*")) == []


@pytest.mark.parametrize("seed", range(3))
def test_a_process_killed_while_it_replaces_a_database_loses_no_record(
    tmp_path: Path, seed: int
) -> None:
    """One of the two databases is complete at any moment."""
    jobs = fill(tmp_path, 2000)
    DAMAGE["a foreign setting"](tmp_path / "jobs" / "cache.db")
    command = [sys.executable, "-m", "tests.faults.store_child", str(tmp_path), "0"]
    for number in range(3):
        with subprocess.Popen(command, cwd=ROOT, stdout=subprocess.PIPE) as child:
            assert child.stdout is not None
            assert child.stdout.readline() == b'["opening"]\n'
            threading.Event().wait(random.Random(seed * 10 + number).random() * 0.4)
            child.kill()

    async def count() -> None:
        store = await DiskJobs.open(tmp_path)
        assert {job.id for job in jobs} <= {job.id for job in await store.list()}
        await store.close()

    asyncio.run(count())
