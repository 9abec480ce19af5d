"""CONTRACT §14: when a rescued file counts as delivered, and stalls of VB365."""

from __future__ import annotations

import asyncio
import ssl
from pathlib import Path

import pytest
import trustme

from proxy.core.job import Job
from proxy.stores.disk_jobs.store import DiskJobs
from tests.contract.conftest import MakeRescue
from tests.support.exports import CONTENT, HEAD, Slow, post, raw_response, rest, whole
from tests.support.tls_peers import write
from tests.support.wire import Peer, ask


@pytest.mark.parametrize(
    ("ending", "count"), [("close", 2), ("reuse", 2), ("reset", 1)], ids=lambda value: str(value)
)
async def test_14_with_tls_a_file_counts_as_delivered_as_without(
    make_rescue: MakeRescue, tmp_path: Path, ending: str, count: int
) -> None:
    """§14: once its client closes (close_notify) or reuses the connection, and not if it resets it:
    then the file is there for the next POST.
    """
    authority = trustme.CA()
    certificate = authority.issue_cert("localhost")
    chain, key = write(certificate, tmp_path)
    key.chmod(0o600)
    trusting = ssl.create_default_context()
    authority.configure_trust(trusting)
    stage = await make_rescue(whole, LISTEN__TLS_CERTIFICATE=str(chain), LISTEN__TLS_KEY=str(key))

    async def connect() -> Peer:
        peer = await Peer.to(stage.running.url, tls=trusting)
        stage.peers.append(peer)
        return peer

    peer = await connect()
    await peer.send(post())
    assert await raw_response(peer, len(CONTENT)) == (HEAD, CONTENT)
    if ending == "close":
        await peer.close()
    elif ending == "reset":
        peer.reset()
    again = peer if ending == "reuse" else await connect()
    await again.send(post())
    assert await raw_response(again, len(CONTENT)) == (HEAD, CONTENT)
    assert len(stage.upstream.posts) == count


async def test_14_a_stall_that_is_continued_is_only_a_pause(make_rescue: MakeRescue) -> None:
    """§10, §14: after `exports.stall_timeout` the transfer is continued with another request."""
    stall = Slow()
    stall.head.set()
    stall.pieces.put_nowait(CONTENT[:300_000])

    stage = await make_rescue(stall, rest, EXPORTS__STALL_TIMEOUT="1s")
    peer = await stage.send()
    assert await raw_response(peer, len(CONTENT)) == (HEAD, CONTENT)
    assert len(stage.upstream.posts) == 2


async def test_14_a_stall_before_the_first_byte_breaks_the_response(
    make_rescue: MakeRescue,
) -> None:
    """§14: nothing proves that another response is of the same file. The retry gets that one."""
    stall = Slow()
    stall.head.set()
    stage = await make_rescue(stall, whole, EXPORTS__STALL_TIMEOUT="1s")
    peer = await stage.send()
    assert await peer.head() == HEAD
    assert await peer.closed()
    assert await raw_response(await stage.send(), len(CONTENT)) == (HEAD, CONTENT)
    assert len(stage.upstream.posts) == 2


async def test_14_a_whole_delivery_is_recorded_before_the_proxy_has_stopped(
    make_rescue: MakeRescue, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Otherwise the same POST would get its file again after the restart, not a new export."""
    stage = await make_rescue(whole)
    entered, opened, stored = asyncio.Event(), asyncio.Event(), DiskJobs.replace

    async def late(store: DiskJobs, old: Job, new: Job) -> bool:
        if new.detached or new.delivery.count:
            entered.set()
            await opened.wait()
        return await stored(store, old, new)

    monkeypatch.setattr(DiskJobs, "replace", late)
    assert (await stage.export()).body == CONTENT
    async with asyncio.timeout(20):
        await entered.wait()
        stopping = asyncio.create_task(stage.running.stop())
        await asyncio.wait([stopping], timeout=0.2)
        opened.set()
        await stopping
    stage.running = await stage.start()
    [job] = await stage.jobs()
    row = await ask(stage.running.admin_url, "GET", f"/api/jobs/{job['id']}", {})
    assert row.json()["delivered"]["count"] == 1
    assert (await stage.export()).body == CONTENT
    assert len(stage.upstream.posts) == 2
