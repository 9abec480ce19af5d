"""A change that fails does not hold up the others (`proxy.stores.disk_jobs.group_commit`)."""

from __future__ import annotations

import asyncio
import contextlib
import math
import sys
import threading
from collections.abc import AsyncIterator, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path
from typing import Any

import pytest
from diskcache import Timeout
from structlog.testing import capture_logs

from proxy.core.events import Claimed, Failed
from proxy.core.job import Job
from proxy.core.job_codec import encode
from proxy.core.retention import Stage
from proxy.core.transitions import advance
from proxy.ports import StoreUnavailable
from proxy.stores.disk_jobs import database, group_commit
from proxy.stores.disk_jobs.database import KEEP, Change
from proxy.stores.disk_jobs.group_commit import GroupCommit
from proxy.stores.disk_jobs.index import JobIndex
from proxy.stores.disk_jobs.store import DiskJobs
from tests.support.fakes import new_job
from tests.unit.stores.records import ERROR


class Writer:
    """Commits while `gate` is set. What it applies, or decides, with the id "bad" fails."""

    def __init__(self, executor: ThreadPoolExecutor) -> None:
        self.gate = threading.Event()
        self.applied: list[str] = []
        self.writer = GroupCommit(executor, self._commit, self._apply)

    def _commit(self, changes: list[Change]) -> list[Exception | None]:
        self.gate.wait(20)
        return [None] * len(changes)

    def _apply(self, change: Change) -> None:
        if change.id == "bad":
            raise KeyError(change.id)
        self.applied.append(change.id)

    def submit(self, id: str, key: str, *, fails: bool = False) -> asyncio.Future[str]:
        def decide() -> tuple[str, Change]:
            if fails:
                raise ValueError(id)
            return id, Change(id, None, KEEP)

        return self.writer.submit(frozenset({key}), decide)


@pytest.fixture
def writer() -> Any:
    with ThreadPoolExecutor(1) as executor:
        made = Writer(executor)
        yield made
        made.gate.set()


async def test_an_operation_that_cannot_be_decided_fails_alone(writer: Writer) -> None:
    """Also one that waited: then no caller is there to get the error."""
    first, bad = writer.submit("a", "k"), writer.submit("b", "k", fails=True)
    last = writer.submit("c", "k")
    writer.gate.set()
    async with asyncio.timeout(20):
        assert [await first, await last] == ["a", "c"]
        with pytest.raises(ValueError, match="b"):
            await bad
        await writer.writer.drained()
    assert writer.applied == ["a", "c"]


async def test_changes_that_find_no_memory_for_their_thread_hold_up_no_others() -> None:
    """The first one fails at once, the second one once it follows the batch of another."""
    lacks = [True, False, True, False]

    class Lacking(ThreadPoolExecutor):
        def submit(self, *args: Any, **kwargs: Any) -> Any:
            if lacks.pop(0):
                raise MemoryError
            return super().submit(*args, **kwargs)

    with Lacking(1) as executor:
        writer = Writer(executor)
        writer.gate.set()
        submitted = [writer.submit(name, "k") for name in "abcd"]
        async with asyncio.timeout(20):
            results = await asyncio.gather(*submitted, return_exceptions=True)
            await writer.writer.drained()
    assert [results[1], results[3]] == ["b", "d"]
    assert [type(results[each]) for each in (0, 2)] == [MemoryError, MemoryError]
    assert writer.applied == ["b", "d"]


async def test_changes_that_find_no_memory_for_their_outcome_hold_up_no_others(
    writer: Writer, monkeypatch: pytest.MonkeyPatch
) -> None:
    resolve, lacks = group_commit._resolve, [True]

    def lacking(*args: Any) -> None:
        if lacks:
            lacks.pop()
            raise MemoryError
        resolve(*args)

    monkeypatch.setattr(group_commit, "_resolve", lacking)
    first, second = writer.submit("a", "k"), writer.submit("b", "k")
    writer.gate.set()
    async with asyncio.timeout(20):
        assert await second == "b"
    first.cancel()
    assert writer.applied == ["a", "b"]


async def test_a_change_that_cannot_be_shown_fails_alone(writer: Writer) -> None:
    first, bad, other = (writer.submit(each, each) for each in ("a", "bad", "c"))
    later = writer.submit("d", "a")
    with capture_logs() as logs:
        writer.gate.set()
        async with asyncio.timeout(20):
            assert [await first, await other, await later] == ["a", "c", "d"]
            with pytest.raises(KeyError, match="bad"):
                await bad
            await writer.writer.drained()
    assert writer.applied == ["a", "c", "d"]
    assert [each["job"] for each in logs] == ["bad"]


