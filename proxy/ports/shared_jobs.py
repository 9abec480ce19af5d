"""What the packages ask of a job store that several replicas share (CONTRACT §18)."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import dataclass
from enum import Enum
from typing import Protocol

from proxy.core.job import Job
from proxy.ports.changes import Changes
from proxy.ports.jobs import JobStore


class JobFeed(Protocol):
    """An optional capability of a job store: a feed of changed jobs, of all replicas."""

    def changes(self) -> Changes:
        """The ids of jobs that were added, changed or removed since this call, by any replica, and
        of jobs whose turn a claim of another has found, until the store is closed. Changes in
        quick succession may be reported once. None after a gap: then any job may have changed.
        """


@dataclass(frozen=True, slots=True, kw_only=True)
class SlotLimits:
    """`total` slots of all replicas, at most `per_caller` (0: no limit) for one caller. The slot of
    a job that was abandoned (`Job.abandoned`) stays taken for `hold` seconds (CONTRACT §3.5).
    """

    total: int
    per_caller: int
    hold: float


@dataclass(frozen=True, slots=True, kw_only=True)
class Bounds:
    """How many jobs may exist with the one that is added, over all replicas (CONTRACT §3.5, §15):
    of the caller unfinished (`per_caller`; held slots count) and on record, of all callers waiting
    (`queued`, beside those that a free slot is waiting for) and on record.
    """

    per_caller: int
    queued: int
    records_per_caller: int
    records: int
    slots: SlotLimits


@dataclass(frozen=True, slots=True, kw_only=True)
class SlotUse:
    """Numbers of jobs over all replicas: that have a slot, that wait for one, slots that are held,
    and those held for the caller. The held slot of an abandoned job counts once the job itself has
    no slot any more, also if its record is removed.
    """

    running: int
    waiting: int
    held: int
    held_by_caller: int


class Turn(Enum):
    """What became of an attempt to claim a slot."""

    TAKEN = "taken"
    #: No slot is free for it yet, or another job is first.
    NOT_YET = "not yet"
    #: The job is not as it was: read it again.
    CHANGED = "changed"


@dataclass(frozen=True, slots=True, kw_only=True)
class Replica:
    """A replica with a lease: its id, the Unix second of its last renewal on the store's clock, and
    what it reported then: the number of its running jobs, and the bytes promised to them.
    """

    id: str
    seen: float
    running: int
    promised: int


@dataclass(frozen=True, slots=True, kw_only=True)
class KeyClaim:
    """The kick-off of the job `id` may turn out to be that of `owner`, with this idempotency key:
    its replica cannot ask VB365 now (CONTRACT §8).
    """

    owner: str
    key: str
    id: str


class KeyClaimed(Exception):
    """Other kick-offs claim the idempotency key of a job: decide about them first."""


class SharedJobs(JobStore, JobFeed, Protocol):
    """A job store that several replicas share (CONTRACT §18).

    Each handle belongs to one replica, which has a lease on the store's clock. A job names the
    replica that holds its credentials (`Job.replica`) and, from its claim on, the one that drives
    it (`Job.holder`). `replace` raises `StoreUnavailable` for a job that this replica holds, or is
    about to, while it has no lease: after `renew` it may find that another replica has taken the
    job over. If the stored version is another one already, `replace` returns False all the same. A
    cancel (`new` is Cancelling) and a deletion need no lease, and neither does a change of a job
    that another replica holds, or none.

    `add` and `add_within` raise `KeyClaimed`, and nothing is written, while `claims` has others'
    claims to the key of a new job under one of its owners.
    """

    @property
    def replica(self) -> str:
        """The id of this handle's replica, new for every process."""

    async def renew(self, *, running: int, promised: int) -> None:
        """Renew the lease of this replica, or begin it: at the start, and again after its end."""

    async def leave(self) -> None:
        """End the lease and report the replica's jobs on the feed: others may take them over at
        once. Idempotent.
        """

    async def replicas(self) -> Sequence[Replica]:
        """The replicas that have a lease."""

    async def add_within(
        self, job: Job, body: bytes, bounds: Bounds, started: Job | None = None
    ) -> Job | None:
        """As `add`, but None and nothing is written if a new job would exceed the bounds. The job
        of an idempotency key is returned also then.

        `started` is the job with a slot, held by this replica. If the replica has its lease, a slot
        is free for the job and no other job waits, it is stored in place of `job`, and returned:
        then the job needs no `claim`.
        """

    async def announce(self, claim: KeyClaim) -> None:
        """Record a claim of this replica, for an hour at most."""

    async def withdraw(self, claims: Collection[KeyClaim]) -> None:
        """Remove claims of any replica. Idempotent."""

    async def claims(self, owner: str, key: str) -> Collection[str]:
        """The ids of the kick-offs that claim the owner's key, at replicas that have a lease."""

    async def claim(self, old: Job, new: Job, slots: SlotLimits) -> Turn:
        """As `replace`, if a slot is free for the job and it is the job's turn: of all jobs that
        wait, callers take turns as in `jobs.queue`. Those of replicas without a lease are left
        out. If it is another job's turn, that is reported on the feed.

        `new` has this replica as its `holder` and is still Queued; it has the slot until it has
        ended or has no holder. A job that has a holder already keeps its slot and needs no turn.
        """

    async def slot_use(self, owners: Collection[str], slots: SlotLimits) -> SlotUse:
        """Count the slots and the jobs that wait."""

    async def orphans(self) -> Sequence[Job]:
        """The unfinished jobs, not Suspended, whose holder has no lease, or without a holder the
        `Job.replica`; also those that have neither.
        """
