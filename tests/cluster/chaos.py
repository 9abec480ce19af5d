"""Exports through three replicas behind HAProxy while replicas, networks and stores fail."""

from __future__ import annotations

import asyncio
import hashlib
import itertools
import signal
import time
from collections import Counter, defaultdict
from collections.abc import Awaitable, Callable, Iterator
from functools import partial
from pathlib import Path
from typing import Any

import aiohttp
import pytest

from proxy.core.job import Job, ResultState
from proxy.core.retention import Retention
from proxy.jobs.reconciler import Reconciler
from proxy.jobs.sweeper import Sweeper
from proxy.ports import ArtifactStore
from proxy.simulator import Simulator, SimulatorSettings
from proxy.stores.file_artifacts.store import FileArtifacts
from proxy.stores.object_artifacts import sharing
from proxy.stores.object_artifacts.location import Location
from proxy.stores.object_artifacts.store import ObjectArtifacts
from proxy.stores.redis_jobs.store import RedisJobs
from tests.cluster.balanced import LEASE, Balanced, Replica, balanced
from tests.faults.chaos import Callers, Report
from tests.support.process import Caller
from tests.support.redis_server import RedisServer, valkey
from tests.support.redis_server import running as running_server

_CALLERS = 12
#: Seconds of a call before its caller tries again.
_PATIENCE = 12
#: Seconds within which all jobs end when nothing fails any more.
_END = 150
#: How often no unfinished job is found at the end.
_LOOKS = 5
#: Seconds until a change is seen on all replicas (CONTRACT §18).
_SOON = 1.0
#: The codes with which a job may fail here (CONTRACT §5): a store that is away is no reason.
_REASONS = {
    "UpstreamRejected",
    "UpstreamError",
    "UpstreamUnreachable",
    "UpstreamTimeout",
    "UpstreamTruncated",
}
#: `exports.attempts`
ATTEMPTS = 3
#: In the message of a job that may fail as Interrupted: replicas were killed in each attempt.
_LAST_ATTEMPT = f"that was the last of its attempts ({ATTEMPTS})"


