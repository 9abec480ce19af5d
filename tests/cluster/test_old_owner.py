"""Replicas that stop at any step of an export, and continue when another one has finished it, write
neither record nor byte (CONTRACT §18). All are processes of their own.
"""

from __future__ import annotations

import asyncio
import hashlib
import re
import signal
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from contextlib import AsyncExitStack, asynccontextmanager
from pathlib import Path
from typing import Any
from uuid import uuid4

import aiohttp
import pytest

from proxy.core.job import Job
from proxy.simulator import Simulator, SimulatorSettings
from proxy.stores.object_artifacts.layout import ROOT
from proxy.stores.object_artifacts.location import Location
from proxy.stores.redis_jobs.store import RedisJobs
from tests.cluster.conftest import LEASE, LIMIT
from tests.cluster.self_stopping import ENDED, STOPPED
from tests.support.process import Caller, ProxyProcess
from tests.support.redis_server import RedisServer

pytestmark = pytest.mark.timeout(300)

RECORDS = [
    "after accepting",
    "before recording Transferring",
    "after recording Transferring",
    "before recording progress",
    "before recording Finalizing",
    "after recording Finalizing",
    "before recording Completed",
    "after recording Completed",
]
FILES = [
    "before creating the file",
    "before writing",
    "after writing",
    "before checking the file",
    "before writing the sidecar",
    "after writing its draft",
    "before renaming the file",
    "before syncing the directory",
]
OBJECTS = [
    "before creating the file",
    "before writing",
    "after writing",
    "before committing the file",
    "after committing the file",
    "before tidying",
]
SETTINGS = LEASE | {
    "EXPORTS__MAX_RUNNING": "100",
    "EXPORTS__GRACE": "0s",
    "EXPORTS__STALL_TIMEOUT": "30s",
}
#: Exports that are started at a time.
_STARTED = 4
#: The content of every file below the directory or prefix, by name.
Read = Callable[[], Awaitable[dict[str, bytes]]]


class Owner(ProxyProcess):
    """A replica that stops at one step of an export."""

    program = "tests.cluster.self_stopping"

    def __init__(self, step: str, directory: Path, upstream: str, **settings: Any) -> None:
        super().__init__(directory, upstream, **settings)
        self.step = step
        self._environment["TESTS_STOP_AT"] = step

    async def stopped(self) -> None:
        """Return when the process has stopped."""
        status = Path(f"/proc/{self.pid}/stat")
        await self._until(lambda: status.read_text().rpartition(")")[2].split()[0] == "T")

    async def tried(self, asking: asyncio.Task[int]) -> bool:
        """Return when it has stopped, or has ended the export before that step: on a busy machine
        its lease may end, or the job store be slow. `asking` is the kick-off, for its status.
        """
        ended = self.lines.count(ENDED)
        await self._until(
            lambda: (
                STOPPED in self.lines
                or self.lines.count(ENDED) > ended
                or (asking.done() and asking.result() != 202)
            )
        )
        return STOPPED in self.lines

    async def ended(self) -> None:
        """Return when it runs no export any more, and has logged that its lease had ended."""
        since = self.lines.index(STOPPED)
        await self._until(lambda: ENDED in self.lines[since:])
        lost = "the lease of this replica had ended"
        await self._until(lambda: any(lost in line for line in self.lines[since:]))

    async def _until(self, condition: Callable[[], bool]) -> None:
        try:
            async with asyncio.timeout(LIMIT):
                while not condition():  # noqa: ASYNC110  # of another process
                    await asyncio.sleep(0.02)
        except TimeoutError:
            pytest.fail(f"{self.step}: {''.join(self.lines)}")


