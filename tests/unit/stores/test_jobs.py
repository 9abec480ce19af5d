"""Every `JobStore` keeps what proxy/ports promises of it."""

from __future__ import annotations

import asyncio
import random
from collections.abc import Awaitable, Callable
from dataclasses import replace
from typing import Any

import pytest

from proxy.core.events import (
    Cancelled,
    CancelRequested,
    Claimed,
    Detached,
    Event,
    Expired,
    Failed,
    Forgotten,
    Identified,
    Interrupted,
    Resumed,
)
from proxy.core.job import ErrorCode, Job, JobError, Origin, Phase, ResultState
from proxy.core.retention import Stage
from proxy.core.transitions import advance
from proxy.ports import Counts, JobStore, KeyTaken, StoreUnavailable
from tests.support.fakes import new_job

ERROR = JobError(code=ErrorCode.INTERNAL, message="it broke", retryable=False)
REFUSED = JobError(code=ErrorCode.REJECTED, message="401", retryable=False, status=401)


def bumped(job: Job) -> Job:
    return replace(job, version=job.version + 1, updated=job.updated + 1)


async def test_add_returns_the_job_and_it_can_be_got(jobs: JobStore) -> None:
    job = new_job(accept_language="fr \u00e9\ud800\x00")
    assert await jobs.add(job, b"{}") == job
    assert await jobs.get(job.id) == job


async def test_an_unknown_job_is_none(jobs: JobStore) -> None:
    for unknown in (new_job().id, "", "job:", "../lock"):
        assert await jobs.get(unknown) is None
        assert await jobs.body(unknown) is None


@pytest.mark.parametrize("body", [b"", b"{}", bytes(range(256)), b"x" * (1 << 20)])
async def test_the_body_is_kept_as_it_is(jobs: JobStore, body: bytes) -> None:
    job = await jobs.add(new_job(), body)
    assert await jobs.body(job.id) == body


async def test_add_does_not_write_a_job_twice(jobs: JobStore) -> None:
    job = await jobs.add(new_job(), b"first")
    newer = bumped(job)
    assert await jobs.replace(job, newer)
    assert await jobs.add(job, b"second") == newer
    assert await jobs.body(job.id) == b"first"


async def test_a_second_add_with_the_same_key_returns_the_first_job_and_writes_nothing(
    jobs: JobStore,
) -> None:
    """§8: the same caller's key stands for one job."""
    first = await jobs.add(new_job(key="k"), b"first")
    second = new_job(key="k")
    assert await jobs.add(second, b"second") == first
    assert await jobs.get(second.id) is None
    assert await jobs.body(second.id) is None
    assert await jobs.list() == [first]


async def test_a_key_belongs_to_its_owner_and_may_be_missing(jobs: JobStore) -> None:
    """§8: scoped to the caller; without a key every POST is a new job."""
    for job in (
        new_job(key="k"),
        new_job(key="k", owner="bob"),
        new_job(key="K"),
        new_job(),
        new_job(),
    ):
        assert await jobs.add(job, b"") == job
    assert len(await jobs.list()) == 5


async def test_a_hundred_concurrent_adds_with_one_key_make_one_job(jobs: JobStore) -> None:
    """§8: also for concurrent duplicates."""
    candidates = [new_job(number, key="k") for number in range(100)]
    busy = asyncio.create_task(jobs.add(new_job(999, owner="bob"), b""))
    await asyncio.sleep(0)
    responses = await asyncio.gather(*(jobs.add(job, job.id.encode()) for job in candidates))
    await busy
    assert len({job.id for job in responses}) == 1
    assert await jobs.list(owner="alice") == [responses[0]]
    assert await jobs.body(responses[0].id) == responses[0].id.encode()


