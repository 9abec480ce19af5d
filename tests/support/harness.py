"""A runner between stores and an upstream in memory, every step of which can be delayed, failed or
the last one.
"""

from __future__ import annotations

import asyncio
import base64
import hashlib
import random
import re
from collections import deque
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from typing import Any
from uuid import uuid4

from proxy.core.events import CancelRequested, Event, Forgotten, Released
from proxy.core.job import Job, Phase, ResultState, Status
from proxy.core.retention import Retention
from proxy.jobs.reconciler import Reconciler
from proxy.jobs.record import advance_for_caller
from proxy.jobs.run import Run
from proxy.jobs.runner import Limits, Runner
from proxy.jobs.sealing import MemoryOnly
from proxy.jobs.sweeper import Sweeper
from proxy.jobs.transfer import Policy, TransferFactory
from proxy.ports import Field, Fields, UpstreamBroken, UpstreamTimedOut, UpstreamUnreachable
from tests.support.export_requests import export_request
from tests.support.fakes import MemoryArtifacts, MemoryJobs, NobodyKnown

CONTENT = b"!BDN" + random.Random(1).randbytes(4996)
DIGEST = hashlib.sha256(CONTENT).digest()
PIECE = 1000
CALL: list[Field] = [
    (b"Host", b"vb365"),
    (b"Authorization", b"Bearer a"),
    (b"Content-Type", b"application/json"),
]
LIMITS = Limits(max_running=2, max_queued=100, max_per_caller=100, min_free=0, max_bytes=None)
RETENTION = Retention(result=100.0, record=1000.0)
SUSPEND_TTL = 50.0

Tick = Callable[[str], Awaitable[None]]


class Crash(BaseException):
    """The process ends here."""


class Steps:
    """What happens at every step of the stores and of the upstream."""

    def __init__(self, *, crash_at: int | None = None, yields: random.Random | None = None) -> None:
        self.count = 0
        self.crashed = asyncio.Event()
        self.last = ""
        self._crash_at = crash_at
        self._yields = yields

    async def __call__(self, name: str) -> None:
        """A dead process does nothing any more: every later step ends its task too."""
        self.count += 1
        if self.count == self._crash_at:
            self.last = name
            self.crashed.set()
        if self.crashed.is_set():
            raise Crash(name)
        for _ in range(self._yields.randrange(4) if self._yields else 0):
            await asyncio.sleep(0)

    def kill(self) -> None:
        self.crashed.set()


class Stepping:
    """A store each call of which is a step before its effect and one after it."""

    def __init__(self, inner: Any, step: Tick, name: str) -> None:
        self._inner, self._step, self._name = inner, step, name

    def __getattr__(self, attribute: str) -> Any:
        found = getattr(self._inner, attribute)
        if not asyncio.iscoroutinefunction(found):
            return found

        async def stepped(*args: Any, **kwargs: Any) -> Any:
            name = f"{self._name}.{attribute}"
            await self._step(f"before {name}")
            result = await found(*args, **kwargs)
            await self._step(f"after {name}")
            return (
                Stepping(result, self._step, "partial")
                if attribute in ("create", "resume") and result
                else result
            )

        return stepped


class Reply:
    """An answer of the upstream."""

    reason = b"OK"

    def __init__(
        self, owner: FakeUpstream, status: int, fields: Fields, data: bytes, **facts: Any
    ) -> None:
        self.status, self.fields = status, fields
        self.lines = b"".join(b"%b: %b\r\n" % field for field in fields)
        self.length: int | None = facts.get("length", len(data))
        self.delimited: bool = facts.get("delimited", True)
        self._cut: int | None = facts.get("cut")
        self._owner, self._data, self._sent = owner, data, 0

    async def read(self) -> bytes:
        await self._owner.step("upstream.read")
        await self._owner.gate.wait()
        if self._cut is not None and self._sent >= self._cut:
            raise UpstreamBroken("cut", delivered=True)
        stop = min(self._sent + PIECE, len(self._data) if self._cut is None else self._cut)
        piece, self._sent = self._data[self._sent : stop], stop
        return piece

    def close(self) -> None:
        """Nothing is kept open."""