class Scene:
    """An owner for each step, and the replica that takes all jobs over."""

    def __init__(
        self,
        owners: Sequence[Owner],
        successor: ProxyProcess,
        simulator: Simulator,
        jobs: RedisJobs,
        read: Read,
    ) -> None:
        self._owners = owners
        self._successor = successor
        self._simulator = simulator
        self._jobs = jobs
        self._read = read

    async def records(self) -> dict[str, Job]:
        """All records, by step."""
        return {str(job.request.idempotency_key): job for job in await self._jobs.list()}

    async def files(self) -> dict[str, dict[str, str]]:
        """The digests of all files by the step and by the rest of the name after the job's id."""
        steps = {job.id: step for step, job in (await self.records()).items()}
        found: dict[str, dict[str, str]] = {step: {} for step in steps.values()}
        for name, content in (await self._read()).items():
            _, job, rest = re.split(r"([0-9a-f-]{36})", name, maxsplit=1)
            found[steps[job]][rest] = hashlib.sha256(content).hexdigest()
        return found

    async def play(self) -> dict[str, tuple[Job, set[str]]]:
        """Let all owners stop, the successor finish their jobs, and all owners continue, which must
        not change anything. Return each record with the names of its files.
        """
        simulator, owners = self._simulator, self._owners
        token = simulator.login()
        paths = simulator.export_paths(simulator.open_session())
        path = next(each for each in paths if each.endswith("exportToPst"))

        async with aiohttp.ClientSession() as http:

            async def kick_off(owner: Owner, key: str) -> int:
                fields = {"Prefer": "respond-async", "Idempotency_Key": key}
                return (await Caller(owner, http, token).ask("POST", path, **fields))[0]

            async def stop(owner: Owner) -> None:
                """Start exports until it stops in one."""
                async with at_a_time:
                    stopped, number = False, 0
                    while not stopped:
                        number += 1
                        key = f"{owner.step}:{number}".replace(" ", "-")
                        asking.append(asyncio.create_task(kick_off(owner, key)))
                        stopped = await owner.tried(asking[-1])
                await owner.stopped()

            at_a_time = asyncio.Semaphore(_STARTED)
            asking: list[asyncio.Task[int]] = []
            await asyncio.gather(*map(stop, owners))
            ids = [job.id for job in await self._jobs.list()]
            assert len(ids) >= len(owners)
            caller = Caller(self._successor, http, token)
            for document in await asyncio.gather(*(_document(caller, each) for each in ids)):
                assert document["status"] == "Success", document
            await self._until_alone()
            records, files = await self.records(), await self.files()
            for each in owners:
                each.send_signal(signal.SIGCONT)
            await asyncio.gather(*(each.ended() for each in owners), *asking)
            assert set(await asyncio.gather(*(each.stop() for each in owners))) == {0}
            assert await self.records() == records
            left = await self.files()
            assert _new(left, files) == {}
            wanted = simulator.content(path).sha256()
            for job in ids:
                assert hashlib.sha256(await caller.file(job)).hexdigest() == wanted
        return {step: (job, set(left[step])) for step, job in records.items()}

    async def _until_alone(self) -> None:
        """Return when the leases of all owners have ended."""
        async with asyncio.timeout(LIMIT):
            while len(await self._jobs.replicas()) > 1:  # noqa: ASYNC110
                await asyncio.sleep(0.1)


async def _document(caller: Caller, job: str) -> Any:
    """The document of the job, once it has ended. A store that is slow is asked again."""
    async with asyncio.timeout(2 * LIMIT):
        while (response := await caller.status(job))[0] != 200:  # noqa: ASYNC110  # as callers do
            await asyncio.sleep(0.2)
    return response[1]


def _new(now: dict[str, dict[str, str]], before: dict[str, dict[str, str]]) -> dict[str, set[str]]:
    """The files that were not there before, or had other bytes, by step."""
    found = {step: set(files.items() - before[step].items()) for step, files in now.items()}
    return {step: {name for name, _ in files} for step, files in found.items() if files}


@asynccontextmanager
async def scene(
    place: Path, store: RedisServer, steps: Sequence[str], read: Read, **settings: str
) -> AsyncIterator[Scene]:
    """The replicas, in front of a simulator."""
    url = f"{store.url}?prefix={uuid4()}"
    given: dict[str, Any] = SETTINGS | {"STORAGE__JOBS": url} | settings
    async with AsyncExitStack() as stack:
        simulator = Simulator(SimulatorSettings(size=3_000_000))
        await simulator.start()
        stack.push_async_callback(simulator.stop)
        successor = ProxyProcess(place / "data", simulator.url, **given)
        owners = [Owner(step, place / "data", simulator.url, **given) for step in steps]
        for each in (successor, *owners):
            stack.push_async_callback(each.kill)
        await successor.start()
        await asyncio.gather(*(each.start() for each in owners))
        jobs = await RedisJobs.open(url)
        stack.push_async_callback(jobs.close)
        yield Scene(owners, successor, simulator, jobs, read)


async def test_an_old_owner_writes_nothing_to_a_shared_directory(
    tmp_path: Path, valkey_server: RedisServer
) -> None:
    """§18: nothing that it had begun to store is left, either."""
    artifacts = tmp_path / "data" / "artifacts"

    def contents() -> dict[str, bytes]:
        return {each.name: each.read_bytes() for each in artifacts.rglob("*.*") if each.is_file()}

    async def read() -> dict[str, bytes]:
        return await asyncio.to_thread(contents)

    async with scene(tmp_path, valkey_server, RECORDS + FILES, read) as replicas:
        found = await replicas.play()
    for step, (job, names) in found.items():
        assert (step, names) == (step, {f".{job.fence}.file", f".{job.fence}.json"})


async def test_an_old_owner_writes_nothing_to_a_bucket(
    tmp_path: Path, valkey_server: RedisServer, s3_endpoint: str
) -> None:
    """§18: nothing that it had begun to store is left, either."""
    url = f"s3://tests/{uuid4()}?endpoint={s3_endpoint}&allow_http=true"
    bucket = await asyncio.to_thread(Location.parse(url).connect)

    async def read() -> dict[str, bytes]:
        return {key: await bucket.read(key) or b"" for key in await bucket.sizes(ROOT)}

    steps = RECORDS + OBJECTS
    async with scene(tmp_path, valkey_server, steps, read, STORAGE__ARTIFACTS=url) as replicas:
        found = await replicas.play()
    for step, (job, names) in found.items():
        kinds = {re.sub(r"/\d{8}-\w{16}$", "/segment", name) for name in names}
        assert (step, kinds) == (step, {f"/{job.fence}.json", f"/{job.fence}/segment"})
