"""Uses a bucket, which it did not use for a while, while the kernel starts no thread."""

from __future__ import annotations

import asyncio
import sys

from proxy.cli.loop import run_loop
from proxy.stores.object_artifacts.location import Location
from proxy.stores.object_artifacts.store import ObjectArtifacts
from tests.support.artifacts import new_id, note
from tests.support.unthreaded import start_no_more_threads

#: obstore ends idle threads after 10 seconds.
_IDLE = 11.0


async def _store() -> int:
    artifacts = await ObjectArtifacts.at(Location.parse(sys.argv[1]))
    await asyncio.sleep(_IDLE)
    start_no_more_threads()
    async with asyncio.timeout(30):
        partial = await artifacts.create(new_id())
        await partial.write(b"content")
        await partial.commit(7, note)
        await artifacts.close()
    return 0


if __name__ == "__main__":
    sys.exit(run_loop(_store()))