async def test_find_returns_the_owners_job_of_a_key(jobs: JobStore) -> None:
    job = await jobs.add(new_job(key="k"), b"")
    assert await jobs.find("alice", "k") == job
    assert await jobs.find("bob", "k") is None
    assert await jobs.find("alice", "other") is None
    newer = bumped(job)
    assert await jobs.replace(job, newer)
    assert await jobs.find("alice", "k") == newer


async def test_a_key_is_taken_under_every_owner_of_its_job(jobs: JobStore) -> None:
    """§8: a caller who is known by one hash now and by another later gets the same job."""
    first = await jobs.add(new_job(key="k", owner="identity", aliases=("token",)), b"first")
    for owner in ("identity", "token"):
        assert await jobs.find(owner, "k") == first
        assert await jobs.list(owner=owner) == [first]
        assert await jobs.list(owner=owner, session="s1") == [first]
        assert await jobs.add(new_job(key="k", owner=owner), b"") == first
    assert await jobs.add(new_job(key="k", owner="other", aliases=("more", "token")), b"") == first
    assert await jobs.list() == [first]
    changed = bumped(first)
    assert await jobs.replace(first, changed)
    assert await jobs.find("token", "k") == changed
    assert await jobs.remove(changed)
    assert await jobs.find("identity", "k") is await jobs.find("token", "k") is None
    assert await jobs.list(owner="token") == []
    assert await jobs.find("other", "k") is await jobs.find("more", "k") is None


async def test_a_job_does_not_get_an_owner_whose_key_another_job_has(jobs: JobStore) -> None:
    """§8: one key of a caller is one job, also if the caller of a job is known later only."""
    first = await jobs.add(new_job(key="k", owner="identity"), b"")
    second = await jobs.add(new_job(key="k", owner="token"), b"")
    identified = advance(second, Identified("identity"), 1)
    with pytest.raises(KeyTaken):
        await jobs.replace(second, identified)
    assert await jobs.get(second.id) == second
    assert await jobs.find("identity", "k") == first
    assert await jobs.find("token", "k") == second
    ended = advance(second, Failed(ERROR), 1)
    assert await jobs.replace(second, ended)
    assert await jobs.replace(second, identified) is False
    assert await jobs.remove(first)
    identified = advance(ended, Identified("identity"), 1)
    assert await jobs.replace(ended, identified)
    assert await jobs.find("identity", "k") == identified


async def test_of_two_jobs_that_get_one_owner_at_a_time_one_has_the_key(jobs: JobStore) -> None:
    rivals = [await jobs.add(new_job(key="k", owner=f"token {n}"), b"") for n in range(2)]
    calls = (jobs.replace(job, advance(job, Identified("identity"), 1)) for job in rivals)
    outcomes = await asyncio.gather(*calls, return_exceptions=True)
    assert sorted(map(type, outcomes), key=str) == [bool, KeyTaken]
    found = await jobs.find("identity", "k")
    assert found is not None
    assert found.id == rivals[outcomes.index(True)].id


async def test_concurrent_adds_under_different_owners_of_one_caller_make_one_job(
    jobs: JobStore,
) -> None:
    """§8: also for concurrent duplicates, while what is known of the caller changes."""
    owners = [
        ("token", ()),
        ("identity", ("token",)),
        ("token", ("identity",)),
        ("identity", ("other", "token")),
    ]
    for round_ in range(25):
        busy = asyncio.create_task(jobs.add(new_job(999, owner="bob"), b""))
        await asyncio.sleep(0)
        key = f"k{round_}"
        random.Random(round_).shuffle(owners)
        responses = await asyncio.gather(
            *(
                jobs.add(new_job(key=key, owner=owner, aliases=aliases), b"")
                for owner, aliases in owners
            )
        )
        await busy
        assert len({job.id for job in responses}) == 1


