"""Runners of several replicas over one store: slots, cancel, take-over (CONTRACT §9, §10, §18)."""

from __future__ import annotations

import asyncio
from contextlib import suppress
from dataclasses import replace
from typing import Any

import pytest
from cryptography.fernet import Fernet

from proxy.core.errors import Problem
from proxy.core.events import Assigned, Failed
from proxy.core.job import Job, Origin, Phase, Status
from proxy.core.transitions import advance
from proxy.jobs import replica, withdrawal
from proxy.jobs.admission import UnacceptedCallers
from proxy.jobs.conclusion import INTERNAL
from proxy.jobs.fernet_sealing import FernetSealer
from proxy.jobs.run import Run
from proxy.jobs.shared_queue import SharedQueue
from proxy.ports import StoreUnavailable, Turn
from tests.support import replicas
from tests.support.fakes import new_job
from tests.support.harness import CALL, CONTENT, LIMITS, PIECE
from tests.support.replicas import Cluster, Node, Valve, new_cluster

ONE = replace(LIMITS, max_running=1)


def sealer() -> FernetSealer:
    return FernetSealer([Fernet.generate_key().decode()])


async def generating(cluster: Cluster, node: Node) -> str:
    """A job that VB365 works on for the node."""
    node.upstream.gate.clear()
    job, _ = await node.submit()
    await cluster.phase(job, Phase.GENERATING)
    await cluster.until(lambda: bool(node.upstream.posts))
    return job


async def transferring(cluster: Cluster, node: Node) -> str:
    """A job of which the node has stored some bytes."""
    node.upstream.gate = Valve(3)
    job, _ = await node.submit()
    await cluster.until(lambda: len(cluster.artifacts.partials.get((job, 1), b"")) == 2 * PIECE)
    return job


async def test_each_replica_runs_its_own_jobs() -> None:
    async with new_cluster() as cluster:
        jobs = [(await node.submit())[0] for node in cluster.nodes]
        for job, node in zip(jobs, cluster.nodes, strict=True):
            done = await cluster.phase(job, Phase.COMPLETED)
            cluster.assert_done(job)
            assert (done.fence, done.replica, done.holder) == (1, node.store.replica, None)
            assert node.upstream.generations == 1


async def test_max_running_holds_over_all_replicas() -> None:
    """§18: a free slot goes to a job of any replica, at once."""
    async with new_cluster(limits=ONE) as cluster:
        a, b = cluster.nodes
        first = await generating(cluster, a)
        second, run = await b.submit()
        assert (b.runner.is_waiting(second), run.queued, b.runner.queued) == (True, True, 1)
        a.upstream.gate.set()
        await cluster.phase(first, Phase.COMPLETED)
        await cluster.phase(second, Phase.COMPLETED)
        assert (a.upstream.generations, b.upstream.generations) == (1, 1)


async def test_callers_take_turns_over_all_replicas() -> None:
    """§3.6: who queues many exports on one replica delays nobody on another."""
    async with new_cluster(limits=ONE) as cluster:
        a, b = cluster.nodes
        running = await generating(cluster, a)
        mine = [(await a.submit())[0] for _ in range(3)]
        other, _ = await b.submit(owner="other")
        b.upstream.gate.clear()
        a.upstream.gate.set()
        await cluster.phase(running, Phase.COMPLETED)
        await cluster.phase(other, Phase.GENERATING)
        assert [cluster.store.jobs[each].phase for each in mine] == [Phase.QUEUED] * 3
        b.upstream.gate.set()
        for each in mine:
            await cluster.phase(each, Phase.COMPLETED)


@pytest.mark.parametrize("end", ["cancel", "delete"])
@pytest.mark.parametrize("start", [generating, transferring])
async def test_a_cancel_on_another_replica_stops_the_transfer(end: str, start: object) -> None:
    """§18: the replica that runs the job notices, and removes what it has stored."""
    async with new_cluster() as cluster:
        a, b = cluster.nodes
        job = await start(cluster, a)  # type: ignore[operator]
        await getattr(b, end)(job)
        await cluster.phase(job, Phase.COMPLETED if end == "cancel" else Phase.FORGOTTEN)
        await cluster.until(lambda: a.runner.running == 0)
        await cluster.until(lambda: not cluster.artifacts.partials)
        assert cluster.store.jobs[job].status is Status.CANCELLED


