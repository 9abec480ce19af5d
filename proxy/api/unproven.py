"""Kick-offs with an Idempotency-Key whose caller VB365 could not confirm yet (CONTRACT §8)."""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

from proxy.ports import KeyClaim
from proxy.upstream.credentials import Credentials

#: The maximum number of entries that are over, and of those with the same claimed identity and key.
MAX_ENTRIES, MAX_SAME = 1000, 8
#: Bytes of Authorization from which an entry counts as two, and so on. The longest token counts as
#: three: those of all jobs of unknown callers that run and wait by default fit in.
PER_ENTRY = 24 << 10
#: Seconds for which an entry that is over is kept: as long as VB365's tokens are valid by default.
MAX_AGE = 3600.0


@dataclass(eq=False, slots=True, kw_only=True)
class UnprovenKickoff:
    """One kick-off. `claimed` is the owner that its token claims to be, `id` that of its job,
    `credentials` its Authorization, `since` when it arrived, in seconds.

    `over` is set when its job is stored or will not be; `submitted`: it may be stored; `succeeded`:
    it is known to have a file. Whoever makes an entry holds it.
    """

    claimed: str
    key: str
    id: str
    credentials: Credentials = field(repr=False)
    since: float
    over: asyncio.Event = field(default_factory=asyncio.Event)
    submitted: bool = False
    succeeded: bool = False
    _holders: int = 1

    @property
    def weight(self) -> int:
        """As how many entries it counts."""
        return 1 + sum(map(len, self.credentials.authorization)) // PER_ENTRY

    def hold(self) -> None:
        """Put off `over` until `release`: the job is being stored, also if its client has left."""
        self._holders += 1

    def release(self) -> None:
        """End one hold. `over` is set with the last one."""
        self._holders -= 1
        if not self._holders:
            self.over.set()

    @property
    def claim(self) -> KeyClaim:
        """What other replicas must know of it."""
        return KeyClaim(owner=self.claimed, key=self.key, id=self.id)


class UnprovenKickoffs:
    """Remembers such kick-offs in memory: those that are over, whose jobs are stored, in a bounded
    number for a bounded time. The others count for nothing, and none of them is dropped: their
    requests have the tokens in memory anyway, may wait for VB365, and are refused or stored yet.

    `now` is in seconds; `removed` is called with the claim of each one that is forgotten. An entry
    grants nothing: anybody can claim any identity.
    """

    def __init__(
        self, now: Callable[[], float], removed: Callable[[KeyClaim], None] = lambda _: None
    ) -> None:
        self._now = now
        self._removed = removed
        self._entries: dict[str, UnprovenKickoff] = {}
        self._same: dict[tuple[str, str], dict[str, UnprovenKickoff]] = {}
        #: Those that are over, in the order of `next`.
        self._over: dict[str, UnprovenKickoff] = {}
        self._weight = 0

    def add(self, claimed: str, key: str, id: str, credentials: Credentials) -> UnprovenKickoff:
        """Remember a kick-off that is not over."""
        entry = UnprovenKickoff(
            claimed=claimed, key=key, id=id, credentials=credentials, since=self._now()
        )
        self._entries[id] = self._same.setdefault((claimed, key), {})[id] = entry
        return entry

    def count(self, entry: UnprovenKickoff) -> None:
        """Note that the entry is over. Drops the oldest such one with its claim and key if they are
        too many.
        """
        if self.get(entry.id) is not entry:
            return
        self._over[entry.id] = entry
        self._weight += entry.weight
        same = [each for each in self.of(entry.claimed, entry.key) if each.id in self._over]
        if len(same) > MAX_SAME:
            self.remove(same[0])

    @property
    def too_many(self) -> bool:
        """Whether more than `MAX_ENTRIES` are over."""
        return self._weight > MAX_ENTRIES

    def surplus(self) -> Sequence[UnprovenKickoff]:
        """Return the entries that are over in the order in which they are to be removed while they
        are too many, none if they are not: always the oldest one of the claim that has most, so
        that whoever claims one identity many times drops nobody else's.
        """
        if not self.too_many:
            return ()
        newer: Counter[str] = Counter()
        places = {}
        for entry in sorted(self._over.values(), key=lambda each: each.since, reverse=True):
            newer[entry.claimed] += entry.weight
            places[entry] = newer[entry.claimed]
        return sorted(places, key=lambda entry: (-places[entry], entry.since))

    def get(self, id: str) -> UnprovenKickoff | None:
        """Return the entry of the job, None without one."""
        return self._entries.get(id)

    def of(self, claimed: str, key: str) -> Sequence[UnprovenKickoff]:
        """Return the entries with this claim and key, the oldest first."""
        return list(self._same.get((claimed, key), {}).values())

    def next(self, most: int) -> Sequence[UnprovenKickoff]:
        """Return up to `most` entries that are over, each in turn."""
        entries = [entry for _, entry in zip(range(most), self._over.values(), strict=False)]
        for entry in entries:
            self._over[entry.id] = self._over.pop(entry.id)
        return entries

    def remove(self, entry: UnprovenKickoff) -> None:
        """Forget the entry. Idempotent."""
        if self.get(entry.id) is not entry:
            return
        del self._entries[entry.id]
        same = self._same[entry.claimed, entry.key]
        del same[entry.id]
        if not same:
            del self._same[entry.claimed, entry.key]
        if self._over.pop(entry.id, None) is not None:
            self._weight -= entry.weight
        self._removed(entry.claim)

    def expire(self) -> None:
        """Forget the entries that are too old."""
        over = self._now() - MAX_AGE
        for entry in [each for each in self._over.values() if each.since <= over]:
            self.remove(entry)

    @property
    def ended(self) -> int:
        """The number of entries that are over."""
        return len(self._over)

    def __len__(self) -> int:
        return len(self._entries)
