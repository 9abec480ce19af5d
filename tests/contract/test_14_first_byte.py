"""CONTRACT §14: within the grace a rescued response takes no measurable time longer than a relayed
one. VB365 still sees one POST, whatever happens to the proxy.
"""

from __future__ import annotations

import asyncio
from typing import Any

import pytest

from proxy.stores.disk_jobs.store import DiskJobs
from tests.contract.conftest import MakeRescue
from tests.support.exports import CONTENT, HEAD, Slow, answer, raw_response, whole
from tests.support.log_lines import logged
from tests.support.wire import LIMIT, eventually, raw


class Held:
    """Holds the calls of a method of the job store that satisfy `condition` until `release`."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, name: str, condition: Any = None) -> None:
        self.called, self.release = asyncio.Event(), asyncio.Event()
        method = getattr(DiskJobs, name)

        async def held(store: DiskJobs, *args: Any) -> Any:
            if condition is None or condition(*args):
                self.called.set()
                await self.release.wait()
            return await method(store, *args)

        monkeypatch.setattr(DiskJobs, name, held)


async def test_14_vb365_is_connected_to_while_the_job_is_recorded_and_asked_afterwards(
    make_rescue: MakeRescue, monkeypatch: pytest.MonkeyPatch
) -> None:
    """§3.6, §14: after a crash the retry finds the job of every POST that VB365 has seen."""
    stage = await make_rescue()
    added = Held(monkeypatch, "add")
    peer = await stage.send()
    await added.called.wait()
    await eventually(lambda: stage.upstream.accepted == 1)
    assert await stage.jobs() == []
    assert stage.upstream.posts == []
    connections = stage.upstream.accepted
    added.release.set()
    assert await raw_response(peer, len(CONTENT)) == (HEAD, CONTENT)
    assert len(stage.upstream.posts) == 1
    assert stage.upstream.accepted == connections


async def test_14_the_head_waits_for_one_commit(
    make_rescue: MakeRescue, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The job is stored with its slot, before VB365 is asked."""
    stage = await make_rescue()
    changed = Held(monkeypatch, "replace")
    peer = await stage.send()
    assert await peer.head() == HEAD
    [job] = await stage.jobs()
    assert job["phase"] == "Generating"
    changed.release.set()
    assert await peer.exactly(len(CONTENT)) == CONTENT


async def test_14_the_first_bytes_do_not_wait_until_their_format_is_recorded(
    make_rescue: MakeRescue, monkeypatch: pytest.MonkeyPatch
) -> None:
    stage = await make_rescue()
    recorded = Held(monkeypatch, "replace", lambda old, new: old.format != new.format)
    peer = await stage.send()
    assert await peer.head() == HEAD
    assert await peer.exactly(1000) == CONTENT[:1000]
    await recorded.called.wait()
    recorded.release.set()
    assert await peer.exactly(len(CONTENT) - 1000) == CONTENT[1000:]


async def test_14_an_error_does_not_wait_for_the_record_and_the_retry_is_a_new_try(
    make_rescue: MakeRescue, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The retry comes before the record of the first try is removed."""
    error = raw("500 Broken", [], b"broken")
    stage = await make_rescue(answer(error), whole)
    removed = Held(monkeypatch, "remove")
    first = await stage.send()
    assert await first.exactly(len(error)) == error
    await removed.called.wait()
    assert await stage.jobs() == []
    with logged() as log:
        retry = await stage.send()
        await eventually(lambda: len(log.named("job.joined")) == 1)
    assert len(stage.upstream.posts) == 1
    removed.release.set()
    assert await raw_response(retry, len(CONTENT)) == (HEAD, CONTENT)
    assert len(stage.upstream.posts) == 2


async def test_14_a_job_that_waits_for_a_slot_holds_no_connection(
    make_rescue: MakeRescue, monkeypatch: pytest.MonkeyPatch
) -> None:
    slow = Slow()
    stage = await make_rescue(slow, whole, EXPORTS__MAX_RUNNING="1", EXPORTS__GRACE="1m")
    await stage.leave()
    await stage.jobs()
    added, accepted, open_ = Held(monkeypatch, "add"), stage.upstream.accepted, stage.upstream.open
    waiting = await stage.send(body=b"another export")
    await added.called.wait()
    await eventually(lambda: stage.upstream.accepted == accepted + 1)
    added.release.set()
    async with asyncio.timeout(LIMIT / 2):  # the server itself closes idle ones after LIMIT
        await eventually(lambda: stage.upstream.open == open_)
    slow.finish()
    assert await raw_response(waiting, len(CONTENT)) == (HEAD, CONTENT)
