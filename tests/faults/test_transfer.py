"""Jobs under every fault of the upstream: the runner and the upstream client in front of the
simulator.
"""

from __future__ import annotations

import asyncio
import base64
import hashlib
import time
import uuid
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import replace
from typing import Any

import pytest
from structlog.testing import capture_logs

from proxy.core.errors import Problem
from proxy.core.events import CancelRequested, Forgotten
from proxy.core.job import ErrorCode, Job, Phase, ResultState, Status
from proxy.core.job_request import kickoff_fields
from proxy.jobs.record import Record
from proxy.jobs.run import Run
from proxy.jobs.runner import Limits, Runner
from proxy.jobs.sealing import MemoryOnly
from proxy.jobs.transfer import Policy, TransferFactory
from proxy.ports import (
    Artifact,
    LengthMismatch,
    PartialLost,
    RecordDamaged,
    StorageFull,
    StoreUnavailable,
    WholeResponse,
)
from proxy.simulator import Simulator, SimulatorSettings
from proxy.upstream.client import HttpUpstream
from proxy.upstream.pool import Pool
from proxy.upstream.session_events import SessionEvents
from tests.support.export_requests import export_request
from tests.support.fakes import MemoryArtifacts, MemoryJobs, MemoryPartial, NobodyKnown, new_job

SIZE = 300_000
LIMITS = Limits(max_running=2, max_queued=2, max_per_caller=50, min_free=0, max_bytes=None)


class World:
    """A simulator, stores in memory, and a runner between them."""

    def __init__(self, simulator: Simulator) -> None:
        self.simulator = simulator
        self.jobs = MemoryJobs()
        self.trust = NobodyKnown()
        self.artifacts = MemoryArtifacts()
        self.upstream = HttpUpstream(Pool("127.0.0.1", simulator.port))
        self.token = simulator.login()
        session = simulator.open_session()
        self.session = session.id
        self.path = next(p for p in simulator.export_paths(session) if p.endswith("exportToPst"))
        self.runner = self.make_runner()

    @classmethod
    @asynccontextmanager
    async def running(cls, settings: SimulatorSettings) -> AsyncIterator[World]:
        """A new world."""
        simulator = Simulator(settings)
        await simulator.start()
        world = cls(simulator)
        await world.runner.start()
        try:
            yield world
        finally:
            await world.runner.stop()
            await world.upstream.close()
            await simulator.stop()

    def make_runner(
        self, *, holder: str = "test", stall: float = 5.0, limits: Limits = LIMITS
    ) -> Runner:
        transfers = TransferFactory(
            jobs=self.jobs,
            artifacts=self.artifacts,
            upstream=self.upstream,
            watch=SessionEvents(self.upstream, timeout=5, now=time.time),
            policy=Policy(generate_timeout=10, stall_timeout=stall, attempts=3, result_ttl=60),
            holder=holder,
            now=time.time,
        )
        return Runner(
            jobs=self.jobs,
            artifacts=self.artifacts,
            transfers=transfers,
            limits=limits,
            sealer=MemoryOnly(),
            trust=self.trust,
            now=time.time,
        )

    def fields(self) -> list[tuple[bytes, bytes]]:
        given = [(b"Host", b"vb365"), *((k.encode(), v.encode()) for k, v in self.token.items())]
        return kickoff_fields([*given, (b"Content-Type", b"application/json")])

    def job(self) -> Job:
        request = export_request(
            target=self.path, session=self.session, content_type="application/json"
        )
        now = time.time()
        return Job(
            id=str(uuid.uuid4()), version=1, owner="o", request=request, created=now, updated=now
        )

    async def submit(self, *, attended: bool = False) -> tuple[Job, Run]:
        job = self.job()
        run = Run(job.id, self.fields(), attended=attended)
        await self.runner.submit(job, b"{}", run)
        return job, run

    async def until(self, id: str, over: Callable[[Job], bool], seconds: float = 20) -> Job:
        async with asyncio.timeout(seconds):
            job = await self.jobs.get(id)
            while job is not None and not over(job):
                job = await self.jobs.wait(id, job.version, seconds)
        assert job is not None
        return job

    async def finished(self, id: str) -> Job:
        return await self.until(id, lambda job: job.terminal)

    async def export(self, **fault: Any) -> Job:
        if fault:
            self.simulator.fault(path=self.path, method="POST", **fault)
        job, _ = await self.submit()
        return await self.finished(job.id)

    async def check(self, job: Job, status: Status = Status.SUCCESS) -> None:
        """Check that the job has this status and that stored and reserved bytes agree with it."""
        assert job.status is status, job.error
        artifact = await self.artifacts.get(job.id)
        if status in (Status.SUCCESS, Status.WARNING):
            content = self.simulator.content(self.path)
            expected = hashlib.sha256(content.read(0, content.size)).digest()
            assert artifact is not None
            assert artifact.sha256 == expected
            assert job.digest == base64.b64encode(expected).decode()
            assert job.size == content.size == job.received
            assert job.result is ResultState.AVAILABLE
        else:
            assert artifact is None
            assert await self.artifacts.ids() == set()
            assert job.result in (None, ResultState.INCOMPLETE)

    @property
    def posts(self) -> int:
        return sum(request.method == "POST" for request in self.simulator.requests)