class ClusterChaos(Callers):
    """Callers of the balancer, and tasks that inject faults."""

    impatience = 0.15
    tidiness = 0.5

    def __init__(
        self, cluster: Balanced, simulator: Simulator, server: RedisServer, *, seed: int
    ) -> None:
        super().__init__(simulator, cluster, seed=seed)
        self.cluster = cluster
        self._server = server
        #: The jobs that were accepted, and how often that was tried, by path.
        self.accepted: defaultdict[str, set[str]] = defaultdict(set)
        #: The jobs that were accepted with a key, by path and token: these tokens have no claims,
        #: so that a caller who has to log in again is another one (CONTRACT §8).
        self.keyed: defaultdict[tuple[str, str], set[str]] = defaultdict(set)
        self.tries: Counter[str] = Counter()
        #: Held by the fault that strikes the job store.
        self.restarting = asyncio.Lock()

    async def run(self, exports: int, seconds: float) -> Report:
        """Run `exports` exports; faults are injected for at most `seconds`."""
        begun = time.monotonic()
        injectors = [asyncio.create_task(self.repeat(*each)) for each in self._injectors()]
        todo = iter(range(exports))
        connector = aiohttp.TCPConnector(limit=0, ssl=self.cluster.trusting)
        timeout = aiohttp.ClientTimeout(_PATIENCE)
        async with aiohttp.ClientSession(connector=connector, timeout=timeout) as http:
            callers = [asyncio.create_task(self.call_for(http, todo)) for _ in range(_CALLERS)]
            await asyncio.wait(callers, timeout=seconds)
            for injector in injectors:
                injector.cancel()
            await asyncio.gather(*injectors, return_exceptions=True)
            await self._calm()
            await asyncio.wait_for(asyncio.gather(*callers), _END)
            await asyncio.wait_for(self._finish_unknown(http), _END)
        for replica in self.cluster.replicas:
            assert await replica.process.stop() == 0
        self.report.seconds = time.monotonic() - begun
        self.discount_unmet()
        return self.report

    async def _calm(self) -> None:
        """Wait for the end of what the last faults do."""
        for replica in self.cluster.replicas:
            async with replica.busy:
                replica.buckets.bad = False
        async with self.restarting:
            pass

    # Callers

    async def _insist(
        self, caller: Caller, ask: Callable[[], Awaitable[tuple[int, Any]]]
    ) -> tuple[int, Any]:
        """As in the base class; what HAProxy says of a lost replica is no response, either."""
        while True:
            status, document = await super()._insist(caller, ask)
            if status < 500 or not isinstance(document, bytes):
                return status, document
            await asyncio.sleep(0.1)

    async def _kick_off(self, caller: Caller, path: str, key: str) -> str | None:
        """Some have no key, and some send the same twice at a time, or again later."""
        fields = {"Prefer": "respond-async"}
        if keyed := self.chance.random() < 0.75:
            fields["Idempotency_Key"] = key

        async def ask() -> tuple[int, Any]:
            self.tries[path] += 1
            token, sent = caller.token["Authorization"], time.monotonic()
            status, document = await caller.ask("POST", path, **fields)
            if status == 202:
                self.note_accepted(path, document["id"], token if keyed else None, sent)
            return status, document

        wish = self.chance.random() if keyed else 1.0
        for _ in range(8):
            together = [self._insist(caller, ask) for _ in range(2 if wish < 0.2 else 1)]
            status, document = (await asyncio.gather(*together))[0]
            if status == 202:
                if wish > 0.8 and keyed:
                    await self._insist(caller, ask)
                return str(document["id"])
            await asyncio.sleep(0.3)
        self.report.outcomes[f"refused at kick-off with {status}"] += 1
        return None

    def note_accepted(self, path: str, job: str, token: str | None, sent: float) -> None:
        """Note a job that was accepted, with the caller's token if it has a key. `sent` is when its
        kick-off was sent.
        """
        self.accepted[path].add(job)
        if token is not None:
            self.keyed[path, token].add(job)

    async def _terminal(self, caller: Caller, own: str) -> Any:
        """Poll, and wait for changes. No replica shows a document that is older than one which was
        seen a second before the request.
        """
        newest, since, fields = 0, 0.0, dict[str, str]()
        while True:
            sent_at = time.monotonic()
            poll = partial(caller.ask, "GET", own, **fields)
            status, document = await self._insist(caller, poll)
            assert status in (200, 202), (status, document)
            if document["eTag"] < newest:
                assert sent_at < since + _SOON, (newest, document)
            elif document["eTag"] > newest:
                newest, since = document["eTag"], time.monotonic()
            if status == 200:
                return document
            fields = {"Prefer": "wait=3"} if self.chance.random() < 0.3 else {}
            await asyncio.sleep(0.15)

    async def _download(self, caller: Caller, own: str, path: str, size: int) -> None:
        """Some ask for the file in parts, and each part goes to any replica."""
        if self.chance.random() < 0.5:
            await super()._download(caller, own, path, size)
            return
        cuts = sorted({0, size, *(self.chance.randrange(size) for _ in range(5))})
        data = b""
        for start, stop in itertools.pairwise(cuts):
            part = f"bytes={start}-{stop - 1}"
            status, found = await self._insist(
                caller, partial(caller.ask, "GET", own + "/result", Range=part)
            )
            assert status == 206, found
            assert len(found) == stop - start
            data += found
        assert hashlib.sha256(data).hexdigest() == self._simulator.content(path).sha256()
        self.report.bytes += size

    async def _finish_unknown(self, http: aiohttp.ClientSession) -> None:
        """Jobs whose 202 never reached the caller end, too: by themselves, or by a call. A replica
        that was stopped may accept some for a moment, from callers that have left.
        """
        caller = Caller(self.cluster, http, self._simulator.login())
        store = await RedisJobs.open(self.cluster.jobs)
        try:
            looks = 0
            while looks < _LOOKS:
                found = await store.list()
                unfinished = [job.id for job in found if not (job.terminal or job.forgotten)]
                self.report.outcomes["accepted without a response"] += len(unfinished)
                for job in unfinished:
                    await self._finish(caller, job)
                looks = 0 if unfinished else looks + 1
                await asyncio.sleep(0.2)
        finally:
            await store.close()

    async def _finish(self, caller: Caller, job: str) -> None:
        await self._insist(caller, lambda: caller.ask("GET", "/v8/_async/exports"))
        status = 202
        while status == 202:
            own = f"/v8/_async/exports/{job}"
            status, _ = await self._insist(caller, partial(caller.ask, "GET", own))
            await asyncio.sleep(0.15)

    # Fault injection

    def _injectors(self) -> list[tuple[str, float, float, Callable[[], Awaitable[None]]]]:
        made: list[tuple[str, float, float, Callable[[], Awaitable[None]]]] = [
            ("replica killed (SIGKILL)", 2, 5, self._kill),
            ("replica stopped longer than its lease", 4, 8, self._stop),
            ("replica cut off from the job store", 2, 6, self._cut_jobs),
            ("replica cut off from VB365", 4, 9, self._cut_upstream),
            ("job store restarted with its data", 6, 12, self._restart_jobs),
            ("VB365 restarted", 10, 20, self._simulator.restart),
        ]
        if self.cluster.artifacts != "file":
            for replica in self.cluster.replicas:
                replica.buckets.bad = True
            made.append(("replica cut off from the object store", 2, 6, self._cut_buckets))
        return made

    def _any(self) -> Replica:
        """A replica on which no other fault is acting, if there is one."""
        replicas = self.cluster.replicas
        return self.chance.choice([r for r in replicas if not r.busy.locked()] or replicas)

    async def _kill(self) -> None:
        replica = self._any()
        async with replica.busy:
            await replica.process.kill()
            self.report.faults["start without a store"] += await replica.start()

    async def _stop(self) -> None:
        replica = self._any()
        async with replica.busy:
            replica.signal(signal.SIGSTOP)
            await asyncio.sleep(LEASE + self.chance.uniform(0.5, 3))
            replica.signal(signal.SIGCONT)

    async def _cut_jobs(self) -> None:
        replica = self._any()
        async with replica.busy:
            await replica.jobs.fail(self._time(), silent=self.chance.random() < 0.5)

    async def _cut_upstream(self) -> None:
        replica = self._any()
        async with replica.busy:
            await replica.upstream.fail(self._time(), silent=self.chance.random() < 0.5)

    async def _cut_buckets(self) -> None:
        replica = self._any()
        async with replica.busy:
            replica.buckets.reachable = False
            await asyncio.sleep(self._time())
            replica.buckets.reachable = True

    def _time(self) -> float:
        return self.chance.choice([self.chance.uniform(0.2, 2), LEASE + self.chance.uniform(1, 3)])

    async def _restart_jobs(self) -> None:
        async with self.restarting:
            await asyncio.to_thread(self._server.kill)
            await asyncio.sleep(self.chance.uniform(0, 1.5))
            await asyncio.to_thread(self._server.start)

    # The end

    async def check(self, place: Path) -> None:
        """Check records and files when no replica runs any more, and what the replicas logged."""
        errors = self.cluster.errors()
        assert not errors, "\n".join(errors)
        jobs = await RedisJobs.open(self.cluster.jobs)
        artifacts = await artifact_store(self.cluster.artifacts, place)
        try:
            await _sweep(jobs, artifacts)
            found = await jobs.list()
            self._check_records(found)
            promised = {job.id: job for job in found if job.result is ResultState.AVAILABLE}
            async with asyncio.timeout(20):
                while await artifacts.ids() != promised.keys():  # noqa: ASYNC110  # removed later
                    await asyncio.sleep(0.1)
            for job in promised.values():
                self._check_content(job, await _content(artifacts, job))
            assert await artifacts.used() == sum(job.size or 0 for job in promised.values())
            for job_id in promised:
                await artifacts.remove(job_id)
            async with asyncio.timeout(20):
                while await artifacts.ids() or await artifacts.used():  # noqa: ASYNC110
                    await asyncio.sleep(0.1)
            await self._check_keys(jobs, found)
        finally:
            await artifacts.close()
            await jobs.close()

    def _check_records(self, found: list[Job]) -> None:
        assert [job for job in found if not job.terminal and not job.forgotten] == []
        errors = [job.error for job in found if job.error is not None]
        others = [each for each in errors if each.code not in _REASONS]
        assert [each for each in others if _LAST_ATTEMPT not in each.message] == []
        assert [jobs for jobs in self.keyed.values() if len(jobs) > 1] == []
        for job in found:
            if not job.forgotten:
                self.accepted[job.request.target].add(job.id)
        for path, count in self._simulator.generations.items():
            jobs, tries = self.accepted[path], self.tries[path]
            assert count <= self.most_generations(path), (path, count, jobs, tries)

    def most_generations(self, path: str) -> int:
        """How often VB365 may have generated the file. A kick-off that is refused leaves no record,
        and one generation.
        """
        return ATTEMPTS * len(self.accepted[path]) + self.tries[path]

    def _check_content(self, job: Job, data: bytes) -> None:
        assert len(data) == job.size
        wanted = self._simulator.content(job.request.target).sha256()
        assert hashlib.sha256(data).hexdigest() == wanted, job

    async def _check_keys(self, jobs: RedisJobs, found: list[Job]) -> None:
        prefix = jobs._prefix
        keys = {key.decode().removeprefix(prefix) for key in await _keys(jobs, f"{prefix}*")}
        names = Counter(key.partition(":")[0] for key in keys)
        assert names["job"] == len(found)
        for name in ("body", "active", "waiting", "slots"):
            assert names[name] == 0, keys


