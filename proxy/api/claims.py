"""The claims of kick-offs to idempotency keys, as other replicas must know them (CONTRACT §8, §18).

VB365 can be asked about a token only by the replica that has it. A confirmed caller at another
replica waits for that: its job is not stored while others claim its key.
"""

from __future__ import annotations

import asyncio
from itertools import islice

from proxy.ports import KeyClaim, SharedJobs

#: Seconds to wait until the replicas have asked VB365 about the tokens that claim a key, and
#: between two looks. A replica may have to wait for its last question, 5 seconds, and for its turn.
_PATIENCE, _PAUSE = 7.0, 0.1
#: Claims that are withdrawn at a time, and those that wait for it: the store drops older ones
#: itself.
_BATCH, _MOST = 256, 10_000


class SharedClaims:
    """Announces claims to the other replicas of `jobs`; does nothing if that is None."""

    def __init__(self, jobs: SharedJobs | None) -> None:
        self._jobs = jobs
        self._over: dict[KeyClaim, None] = {}

    async def announce(self, claim: KeyClaim) -> None:
        """Announce a claim. Raises `StoreUnavailable`."""
        if self._jobs is not None:
            await self._jobs.announce(claim)

    def withdraw(self, claim: KeyClaim) -> None:
        """Withdraw a claim at the next `flush`."""
        if self._jobs is None:
            return
        self._over[claim] = None
        if len(self._over) > _MOST:
            del self._over[next(iter(self._over))]

    async def flush(self) -> None:
        """Withdraw the claims that are over when it is called. Raises `StoreUnavailable`."""
        if self._jobs is None or not self._over:
            return
        last = next(reversed(self._over))
        while last in self._over:
            batch = tuple(islice(self._over, _BATCH))
            await self._jobs.withdraw(batch)
            for claim in batch:
                self._over.pop(claim, None)

    async def settled(self, owner: str, key: str, *, besides: str) -> bool:
        """Wait until no kick-off but `besides` claims the key. Return False if one still does after
        some seconds. Raises `StoreUnavailable`.
        """
        deadline = asyncio.get_running_loop().time() + _PATIENCE
        while await self._others(owner, key, besides):
            if asyncio.get_running_loop().time() >= deadline:
                return False
            await asyncio.sleep(_PAUSE)
        return True

    async def overrule(self, owner: str, key: str, *, besides: str) -> None:
        """Withdraw the claims of all kick-offs but `besides`. Raises `StoreUnavailable`."""
        if self._jobs is not None:
            others = await self._others(owner, key, besides)
            ended = [KeyClaim(owner=owner, key=key, id=each) for each in others]
            await self._jobs.withdraw(ended)

    async def _others(self, owner: str, key: str, besides: str) -> set[str]:
        found = () if self._jobs is None else await self._jobs.claims(owner, key)
        return set(found) - {besides}
