"""Whether the artifact store is the one that has the files of the jobs. If its volume is not
mounted, or its bucket was emptied, all of them would be taken for lost.
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import islice
from typing import Protocol

from proxy.core.job import Job, ResultState
from proxy.core.retention import file_expired
from proxy.ports import Artifact, StoreUnavailable
from proxy.ports.artifacts import STORE_ID, Identified

#: Files that are looked up in place of an id that is missing.
_LOOKED_UP = 20


class Files(Identified, Protocol):
    """The artifact store."""

    async def get(self, id: str, fence: int = 0) -> Artifact | None:
        """As `ArtifactStore.get`."""


def with_files(jobs: Sequence[Job], now: float) -> list[Job]:
    """Those of the jobs that have files."""
    finished = (job for job in jobs if job.result is ResultState.AVAILABLE)
    return [job for job in finished if not file_expired(job, now)]


async def identified(
    files: Files,
    *,
    known: str | None,
    new: str,
    promised: Sequence[Job],
    where: str,
    give_up: str,
) -> str:
    """Return the id of the artifact store: `new` if it has none.

    Raises `StoreUnavailable` if it is not the `known` one, which has the files of the `promised`
    jobs. `where` it should be, and `give_up`, the way to do without them, are for that message.
    """
    found = await files.identity()
    if known is None or found == known or not promised:
        return await files.identify(new)
    # the id alone may be gone: deleted, or expired by a rule of the bucket
    if found is None and await _are_there(files, promised):
        return await files.identify(known)
    has = f"has no {STORE_ID}" if found is None else f"has another {STORE_ID}"
    raise StoreUnavailable(
        f"storage.artifacts: {where} {has}, so that it is not where the files of the finished "
        f"exports ({len(promised):,}) are. Mount their volume, or correct the bucket. Or, if they "
        f"are lost, {give_up} to give them up."
    )


async def _are_there(files: Files, promised: Sequence[Job]) -> bool:
    for job in islice(promised, _LOOKED_UP):
        if await files.get(job.id, job.fence) is None:
            return False
    return True