async def test_a_cancel_on_another_replica_ends_a_job_that_waits() -> None:
    async with new_cluster(limits=ONE) as cluster:
        a, b = cluster.nodes
        await generating(cluster, a)
        waiting, _ = await a.submit()
        await b.cancel(waiting)
        await cluster.phase(waiting, Phase.COMPLETED)
        await cluster.until(lambda: a.runner.queued == 0)


async def test_a_record_read_before_the_claim_does_not_end_the_run() -> None:
    """The feed reports the new job, and its look at the record ends after the claim."""
    async with new_cluster(limits=ONE) as cluster:
        a, b = cluster.nodes
        await generating(cluster, a)
        waiting, _ = await b.submit()
        looked, may_return, get = asyncio.Event(), asyncio.Event(), b.store.get

        async def late_at_first(id: str) -> Job | None:
            job = await get(id)
            if not looked.is_set():
                looked.set()
                await may_return.wait()
            return job

        b.store.get = late_at_first  # type: ignore[method-assign]
        look = asyncio.create_task(b.runner.check(waiting))
        await looked.wait()
        b.upstream.gate.clear()
        a.upstream.gate.set()
        await cluster.phase(waiting, Phase.GENERATING)
        may_return.set()
        await look
        b.upstream.gate.set()
        await cluster.phase(waiting, Phase.COMPLETED)
        cluster.assert_done(waiting)


async def test_a_job_whose_end_the_store_has_lost_ends_again() -> None:
    """A store that is restarted may lose its last second: the job seems to run again."""
    async with new_cluster() as cluster:
        a, _ = cluster.nodes
        job = await transferring(cluster, a)
        earlier = cluster.store.jobs[job]
        a.upstream.gate.set()
        await cluster.phase(job, Phase.COMPLETED)
        await cluster.until(lambda: not a.runner.drives(job))
        cluster.store.jobs[job] = earlier
        cluster.store.tell(None)
        await cluster.phase(job, Phase.COMPLETED)
        cluster.assert_done(job)
        assert a.upstream.generations == 1


async def test_a_run_that_left_during_its_claim_does_not_start() -> None:
    """Its job was suspended by another replica and resumed here: the new run starts, alone."""
    job = new_job(replica="r")
    claiming, may_return = asyncio.Event(), asyncio.Event()
    turns = [Turn.CHANGED, Turn.TAKEN]
    started: list[Run] = []
    woken: list[str] = []

    class Store:
        replica = "r"

        async def claim(self, *_: object) -> Turn:
            claiming.set()
            await may_return.wait()
            return turns.pop(0)

        async def get(self, _: str) -> Job:
            return job

    async def wake(id: str) -> None:
        woken.append(id)

    store: Any = Store()
    queue = SharedQueue(store, LIMITS.slots, start=started.append, wake=wake, now=lambda: 0.0)
    run = Run(job.id, [])
    joining = asyncio.create_task(queue.join(run, job))
    await claiming.wait()
    queue.leave(run)
    may_return.set()
    await joining
    assert (started, woken) == ([], [])


async def test_a_job_of_a_dead_replica_waits_for_its_owner() -> None:
    """§9: suspended by any other replica, and resumed where its owner calls: a new attempt."""
    async with new_cluster() as cluster:
        a, b = cluster.nodes
        job = await generating(cluster, a)
        a.process.kill()
        await cluster.expire(a)
        suspended = await cluster.phase(job, Phase.SUSPENDED)
        assert (suspended.holder, suspended.replica) == (None, None)
        await b.call(job)
        done = await cluster.phase(job, Phase.COMPLETED)
        cluster.assert_done(job)
        assert (done.attempt, done.fence, b.upstream.posts) == (2, 2, [0])


async def test_a_transfer_of_a_dead_replica_is_continued() -> None:
    """§10: with a Range, in the same attempt."""
    async with new_cluster() as cluster:
        a, b = cluster.nodes
        job = await transferring(cluster, a)
        a.process.kill()
        a.upstream.gate.set()
        await cluster.expire(a)
        await cluster.phase(job, Phase.SUSPENDED)
        await b.call(job)
        done = await cluster.phase(job, Phase.COMPLETED)
        cluster.assert_done(job)
        assert done.attempt == 1
        assert len(b.upstream.posts) == 1
        assert b.upstream.posts[0] > 0


