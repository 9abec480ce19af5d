"""Idempotency-Keys: which job has a key, and who takes one (CONTRACT §8).

A key belongs to every owner that VB365 has confirmed for its caller. While VB365 does not say
whether it accepts a token, a job takes its key under the hashes of the credentials only. The
kick-off is remembered until VB365 can be asked about its token: then the job is given the token's
identity too, so that a kick-off with a refreshed token finds it.
"""

from __future__ import annotations

import asyncio
import re
from collections.abc import AsyncIterator, Callable, Iterable, Iterator
from contextlib import AsyncExitStack, asynccontextmanager, contextmanager
from weakref import WeakValueDictionary

import structlog

from proxy.api.claims import SharedClaims
from proxy.api.request import ApiRequest
from proxy.api.unproven import UnprovenKickoff, UnprovenKickoffs
from proxy.core.errors import Problem
from proxy.core.events import Identified
from proxy.core.job import Job, Phase, Status, rejected
from proxy.core.retention import Retention
from proxy.jobs.record import advance_for_caller
from proxy.ports import JobStore, KeyClaimed, KeyTaken, SharedJobs, StoreUnavailable
from proxy.upstream.access import Access
from proxy.upstream.credentials import Credentials
from proxy.upstream.problems import unreachable

log = structlog.get_logger(__name__)

_KEY = re.compile(r'"([\x21\x23-\x7e]{1,255})"|([\x21\x23-\x7e][\x21-\x7e]{0,254})')
#: Seconds to wait until another kick-off has been stored or refused.
_STORING = 5.0
#: Seconds between two attempts to confirm callers while VB365 does not respond. Kick-offs at other
#: replicas may wait for one (`api.claims`).
_INTERVAL = 1.0
#: Callers that are confirmed at a time. VB365 is taken not to respond if it fails for all of them:
#: it may do so for some tokens only.
_TOGETHER = 8


def idempotency_key(request: ApiRequest) -> str | None:
    """Return the key: 1 to 255 visible ASCII characters, quotes optional. Raises `Problem` 400."""
    lines = request.lines("Idempotency-Key")
    if not lines:
        return None
    match = _KEY.fullmatch(lines[0]) if len(lines) == 1 else None
    if match is None:
        raise Problem(
            "idempotency-key-invalid",
            "Idempotency-Key must be one value of 1 to 255 visible ASCII characters.",
        )
    return match[1] or match[2]


