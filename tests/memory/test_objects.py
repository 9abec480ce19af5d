"""Memory of an export that is stored in a bucket."""

from __future__ import annotations

from pathlib import Path

from tests.support.commands import PYTHON, finished
from tests.support.object_stores import CREDENTIALS, seaweedfs

_CHILD = """
import asyncio, sys, uuid
from proxy.stores.object_artifacts.location import Location
from proxy.stores.object_artifacts.store import ObjectArtifacts

def memory(name):
    with open("/proc/self/status") as lines:
        return next(int(line.split()[1]) for line in lines if line.startswith(name)) >> 10

async def main(url, mebibytes):
    store = await ObjectArtifacts.at(Location.parse(url))
    await store.probe()
    before = memory("VmRSS")
    partial = await store.create(str(uuid.uuid4()))
    for _ in range(mebibytes * 16):
        await partial.write(bytes(65536))
    await partial.commit(mebibytes << 20, lambda artifact: b"")
    await store.close()
    print(memory("VmHWM") - before)

asyncio.run(main(sys.argv[1], int(sys.argv[2])))
"""


def test_an_export_that_is_stored_in_a_bucket_uses_less_than_40_mib(tmp_path: Path) -> None:
    with seaweedfs(tmp_path) as endpoint:
        url = f"s3://tests/memory?endpoint={endpoint}&allow_http=true"
        done = finished(
            "-c", _CHILD, url, "256", program=PYTHON, env=CREDENTIALS, timeout=110, check=True
        )
    assert 0 < int(done.stdout) < 40
