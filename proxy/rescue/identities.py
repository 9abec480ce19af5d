"""Confirms the identity behind a token without delaying the export (CONTRACT §2 "Caller").

A job is started under the hashes of its credentials while VB365 is asked who they belong to; the
identity is added to its owners then. A request with a token that VB365 has not confirmed yet waits
for that only if the identity it claims has the job already, or is about to.
"""

from __future__ import annotations

import asyncio
from collections import defaultdict
from collections.abc import Callable, Collection

import structlog

from proxy.core.events import Identified
from proxy.core.job import Job
from proxy.jobs.record import advance_for_caller
from proxy.jobs.tasks import Spawn
from proxy.ports import JobStore, KeyTaken, StoreUnavailable
from proxy.rescue.call import Call
from proxy.upstream.access import Access
from proxy.upstream.credentials import Credentials

log = structlog.get_logger(__name__)


class Identities:
    """See the module. `spawn` runs work in the background; `now` returns Unix seconds."""

    def __init__(
        self, jobs: JobStore, access: Access, *, spawn: Spawn, now: Callable[[], float]
    ) -> None:
        self._jobs = jobs
        self._access = access
        self._now = now
        self._spawn = spawn
        #: By claimed owner and fingerprint.
        self._confirming: defaultdict[tuple[str, str], set[asyncio.Task[None]]] = defaultdict(set)

    def claimed(self, call: Call) -> str | None:
        """The owner that the token claims to be, unless VB365 has confirmed it."""
        claimed = self._access.claimed(call.credentials)
        return None if claimed in self._access.owners(call.credentials) else claimed

    def confirming(self, claimed: str, fingerprint: str) -> Collection[asyncio.Task[None]]:
        """The tasks that may add the owner to a job with this fingerprint. There may be several:
        one of an invented token, and one of the caller.
        """
        return frozenset(self._confirming.get((claimed, fingerprint), ()))

    def confirm_later(self, call: Call, job: Job, counted: object) -> None:
        """Add the identity of the caller to the owners of its new job. Until it is confirmed, the
        fields of the request count (`HeldFields`), as they do while `counted` is in memory.
        """
        claimed = self.claimed(call)
        if claimed is None:
            return
        key = claimed, call.export.fingerprint
        # without the call: VB365 may take longer than the memory of its body counts
        task = self._spawn(self._confirm(call.credentials, key, job.id))
        self._confirming[key].add(task)
        task.add_done_callback(lambda _: self._confirmed(key, task, counted))

    def _confirmed(self, key: tuple[str, str], task: asyncio.Task[None], _: object) -> None:
        self._confirming[key].discard(task)
        if not self._confirming[key]:
            del self._confirming[key]

    async def _confirm(self, credentials: Credentials, key: tuple[str, str], id: str) -> None:
        if not await self._access.learn(credentials):
            return
        try:
            if await self._jobs.match(*key) is None:
                await advance_for_caller(self._jobs, id, Identified(key[0]), self._now)
        except KeyTaken:
            pass  # the same caller has started the same export on another replica
        except StoreUnavailable as why:
            log.warning("caller of an export not recorded", job=id, reason=str(why))