async def test_a_cancelled_job_of_a_dead_replica_is_concluded_by_another() -> None:
    async with new_cluster() as cluster:
        a, b = cluster.nodes
        job = await transferring(cluster, a)
        a.process.kill()
        await b.cancel(job)
        assert cluster.store.jobs[job].phase is Phase.CANCELLING
        await cluster.expire(a)
        await cluster.phase(job, Phase.COMPLETED)
        assert cluster.artifacts.partials == {}


async def test_18_a_resumption_that_reaches_the_store_late_stops_no_queue() -> None:
    """It has failed before, and the call that it was for got 503."""
    async with new_cluster(limits=ONE) as cluster:
        a, b = cluster.nodes
        job = await generating(cluster, b)
        b.process.kill()
        await cluster.expire(b)
        await cluster.phase(job, Phase.SUSPENDED)
        execute, late = a.store.replace, list[tuple[Job, Job]]()

        async def delayed(old: Job, new: Job) -> bool:
            if not late and new.phase is Phase.QUEUED:
                late.append((old, new))
                raise StoreUnavailable("no reply")
            return await execute(old, new)

        a.store.replace = delayed  # type: ignore[method-assign]
        with pytest.raises(StoreUnavailable):
            await a.call(job)
        version = late[0][0].version
        await cluster.until(
            lambda: not a.runner.drives(job) or cluster.store.jobs[job].version > version
        )
        await execute(*late[0])
        await cluster.phase(job, Phase.COMPLETED)
        other, _ = await a.submit(owner="other")
        await cluster.phase(other, Phase.COMPLETED)


async def test_with_sealed_credentials_a_job_continues_by_itself() -> None:
    """§9 `secrets.key`."""
    async with new_cluster(sealer=sealer()) as cluster:
        a, b = cluster.nodes
        job, _ = await b.submit()
        await cluster.phase(job, Phase.COMPLETED)
        job = await generating(cluster, a)
        sealed = replace(
            cluster.store.jobs[job], sealed=cluster.sealer.seal([(b"Authorization", b"Bearer a")])
        )
        cluster.store.jobs[job] = sealed
        a.process.kill()
        await cluster.expire(a)
        await cluster.phase(job, Phase.COMPLETED)
        cluster.assert_done(job)


@pytest.mark.parametrize("with_key", [False, True])
async def test_a_replica_that_stops_hands_its_jobs_over_at_once(with_key: bool) -> None:
    """§15 SIGTERM: no lease needs to end first."""
    async with new_cluster(sealer=sealer() if with_key else None) as cluster:
        a, b = cluster.nodes
        job = await generating(cluster, a)
        sealed = cluster.sealer.seal([(b"Authorization", b"Bearer a")])
        cluster.store.jobs[job] = replace(cluster.store.jobs[job], sealed=sealed)
        await a.stop()
        if not with_key:
            assert cluster.store.jobs[job].phase is Phase.SUSPENDED
            await b.call(job)
        await cluster.phase(job, Phase.COMPLETED)
        cluster.assert_done(job)
        assert cluster.store.leases.keys() == {b.store.replica}


async def queued(cluster: Cluster, node: Node) -> str:
    """A job with sealed credentials behind one that VB365 works on; it will answer it with 401."""
    await generating(cluster, node)
    node.upstream.plan.append("401")
    return (await node.submit(sealed=cluster.sealer.seal(CALL)))[0]


async def test_a_401_is_recorded_before_the_run_is_over(monkeypatch: pytest.MonkeyPatch) -> None:
    """§9: while the store does not take it, the job is not resumed with the rejected token."""
    async with new_cluster(limits=ONE, sealer=sealer()) as cluster:
        a, _ = cluster.nodes
        job = await queued(cluster, a)
        failed, recorded = asyncio.Event(), a.store.replace

        async def replace_later(old: Job, new: Job) -> bool:
            if new.phase is Phase.SUSPENDED and new.sealed is None:
                failed.set()
                raise StoreUnavailable("away")
            return await recorded(old, new)

        monkeypatch.setattr(a.store, "replace", replace_later)
        a.upstream.gate.set()
        await failed.wait()
        await a.takeover.settle_own(a.runner.drives)
        monkeypatch.setattr(a.store, "replace", recorded)
        suspended = await cluster.phase(job, Phase.SUSPENDED)
        assert (suspended.sealed, len(a.upstream.posts)) == (None, 2)
        await cluster.until(lambda: not a.runner.drives(job))
        await a.call(job)
        await cluster.phase(job, Phase.COMPLETED)
        cluster.assert_done(job)


