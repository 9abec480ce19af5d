"""All jobs in memory, for queries and for streams of changes (CONTRACT §16).

Theory of operation. `run` loads the jobs once and then follows the feed: it reads each changed job
again, at most every `INTERVAL` seconds, however often a job changes. A query first reads what has
changed until then, so that it shows each change that was made before. The index holds what queries
need, and the rows that were shown last as JSON; other rows are read from the store.
"""

from __future__ import annotations

import asyncio
from collections import Counter, OrderedDict
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from math import inf

import structlog

from proxy.admin.job_query import Entry, Query
from proxy.admin.rows import OWNER, Rows
from proxy.core.exports import split_target
from proxy.core.job import Job, Phase, ResultState, Status
from proxy.core.job_document import message
from proxy.core.retention import Retention
from proxy.jobs.counted import CountedJobs
from proxy.ports import Changes, StoreUnavailable

log = structlog.get_logger(__name__)

#: Seconds between two reads of what has changed, and after a failure of the store.
INTERVAL, _RETRY = 0.25, 1.0
#: Jobs that are read, or indexed, before other tasks run.
_TOGETHER = 100
#: Bytes of rows that are kept.
_ROWS = 8 << 20
#: Characters of a path, and of a message, that a search looks at.
_LONGEST = 1024
_DAY = 86_400.0
_RUNNING = (Phase.GENERATING, Phase.TRANSFERRING, Phase.FINALIZING, Phase.CANCELLING)


@dataclass(frozen=True, slots=True)
class _Row:
    """A row as JSON, of this version of the job. It is not shown from the second `until` on."""

    version: int
    until: float
    data: bytes