class FakeUpstream:
    """Serves CONTENT; `plan` holds what becomes of the POSTs to come, "ok" when it is empty."""

    MISDEEDS = (
        "cut",
        "cut0",
        "lie",
        "500",
        "404",
        "401",
        "refused",
        "reset",
        "timeout",
        "ignore",
        "range",
        "chunked",
    )

    def __init__(self, step: Tick) -> None:
        self.step = step
        self.plan: deque[str] = deque()
        self.posts: list[int] = []
        self.gate = asyncio.Event()
        self.gate.set()

    @property
    def generations(self) -> int:
        return sum(offset == 0 for offset in self.posts)

    async def send(
        self,
        method: bytes,
        target: bytes,
        fields: Fields,
        body: bytes = b"",
        *,
        timeout: float,
        stall: float,
    ) -> Any:
        await self.step("upstream.send")
        assert body == b"{}"
        deed = self.plan.popleft() if self.plan else "ok"
        if deed == "refused":
            raise UpstreamUnreachable("refused", delivered=False)
        found = next(
            (re.fullmatch(rb"bytes=(\d+)-", value) for name, value in fields if name == b"Range"),
            None,
        )
        start = int(found[1]) if found else 0
        self.posts.append(start)
        await self.gate.wait()
        if deed in ("reset", "timeout"):
            raise (UpstreamUnreachable if deed == "reset" else UpstreamTimedOut)(
                deed, delivered=True
            )
        if deed.isdigit():
            return Reply(
                self, int(deed), [(b"Content-Type", b"application/json")], b'{"message":"no"}'
            )
        return self._file(start, deed)

    def _file(self, start: int, deed: str) -> Reply:
        start = 0 if deed == "ignore" else start
        rest = CONTENT[start:]
        facts: dict[str, Any] = (
            {"cut": len(rest) // 2} if deed == "cut" else {"cut": 0} if deed == "cut0" else {}
        )
        if deed == "lie":
            facts = {"length": len(rest) + 7, "cut": len(rest)}
        if deed == "chunked":
            facts = {"length": None}
        begun = start + 1 if deed == "range" else start
        fields = (
            [(b"Content-Range", b"bytes %d-%d/%d" % (begun, len(CONTENT) - 1, len(CONTENT)))]
            if start
            else []
        )
        return Reply(self, 206 if start else 200, fields, rest, **facts)

    async def close(self) -> None:
        """Nothing is kept open."""


class FakeWorld:
    """Stores that last, and a process over them that can be killed and started again."""

    def __init__(self, *, jobs: Any = None, artifacts: Any = None, limits: Limits = LIMITS) -> None:
        self.clock = 1_000_000.0
        self.jobs: Any = jobs or MemoryJobs()
        self.artifacts: Any = artifacts or MemoryArtifacts(clock=self.now)
        self.limits = limits
        self.accepted: list[str] = []
        self.ended: dict[str, Status] = {}
        self.swept: set[str] = set()
        self.trust = NobodyKnown()
        self.boot(Steps())

    def now(self) -> float:
        return self.clock

    def boot(self, steps: Steps) -> None:
        """A new process: what the last one had in memory is gone."""
        self.steps = steps
        jobs, artifacts = (
            Stepping(self.jobs, steps, "jobs"),
            Stepping(self.artifacts, steps, "artifacts"),
        )
        self.upstream = FakeUpstream(steps)
        transfers = TransferFactory(
            jobs=jobs,
            artifacts=artifacts,
            upstream=self.upstream,
            watch=None,
            policy=Policy(
                generate_timeout=9, stall_timeout=0.05, attempts=3, result_ttl=RETENTION.result
            ),
            holder=str(uuid4()),
            now=self.now,
        )
        self.runner = Runner(
            jobs=jobs,
            artifacts=artifacts,
            transfers=transfers,
            limits=self.limits,
            sealer=MemoryOnly(),
            trust=self.trust,
            now=self.now,
        )
        self.sweeper = Sweeper(
            jobs=jobs,
            artifacts=artifacts,
            retention=RETENTION,
            suspend_ttl=SUSPEND_TTL,
            wake=self.runner.wake,
            adopt=Reconciler(jobs, artifacts, self.now).adopt,
            now=self.now,
        )
        self._stepping_jobs, self._stepping_artifacts = jobs, artifacts

    async def restart(self, steps: Steps | None = None) -> None:
        """What a start does before the first request. Reconciling is part of the process: it may
        crash too.
        """
        if isinstance(self.artifacts, MemoryArtifacts):
            self.artifacts.growing.clear()  # the system ends the claims of the dead
        self.boot(steps or Steps())
        jobs = Stepping(self.jobs, self.steps, "jobs")
        artifacts = Stepping(self.artifacts, self.steps, "artifacts")
        await Reconciler(jobs, artifacts, self.now).run()
        await self.runner.start()

    async def submit(self, key: str | None = None, *, attended: bool = False) -> tuple[str, Run]:
        """A kick-off, as the gateway makes it; the id is what its caller was told."""
        request = export_request(content_type="application/json", idempotency_key=key)
        job = Job(
            id=str(uuid4()),
            version=1,
            owner="o",
            request=request,
            created=self.clock,
            updated=self.clock,
        )
        run = Run(job.id, CALL, attended=attended)
        async with self.runner.admission("o"):
            stored = await self.runner.submit(job, b"{}", run)
        self.accepted.append(stored.id)
        return stored.id, run

    async def event(self, job_id: str, event: Event) -> Job | None:
        """What `Resources` does with a request of a caller; the job that the caller is shown."""
        return await advance_for_caller(self._stepping_jobs, job_id, event, self.now)

    async def cancel(self, job_id: str) -> Job | None:
        changed = await self.event(job_id, CancelRequested())
        if changed is not None and not changed.terminal:
            await self.runner.wake(job_id)
        return changed

    async def delete(self, job_id: str) -> None:
        await self.event(job_id, Forgotten())
        await self.runner.wake(job_id)

    async def release(self, job_id: str) -> None:
        job = await self.event(job_id, Released())
        if job is not None and job.terminal:
            await self._stepping_artifacts.remove(job_id)

    async def resume(self, job_id: str) -> None:
        job = await self.jobs.get(job_id)
        if job is not None and not job.forgotten:
            await self.runner.resume(job, CALL)

    async def sweep(self) -> None:
        """A sweep; the records whose time is over may go with it."""
        known = await self.jobs.list()
        ends = {job.id: RETENTION.record_ends(job) for job in known}
        self.swept |= {key for key, end in ends.items() if end is not None and end <= self.clock}
        await self.sweeper.sweep()

    async def quiet(self) -> None:
        """Return when nothing is left to do but the watch over free space."""
        async with asyncio.timeout(20):
            while self.runner._runs or len(self.runner.tasks) > 1:  # noqa: ASYNC110
                await asyncio.sleep(0)

    async def finished(self, job_id: str) -> Job:
        async with asyncio.timeout(20):
            while (job := await self.jobs.get(job_id)) is not None and not job.terminal:
                await self.resume(job_id)
                await asyncio.sleep(0)
        assert job is not None
        return job  # type: ignore[no-any-return]

    async def check(self) -> None:
        """What always holds while nothing is in flight: stores and promises agree, and nothing was
        taken back.
        """
        jobs: dict[str, Job] = {job.id: job for job in await self.jobs.list()}
        stored: set[str] = await self.artifacts.ids()
        for job_id in stored:
            assert job_id in jobs, "a file without a record"
            job = jobs[job_id]
            assert not job.forgotten, "bytes of a deleted job"
            assert not job.terminal or job.result is ResultState.AVAILABLE, (
                f"bytes of a job that is {job.status}"
            )
        for job in jobs.values():
            await self._check_job(job)
        for job_id in self.accepted:
            assert job_id in jobs or job_id in self.swept, "an accepted job is lost"

    async def _check_job(self, job: Job) -> None:
        if job.terminal and not job.forgotten:
            assert self.ended.setdefault(job.id, job.status) is job.status, "an outcome changed"
            assert job.ended is not None
            assert job.holder is None
            assert job.status is not Status.FAILED or job.error is not None
        if job.result is ResultState.AVAILABLE:
            artifact = await self.artifacts.get(job.id)
            assert artifact is not None, "a record promises a file that is not there"
            assert job.status in (Status.SUCCESS, Status.WARNING)
            assert (artifact.size, artifact.sha256, job.size) == (
                len(CONTENT),
                DIGEST,
                len(CONTENT),
            )
            assert job.digest == base64.b64encode(DIGEST).decode()
            assert await self.read(job.id) == CONTENT

    async def read(self, job_id: str) -> bytes | None:
        reader = await self.artifacts.open(job_id)
        if reader is None:
            return None
        try:
            return b"".join([piece async for piece in reader.chunks(0, reader.artifact.size)])
        finally:
            await reader.close()

    async def phase(self, job_id: str) -> Phase:
        return (await self.jobs.get(job_id)).phase  # type: ignore[no-any-return]


@asynccontextmanager
async def new_world(**kwargs: Any) -> AsyncIterator[FakeWorld]:
    made = FakeWorld(**kwargs)
    await made.runner.start()
    try:
        yield made
    finally:
        made.steps.kill()
        await made.runner.stop()