class IdempotencyKeys:
    """Finds and takes the keys of all callers. `now` returns Unix seconds; `shared` is the job
    store if replicas share it.
    """

    def __init__(
        self,
        *,
        jobs: JobStore,
        access: Access,
        retention: Retention,
        now: Callable[[], float],
        shared: SharedJobs | None = None,
    ) -> None:
        self._jobs = jobs
        self._access = access
        self._retention = retention
        self._now = now
        self._claims = SharedClaims(shared)
        self._unproven = UnprovenKickoffs(now, self._claims.withdraw)
        self._locks: WeakValueDictionary[tuple[str, str], asyncio.Lock] = WeakValueDictionary()

    async def find(self, owners: Iterable[str], key: str | None) -> Job | None:
        """Return the job of one of the owners with that key. A key ends with its record, even
        before the record is removed.
        """
        for owner in owners if key is not None else ():
            found = await self._jobs.find(owner, key or "")
            if found is None:
                continue
            over = self._retention.record_over(found, self._now())
            if not over or not await self._jobs.remove(found):
                return found
        return None

    @asynccontextmanager
    async def announced(
        self, credentials: Credentials, key: str | None, id: str, *, learned: bool | None
    ) -> AsyncIterator[None]:
        """Remember a kick-off from before it looks for the key of the identity that it claims,
        until its job, which will have this `id`, is stored. If the client leaves before, that is
        when `taking` ends.

        Does nothing if VB365 has responded to `Access.learn`, whose result is `learned`, or has
        confirmed the identity before.
        """
        claimed = self._access.claimed(credentials)
        if (
            key is None
            or claimed is None
            or learned is not None
            or claimed in self._access.owners(credentials)
        ):
            yield
            return
        # whoever takes the key with a confirmed identity has it stored by now, or finds this entry;
        # nothing is awaited under the lock, so that invented tokens delay nobody
        async with self._lock(claimed, key):
            entry = self._unproven.add(claimed, key, id, credentials.parts()[0])
        try:
            await self._claims.announce(entry.claim)
            yield
        finally:
            self._release(entry)

    @asynccontextmanager
    async def taking(self, credentials: Credentials, job: Job) -> AsyncIterator[Job | None]:
        """Keep all others from taking the key of `job` for any of its owners while the block stores
        it. Yields the job that has the key already, None without one. Those of other replicas are
        not kept from it: the store may raise `KeyClaimed`.

        Duplicates run one after the other: while the first one is being stored, the quota would
        count both. Raises `Problem` 503.
        """
        key = job.request.idempotency_key
        if key is None:
            yield None
            return
        hashes = self._access.hashes(credentials)
        async with AsyncExitStack() as locks:
            # always in the same order, which prevents deadlocks: first the identity, because its
            # holder waits for kick-offs that need the locks of hashes
            for identity in (owner for owner in job.owners if owner not in hashes):
                await locks.enter_async_context(self._lock(identity, key))
                await self._settle(identity, job, credentials)
            for owner in sorted(set(job.owners).intersection(hashes)):
                await locks.enter_async_context(self._lock(owner, key))
            found = await self.find(job.owners, key)
            if found is None and (entry := self._unproven.get(job.id)) is not None:
                locks.enter_context(self._submitted(entry))
            yield found

    @contextmanager
    def _submitted(self, entry: UnprovenKickoff) -> Iterator[None]:
        """Keep the entry while its job is being stored, and afterwards unless it is refused: any
        number of invented tokens are refused, and must displace nobody.
        """
        entry.submitted = True
        entry.hold()
        try:
            yield
        except (Problem, KeyClaimed):
            entry.submitted = False
            raise
        finally:
            self._release(entry)

    def _release(self, entry: UnprovenKickoff) -> None:
        entry.release()
        if not entry.over.is_set():
            return
        if entry.submitted:
            self._unproven.count(entry)
        else:
            self._unproven.remove(entry)

    async def run(self) -> None:
        """Confirm the callers of remembered kick-offs, a few at a time, as soon as VB365 responds
        again: later their tokens may have expired.
        """
        while True:
            await asyncio.sleep(_INTERVAL)
            self._unproven.expire()
            try:
                await self._trim()
                await self._claims.flush()
                await self._confirm()
            except StoreUnavailable as why:
                log.warning("callers of exports not recorded", reason=str(why))

    async def _trim(self) -> None:
        """Drop entries while there are too many, at first those whose key nobody needs."""
        entries = self._unproven.surplus()
        for entry in entries:
            if self._unproven.too_many and await self._is_useless(entry):
                self._unproven.remove(entry)
        for entry in entries:
            if self._unproven.too_many:
                self._unproven.remove(entry)

    async def _is_useless(self, entry: UnprovenKickoff) -> bool:
        """Whether the job has no file and will have none: another export with the key is no second
        one. A token that VB365 has rejected is not confirmed any more.
        """
        if entry.succeeded:
            return False
        job = await self._jobs.recent(entry.id)
        if job is None or job.forgotten or job.phase is Phase.CANCELLING or rejected(job):
            return True
        entry.succeeded = job.status in (Status.SUCCESS, Status.WARNING)
        return job.terminal and not entry.succeeded

    async def _confirm(self) -> None:
        for _ in range(0, self._unproven.ended, _TOGETHER):
            entries = self._unproven.next(_TOGETHER)
            responses = await asyncio.gather(*map(self._confirm_one, entries))
            if False in responses and True not in responses:
                return  # VB365 does not respond

    async def _confirm_one(self, entry: UnprovenKickoff) -> bool | None:
        """Return whether VB365 has responded, None if there was nothing to ask."""
        needed = await self._is_open(entry)
        verdict = needed and await self._access.learn(entry.credentials, remembered=True)
        if verdict is None:
            return False
        lock = self._lock(entry.claimed, entry.key)
        if not lock.locked():  # else a kick-off decides about it, which may wait for others
            async with lock:
                await self._conclude(entry, accepted=verdict)
            await self._claims.flush()
        return True if needed else None

    async def _settle(self, identity: str, job: Job, credentials: Credentials) -> None:
        """Decide about the remembered kick-offs that claim to be this caller, who is confirmed and
        wants the same key. Raises `Problem` 503 if that is not possible now.

        That of `job` itself is one of them if the caller was confirmed since; it waits for nobody.
        """
        key = job.request.idempotency_key or ""
        entries = [each for each in self._unproven.of(identity, key) if each.id != job.id]
        verdicts = await asyncio.gather(*(self._decide(entry, credentials) for entry in entries))
        if None in verdicts:
            raise unreachable()
        for entry, verdict in zip(entries, verdicts, strict=True):
            await self._conclude(entry, accepted=bool(verdict))
        await self._claims.flush()
        if await self._claims.settled(identity, key, besides=job.id):
            return
        if not await self._access.learn(credentials, fresh=True):
            raise unreachable()
        # as in `_decide`; the other replica may have asked just before VB365 responded again
        if not await self._claims.settled(identity, key, besides=job.id):
            await self._claims.overrule(identity, key, besides=job.id)

    async def _decide(self, entry: UnprovenKickoff, credentials: Credentials) -> bool | None:
        """Report whether VB365 accepts the kick-off's token, None if it cannot be asked."""
        try:
            async with asyncio.timeout(_STORING):
                await entry.over.wait()
        except TimeoutError:
            return None
        verdict = await self._ask(entry)
        if verdict is None and await self._access.learn(credentials, fresh=True):
            # VB365 responds to the caller: a token that makes it fail must not block the key
            verdict = bool(await self._ask(entry))
        return verdict

    async def _ask(self, entry: UnprovenKickoff) -> bool | None:
        if not await self._is_open(entry):
            return False
        return await self._access.learn(entry.credentials, remembered=True)

    async def _is_open(self, entry: UnprovenKickoff) -> bool:
        """Whether there is a job that has not been given the identity yet."""
        job = await self._jobs.get(entry.id)
        return not (job is None or job.forgotten or entry.claimed in job.owners)

    async def _conclude(self, entry: UnprovenKickoff, *, accepted: bool) -> None:
        """Add the identity to the owners of the kick-off's job, unless an earlier job has the key.
        The caller holds the lock.
        """
        if accepted and await self.find([entry.claimed], entry.key) is None:
            event = Identified(entry.claimed)
            try:
                await advance_for_caller(self._jobs, entry.id, event, self._now)
                log.info("caller of an export confirmed later", job=entry.id)
            except KeyTaken:
                log.info("caller of an export has used its key on another replica", job=entry.id)
        self._unproven.remove(entry)

    def _lock(self, owner: str, key: str) -> asyncio.Lock:
        return self._locks.setdefault((owner, key), asyncio.Lock())