@pytest.mark.parametrize("keeps_key", [False, True])
async def test_a_tombstone_frees_its_key_but_can_be_got(jobs: JobStore, keeps_key: bool) -> None:
    """§8: the key dies with the record. §7: DELETE is idempotent while the tombstone lives."""
    job = await jobs.add(new_job(key="k"), b"")
    tombstone = advance(job, Forgotten(), 1)
    if keeps_key:
        tombstone = replace(tombstone, request=job.request)
    assert await jobs.replace(job, tombstone)
    assert await jobs.get(job.id) == tombstone
    assert await jobs.list(owner="alice") == [tombstone]
    assert await jobs.find("alice", "k") is None
    successor = new_job(key="k")
    assert await jobs.add(successor, b"") == successor
    assert await jobs.find("alice", "k") == successor
    assert await jobs.remove(tombstone)
    assert await jobs.find("alice", "k") == successor


async def test_replace_stores_the_next_version(jobs: JobStore) -> None:
    job = await jobs.add(new_job(), b"")
    claimed = advance(job, Claimed("runner", 0), 1)
    assert await jobs.replace(job, claimed) is True
    assert await jobs.get(job.id) == claimed


async def test_replace_of_another_version_changes_nothing(jobs: JobStore) -> None:
    job = await jobs.add(new_job(), b"body")
    newer = bumped(job)
    assert await jobs.replace(job, newer)
    assert await jobs.replace(job, advance(job, Failed(ERROR), 1)) is False
    assert await jobs.get(job.id) == newer
    assert await jobs.body(job.id) == b"body"


async def test_replace_of_an_unknown_job_is_false(jobs: JobStore) -> None:
    job = new_job()
    assert await jobs.replace(job, bumped(job)) is False
    assert await jobs.get(job.id) is None


async def test_a_job_is_replaced_by_itself_only(jobs: JobStore) -> None:
    job = await jobs.add(new_job(), b"")
    with pytest.raises(ValueError, match="own next version"):
        await jobs.replace(job, new_job())


async def test_of_concurrent_replaces_exactly_one_wins(jobs: JobStore) -> None:
    job = await jobs.add(new_job(), b"")
    rivals = [replace(bumped(job), holder=f"runner {number}") for number in range(50)]
    busy = asyncio.create_task(jobs.add(new_job(), b""))
    await asyncio.sleep(0)
    outcomes = await asyncio.gather(*(jobs.replace(job, rival) for rival in rivals))
    await busy
    assert outcomes.count(True) == 1
    assert await jobs.get(job.id) == rivals[outcomes.index(True)]


async def test_no_change_is_lost_when_many_advance_one_job(jobs: JobStore) -> None:
    """Advance, then replace, else read again."""
    job = await jobs.add(new_job(), b"")

    async def advance_ten_times() -> None:
        for _ in range(10):
            while True:
                current = await jobs.get(job.id)
                assert current is not None
                if await jobs.replace(current, bumped(current)):
                    break

    async with asyncio.timeout(30), asyncio.TaskGroup() as group:
        for _ in range(10):
            group.create_task(advance_ten_times())
    current = await jobs.get(job.id)
    assert current is not None
    assert current.version == 101


async def test_a_late_cancel_and_a_late_success_never_both_win(jobs: JobStore) -> None:
    """§7: cancel beats a late response of VB365; a persisted end beats a late cancel."""
    for round_ in range(50):
        job = await jobs.add(new_job(round_), b"")
        ends = [advance(job, Failed(ERROR), 1), advance(job, CancelRequested(), 1)]
        random.Random(round_).shuffle(ends)
        outcomes = await asyncio.gather(*(jobs.replace(job, end) for end in ends))
        assert outcomes == [True, False]
        assert await jobs.get(job.id) == ends[0]


@pytest.mark.parametrize(
    "end",
    [
        lambda job: advance(job, Failed(ERROR), 1),
        lambda job: advance(job, Forgotten(), 1),
        lambda job: replace(advance(advance(job, CancelRequested(), 1), Cancelled(), 2), version=2),
        lambda job: replace(bumped(job), phase=Phase.FORGOTTEN),
    ],
    ids=["failed", "forgotten", "cancelled", "forgotten without an end"],
)
async def test_the_body_is_removed_when_the_job_ends(
    jobs: JobStore, end: Callable[[Job], Job]
) -> None:
    """§9: on disk of a request only while it may be needed."""
    job = await jobs.add(new_job(), b"body")
    assert await jobs.replace(job, end(job))
    assert await jobs.body(job.id) is None


