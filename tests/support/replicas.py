"""Replicas over one job store in memory, each of which can be stopped, continued and killed."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager, suppress
from typing import Any, Literal
from uuid import uuid4

from proxy.core.events import CancelRequested, Event, Forgotten
from proxy.core.job import Job, Phase
from proxy.jobs.lease import Lease, LeasedFiles
from proxy.jobs.reconciler import Reconciler
from proxy.jobs.record import advance_for_caller
from proxy.jobs.replica import Member
from proxy.jobs.run import Run
from proxy.jobs.runner import Limits, Runner
from proxy.jobs.sealing import MemoryOnly, Sealer
from proxy.jobs.takeover import TakeOver
from proxy.jobs.transfer import Policy, TransferFactory
from tests.support.export_requests import export_request
from tests.support.fakes import MemoryArtifacts, NobodyKnown
from tests.support.harness import CALL, CONTENT, LIMITS, RETENTION, Crash, FakeUpstream, Stepping
from tests.support.shared import LEASE, MemorySharedJobs, SharedStore

HEARTBEAT = 0.02
#: Steps that a replica takes by itself, whether it runs a job or not.
_BACKGROUND = ("renew", "replicas", "orphans", "slot_use", "due", "leave")


class Process:
    """Every step of a replica. It stops before the step number `stop_at`, or the one with that
    name, and forever if killed.
    """

    def __init__(self) -> None:
        self.count = 0
        self.stop_at: int | str | None = None
        self.stopped = asyncio.Event()
        self.killed = False
        self.step = ""
        self._going = asyncio.Event()
        self._going.set()
        self._buried = asyncio.Event()

    async def __call__(self, name: str) -> None:
        if not name.endswith(_BACKGROUND):
            self.count += 1
            if self.stop_at in (self.count, name):
                self.step = name
                self.stop()
        if not self._going.is_set():
            await self._going.wait()
        if self.killed:
            await self._buried.wait()
            raise Crash(name)

    def stop(self) -> None:
        """As SIGSTOP."""
        self._going.clear()
        self.stopped.set()

    def resume(self) -> None:
        """As SIGCONT."""
        self._going.set()

    def kill(self) -> None:
        """As SIGKILL."""
        self.killed = True
        self.stopped.set()

    def bury(self) -> None:
        """End the tasks of the killed process, which do nothing any more until then."""
        self.resume()
        self.kill()
        self._buried.set()


class Valve(asyncio.Event):
    """Lets `count` waits pass, and the others wait until it is set."""

    def __init__(self, count: int) -> None:
        super().__init__()
        self._count = count

    async def wait(self) -> Literal[True]:
        self._count -= 1
        return True if self._count >= 0 else await super().wait()


class Node:
    """One replica."""

    def __init__(self, cluster: Cluster, limits: Limits, sealer: Sealer) -> None:
        self.process = Process()
        self.store: MemorySharedJobs = cluster.store.handle()
        self.upstream = FakeUpstream(self.process)
        self.cluster = cluster
        jobs: Any = Stepping(self.store, self.process, "jobs")
        artifacts: Any = Stepping(cluster.artifacts, self.process, "artifacts")
        self.jobs = jobs
        self.lease = Lease(jobs, length=LEASE, seconds=lambda: cluster.store.clock)
        self.reconciler = Reconciler(jobs, artifacts, cluster.now, shared=True)
        self.runner = Runner(
            jobs=jobs,
            artifacts=artifacts,
            transfers=TransferFactory(
                jobs=jobs,
                artifacts=LeasedFiles(artifacts, self.lease),
                upstream=self.upstream,
                watch=None,
                policy=Policy(
                    generate_timeout=9, stall_timeout=0.05, attempts=3, result_ttl=RETENTION.result
                ),
                holder=self.store.replica,
                now=cluster.now,
            ),
            limits=limits,
            sealer=sealer,
            trust=NobodyKnown(),
            now=cluster.now,
            shared=jobs,
        )
        self.takeover = TakeOver(
            jobs=jobs,
            reconciler=self.reconciler,
            resume=self.runner.resume_sealed,
            now=cluster.now,
        )
        self.member = Member(
            jobs=jobs,
            lease=self.lease,
            runner=self.runner,
            takeover=self.takeover,
            heartbeat=HEARTBEAT,
        )
        self._task: asyncio.Task[None] | None = None

    async def start(self) -> None:
        await self.member.join()
        await self.reconciler.run()
        await self.runner.start()
        self._task = asyncio.create_task(self.member.run())

    async def stop(self) -> None:
        """As SIGTERM."""
        if self._task is None:
            return
        with suppress(Crash):
            await self.runner.stop()
        self._task.cancel()
        await asyncio.gather(self._task, return_exceptions=True)
        self._task = None
        if not self.process.killed:
            await self.member.leave()

    async def submit(
        self,
        key: str | None = None,
        *,
        owner: str = "o",
        aliases: tuple[str, ...] = (),
        attended: bool = False,
        sealed: str | None = None,
    ) -> tuple[str, Run]:
        request = export_request(content_type="application/json", idempotency_key=key)
        now, id = self.cluster.now(), str(uuid4())  # noqa: A001
        job = Job(
            id=id,
            version=1,
            owner=owner,
            aliases=aliases,
            request=request,
            created=now,
            updated=now,
            sealed=sealed,
        )
        run = Run(id, CALL, attended=attended)
        async with self.runner.admission(owner):
            stored = await self.runner.submit(job, b"{}", run)
        return stored.id, run

    async def event(self, id: str, event: Event) -> None:
        await advance_for_caller(self.jobs, id, event, self.cluster.now)
        await self.runner.wake(id)

    async def cancel(self, id: str) -> None:
        await self.event(id, CancelRequested())

    async def delete(self, id: str) -> None:
        await self.event(id, Forgotten())

    async def call(self, id: str) -> None:
        """A call of the owner: a suspended job resumes."""
        job = await self.jobs.get(id)
        if job is not None:
            await self.runner.resume(job, CALL)


class Cluster:
    """Replicas, their stores and the store's clock."""

    def __init__(self, limits: Limits, sealer: Sealer) -> None:
        self.store = SharedStore()
        self.artifacts = MemoryArtifacts(clock=self.now)
        self.limits = limits
        self.sealer = sealer
        self.nodes: list[Node] = []

    def now(self) -> float:
        return self.store.clock

    async def add(self) -> Node:
        node = Node(self, self.limits, self.sealer)
        self.nodes.append(node)
        await node.start()
        return node

    async def expire(self, node: Node) -> None:
        """Let the node's lease end, and renew those of all others."""
        others = [each for each in self.nodes if each is not node and not each.process.killed]
        for _ in range(4):
            self.store.clock += LEASE / 3
            for each in others:
                await each.member._renew()
        assert not self.store.alive(node.store.replica)

    async def until(self, condition: Callable[[], bool]) -> None:
        async with asyncio.timeout(20):
            while not condition():  # noqa: ASYNC110
                await asyncio.sleep(0.001)

    async def phase(self, id: str, *phases: Phase) -> Job:
        """Wait until the job is in one of the phases."""
        await self.until(lambda: id in self.store.jobs and self.store.jobs[id].phase in phases)
        return self.store.jobs[id]

    def content(self, id: str) -> bytes | None:
        """The bytes of the file that the record names."""
        found = self.artifacts.files.get((id, self.store.jobs[id].fence))
        return None if found is None else found[1]

    def assert_done(self, id: str) -> None:
        job = self.store.jobs[id]
        assert (job.status, job.size) == ("Success", len(CONTENT))
        assert self.content(id) == CONTENT


@asynccontextmanager
async def new_cluster(
    count: int = 2, *, limits: Limits = LIMITS, sealer: Sealer | None = None
) -> AsyncIterator[Cluster]:
    cluster = Cluster(limits, sealer or MemoryOnly())
    try:
        for _ in range(count):
            await cluster.add()
        yield cluster
    finally:
        for node in cluster.nodes:
            node.process.bury()
            node.upstream.gate.set()
        for node in cluster.nodes:
            await node.stop()
