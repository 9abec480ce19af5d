"""Job records in Redis or Valkey, shared by replicas (CONTRACT §18)."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Collection, Sequence
from typing import Any, TypeVar

from proxy.clock import elapsed
from proxy.core.job import Job, Phase
from proxy.core.rescue import gained, rescue_key
from proxy.core.retention import Stage
from proxy.ports import (
    Bounds,
    Changes,
    Counts,
    KeyClaim,
    KeyClaimed,
    KeyTaken,
    SlotLimits,
    SlotUse,
    StoreUnavailable,
    Turn,
)
from proxy.stores.redis_jobs import checks, scripts
from proxy.stores.redis_jobs.connections import Connections, tls_context
from proxy.stores.redis_jobs.entries import (
    check_next,
    claim_key,
    entries,
    is_waiting,
    pack,
    pack_body,
    text,
    texts,
    unpack,
    unpack_body,
)
from proxy.stores.redis_jobs.feed import Feed
from proxy.stores.redis_jobs.lists import RedisLists
from proxy.stores.redis_jobs.outbox import RedisOutbox
from proxy.stores.redis_jobs.recent import RecentJobs, UnpackedJobs
from proxy.stores.redis_jobs.replicas import RedisReplicas
from proxy.stores.redis_jobs.server_clock import ServerClock
from proxy.stores.redis_jobs.url import parse_url

_T = TypeVar("_T")

#: Records read at a time.
_TOGETHER = 250
#: Seconds between two checks of the jobs that are waited for, in case the feed missed a change.
_LOOK = 1.0
#: Seconds for which a claim to an idempotency key is kept.
_CLAIM = 3600
#: The replies of `ADD`: stored, with a slot or without, or other kick-offs claim the key.
_STARTED, _STORED, _CLAIMED = 2, 1, -1
#: What `replace` returns if another job has a key that the job would get.
_TAKEN = -3
#: How often a job is added again if it seems too late: the store's clock may have been set.
_TRIES = 2
_TURNS = {1: Turn.TAKEN, 0: Turn.CHANGED, -2: Turn.NOT_YET}


class RedisJobs(RedisReplicas, RedisLists, RedisOutbox):
    """A `SharedOutboxJobs` store. Every change is one script in one round trip: on a failure it may
    have happened, but never in part.
    """

    def __init__(self, connections: Connections, prefix: str, channel: str, lease: float) -> None:
        super().__init__(connections, prefix, lease)
        self._recent = RecentJobs(elapsed)
        self._unpacked = UnpackedJobs()
        self._feed = Feed(connections, channel, self._recent)
        self._clock = ServerClock(elapsed)
        self._tasks: list[asyncio.Task[None]] = []
        self._changing: set[asyncio.Future[Any]] = set()
        self._closing: asyncio.Task[None] | None = None
        #: Ids of jobs whose `add` failed, and until when the store may still execute it.
        self._adding: dict[str, float] = {}

    @classmethod
    async def open(cls, url: str, *, lease: float = 30.0) -> RedisJobs:
        """Connect to the store. `lease` is the length of a lease in seconds.

        Raises `BadUrl`, and `StoreUnavailable` if the store cannot be reached or is too old.
        """
        location = parse_url(url)
        tls = await asyncio.to_thread(tls_context, location)
        channel = f"{location.prefix}feed:{location.db}"
        connections = Connections(location, tls, channel=channel)
        store = cls(connections, location.prefix, channel, lease)
        try:
            await checks.version(connections)
        except BaseException:
            await connections.close()
            raise
        store._start()
        return store

    def _start(self) -> None:
        works = (self._feed.run(), self._look(), self._connections.watch_service())
        self._tasks = [asyncio.create_task(each) for each in works]

    async def notes(self) -> Sequence[str]:
        """A sentence for each setting of the store that puts jobs at risk, with the fix."""
        return await checks.notes(self._connections)

    async def time(self) -> float:
        """The Unix second on the clock of the store, which all replicas share."""
        time = await checks.time(self._connections)
        self._clock.read(time)
        return time

    async def add(self, job: Job, body: bytes) -> Job:
        """As `JobStore.add`. A job whose id is stored already is not written again. After a failure
        it is not stored later, even if the store executes the command then: by its clock it is too
        late.
        """
        added = await self._add(job, body)
        if added is None:
            raise StoreUnavailable("the job store applied bounds that nobody asked for")
        return added

    async def add_within(
        self, job: Job, body: bytes, bounds: Bounds, started: Job | None = None
    ) -> Job | None:
        """As `SharedJobs.add_within`."""
        slots = bounds.slots
        args: list[Any] = [bounds.per_caller, bounds.records_per_caller]
        args += [bounds.queued, bounds.records, slots.total, slots.hold]
        if started is not None:
            check_next(job, started)
            if started.holder != self.replica:
                raise ValueError("a replica starts a job for itself")
            args += [slots.per_caller, self.replica]
            args += [started.version, pack(started), entries(started)]
        return await self._add(job, body, args, started)

    async def _add(
        self, job: Job, body: bytes, args: Sequence[Any] = (), started: Job | None = None
    ) -> Job | None:
        self._check_open()
        deadline = elapsed() + self._connections.bound
        if not self._clock.known:
            await self.time()
        try:
            return await self._add_before(deadline, job, body, args, started)
        except StoreUnavailable:
            self._adding[job.id] = deadline
            raise

    async def _add_before(
        self, deadline: float, job: Job, body: bytes, args: Sequence[Any], started: Job | None
    ) -> Job | None:
        # a record that is rebuilt from its file has no body
        packed = pack_body(body) if body or not job.terminal else b""
        record = (job.id, job.version, pack(job), entries(job), packed)
        for _ in range(_TRIES):
            latest = repr(self._clock.now() + deadline - elapsed())
            adding = self._connections.run(scripts.ADD, *record, latest, *args)
            reply = await self._change(job.id, adding)
            if isinstance(reply, bytes):
                return unpack(reply)
            if reply == _CLAIMED:
                raise KeyClaimed
            if not isinstance(reply, list):
                return {_STORED: job, _STARTED: started}.get(reply)
            self._clock.read(float(reply[0]))
        raise StoreUnavailable("the job store was too slow to add a job")

    async def announce(self, claim: KeyClaim) -> None:
        """As `SharedJobs.announce`."""
        await self._connections.run(
            scripts.ANNOUNCE, *claim_key(claim.owner, claim.key), claim.id, self.replica, _CLAIM
        )

    async def withdraw(self, claims: Collection[KeyClaim]) -> None:
        """As `SharedJobs.withdraw`."""
        args = [arg for each in claims for arg in (*claim_key(each.owner, each.key), each.id)]
        if args:
            await self._connections.run(scripts.WITHDRAW, *args)

    async def claims(self, owner: str, key: str) -> Collection[str]:
        """As `SharedJobs.claims`."""
        found = await self._connections.run(scripts.CLAIMS, *claim_key(owner, key))
        return [each.decode() for each in found]

    async def get(self, id: str) -> Job | None:
        """As `JobStore.get`. The request of an `add` that failed may still be on its way: what is
        read is from after its deadline.
        """
        if self._adding:
            await self._until_added(id)
        data = await self._connections.command("HGET", f"{self._prefix}job:{id}", "data")
        return None if data is None else self._unpacked.unpack(id, data)

    async def _until_added(self, id: str) -> None:
        await asyncio.sleep(self._adding.get(id, 0.0) - elapsed())
        self._adding = {each: end for each, end in self._adding.items() if end > elapsed()}

    async def recent(self, id: str, *, fresh: bool = False) -> Job | None:
        """As `JobStore.recent`; see `RecentJobs`."""
        if not self._feed.connected.is_set():
            return await self.get(id)
        if not fresh and (known := self.in_memory(id)) is not None:
            return known
        read = self._recent.begin(id)
        job = None
        try:
            job = await self.get(id)
        finally:
            self._recent.put(id, read, job)
        return job

    def in_memory(self, id: str) -> Job | None:
        """As `JobStore.in_memory`; see `RecentJobs`."""
        return self._recent.get(id) if self._feed.connected.is_set() else None

    async def find(self, owner: str, idempotency_key: str) -> Job | None:
        """As `JobStore.find`."""
        data = await self._connections.run(scripts.FIND, text(owner), text(idempotency_key))
        return None if data is None else unpack(data)

    async def match(self, owner: str, fingerprint: str) -> Job | None:
        """As `JobStore.match`."""
        return await self.find(owner, rescue_key(fingerprint))

    async def body(self, id: str) -> bytes | None:
        """As `JobStore.body`."""
        data = await self._connections.command("GET", f"{self._prefix}body:{id}")
        return None if data is None else unpack_body(data)

    async def replace(self, old: Job, new: Job) -> bool:
        """As `JobStore.replace`, with the lease that `SharedJobs` demands."""
        check_next(old, new)
        self._check_open()
        over = new.terminal or new.forgotten
        abandoned = new.abandoned is not None and old.abandoned is None
        mine = self.replica in {old.holder, new.holder}
        needs_lease = mine and not new.forgotten and new.phase is not Phase.CANCELLING
        outcome = await self._change(
            new.id,
            self._connections.run(
                scripts.REPLACE,
                *(new.id, old.version, new.version, pack(new), entries(new)),
                *(int(over), int(abandoned), self.replica if needs_lease else ""),
                *(text(f"{owner}\0{key}") for owner, key in gained(old, new)),
            ),
        )
        self._check_lease(outcome)
        if outcome == _TAKEN:
            raise KeyTaken
        return bool(outcome)

    async def remove(self, job: Job) -> bool:
        """As `JobStore.remove`."""
        self._check_open()
        removing = self._connections.run(scripts.REMOVE, job.id, job.version)
        return bool(await self._change(job.id, removing))

    async def claim(self, old: Job, new: Job, slots: SlotLimits) -> Turn:
        """As `SharedJobs.claim`."""
        check_next(old, new)
        if new.holder != self.replica or not (is_waiting(old) or old.holder):
            raise ValueError("a replica claims a job that waits, for itself")
        self._check_open()
        outcome = await self._change(
            new.id,
            self._connections.run(
                scripts.CLAIM,
                *(new.id, old.version, new.version, pack(new), entries(new)),
                *(self.replica, slots.total, slots.per_caller, slots.hold),
            ),
        )
        self._check_lease(outcome)
        return _TURNS[outcome]

    def _check_lease(self, outcome: object) -> None:
        if outcome == -1:
            raise StoreUnavailable(
                "the lease of this replica has ended: its jobs are another's until it is renewed"
            )

    async def counts(self, owners: Collection[str]) -> Counts:
        """As `JobStore.counts`."""
        return Counts(*await self._connections.run(scripts.COUNTS, *texts(owners)))

    async def spent(self, owners: Collection[str] | None, limit: int) -> Sequence[Job]:
        """As `JobStore.spent`."""
        scope = ("all",) if owners is None else ("owners", *texts(owners))
        return await self._records(await self._connections.run(scripts.SPENT, limit, *scope))

    async def due(self, stage: Stage, until: float) -> Sequence[Job]:
        """As `JobStore.due`."""
        reply = await self._connections.run(scripts.DUE, stage.value, repr(float(until)))
        return await self._records(reply)

    async def orphans(self) -> Sequence[Job]:
        """As `SharedJobs.orphans`."""
        return await self._records(await self._connections.run(scripts.ORPHANS))

    async def slot_use(self, owners: Collection[str], slots: SlotLimits) -> SlotUse:
        """As `SharedJobs.slot_use`."""
        reply = await self._connections.run(scripts.SLOT_USE, slots.hold, *texts(owners))
        running, waiting, held, mine = reply
        return SlotUse(running=running, waiting=waiting, held=held, held_by_caller=mine)

    def changes(self) -> Changes:
        """As `JobFeed.changes`. None after a gap of the connection, or 10,000 unread ids."""
        return self._feed.changes()

    async def wait(self, id: str, version: int, timeout: float) -> Job | None:
        """As `JobStore.wait`; also returns when the store is closed."""
        loop = asyncio.get_running_loop()
        deadline = loop.time() + timeout
        while True:
            with self._feed.watch(id, version) as changed:
                job = await self.get(id)
                remaining = deadline - loop.time()
                if job is None or job.version != version or remaining <= 0:
                    return job
                await asyncio.wait([changed], timeout=remaining)
                if changed.cancelled():
                    return job

    async def _look(self) -> None:
        """Once a second, compare the versions of all jobs that are waited for."""
        while True:
            await asyncio.sleep(_LOOK)
            ids = self._feed.watched()
            for start in range(0, len(ids), _TOGETHER):
                part = ids[start : start + _TOGETHER]
                try:
                    found = await self._connections.run(scripts.VERSIONS, *part)
                except StoreUnavailable:
                    found = [None] * len(part)  # each looks for itself, and fails
                versions = (None if each is None else int(each) for each in found)
                self._feed.compare(dict(zip(part, versions, strict=True)))

    async def probe(self) -> None:
        """As `JobStore.probe`: a key is written, which expires."""
        self._check_open()
        await self._connections.command("SET", f"{self._prefix}probe", "", "PX", 1000)

    async def close(self) -> None:
        """As `JobStore.close`: earlier calls are completed first. Idempotent."""
        if self._closing is None:
            self._closing = asyncio.create_task(self._close())
        await asyncio.shield(self._closing)

    async def _close(self) -> None:
        self._feed.close()
        for task in self._tasks:
            task.cancel()
        if self._tasks:
            await asyncio.wait(self._tasks)
        if self._changing:
            await asyncio.wait(self._changing)
        await self._connections.close()

    async def _change(self, id: str, change: Awaitable[_T]) -> _T:
        """The outcome of a change of the job. It is completed even if the caller is cancelled: a
        connection in the middle of a command could not be used again, and `close` waits for it.
        """
        changing = asyncio.ensure_future(change)
        self._changing.add(changing)
        changing.add_done_callback(self._changed)
        self._recent.drop(id)
        try:
            return await asyncio.shield(changing)
        finally:
            self._recent.drop(id)  # what was read meanwhile may be from before the change

    def _changed(self, changing: asyncio.Future[Any]) -> None:
        self._changing.discard(changing)
        if not changing.cancelled():
            changing.exception()  # read, so that none is reported when the caller has left

    def _check_open(self) -> None:
        if self._closing is not None:
            raise StoreUnavailable("the job store is closed")
