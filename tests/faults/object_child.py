"""A process that stores a file in a bucket until it is killed, and says on stdout how far it is.

`python -m tests.faults.object_child ENDPOINT PREFIX JOB`
"""

from __future__ import annotations

import asyncio
import os
import sys

from proxy.stores.object_artifacts.location import Location
from proxy.stores.object_artifacts.store import ObjectArtifacts

PATTERN = bytes(range(256)) * 4


async def main(endpoint: str, prefix: str, job: str) -> None:
    url = f"s3://tests/{prefix}?endpoint={endpoint}&allow_http=true"
    store = await ObjectArtifacts.at(Location.parse(url))
    partial = await store.create(job)
    while True:
        await partial.write(PATTERN * 64)
        os.write(1, f"{partial.offset}\n".encode())


if __name__ == "__main__":
    asyncio.run(main(*sys.argv[1:]))