@pytest.fixture
async def world(monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[World]:
    monkeypatch.setattr("proxy.jobs.retries._BACKOFF", (0.01, 0.02))
    async with World.running(SimulatorSettings(size=SIZE)) as world:
        yield world


async def test_an_export_becomes_a_verified_artifact(world: World) -> None:
    """§5, §6: every byte, the digest, the format and VB365's names."""
    job = await world.export()
    await world.check(job)
    assert job.format == "Pst"
    assert job.file is not None
    assert job.file.media_type == "application/octet-stream"
    assert (job.file.file_name or "").endswith(".pst")
    assert job.attempt == 1


async def test_the_request_to_the_upstream_is_that_of_the_kick_off(world: World) -> None:
    """§1: same target, body and fields; Accept-Encoding: identity."""
    await world.export()
    sent = next(r for r in world.simulator.requests if r.method == "POST")
    names = {name.lower(): value for name, value in sent.headers}
    assert sent.target == world.path
    assert names[b"accept-encoding"] == b"identity"
    assert names[b"content-type"] == b"application/json"


@pytest.mark.parametrize("cut", ["reset", "close"])
@pytest.mark.parametrize("framing", ["length", "chunked"])
async def test_an_interrupted_transfer_is_continued_by_range(
    world: World, cut: str, framing: str
) -> None:
    """§10: a POST with Range at the stored offset, in the same attempt, without a second
    generation.
    """
    job = await world.export(cut_at=100_000, cut=cut, framing=framing, count=1)
    await world.check(job)
    assert job.attempt == 1
    assert sum(world.simulator.generations.values()) == 1


async def test_a_transfer_that_advances_may_be_interrupted_more_often_than_attempts(
    world: World,
) -> None:
    """§10: a transfer of 400 GB may be interrupted more than three times."""
    job = await world.export(cut_at=40_000, count=6)
    await world.check(job)
    assert job.attempt == 1


async def test_an_upstream_that_ignores_range_starts_a_new_attempt(world: World) -> None:
    """§10: anything but a matching 206 starts a new attempt from zero."""
    world.simulator.fault(path=world.path, method="POST", cut_at=100_000, count=1)
    job = await world.export(ignore_range=True)
    await world.check(job)
    assert job.attempt == 2


@pytest.mark.parametrize(
    "content_range", ["bytes 0-299999/300000", "bytes 99999-299999/300000", "nonsense"]
)
async def test_a_wrong_content_range_is_never_spliced(world: World, content_range: str) -> None:
    """§10: start and total must match."""
    world.simulator.fault(path=world.path, method="POST", cut_at=100_000, count=1)
    job = await world.export(content_range=content_range, skip=1, count=1)
    await world.check(job)
    assert job.attempt == 2


async def test_a_changed_validator_is_never_spliced(world: World) -> None:
    """§10: another ETag is another file."""
    world.simulator.fault(path=world.path, method="POST", cut_at=100_000, count=1, etag='"a"')
    job = await world.export(etag='"b"', skip=1, count=1)
    await world.check(job)
    assert job.attempt == 2


@pytest.mark.parametrize(
    "fault",
    [{"cut_at": 0}, {"lie": 1000}, {"framing": "chunked", "unterminated": True, "cut_at": 0}],
)
async def test_a_body_that_is_never_complete_is_never_success(
    world: World, fault: dict[str, Any]
) -> None:
    """§10: a body shorter than its length, or chunked without its end, fails after a bounded number
    of attempts.
    """
    job = await world.export(**fault)
    await world.check(job, Status.FAILED)
    assert job.error is not None
    assert job.error.code is ErrorCode.TRUNCATED
    assert world.posts <= 12


async def test_an_unterminated_chunked_body_is_not_success(world: World) -> None:
    """§10: without the last chunk the body is not known to be complete."""
    job = await world.export(framing="chunked", unterminated=True, ignore_range=True)
    await world.check(job, Status.FAILED)


async def test_a_body_that_ends_with_the_connection_is_a_warning(world: World) -> None:
    """§5: its length could not be verified."""
    job = await world.export(framing="close")
    await world.check(job, Status.WARNING)


async def test_an_event_that_warns_makes_a_warning(world: World) -> None:
    """§5: exports.watch_events."""
    job = await world.export(event="Warning")
    await world.check(job, Status.WARNING)


async def test_a_reset_before_the_head_is_not_repeated(world: World) -> None:
    """§10: VB365 may still generate; a second POST would start a second generation."""
    job = await world.export(reset=True)
    await world.check(job, Status.FAILED)
    assert job.error is not None
    assert job.error.code is ErrorCode.UNREACHABLE
    assert job.error.retryable
    assert world.posts == 1


async def test_a_stall_is_aborted_and_continued(world: World) -> None:
    """§15 exports.stall_timeout."""
    await world.runner.stop()
    world.runner = world.make_runner(stall=0.3)
    await world.runner.start()
    job = await world.export(stall_at=50_000, count=1)
    await world.check(job)


@pytest.mark.parametrize(
    ("status", "code"), [(400, ErrorCode.REJECTED), (500, ErrorCode.ERROR), (206, ErrorCode.ERROR)]
)
async def test_a_rejection_after_the_grace_period_fails_the_job(
    world: World, status: int, code: ErrorCode
) -> None:
    """§3.7: 4xx is UpstreamRejected, the rest UpstreamError; VB365's response is kept."""
    job = await world.export(
        status=status, body='{"message":"no"}', content_type="application/json"
    )
    await world.check(job, Status.FAILED)
    assert job.error is not None
    assert (job.error.code, job.error.status, job.error.body) == (code, status, '{"message":"no"}')


async def test_a_rejection_within_the_grace_period_is_relayed_and_the_job_dropped(
    world: World,
) -> None:
    """§3.7: relayed verbatim."""
    world.simulator.fault(path=world.path, method="POST", status=409, body="busy")
    job, run = await world.submit(attended=True)
    response = await asyncio.wait_for(run.attendance.first, 10)
    assert isinstance(response, WholeResponse)
    assert (response.status, response.body) == (409, b"busy")
    assert await world.jobs.get(job.id) is None
    async with asyncio.timeout(20):
        while world.runner.drives(job.id):  # noqa: ASYNC110  # the response does not wait for files
            await asyncio.sleep(0.001)
    assert await world.artifacts.ids() == set()


async def test_an_unreachable_upstream_within_the_grace_period_is_502(world: World) -> None:
    """§3.7: the job is dropped."""
    world.simulator.fault(path=world.path, method="POST", reset=True)
    job, run = await world.submit(attended=True)
    response = await asyncio.wait_for(run.attendance.first, 10)
    assert isinstance(response, Problem)
    assert response.name == "upstream-unreachable"
    assert await world.jobs.get(job.id) is None


async def test_an_encoded_response_is_not_stored_as_the_file(world: World) -> None:
    """§6: downloads never have Content-Encoding, so encoded bytes cannot be the file."""
    job = await world.export(gzip=True)
    await world.check(job, Status.FAILED)


async def test_an_expired_token_suspends_the_job_and_a_refreshed_one_resumes_it(
    world: World,
) -> None:
    """§9, §10: the transfer continues where it stopped."""
    world.simulator.fault(path=world.path, method="POST", cut_at=100_000, count=1)
    world.simulator.fault(path=world.path, method="POST", expire_token=True, skip=1, count=1)
    job, _ = await world.submit()
    suspended = await world.until(job.id, lambda job: job.phase is Phase.SUSPENDED)
    assert suspended.received == 100_000
    world.token = world.simulator.login()
    await world.runner.resume(suspended, world.fields())
    done = await world.finished(job.id)
    await world.check(done)
    assert done.attempt == 1


async def test_cancel_closes_the_upstream_connection_and_removes_the_file(world: World) -> None:
    """§7: phase Cancelling, VB365's connection is closed, soon Cancelled."""
    world.simulator.fault(path=world.path, method="POST", stall_at=50_000)
    job, _ = await world.submit()
    current = await world.until(
        job.id, lambda job: job.received > 0 or job.phase is Phase.TRANSFERRING
    )
    await Record(world.jobs, current, time.time).advance(CancelRequested())
    await world.runner.wake(job.id)
    done = await world.finished(job.id)
    await world.check(done, Status.CANCELLED)
    await world.simulator.until(lambda: world.simulator.deliveries[-1].outcome == "disconnected")


async def test_a_cancel_before_the_transfer_starts_releases_the_slot(world: World) -> None:
    """§7: a task that is cancelled before its first step never runs its clean-up."""
    job = world.job()
    await world.jobs.add(job, b"{}")
    await Record(world.jobs, job, time.time).advance(CancelRequested())
    await world.runner._enqueue(Run(job.id, world.fields()), job)
    assert world.runner.running == 1
    await world.runner.wake(job.id)
    assert (await world.finished(job.id)).status is Status.CANCELLED
    async with asyncio.timeout(10):
        while world.runner.running:  # noqa: ASYNC110  # the slot is given back just after the record is written
            await asyncio.sleep(0.01)
    await world.check(await world.export())


async def test_deleting_a_running_job_removes_its_bytes(world: World) -> None:
    """§7: cancelled, released, forgotten."""
    world.simulator.fault(path=world.path, method="POST", stall_at=50_000)
    job, _ = await world.submit()
    current = await world.until(job.id, lambda job: job.phase is Phase.TRANSFERRING)
    await Record(world.jobs, current, time.time).advance(Forgotten())
    await world.runner.wake(job.id)
    async with asyncio.timeout(10):
        while await world.artifacts.ids():  # noqa: ASYNC110  # a store does not report a removal
            await asyncio.sleep(0.01)
    stored = await world.jobs.get(job.id)
    assert stored is not None
    assert stored.forgotten


async def release_forever(simulator: Simulator) -> None:
    while True:
        simulator.release()
        await asyncio.sleep(0.01)


async def test_jobs_run_in_the_order_of_their_kickoffs(world: World) -> None:
    """§3.6: exports.max_running, FIFO."""
    world.simulator.fault(path=world.path, method="POST", hold=True)
    submitted = [(await world.submit())[0].id for _ in range(4)]
    assert [world.runner.is_waiting(each) for each in submitted] == [False, False, True, True]
    with pytest.raises(Problem, match="capacity-exhausted"):
        async with world.runner.admission("o"):
            pass
    world.simulator.faults.clear()
    releasing = asyncio.create_task(release_forever(world.simulator))
    done = [await world.finished(each) for each in submitted]
    releasing.cancel()
    begun = [job.started for job in done]
    assert begun == sorted(begun, key=lambda started: started or 0)
    assert {job.status for job in done} == {Status.SUCCESS}


async def test_a_caller_has_a_quota(world: World) -> None:
    """§3.5: too many unfinished jobs of one caller are 429."""
    await world.runner.stop()
    world.runner = world.make_runner(limits=replace(LIMITS, max_per_caller=1))
    await world.runner.start()
    world.simulator.fault(path=world.path, method="POST", hold=True)
    await world.submit()
    with pytest.raises(Problem, match="quota-exceeded"):
        async with world.runner.admission("o"):
            pass
    async with world.runner.admission("another"):
        pass


async def test_a_quota_is_not_doubled_by_a_second_hash_of_the_caller(world: World) -> None:
    """§3.5, §8: a job counts once under every owner that it is stored for; so does one that is
    being stored.
    """
    await world.runner.stop()
    world.runner = world.make_runner(limits=replace(LIMITS, max_per_caller=2))
    await world.runner.start()
    await world.jobs.add(new_job(key="k", owner="identity", aliases=("token",)), b"")
    async with world.runner.admission("identity", "token"):
        for owners in (("token",), ("identity",), ("identity", "refreshed")):
            with pytest.raises(Problem, match="quota-exceeded"):
                async with world.runner.admission(*owners):
                    pass
        async with world.runner.admission("refreshed"):
            pass
    async with world.runner.admission("identity", "token"):
        pass


async def test_a_full_disk_fails_the_job_and_leaves_no_bytes(world: World) -> None:
    """§5 StorageFull: the partial file is removed."""
    world.artifacts.faults["write"].append(StorageFull("no space"))
    job = await world.export()
    await world.check(job, Status.FAILED)
    assert job.error is not None
    assert job.error.code is ErrorCode.STORAGE_FULL


@pytest.mark.parametrize(
    ("failure", "code"),
    [
        (StorageFull("/srv/private/ab.partial: No space left"), ErrorCode.STORAGE_FULL),
        (PartialLost("/srv/private/ab.partial was removed"), ErrorCode.INTERRUPTED),
        (LengthMismatch("/srv/private/ab.partial holds 7 bytes"), ErrorCode.TRUNCATED),
    ],
)
async def test_a_failure_of_the_store_is_logged_and_not_quoted(
    world: World, failure: Exception, code: ErrorCode
) -> None:
    """Paths of the server are for its operator."""
    world.artifacts.faults["commit"].append(failure)
    with capture_logs() as logs:
        job = await world.export()
    await world.check(job, Status.FAILED)
    assert job.error is not None
    assert job.error.code is code
    assert "/" not in job.error.message
    assert str(failure) in [line.get("reason") for line in logs]


async def test_running_exports_never_reserve_the_same_space(world: World) -> None:
    """§15 storage.max_bytes counts stored and announced bytes."""
    await world.runner.stop()
    world.runner = world.make_runner(limits=replace(LIMITS, max_bytes=SIZE + SIZE // 2))
    await world.runner.start()
    world.simulator.fault(path=world.path, method="POST", stall_at=1000, count=1)
    first, _ = await world.submit()
    await world.until(first.id, lambda job: job.phase is Phase.TRANSFERRING)
    second = await world.export()
    assert second.error is not None
    assert second.error.code is ErrorCode.STORAGE_FULL
    assert f"{SIZE} bytes are announced" in second.error.message
    world.simulator.release()
    assert (await world.finished(first.id)).status is Status.SUCCESS


async def test_an_outcome_is_stored_once_the_store_is_available(world: World) -> None:
    """§7: a finished export is not lost because the store was unavailable for a moment."""
    original = world.artifacts.create

    async def create(id: str, fence: int = 0) -> MemoryPartial:
        partial = await original(id, fence)
        commit = partial.commit

        async def commit_then_lose_the_store(*args: Any) -> Artifact:
            artifact = await commit(*args)
            world.jobs.faults["replace"].extend(
                [StoreUnavailable("gone"), StoreUnavailable("gone")]
            )
            return artifact

        partial.commit = commit_then_lose_the_store  # type: ignore[assignment, method-assign]
        return partial

    world.artifacts.create = create  # type: ignore[method-assign]
    job = await world.export()
    await world.check(job)
    assert not world.jobs.faults["replace"]


async def test_a_stopped_runner_leaves_jobs_resumable(world: World) -> None:
    """§15 SIGTERM: the stored bytes of a job stay, and another process continues it."""
    from proxy.jobs.reconciler import Reconciler

    world.simulator.fault(path=world.path, method="POST", stall_at=100_000, count=1)
    job, _ = await world.submit()
    await world.until(job.id, lambda job: job.received >= 50_000 or job.phase is Phase.TRANSFERRING)
    await world.simulator.until(lambda: world.simulator.deliveries[-1].sent >= 100_000)
    await asyncio.sleep(0.1)
    await world.runner.stop()
    await Reconciler(world.jobs, world.artifacts, time.time).run()
    suspended = await world.jobs.get(job.id)
    assert suspended is not None
    assert suspended.phase is Phase.SUSPENDED
    world.runner = world.make_runner(holder="next")
    await world.runner.start()
    await world.runner.resume(suspended, world.fields())
    await world.check(await world.finished(job.id))


async def test_a_file_whose_record_is_damaged_is_kept(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    """§18: one damaged record in a shared store does not prevent a start."""
    from proxy.jobs.reconciler import Reconciler

    partial = await world.artifacts.create(job := str(uuid.uuid4()))
    await partial.write(b"x")
    await partial.commit(1, lambda artifact: b"{}")

    async def damaged(id: str) -> Job | None:
        raise RecordDamaged(id)

    monkeypatch.setattr(world.jobs, "get", damaged)
    await Reconciler(world.jobs, world.artifacts, time.time).run()
    assert await world.artifacts.ids() == {job}
