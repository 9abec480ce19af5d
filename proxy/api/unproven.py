"""Kick-offs with an Idempotency-Key whose caller VB365 could not confirm yet (CONTRACT §8)."""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field

from proxy.ports import KeyClaim
from proxy.upstream.credentials import Credentials

#: The maximum number of entries that are over, and of all with the same claimed identity and key.
MAX_ENTRIES, MAX_SAME = 1000, 8
#: Bytes of Authorization from which an entry counts as two, and so on. The longest token counts as
#: three: those of all jobs of unknown callers that run and wait by default fit in.
PER_ENTRY = 24 << 10
#: Seconds for which an entry is kept: as long as VB365's tokens are valid by default.
MAX_AGE = 3600.0


@dataclass(eq=False, slots=True, kw_only=True)
class UnprovenKickoff:
    """One kick-off. `claimed` is the owner that its token claims to be, `id` that of its job,
    `credentials` its Authorization, `since` when it arrived, in seconds.

    `over` is set when its job is stored or will not be; `submitted`: it may be stored. Whoever
    makes an entry holds it.
    """

    claimed: str
    key: str
    id: str
    credentials: Credentials = field(repr=False)
    since: float
    over: asyncio.Event = field(default_factory=asyncio.Event)
    submitted: bool = False
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
    """Remembers such kick-offs in memory, a bounded number for a bounded time. `now` is in seconds;
    `removed` is called with the claim of each one that is forgotten.

    An entry grants nothing: anybody can claim any identity.
    """

    def __init__(
        self, now: Callable[[], float], removed: Callable[[KeyClaim], None] = lambda _: None
    ) -> None:
        self._now = now
        self._removed = removed
        self._entries: dict[str, UnprovenKickoff] = {}

    def add(self, claimed: str, key: str, id: str, credentials: Credentials) -> UnprovenKickoff:
        """Remember a kick-off. Drops the oldest of the same claim and key if they are too many.

        It does not count for `MAX_ENTRIES` before it is over: its request, which has the token in
        memory anyway, may wait for VB365 and be refused.
        """
        entry = UnprovenKickoff(
            claimed=claimed, key=key, id=id, credentials=credentials, since=self._now()
        )
        same = self.of(claimed, key)
        if len(same) >= MAX_SAME:
            self.remove(same[0])
        self._entries[id] = entry
        return entry

    def make_room(self) -> None:
        """Drop the oldest entries of the claim that has most, while those that are over are too
        many.
        """
        over = [each for each in self._entries.values() if each.over.is_set()]
        while sum(each.weight for each in over) > MAX_ENTRIES:
            claims: Counter[str] = Counter()
            for each in over:
                claims[each.claimed] += each.weight
            [(most, _)] = claims.most_common(1)
            dropped = _by_age(each for each in over if each.claimed == most)[0]
            self.remove(dropped)
            over.remove(dropped)

    def get(self, id: str) -> UnprovenKickoff | None:
        """Return the entry of the job, None without one."""
        return self._entries.get(id)

    def of(self, claimed: str, key: str) -> Sequence[UnprovenKickoff]:
        """Return the entries with this claim and key, the oldest first."""
        self._expire()
        found = (
            each for each in self._entries.values() if (each.claimed, each.key) == (claimed, key)
        )
        return _by_age(found)

    def next(self) -> UnprovenKickoff | None:
        """Return each entry that is over in turn, None without any."""
        self._expire()
        entry = next((each for each in self._entries.values() if each.over.is_set()), None)
        if entry is not None:
            self._entries[entry.id] = self._entries.pop(entry.id)
        return entry

    def remove(self, entry: UnprovenKickoff) -> None:
        """Forget the entry. Idempotent."""
        if self._entries.pop(entry.id, None) is not None:
            self._removed(entry.claim)

    def __len__(self) -> int:
        return len(self._entries)

    def _expire(self) -> None:
        over = self._now() - MAX_AGE
        for entry in [each for each in self._entries.values() if each.since <= over]:
            self.remove(entry)


def _by_age(entries: Iterable[UnprovenKickoff]) -> list[UnprovenKickoff]:
    return sorted(entries, key=lambda entry: entry.since)