class JobIndex:
    """The jobs of the store, deleted ones excluded."""

    def __init__(self, jobs: CountedJobs, rows: Rows, retention: Retention) -> None:
        self._jobs = jobs
        self._rows = rows
        self._retention = retention
        self._changes = jobs.prompt_changes()
        self._pending: dict[str, None] = {}
        self._loaded = False
        self._entries: dict[str, Entry] = {}
        self._newest: list[Entry] | None = []
        self._phases: Counter[Phase] = Counter()
        #: When jobs failed, and when files that nobody has fetched expire, by job id.
        self._failed: dict[str, float] = {}
        self._waiting: dict[str, float] = {}
        self._known: OrderedDict[str, _Row] = OrderedDict()
        self._known_bytes = 0
        self._watchers: set[Changes] = set()
        self._lock = asyncio.Lock()

    async def run(self) -> None:
        """Follow the feed until cancelled."""
        pause = 0.0
        while True:
            await asyncio.sleep(pause)
            try:
                await self.refresh()
                changed = await anext(self._changes)
            except StoreUnavailable:
                pause = _RETRY  # the store logs its failures itself
            except StopAsyncIteration:
                return
            except Exception:
                # the index must outlive a bad record
                log.exception("job index failed")
                pause = _RETRY
            else:
                self._note(changed)
                pause = INTERVAL

    async def refresh(self) -> None:
        """Read what has changed. Raises `StoreUnavailable`."""
        async with self._lock:
            for changed in self._changes.take():
                self._note(changed)
            if not self._loaded:
                await self._load()
            while self._pending:
                ids = list(self._pending)[:_TOGETHER]
                found = await asyncio.gather(*map(self._jobs.get, ids))
                for changed, job in zip(ids, found, strict=True):
                    self._pending.pop(changed, None)
                    self._apply(changed, job)

    def _note(self, changed: str | None) -> None:
        if changed is None:
            self._loaded = False
        else:
            self._pending[changed] = None

    async def _load(self) -> None:
        """Read all jobs."""
        self._pending.clear()
        jobs = await self._jobs.list()
        gone = self._entries.keys() - {job.id for job in jobs}
        for number, job in enumerate(jobs):
            try:
                self._apply(job.id, job)
            except Exception:
                # the index must outlive a record that it cannot show
                log.exception("job not indexed", job=job.id)
            if number % _TOGETHER == 0:
                await asyncio.sleep(0)
        for each in gone:
            self._apply(each, None)
        self._loaded = True

    def _apply(self, id: str, job: Job | None) -> None:
        known = self._entries.get(id)
        if job is None or job.forgotten:
            if known is None:
                return
            del self._entries[id]
            self._drop_row(id)
            self._failed.pop(id, None)
            self._waiting.pop(id, None)
            self._newest = None
        else:
            if known is not None and known.version == job.version:
                return
            self._entries[id] = entry = self._entry(job)
            self._phases[job.phase] += 1
            self._note_attention(job, entry)
            self._newest = None
        if known is not None:
            self._phases[known.phase] -= 1
        for watcher in self._watchers:
            watcher.put(id)

    def _note_attention(self, job: Job, entry: Entry) -> None:
        """Note whether the job has failed, or has a file that nobody has fetched."""
        if job.status is Status.FAILED:
            self._failed[job.id] = job.updated if job.ended is None else job.ended
        if job.result is ResultState.AVAILABLE and entry.fetched is False:
            self._waiting[job.id] = inf if job.expires is None else job.expires
        else:
            self._waiting.pop(job.id, None)

    def _entry(self, job: Job) -> Entry:
        request = job.request
        path = split_target(request.target.encode("utf-8", "replace"))[0].decode("utf-8")
        parts = (job.id, request.title, request.session or "", job.owner[:OWNER], job.client or "")
        text = "\n".join((*parts, path[:_LONGEST], message(job)[:_LONGEST])).lower()
        announced = None if job.file is None else job.file.size
        has_file = job.status in (Status.SUCCESS, Status.WARNING)
        return Entry(
            id=job.id,
            version=job.version,
            created=job.created,
            started=job.created if job.started is None else job.started,
            ended=job.ended,
            updated=job.updated,
            expires=job.expires,
            ends=self._retention.record_ends(job),
            status=job.status,
            phase=job.phase,
            title=request.title,
            owner=job.owner,
            size=announced if job.size is None else job.size,
            received=job.received,
            delivered=job.delivery.count if has_file else None,
            fetched=_fetched(job) if has_file else None,
            text=text,
        )

    # reading

    def counts(self) -> dict[str, int]:
        """The numbers of unfinished jobs, of all replicas."""
        return {
            "running": sum(self._phases[phase] for phase in _RUNNING),
            "queued": self._phases[Phase.QUEUED],
            "suspended": self._phases[Phase.SUSPENDED],
        }

    def attention(self) -> dict[str, int]:
        """The numbers of exports that failed within a day, and of files that nobody has fetched, of
        all replicas and from before this start too.
        """
        now = self._rows.now()
        return {
            "failedLastDay": sum(now - ended < _DAY for ended in self._failed.values()),
            "notFetched": sum(now < expires for expires in self._waiting.values()),
        }

    def select(self, query: Query) -> tuple[int, list[str]]:
        """Return how many jobs the query selects, and the ids of those on its page."""
        now = self._rows.now()
        if self._newest is None:
            entries = self._entries.values()
            self._newest = sorted(entries, key=lambda each: (each.created, each.id), reverse=True)
        found = [entry for entry in self._newest if entry.ends is None or now < entry.ends]
        if not query.selects_all:
            found = list(filter(query.selects, found))
        page = query.ordered(found, now)[query.offset : query.offset + query.limit]
        return len(found), [entry.id for entry in page]

    async def row(self, id: str) -> bytes | None:
        """Return the row of the job as JSON, None without one. Raises `StoreUnavailable`."""
        entry = self._entries.get(id)
        known = self._known.get(id)
        if (
            entry is not None
            and known is not None
            and known.version == entry.version
            and self._rows.now() < known.until
        ):
            self._known.move_to_end(id)
            return known.data
        job = await self._jobs.get(id)
        return None if job is None else self._keep_row(job)

    def _keep_row(self, job: Job) -> bytes:
        data = self._rows.encoded(job)
        if not job.forgotten:
            expires = job.expires if job.result is ResultState.AVAILABLE else None
            now = self._rows.now()
            until = inf if expires is None or expires <= now else expires
            self._drop_row(job.id)
            self._known[job.id] = _Row(job.version, until, data)
            self._known_bytes += len(data)
            while self._known_bytes > _ROWS:
                self._drop_row(next(iter(self._known)))
        return data

    def _drop_row(self, id: str) -> None:
        if (row := self._known.pop(id, None)) is not None:
            self._known_bytes -= len(row.data)

    @contextmanager
    def watch(self) -> Iterator[Changes]:
        """The ids of jobs that change, are added, deleted or removed within the block."""
        watcher = Changes()
        self._watchers.add(watcher)
        try:
            yield watcher
        finally:
            self._watchers.discard(watcher)


def _fetched(job: Job) -> bool:
    """Whether the whole file was sent, at once or in parts."""
    known = job.delivery
    return known.whole or (known.count > 0 and known.sent >= (job.size or 0))