async def test_the_body_stays_while_the_job_may_need_it(jobs: JobStore) -> None:
    job = await jobs.add(new_job(), b"body")
    claimed = advance(job, Claimed("runner", 0), 1)
    assert await jobs.replace(job, claimed)
    assert await jobs.replace(claimed, advance(claimed, Interrupted(), 2))
    assert await jobs.body(job.id) == b"body"


async def test_remove_drops_record_body_and_key(jobs: JobStore) -> None:
    job = await jobs.add(new_job(key="k"), b"body")
    assert await jobs.remove(job) is True
    assert await jobs.get(job.id) is None
    assert await jobs.body(job.id) is None
    assert await jobs.find("alice", "k") is None
    assert await jobs.list() == []
    assert await jobs.remove(job) is False
    successor = new_job(key="k")
    assert await jobs.add(successor, b"") == successor


async def test_remove_of_another_version_changes_nothing(jobs: JobStore) -> None:
    job = await jobs.add(new_job(), b"body")
    newer = bumped(job)
    assert await jobs.replace(job, newer)
    assert await jobs.remove(job) is False
    assert await jobs.get(job.id) == newer
    assert await jobs.body(job.id) == b"body"


async def test_of_a_remove_and_a_replace_exactly_one_wins(jobs: JobStore) -> None:
    for round_ in range(50):
        job = await jobs.add(new_job(round_), b"")
        calls: list[Awaitable[bool]] = [jobs.remove(job), jobs.replace(job, bumped(job))]
        random.Random(round_).shuffle(calls)
        outcomes = await asyncio.gather(*calls)
        assert outcomes.count(True) == 1


