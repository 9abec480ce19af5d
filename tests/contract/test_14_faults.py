"""CONTRACT §14: what becomes of the clients that follow an export, if something fails midway."""

from __future__ import annotations

import asyncio
import contextlib
from pathlib import Path
from typing import Any

import pytest
import trustme

from proxy.core.job import Job
from proxy.ports import StoreUnavailable
from proxy.stores.disk_jobs.store import DiskJobs
from proxy.stores.file_artifacts.spool import Spool
from tests.contract.conftest import MakeRescue, RescueStage
from tests.support.exports import (
    CHUNKED_HEAD,
    CONTENT,
    HEAD,
    Slow,
    raw_response,
    rest,
    whole,
)
from tests.support.tls_peers import server_side
from tests.support.wire import LIMIT, Message, Peer, ask

HALF = 500_000
FOLLOWERS = 3


async def following(stage: RescueStage, slow: Slow) -> list[Peer]:
    """Clients that have got the first half of the file and wait for the rest."""
    peers = [await stage.send()]
    await slow.requested.wait()
    peers += [await stage.send() for _ in range(FOLLOWERS - 1)]
    slow.head.set()
    slow.pieces.put_nowait(CONTENT[:HALF])
    for peer in peers:
        assert await raw_response(peer, HALF) == (HEAD, CONTENT[:HALF])
    return peers


def finish(slow: Slow) -> None:
    slow.pieces.put_nowait(CONTENT[HALF:])
    slow.pieces.put_nowait(None)


async def release(stage: RescueStage, job: Any) -> int:
    """Release the file of the job as an operator; the status."""
    path = f"/api/jobs/{job['id']}/result"
    fields = {"X-VB365-Admin": "1"}
    return (await ask(stage.running.admin_url, "DELETE", path, fields, b"")).status


async def broken(peer: Peer) -> bytes:
    """What the client has got when its connection breaks before the end of the response."""
    got = bytearray()
    with contextlib.suppress(ConnectionError):
        while data := await asyncio.wait_for(peer.reader.read(1 << 16), LIMIT):
            got += data
    return bytes(got)


# what an operator or another client does


@pytest.mark.parametrize("act", ["cancel", "delete"])
async def test_14_an_operator_who_ends_the_export_breaks_its_clients(
    make_rescue: MakeRescue, act: str
) -> None:
    """Visibly, and the next identical POST is a new export."""
    slow = Slow()
    stage = await make_rescue(slow, whole, EXPORTS__CANCEL_HOLD="0s")
    peers = await following(stage, slow)
    [job] = await stage.jobs()
    path = f"/api/jobs/{job['id']}"
    method, path = ("POST", f"{path}/cancel") if act == "cancel" else ("DELETE", path)
    response = await ask(stage.running.admin_url, method, path, {"X-VB365-Admin": "1"}, b"")
    assert response.status in (200, 202, 204)
    for peer in peers:
        assert await broken(peer) == b""
    assert (await stage.export()).body == CONTENT
    assert len(stage.upstream.posts) == 2


async def test_14_a_file_cannot_be_released_while_it_grows(make_rescue: MakeRescue) -> None:
    slow = Slow()
    stage = await make_rescue(slow)
    peers = await following(stage, slow)
    [job] = await stage.jobs()
    assert await release(stage, job) == 409
    finish(slow)
    for peer in peers:
        assert await peer.exactly(len(CONTENT) - HALF) == CONTENT[HALF:]


async def test_14_a_client_that_has_begun_gets_all_of_a_file_that_is_released(
    make_rescue: MakeRescue,
) -> None:
    slow = Slow()
    stage = await make_rescue(slow, whole)
    await stage.leave()
    slow.finish()
    job = await stage.finished()
    peer = await stage.send()
    assert await peer.head() == HEAD
    assert await release(stage, job) == 204
    assert await peer.exactly(len(CONTENT)) == CONTENT
    assert (await stage.export()).body == CONTENT
    assert len(stage.upstream.posts) == 2


# stores that fail