async def test_a_call_resumes_a_job_as_soon_as_its_401_is_recorded(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """§9: also before the run that ended knows of it."""
    async with new_cluster(limits=ONE, sealer=sealer()) as cluster:
        a, _ = cluster.nodes
        job = await queued(cluster, a)
        may_return, stored = asyncio.Event(), a.store.replace

        async def replace_slowly(old: Job, new: Job) -> bool:
            done = await stored(old, new)
            if new.phase is Phase.SUSPENDED:
                await may_return.wait()
            return done

        monkeypatch.setattr(a.store, "replace", replace_slowly)
        a.upstream.gate.set()
        await cluster.phase(job, Phase.SUSPENDED)
        await a.call(job)
        await cluster.phase(job, Phase.COMPLETED)
        may_return.set()
        await cluster.until(lambda: a.runner.running == 0 and not a.runner.drives(job))
        cluster.assert_done(job)


async def test_a_committed_file_of_a_dead_replica_is_its_result() -> None:
    """§10: nothing is requested from VB365 again."""
    async with new_cluster() as cluster:
        a, b = cluster.nodes
        a.process.stop_at = "after partial.commit"
        job, _ = await a.submit()
        await a.process.stopped.wait()
        await cluster.expire(a)
        await cluster.phase(job, Phase.COMPLETED)
        cluster.assert_done(job)
        assert b.upstream.posts == []
        a.process.resume()
        await cluster.until(lambda: a.runner.running == 0)
        cluster.assert_done(job)


async def test_the_job_of_a_living_replica_is_left_to_it() -> None:
    """§18: a replica that starts meanwhile touches neither record nor file."""
    async with new_cluster() as cluster:
        a, _ = cluster.nodes
        job = await transferring(cluster, a)
        before = cluster.store.jobs[job]
        await cluster.add()
        assert cluster.store.jobs[job].phase is before.phase
        a.upstream.gate.set()
        await cluster.phase(job, Phase.COMPLETED)
        cluster.assert_done(job)
        assert a.upstream.posts == [0]


async def test_18_a_replica_that_continues_keeps_what_is_not_taken_over_yet(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """The take-over of many jobs whose files are in a bucket takes long."""
    monkeypatch.setattr(replicas, "HEARTBEAT", 1e6)
    async with new_cluster(limits=ONE) as cluster:
        a, b = cluster.nodes
        first = await generating(cluster, b)
        second, _ = await b.submit()
        await cluster.expire(b)
        look, looked = cluster.artifacts.record_copy, list[str]()

        async def continuing(id: str, fence: int | None = None) -> bytes | None:
            looked.append(id)
            await b.member._renew()
            return await look(id, fence)

        monkeypatch.setattr(cluster.artifacts, "record_copy", continuing)
        await a.takeover.settle_orphans()
        assert len(looked) == 1
        kept = {first: Phase.GENERATING, second: Phase.QUEUED}
        del kept[looked[0]]
        assert {each: cluster.store.jobs[each].phase for each in kept} == kept


async def test_a_lease_that_ended_unnoticed_costs_nothing() -> None:
    """§18: meanwhile nothing is written; then, if nobody has its job, it goes on."""
    async with new_cluster(1) as cluster:
        (a,) = cluster.nodes
        job = await transferring(cluster, a)
        a.store.faults["renew"].extend([StoreUnavailable("cut off")] * 1000)
        cluster.store.clock += 31
        stored = len(cluster.artifacts.partials[job, 1])
        a.upstream.gate.set()
        await asyncio.sleep(0.3)
        assert len(cluster.artifacts.partials[job, 1]) == stored
        assert not a.lease.valid
        a.store.faults["renew"].clear()
        await cluster.phase(job, Phase.COMPLETED)
        cluster.assert_done(job)
        assert (a.upstream.posts, cluster.store.jobs[job].fence) == ([0], 1)


@pytest.mark.parametrize("at", range(1, 42))
async def test_a_replica_that_continues_changes_nothing(at: int) -> None:
    """§18: stopped at any step of an export, and continued when another replica has done it."""
    async with new_cluster() as cluster:
        a, b = cluster.nodes
        a.process.count, a.process.stop_at = 0, at
        submitting = asyncio.create_task(a.submit())
        await cluster.until(a.process.stopped.is_set)
        await cluster.expire(a)
        if cluster.store.jobs:
            await _done_by(cluster, b)
        records, files = dict(cluster.store.jobs), dict(cluster.artifacts.files)
        a.process.resume()
        job, _ = await submitting
        await cluster.until(lambda: a.runner.running == a.runner.queued == 0)
        if job not in records:
            await _done_by(cluster, b)
            return
        for _ in range(50):
            await asyncio.sleep(0)
        assert cluster.store.jobs == records
        fence = records[job].fence
        assert cluster.artifacts.files[job, fence] == files[job, fence]


@pytest.mark.parametrize("at", range(5, 40))
async def test_a_replica_that_continues_does_not_disturb_its_successor(at: int) -> None:
    """§18: stopped at any step of a transfer, and continued while another replica has the job."""
    async with new_cluster() as cluster:
        a, b = cluster.nodes
        a.process.count, a.process.stop_at = 0, at
        submitting = asyncio.create_task(a.submit())
        await cluster.until(a.process.stopped.is_set)
        await cluster.expire(a)
        (job,) = cluster.store.jobs
        found = await cluster.phase(job, Phase.SUSPENDED, Phase.COMPLETED)
        b.process.stop_at = "before partial.commit"
        await b.call(job)
        if found.phase is Phase.SUSPENDED:
            await b.process.stopped.wait()
        a.process.resume()
        await submitting
        await cluster.until(lambda: a.runner.running == a.runner.queued == 0)
        b.process.resume()
        done = await cluster.phase(job, Phase.COMPLETED)
        cluster.assert_done(job)
        assert done.fence == (2 if found.phase is Phase.SUSPENDED else 1)


async def test_an_outcome_of_an_earlier_claim_is_not_recorded() -> None:
    """§18: nor is the job cleaned up, whatever the transfer of that claim came to."""
    async with new_cluster() as cluster:
        a, b = cluster.nodes
        job = await transferring(cluster, b)
        before = cluster.store.jobs[job]
        earlier = Run(job, CALL)
        await a.runner._conclusion.settle(earlier, Failed(INTERNAL))
        await a.runner._conclusion.conclude(job, driven=earlier)
        assert cluster.store.jobs[job] == before
        b.upstream.gate.set()
        await cluster.phase(job, Phase.COMPLETED)
        cluster.assert_done(job)


@pytest.mark.parametrize("notices", ["the runner", "the transfer"])
async def test_a_replica_that_lost_its_job_leaves_the_bytes_to_the_next(
    notices: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """§10: also if it notices before another one has claimed the job."""

    async def nothing(id: str | None = None) -> None:
        """The feed and the look at all runs are late."""

    async with new_cluster() as cluster:
        a, b = cluster.nodes
        if notices == "the transfer":
            monkeypatch.setattr(a.runner, "check", nothing)
        job = await transferring(cluster, a)
        a.process.stop()
        await cluster.expire(a)
        await cluster.phase(job, Phase.SUSPENDED)
        a.process.resume()
        a.upstream.gate.set()
        await cluster.until(lambda: a.runner.running == 0)
        assert cluster.store.jobs[job].phase is Phase.SUSPENDED
        await b.call(job)
        await cluster.phase(job, Phase.COMPLETED)
        cluster.assert_done(job)
        assert b.upstream.posts[0] > 0


async def test_a_complete_file_stays_when_the_store_loses_the_record() -> None:
    """§9: also if that happens between the commit and its record: the job is rebuilt from it."""
    async with new_cluster(1) as cluster:
        (a,) = cluster.nodes
        a.process.stop_at = "after partial.commit"
        job, _ = await a.submit()
        await a.process.stopped.wait()
        cluster.store.jobs.clear()
        a.process.resume()
        await cluster.until(lambda: a.runner.running == 0)
        await a.reconciler.adopt(job)
        cluster.assert_done(job)


async def _done_by(cluster: Cluster, node: Node) -> None:
    """Return when the only job is done: suspended by any replica, and resumed by the node."""
    (job,) = cluster.store.jobs
    if (await cluster.phase(job, Phase.COMPLETED, Phase.SUSPENDED)).phase is Phase.SUSPENDED:
        await node.call(job)
    await cluster.phase(job, Phase.COMPLETED)
    cluster.assert_done(job)


@pytest.mark.parametrize("why", ["no slot is free", "the store did not confirm it"])
async def test_14_a_withdrawn_job_is_not_resumed_before_its_record_is_removed(
    why: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its request is relayed: a run would be a second generation."""
    monkeypatch.setattr(withdrawal, "_PATIENCE", 0.0)
    async with new_cluster(1, limits=ONE, sealer=sealer()) as cluster:
        (a,) = cluster.nodes
        running = await generating(cluster, a)
        add_within, removed = a.store.add_within, asyncio.Event()

        async def unconfirmed(*args: Any) -> Job | None:
            await add_within(*args)
            raise StoreUnavailable("no reply")

        if why == "the store did not confirm it":
            monkeypatch.setattr(a.store, "add_within", unconfirmed)
        a.store.gates["remove"] = removed
        sealed = cluster.sealer.seal(CALL)
        job = replace(new_job(), origin=Origin.RESCUE, sealed=sealed)
        run = Run(job.id, CALL, rescued=True)
        with suppress(StoreUnavailable):
            async with a.runner.admission(job.owner):
                await a.runner.submit(job, b"{}", run)
        a.runner.withdrawal.later(run, 0.0)
        await cluster.until(lambda: a.runner.run_of(job.id) is None)
        before = cluster.store.jobs[job.id]
        await a.takeover.settle_own(a.runner.drives)
        assert cluster.store.jobs[job.id] == before
        removed.set()
        await cluster.until(lambda: job.id not in cluster.store.jobs)
        assert not a.runner.drives(job.id)
        a.upstream.gate.set()
        await cluster.phase(running, Phase.COMPLETED)


@pytest.mark.parametrize("why", ["it has just got a slot", "the store does not respond"])
async def test_14_a_withdrawn_job_that_was_resumed_is_suspended_again(
    why: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Whatever its last claim of a slot and the store do: otherwise it would stay Queued."""
    async with new_cluster(1, limits=ONE) as cluster:
        (a,) = cluster.nodes
        running = await generating(cluster, a)
        suspended = replace(
            new_job(), origin=Origin.RESCUE, phase=Phase.SUSPENDED, attempt=1, suspended=1.0
        )
        await a.store.add(suspended, b"{}")
        await a.runner.resume(suspended, CALL)
        run = a.runner.run_of(suspended.id)
        assert run is not None
        replaced, claimed = a.store.replace, list[bool]()

        async def replacing(old: Job, new: Job) -> bool:
            if new.phase is Phase.SUSPENDED and not claimed:
                if why == "the store does not respond":
                    claimed.append(True)
                    raise StoreUnavailable("no reply")
                claimed.append(await replaced(old, advance(old, Assigned(a.store.replica), 1.0)))
            return await replaced(old, new)

        monkeypatch.setattr(a.store, "replace", replacing)
        a.runner.withdrawal.later(run, 0.0)
        await cluster.phase(suspended.id, Phase.SUSPENDED)
        assert claimed == [True]
        assert cluster.store.use((), LIMITS.slots).running == 1
        a.upstream.gate.set()
        await cluster.phase(running, Phase.COMPLETED)


async def test_3_5_a_strangers_job_counts_as_one_when_it_is_resumed_after_a_restart() -> None:
    """Otherwise each restart would free the strangers' quarter of the queue again."""
    limits = replace(ONE, max_queued=4)
    async with new_cluster(1, limits=limits, sealer=sealer()) as cluster:
        (a,) = cluster.nodes
        running = await generating(cluster, a)
        sealed = cluster.sealer.seal(CALL)
        suspended = new_job(phase=Phase.SUSPENDED, suspended=1.0, sealed=sealed, accepted=False)
        await a.store.add(suspended, b"{}")
        await a.runner.resume_sealed(suspended)
        assert a.runner.is_waiting(suspended.id)
        with pytest.raises(UnacceptedCallers):
            async with a.runner.admission("another", accepted=False):
                pass
        a.upstream.gate.set()
        await cluster.phase(running, Phase.COMPLETED)


async def test_18_a_job_of_a_restored_snapshot_has_all_facts_of_its_file() -> None:
    """The store was restored as it was before the first byte, and the file is complete."""
    async with new_cluster(1) as cluster:
        (a,) = cluster.nodes
        job = await generating(cluster, a)
        before = cluster.store.jobs[job]
        assert before.file is None
        a.upstream.gate.set()
        done = await cluster.phase(job, Phase.COMPLETED)
        await cluster.until(lambda: a.runner.run_of(job) is None)
        cluster.store.put(before)
        await a.takeover.settle_own(a.runner.drives)
        found = cluster.store.jobs[job]
        assert (found.file, found.size, found.digest) == (done.file, done.size, done.digest)
        assert found.file is not None


async def test_18_a_job_that_runs_and_is_queued_in_a_restored_snapshot_ends(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Its run is not one that the store knows, and it must not wait for ever, with all others
    behind it.
    """
    monkeypatch.setattr(replica, "_RETRY", 0.01)
    async with new_cluster(1, limits=ONE, sealer=sealer()) as cluster:
        (a,) = cluster.nodes
        a.upstream.gate.clear()
        job = replace(new_job(), sealed=cluster.sealer.seal(CALL))
        async with a.runner.admission(job.owner):
            await a.runner.submit(job, b"{}", Run(job.id, CALL))
        await cluster.phase(job.id, Phase.GENERATING)
        await cluster.until(lambda: bool(a.upstream.posts))
        cluster.store.put(replace(job, replica=a.store.replica))
        cluster.store.tell(None)
        a.upstream.gate.set()
        await cluster.phase(job.id, Phase.COMPLETED)
        cluster.assert_done(job.id)


async def test_quotas_hold_over_all_replicas() -> None:
    """§3.5: two kick-offs never get the last place, and the refusal has the numbers."""
    limits = replace(LIMITS, max_per_caller=3)
    async with new_cluster(limits=limits) as cluster:
        for node in cluster.nodes:
            node.upstream.gate.clear()
        found = await asyncio.gather(
            *(node.submit() for node in cluster.nodes for _ in range(4)), return_exceptions=True
        )
        assert len(cluster.store.jobs) == 3
        refused = [each for each in found if isinstance(each, Problem)]
        assert [why.name for why in refused] == ["quota-exceeded"] * 5
        assert "You already have 3 unfinished exports" in refused[-1].detail


async def test_a_key_that_is_raced_on_two_replicas_makes_one_job() -> None:
    """§8: also among concurrent duplicates."""
    async with new_cluster() as cluster:
        a, b = cluster.nodes
        found = await asyncio.gather(*(node.submit("k") for node in (a, b, a, b)))
        assert len({job for job, _ in found}) == 1
        await cluster.phase(found[0][0], Phase.COMPLETED)
        assert a.upstream.generations + b.upstream.generations == 1


async def test_a_job_that_another_replica_shows_is_not_dropped() -> None:
    """§3.7: VB365's refusal is then the outcome of the job."""
    async with new_cluster() as cluster:
        a, b = cluster.nodes
        a.upstream.plan.append("404")
        a.upstream.gate.clear()
        job, run = await a.submit(attended=True)
        await cluster.until(lambda: bool(a.upstream.posts))
        attended = [node.runner.is_attended_elsewhere(cluster.store.jobs[job]) for node in (a, b)]
        assert attended == [False, True]
        assert await b.runner.show(cluster.store.jobs[job])
        assert not b.runner.is_attended_elsewhere(cluster.store.jobs[job])
        a.upstream.gate.set()
        failed = await cluster.phase(job, Phase.COMPLETED)
        assert failed.status is Status.FAILED
        assert await run.attendance.first_response(1) is None


async def test_a_job_that_was_dropped_is_not_shown_by_another_replica() -> None:
    """§3.7: also if that read the record before."""
    async with new_cluster() as cluster:
        a, b = cluster.nodes
        a.upstream.plan.append("404")
        a.upstream.gate.clear()
        job, run = await a.submit(attended=True)
        read = cluster.store.jobs[job]
        a.upstream.gate.set()
        assert await run.attendance.first_response(5) is not None
        assert not await b.runner.show(read)
        assert cluster.store.jobs == {}


async def test_the_space_that_other_replicas_promised_is_taken() -> None:
    """§15: each free byte is promised once."""
    async with new_cluster() as cluster:
        a, b = cluster.nodes
        cluster.artifacts.capacity = len(CONTENT) + 100
        await transferring(cluster, a)
        await a.member._renew()
        await b.member._renew()
        job, _ = await b.submit()
        failed = await cluster.phase(job, Phase.COMPLETED)
        assert failed.error is not None
        assert failed.error.code == "StorageFull"
        a.upstream.gate.set()