async def _keys(jobs: RedisJobs, pattern: str) -> list[bytes]:
    cursor, keys = b"0", list[bytes]()
    while True:
        cursor, some = await jobs._connections.command(
            "SCAN", cursor, "MATCH", pattern, "COUNT", 1000
        )
        keys += some
        if int(cursor) == 0:
            return keys


async def artifact_store(where: str, place: Path) -> ArtifactStore:
    """The store that `storage.artifacts` names."""
    if where == "file":
        return await FileArtifacts.at(place / "data")
    return await ObjectArtifacts.at(Location.parse(where))


async def _sweep(jobs: RedisJobs, artifacts: ArtifactStore) -> None:
    async def wake(id: str) -> None:
        await artifacts.remove(id)

    await Sweeper(
        jobs=jobs,
        artifacts=artifacts,
        retention=Retention(result=86_400, record=86_400),
        suspend_ttl=3600,
        wake=wake,
        adopt=Reconciler(jobs, artifacts, time.time, shared=True).adopt,
        now=time.time,
    ).sweep()


async def _content(artifacts: ArtifactStore, job: Job) -> bytes:
    reader = await artifacts.open(job.id, job.fence)
    assert reader is not None, job
    try:
        return b"".join([bytes(piece) async for piece in reader.chunks(0, reader.artifact.size)])
    finally:
        await reader.close()


async def run(
    place: Path,
    *,
    exports: int,
    seconds: float,
    seed: int,
    largest: float,
    endpoint: str | None,
    kind: Callable[..., ClusterChaos] = ClusterChaos,
    **settings: str,
) -> Report:
    """Run the exports, of at most two to the power of `largest` bytes, and check everything
    afterwards.
    """
    rate = 2**largest / 4
    simulator = Simulator(SimulatorSettings(records=100_000, generate=0.4, rate=rate))
    await simulator.start()
    (directory := place / "valkey").mkdir()
    try:
        with running_server(directory, valkey()) as server:
            async with balanced(
                place, simulator, server, endpoint=endpoint, seed=seed, **settings
            ) as cluster:
                chaos = kind(cluster, simulator, server, seed=seed)
                chaos.largest = largest
                try:
                    report = await chaos.run(exports, seconds)
                finally:
                    cluster.write_logs(place)
                await chaos.check(place)
                return report
    finally:
        await simulator.stop()


def without_grace() -> Iterator[None]:
    """Let segments be removed at once: no replica runs any more that reads them."""
    with pytest.MonkeyPatch.context() as patch:
        for name in ("TICK", "GRACE", "_DEAD"):
            patch.setattr(sharing, name, 0.05)
        yield