async def test_the_list_is_newest_first_with_ties_by_id(jobs: JobStore) -> None:
    """§4: newest first."""
    mine = [new_job(number // 3) for number in range(12)]
    random.Random(7).shuffle(mine)
    for job in mine:
        await jobs.add(job, b"")
    expected = sorted(mine, key=lambda job: (job.created, job.id), reverse=True)
    assert await jobs.list() == expected
    assert await jobs.list(owner="alice") == expected
    assert await jobs.list(session="S1") == expected


async def test_the_list_is_of_an_owner_and_of_a_session_in_any_case(jobs: JobStore) -> None:
    """§4: the caller's own jobs; `restoreSessionId` lists those of a session."""
    a = await jobs.add(new_job(1, owner="alice", session="AbC%2Fd"), b"")
    b = await jobs.add(new_job(2, owner="bob", session="abc%2fD"), b"")
    c = await jobs.add(new_job(3, owner="bob", session="other"), b"")
    d = await jobs.add(new_job(4, owner="bob", session=None), b"")
    assert await jobs.list() == [d, c, b, a]
    assert await jobs.list(owner="bob") == [d, c, b]
    assert await jobs.list(session="ABC%2FD") == [b, a]
    assert await jobs.list(owner="alice", session="abc%2fd") == [a]
    assert await jobs.list(owner="alice", session="other") == []
    assert await jobs.list(owner="carol") == []
    assert await jobs.list(session="") == []


async def test_the_list_is_the_callers_own(jobs: JobStore) -> None:
    job = await jobs.add(new_job(), b"")
    (await jobs.list()).clear()
    (await jobs.list(owner="alice")).clear()
    assert await jobs.list() == [job] == await jobs.list(owner="alice")


def ended(number: int, **changes: Any) -> Job:
    return advance(new_job(number, **changes), Failed(ERROR), float(number))


async def stored(jobs: JobStore, job: Job) -> Job:
    """The job put into the store as it is."""
    assert await jobs.add(replace(job, version=0), b"") == replace(job, version=0)
    assert await jobs.replace(replace(job, version=0), job)
    return job


async def test_counts_returns_live_jobs_and_records_of_a_caller_and_of_all(
    jobs: JobStore,
) -> None:
    """§3.5: a job that has several of the hashes counts once; tombstones are records."""
    assert await jobs.counts(["alice"]) == Counts(0, 0, 0)
    both = await stored(jobs, new_job(1, aliases=("a2",)))
    await stored(jobs, ended(2, owner="a2"))
    await stored(jobs, advance(new_job(3), Forgotten(), 3))
    await stored(jobs, new_job(4, owner="bob"))
    assert await jobs.counts(["alice"]) == Counts(1, 2, 4)
    assert await jobs.counts(["alice", "a2"]) == Counts(1, 3, 4)
    assert await jobs.counts(["nobody"]) == await jobs.counts([]) == Counts(0, 0, 4)
    assert await jobs.replace(both, over := advance(both, Failed(ERROR), 5))
    assert await jobs.counts(["a2"]) == Counts(0, 2, 4)
    assert await jobs.remove(over)
    assert await jobs.counts(["alice", "a2"]) == Counts(0, 2, 3)


async def test_spent_returns_the_oldest_ended_records_without_a_file(jobs: JobStore) -> None:
    """§3.5: tombstones too; what strangers left goes first; never a running job or a promised
    file.
    """
    await stored(jobs, new_job(1))
    await stored(jobs, replace(ended(2), result=ResultState.AVAILABLE))
    third = await stored(jobs, ended(30))
    first = await stored(jobs, advance(new_job(10), Forgotten(), 10))
    second = await stored(jobs, ended(20, owner="bob"))
    stranger = await stored(jobs, advance(new_job(40, owner="x"), Failed(REFUSED), 40.0))
    assert await jobs.spent(None, 9) == [stranger, first, second, third]
    assert await jobs.spent(None, 2) == [stranger, first]
    assert await jobs.spent(["alice", "nobody"], 9) == [first, third]
    assert await jobs.spent(["alice", "bob"], 2) == [first, second]
    assert await jobs.remove(first)
    assert await jobs.spent(["alice"], 9) == [third]
    assert await jobs.spent([], 9) == []


async def test_due_returns_the_jobs_of_a_stage_up_to_a_moment(jobs: JobStore) -> None:
    """§7, §9: what a sweep has to look at."""
    later, sooner = [await stored(jobs, ended(number)) for number in (20, 10)]
    file = await stored(jobs, replace(ended(5), result=ResultState.AVAILABLE, expires=15.0))
    grave = await stored(jobs, advance(new_job(3), Forgotten(), 3))
    await stored(jobs, new_job(1))
    assert await jobs.due(Stage.ENDED, 20.0) == [sooner, later]
    assert await jobs.due(Stage.ENDED, 19.9) == [sooner]
    assert await jobs.due(Stage.ENDED, 9.9) == []
    assert await jobs.due(Stage.AVAILABLE, 14.0) == []
    assert await jobs.due(Stage.AVAILABLE, 15.0) == [file]
    assert await jobs.due(Stage.FORGOTTEN, 3.0) == [grave]
    assert await jobs.replace(file, expired := advance(file, Expired(), 16.0))
    assert await jobs.due(Stage.AVAILABLE, 99.0) == []
    assert await jobs.due(Stage.ENDED, 99.0) == [expired, sooner, later]


async def test_due_tells_suspended_jobs_of_callers_that_vb365_never_accepted(
    jobs: JobStore,
) -> None:
    """§3.5: they end sooner."""
    queued = await stored(jobs, new_job(1))
    accepted = await stored(jobs, replace(new_job(2), accepted=True))
    assert await jobs.replace(queued, suspended := advance(queued, Interrupted(denied=True), 5.0))
    assert await jobs.replace(accepted, kept := advance(accepted, Interrupted(denied=True), 6.0))
    assert await jobs.due(Stage.REJECTED, 4.9) == []
    assert await jobs.due(Stage.REJECTED, 99.0) == [suspended]
    assert await jobs.due(Stage.SUSPENDED, 99.0) == [kept]
    assert await jobs.replace(suspended, advance(suspended, Resumed(), 7.0))
    assert await jobs.due(Stage.REJECTED, 99.0) == []


async def test_wait_returns_at_once_when_the_version_differs(jobs: JobStore) -> None:
    """§4 long-poll."""
    job = await jobs.add(new_job(), b"")
    async with asyncio.timeout(5):
        assert await jobs.wait(job.id, job.version - 1, 60) == job
        assert await jobs.wait(new_job().id, 1, 60) is None


async def test_wait_returns_when_the_job_changes(jobs: JobStore) -> None:
    job = await jobs.add(new_job(), b"")
    other = await jobs.add(new_job(), b"")
    async with asyncio.timeout(5), asyncio.TaskGroup() as group:
        waiting = [group.create_task(jobs.wait(job.id, 1, 60)) for _ in range(20)]
        await asyncio.sleep(0)
        await jobs.replace(other, bumped(other))
        assert not any(task.done() for task in waiting)
        await jobs.replace(job, bumped(job))
    assert {task.result() for task in waiting} == {bumped(job)}


async def test_wait_returns_none_when_the_job_is_removed(jobs: JobStore) -> None:
    job = await jobs.add(new_job(), b"")
    async with asyncio.timeout(5), asyncio.TaskGroup() as group:
        waiting = group.create_task(jobs.wait(job.id, 1, 60))
        await asyncio.sleep(0)
        await jobs.remove(job)
    assert waiting.result() is None


@pytest.mark.parametrize("timeout", [0.01, 0, -1])
async def test_wait_returns_the_unchanged_job_after_its_time(
    jobs: JobStore, timeout: float
) -> None:
    job = await jobs.add(new_job(), b"")
    async with asyncio.timeout(5):
        assert await jobs.wait(job.id, 1, timeout) == job


async def test_a_cancelled_wait_does_not_affect_others(jobs: JobStore) -> None:
    job = await jobs.add(new_job(), b"")
    leaves = asyncio.create_task(jobs.wait(job.id, 1, 60))
    stays = asyncio.create_task(jobs.wait(job.id, 1, 60))
    await asyncio.sleep(0)
    leaves.cancel()
    await asyncio.wait([leaves])
    assert leaves.cancelled()
    await jobs.replace(job, bumped(job))
    async with asyncio.timeout(5):
        assert await stays == bumped(job)


async def test_a_closed_store_ends_waits_and_is_unavailable(jobs: JobStore) -> None:
    job = await jobs.add(new_job(), b"")
    waiting = asyncio.create_task(jobs.wait(job.id, 1, 60))
    await asyncio.sleep(0)
    await jobs.close()
    async with asyncio.timeout(5):
        assert await waiting == job
    calls = (
        lambda: jobs.add(new_job(), b""),
        lambda: jobs.get(job.id),
        lambda: jobs.find("alice", "k"),
        lambda: jobs.body(job.id),
        lambda: jobs.replace(job, bumped(job)),
        lambda: jobs.remove(job),
        lambda: jobs.list(),
        lambda: jobs.counts(["alice"]),
        lambda: jobs.spent(None, 1),
        lambda: jobs.due(Stage.ENDED, 1),
        lambda: jobs.wait(job.id, 1, 0),
        lambda: jobs.probe(),
    )
    for call in calls:
        with pytest.raises(StoreUnavailable):
            await call()
    await jobs.close()


async def test_a_probe_of_a_store_that_works_changes_nothing(jobs: JobStore) -> None:
    """§15 /readyz: stores writable."""
    job = await jobs.add(new_job(), b"")
    await jobs.probe()
    assert await jobs.list() == [job]


async def test_a_cancelled_call_happens_whole_or_not_at_all(jobs: JobStore) -> None:
    """§3.7: a client that leaves does not leave half a job."""
    random_ = random.Random(1)
    for number in range(100):
        job = new_job(number, key=f"k{number}")
        calling = asyncio.create_task(jobs.add(job, b"body"))
        for _ in range(random_.randrange(4)):
            await asyncio.sleep(0)
        calling.cancel()
        await asyncio.wait([calling])
        again = await jobs.add(replace(job, id=new_job().id), b"body")
        found = await jobs.find("alice", f"k{number}")
        assert found == again
        assert (await jobs.get(job.id) is not None) == (again.id == job.id)
        changing = asyncio.create_task(jobs.replace(again, bumped(again)))
        for _ in range(random_.randrange(4)):
            await asyncio.sleep(0)
        changing.cancel()
        await asyncio.wait([changing])
        won = await jobs.replace(again, replace(bumped(again), holder="second"))
        current = await jobs.get(again.id)
        assert current == (replace(bumped(again), holder="second") if won else bumped(again))


async def test_recent_shows_own_changes_at_once(jobs: JobStore) -> None:
    """What this process has changed is shown, however recently the job was read."""
    job = await jobs.add(new_job(), b"")
    assert await jobs.recent(job.id) == job
    changed = advance(job, Claimed("r1"), 1.0)
    assert await jobs.replace(job, changed)
    assert await jobs.recent(job.id) == changed
    assert await jobs.remove(changed)
    assert await jobs.recent(job.id) is None


# rescued exports (CONTRACT §14)


def rescued(number: int = 0, **changes: Any) -> Job:
    return new_job(number, **({"origin": Origin.RESCUE, "fingerprint": "f"} | changes))


async def test_a_rescued_export_is_found_by_each_owner_and_its_fingerprint(jobs: JobStore) -> None:
    """§14: the same caller, target and body; a refreshed token is the same caller."""
    job = await jobs.add(rescued(aliases=("identity",)), b"")
    assert await jobs.match("alice", "f") == await jobs.match("identity", "f") == job
    for owner, fingerprint in (("bob", "f"), ("alice", "g"), ("alice", ""), ("", "f")):
        assert await jobs.match(owner, fingerprint) is None
    assert await jobs.find("alice", "f") is None


async def test_an_export_that_was_asked_for_is_no_match(jobs: JobStore) -> None:
    await jobs.add(new_job(fingerprint="f"), b"")
    await jobs.add(new_job(fingerprint="f", key="k"), b"")
    assert await jobs.match("alice", "f") is None


async def test_of_concurrent_identical_rescued_exports_one_is_added(jobs: JobStore) -> None:
    """§14: two identical POSTs at the same moment are one job."""
    candidates = [rescued(number) for number in range(20)]
    added = await asyncio.gather(*(jobs.add(job, b"") for job in candidates))
    assert len({job.id for job in added}) == 1
    assert await jobs.list() == [added[0]]
    other = rescued(fingerprint="g")
    assert await jobs.add(other, b"") == other


@pytest.mark.parametrize("event", [Detached(), Forgotten(), CancelRequested(), Failed(ERROR)])
async def test_the_next_rescued_export_is_added_once_nobody_joins_the_last(
    jobs: JobStore, event: Event
) -> None:
    """§14: after that the same POST is a new export."""
    first = await jobs.add(rescued(), b"")
    assert await jobs.replace(first, advance(first, event, 1.0))
    assert await jobs.match("alice", "f") is None
    second = rescued()
    assert await jobs.add(second, b"") == second
    assert await jobs.match("alice", "f") == second


async def test_a_removed_rescued_export_is_no_match(jobs: JobStore) -> None:
    first = await jobs.add(rescued(), b"")
    assert await jobs.remove(first)
    assert await jobs.match("alice", "f") is None