async def test_a_change_that_finds_no_memory_to_be_applied_is_applied_later(
    writer: Writer, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It is stored: the next change of the same job must be decided on it."""
    lacks = ["b", "b", "a"]

    def lacking(change: Change) -> None:
        if lacks and lacks[-1] == change.id:
            lacks.pop()
            raise MemoryError
        writer.applied.append(change.id)

    monkeypatch.setattr(writer.writer, "_apply", lacking)
    submitted = [writer.submit(each, key) for each, key in ("aj", "bk", "cl", "dk")]
    writer.gate.set()
    async with asyncio.timeout(20):
        assert await asyncio.gather(*submitted) == ["a", "b", "c", "d"]
        await writer.writer.drained()
    assert not lacks
    assert writer.applied == ["a", "b", "c", "d"]


@pytest.fixture
async def jobs(tmp_path: Path) -> AsyncIterator[DiskJobs]:
    store = await DiskJobs.open(tmp_path)
    yield store
    await store.close()


@pytest.mark.parametrize(
    ("fault", "reported"), [(MemoryError(), StoreUnavailable), (TypeError("x"), TypeError)]
)
async def test_a_record_that_cannot_be_written_fails_alone(
    jobs: DiskJobs,
    monkeypatch: pytest.MonkeyPatch,
    fault: Exception,
    reported: type[Exception],
) -> None:
    """§5: a lack of memory is waited out, and is not the outcome of a job."""
    old = [await jobs.add(new_job(number), b"{}") for number in range(3)]
    new = [advance(job, Claimed("r"), 2.0) for job in old]

    def fails(job: Job) -> bytes:
        if job.id == old[1].id:
            raise fault
        return encode(job)

    monkeypatch.setattr(database, "encode", fails)
    results = await asyncio.gather(*map(jobs.replace, old, new), return_exceptions=True)
    assert [results[0], results[2]] == [True, True]
    assert isinstance(results[1], reported)
    monkeypatch.undo()
    assert await jobs.list() == sorted([new[0], old[1], new[2]], key=_order, reverse=True)
    assert await jobs.replace(old[1], new[1])


@contextlib.contextmanager
def lack_of_memory(nth: int, count: int = 1) -> Iterator[None]:
    """Let `count` allocations fail, from the nth one on. Not every CPython can do that."""
    reason = "no _testcapi: a lack of memory at each step of the index is not tested"
    faults = pytest.importorskip("_testcapi", reason=reason)
    trace = sys.gettrace()  # measuring coverage needs memory
    sys.settrace(None)
    faults.set_nomemory(nth, nth + count)
    try:
        yield
    finally:
        faults.remove_mem_hooks()
        sys.settrace(trace)


def of_index(jobs: JobIndex) -> list[Any]:
    """All that an index of jobs of one owner and session may be asked."""
    owners, session = ["alice"], "s1"
    everything: list[Any] = [
        jobs.list(None, None),
        jobs.list("alice", None),
        jobs.list("alice", session),
    ]
    everything += [jobs.counts(owners), jobs.spent(owners, 9), jobs.spent(None, 9)]
    everything += [jobs.due(stage, math.inf) for stage in Stage]
    return [*everything, *(jobs.find("alice", key) for key in ("k0", "k1", "k2"))]


@pytest.mark.parametrize("count", [1, 3])
@pytest.mark.parametrize("change", ["add", "replace", "drop"])
def test_a_change_that_finds_no_memory_is_made_by_its_repetition(change: str, count: int) -> None:
    """Wherever that is. Entries of other jobs were removed, and lists failed with what was left."""
    old = [new_job(number, key=f"k{number}") for number in range(3)]
    claimed = advance(old[1], Claimed("r"), 2.0)
    new = advance(claimed, Failed(ERROR), 3.0) if change == "replace" else claimed
    lacked = nth = 0
    while nth < lacked + 5:  # the last ones are more than there are
        nth += 1
        found, expected = JobIndex(), JobIndex()
        for each in (found, expected):
            for job in (old[0], claimed, old[2]) if change != "add" else (old[0], old[2]):
                each.put(job)
        changes = [
            partial(each.drop, new.id) if change == "drop" else partial(each.put, new)
            for each in (found, expected)
        ]
        try:
            with lack_of_memory(nth, count):
                changes[0]()
        except MemoryError:
            lacked += 1
            changes[0]()
        changes[1]()
        assert of_index(found) == of_index(expected), nth
    assert lacked > 10


@pytest.mark.parametrize("nth", range(1, 20))
async def test_whatever_finds_no_memory_for_its_outcome_the_store_goes_on(
    writer: Writer, monkeypatch: pytest.MonkeyPatch, nth: int
) -> None:
    """One allocation that failed after a change was applied stopped all of them until a restart."""
    settle, settled = writer.writer._settle, asyncio.Event()

    def settle_without_memory(outcomes: list[Any]) -> None:
        if settled.is_set():
            settle(outcomes)
            return
        settled.set()
        with contextlib.suppress(MemoryError), lack_of_memory(nth):
            settle(outcomes)

    monkeypatch.setattr(writer.writer, "_settle", settle_without_memory)
    first = writer.submit("a", "j")
    writer.gate.set()
    async with asyncio.timeout(20):
        await settled.wait()
        assert await writer.submit("b", "j") == "b"
        await writer.writer.drained()
    first.cancel()
    await asyncio.wait([first])
    assert writer.applied == ["a", "b"]


async def test_changes_wait_once_for_a_locked_database(
    jobs: DiskJobs, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Not each of a batch in turn."""
    tries: list[int] = []

    def locked(cache: object, changes: Iterable[Change]) -> None:
        tries.append(len(list(changes)))
        raise Timeout

    monkeypatch.setattr(database, "_write", locked)
    await asyncio.to_thread(jobs._database._reserve.drop)
    added = [jobs.add(new_job(number), b"{}") for number in range(10)]
    results = await asyncio.gather(*added, return_exceptions=True)
    assert {type(each) for each in results} == {StoreUnavailable}
    assert tries == [1, 9]


def _order(job: Job) -> tuple[float, str]:
    return job.created, job.id
