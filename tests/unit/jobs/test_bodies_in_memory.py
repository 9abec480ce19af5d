"""Bodies are in memory while kick-offs are received and stored, not longer (CONTRACT §3.1)."""

from __future__ import annotations

import tracemalloc
from uuid import uuid4

import pytest

from proxy.core.job import Job
from proxy.jobs.run import Run
from proxy.ports import StoreUnavailable
from tests.support.export_requests import export_request
from tests.support.harness import CALL
from tests.support.replicas import Node, Process, new_cluster

SIZE = 1 << 20


class Away(Process):
    """The job store does not respond."""

    async def __call__(self, name: str) -> None:
        await super().__call__(name)
        if name.startswith("before jobs."):
            raise StoreUnavailable("away")


async def refused(node: Node, key: str | None) -> None:
    """Send a kick-off that gets an error because its job could not be stored."""
    now, id = node.cluster.now(), str(uuid4())  # noqa: A001
    request = export_request(content_type="application/json", idempotency_key=key)
    job = Job(id=id, version=1, owner="o", request=request, created=now, updated=now)
    with pytest.raises(StoreUnavailable):
        await node.runner.submit(job, bytes(SIZE), Run(id, CALL))


@pytest.mark.parametrize("key", [None, "key"], ids=["without a key", "with a key"])
async def test_3_1_bodies_are_not_kept_until_a_store_is_back(key: str | None) -> None:
    """Whether the store has the job is found out later; that does not need the body."""
    async with new_cluster(count=1) as cluster:
        [node] = cluster.nodes
        node.jobs._step = Away()
        tracemalloc.start()
        try:
            for number in range(8):
                await refused(node, key and f"{key}{number}")
            left, _ = tracemalloc.get_traced_memory()
        finally:
            tracemalloc.stop()
        assert left < 4 * SIZE
