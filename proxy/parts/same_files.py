"""Whether the artifact store is the one that has the files of the jobs. If its volume is not
mounted, or its bucket was emptied, all of them would be taken for lost.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Sequence
from typing import Protocol

from proxy.core.job import Job
from proxy.core.retention import file_expired, keeps_bytes
from proxy.ports import StoreUnavailable
from proxy.ports.artifacts import GIVEN_UP, STORE_ID, Identified


class Files(Identified, Protocol):
    """The artifact store."""

    async def ids(self) -> set[str]:
        """As `ArtifactStore.ids`."""


def with_files(jobs: Sequence[Job], now: float) -> list[Job]:
    """Those of the jobs that have files, complete or not."""
    kept = (job for job in jobs if keeps_bytes(job) and not file_expired(job, now))
    return [job for job in kept if job.terminal or job.received]


async def identified(
    files: Files,
    *,
    known: str | None,
    new: Callable[[], Awaitable[str]],
    promised: Sequence[Job],
    where: str,
    give_up: str,
) -> str:
    """Return the id of the artifact store: a `new` one if it has none.

    Raises `StoreUnavailable` if it is not the `known` one, which has the files of the `promised`
    jobs. None is known before the first start of this version, and `GIVEN_UP` if an operator does
    without the files. `where` the store should be, and the way to `give_up`, are for the message.
    """
    found = await files.identity()
    same = found is not None and known in (found, None)
    if same or known == GIVEN_UP or not promised:
        return await files.identify(found or await new())
    if found is None and await _are_there(files, promised, all_=known is not None):
        return await files.identify(known or await new())
    has = f"has no {STORE_ID}" if found is None else f"has another {STORE_ID}"
    raise StoreUnavailable(
        f"storage.artifacts: {where} {has}, so that it is not where the files of the exports "
        f"({len(promised):,}) are. Mount their volume, or correct the bucket. Or, if they are "
        f"lost, {give_up} to give them up."
    )


async def _are_there(files: Files, promised: Sequence[Job], *, all_: bool) -> bool:
    """Whether the store has the files, all of them or some: the id alone may be gone, expired by a
    rule of the bucket, or never written, by an earlier version.
    """
    wanted, there = {job.id for job in promised}, await files.ids()
    return wanted <= there if all_ else not wanted.isdisjoint(there)