async def test_14_the_job_store_away_midway_does_not_disturb_clients(
    make_rescue: MakeRescue, monkeypatch: pytest.MonkeyPatch
) -> None:
    slow = Slow()
    stage = await make_rescue(slow)
    peers = await following(stage, slow)
    replace, failures = DiskJobs.replace, 0

    async def away(store: DiskJobs, old: Job, new: Job) -> bool:
        nonlocal failures
        failures += 1
        if failures < 4:
            raise StoreUnavailable("away")
        return await replace(store, old, new)

    monkeypatch.setattr(DiskJobs, "replace", away)
    finish(slow)
    for peer in peers:
        assert await peer.exactly(len(CONTENT) - HALF) == CONTENT[HALF:]
    assert (await stage.finished())["status"] == "Success"
    assert failures >= 4


async def test_14_the_disk_away_midway_is_only_a_pause(
    make_rescue: MakeRescue, monkeypatch: pytest.MonkeyPatch
) -> None:
    slow = Slow()
    stage = await make_rescue(slow)
    peers = await following(stage, slow)
    append, failures = Spool.append, 0

    def away(spool: Spool, chunks: Any) -> None:
        nonlocal failures
        failures += 1
        if failures < 3:
            raise StoreUnavailable("away")
        append(spool, chunks)

    monkeypatch.setattr(Spool, "append", away)
    finish(slow)
    for peer in peers:
        assert await peer.exactly(len(CONTENT) - HALF) == CONTENT[HALF:]
    assert (await stage.finished())["status"] == "Success"
    assert failures >= 3


async def test_14_a_disk_that_fills_up_midway_breaks_the_clients(make_rescue: MakeRescue) -> None:
    """Of a file whose size VB365 does not announce. What is sent is never taken for the file."""
    release = asyncio.Event()

    async def write(peer: Peer, message: Message) -> None:
        await peer.send(CHUNKED_HEAD + b"%x\r\n%b\r\n" % (HALF, CONTENT[:HALF]))
        await release.wait()
        await peer.send(b"%x\r\n%b\r\n0\r\n\r\n" % (HALF, CONTENT[HALF : 2 * HALF]))

    stage = await make_rescue(write, whole, STORAGE__MAX_BYTES="600KiB")
    peers = [await stage.send()]
    assert await peers[0].head() == CHUNKED_HEAD
    peers.append(await stage.send())
    assert await peers[1].head() == CHUNKED_HEAD
    release.set()
    for peer in peers:
        assert b"\r\n0\r\n\r\n" not in await broken(peer)
    job = await stage.finished()
    assert (job["status"], job["error"]["code"]) == ("Failed", "StorageFull")
    assert (await stage.export()).body == CONTENT


# VB365 over TLS


@pytest.mark.parametrize("fault", ["stall", "cut"])
async def test_14_a_fault_of_vb365_over_tls_is_only_a_pause(
    make_rescue: MakeRescue, tmp_path: Path, fault: str
) -> None:
    """§10: after a stall, or an end without close_notify, the transfer is continued."""
    authority = trustme.CA()
    authority.cert_pem.write_to_path(str(tmp_path / "ca.pem"))

    async def begin(peer: Peer, message: Message) -> None:
        await peer.send(HEAD + CONTENT[:HALF])
        if fault == "cut":
            peer.abort()
        else:
            await peer.closed()

    stage = await make_rescue(
        begin,
        rest,
        tls=server_side(authority.issue_cert("localhost")),
        UPSTREAM__CA_FILE=str(tmp_path / "ca.pem"),
        EXPORTS__STALL_TIMEOUT="1s",
    )
    peers = [await stage.send() for _ in range(FOLLOWERS)]
    for peer in peers:
        assert await raw_response(peer, len(CONTENT)) == (HEAD, CONTENT)
    ranges = [message.get("Range") is not None for message in stage.upstream.posts]
    assert ranges == [False, True]


# clients


async def test_14_a_client_that_ends_its_side_counts_as_gone_and_its_export_goes_on(
    make_rescue: MakeRescue,
) -> None:
    """§12: as through the relay, whether it has got a part of the response or none."""
    slow = Slow()
    stage = await make_rescue(slow)
    first = await stage.send()
    await slow.requested.wait()
    first.writer.write_eof()
    assert await first.closed()
    peers = await following(stage, slow)
    peers[0].writer.write_eof()
    assert await peers[0].closed()
    finish(slow)
    for peer in peers[1:]:
        assert await peer.exactly(len(CONTENT) - HALF) == CONTENT[HALF:]
    assert len(stage.upstream.posts) == 1
