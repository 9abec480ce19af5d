"""CONTRACT §16 `/api/events`: jobs and the state as Server-Sent Events."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import pytest

from proxy.admin import stream
from tests.contract.conftest import MakeStage, Stage
from tests.contract.test_16_access import TOKEN, session_of, sign_in
from tests.contract.test_16_acts import act
from tests.contract.test_16_api import get, id_of
from tests.support.log_lines import logged
from tests.support.wire import Peer, ask, request_bytes


class Events:
    """A stream, read event by event; a comment has the name ":"."""

    def __init__(self, peer: Peer, head: str) -> None:
        self.peer = peer
        self.head = head
        self._raw = self._text = b""

    async def next(self) -> tuple[str, Any]:
        while b"\n\n" not in self._text:
            while not self._take_chunk():
                self._raw += await self.peer.some()
        block, _, self._text = self._text.partition(b"\n\n")
        lines = block.decode().split("\n")
        if lines[0].startswith((":", "retry")):
            return lines[0][:1], lines[0]
        assert [line.partition(":")[0] for line in lines] == ["event", "data"]
        return lines[0].removeprefix("event: "), json.loads(lines[1].removeprefix("data: "))

    def _take_chunk(self) -> bool:
        """Whether there was a whole chunk. Raises EOFError at the last one."""
        line, _, rest = self._raw.partition(b"\r\n")
        if not line or len(rest) < (size := int(line, 16)) + 2:
            return False
        if not size:
            raise EOFError
        self._text, self._raw = self._text + rest[:size], rest[size + 2 :]
        return True

    async def until(self, name: str, holds: Any = lambda data: True) -> Any:
        async with asyncio.timeout(20):
            while True:
                found, data = await self.next()
                if found == name and holds(data):
                    return data


@asynccontextmanager
async def events(stage: Any, **fields: str) -> AsyncIterator[Events]:
    peer = await Peer.to(stage.running.admin_url)
    try:
        await peer.send(request_bytes("GET", "/api/events", fields, None, "localhost"))
        head = (await peer.head()).decode()
        assert head.startswith("HTTP/1.1 200 "), head
        yield Events(peer, head)
    finally:
        peer.abort()


async def test_an_export_is_followed_from_its_kickoff_to_its_deletion(
    make_stage: MakeStage,
) -> None:
    stage = await make_stage()
    stage.fault(hold=True)
    async with events(stage) as found:
        assert "Content-Type: text/event-stream" in found.head
        assert "Cache-Control: no-store" in found.head
        first = await found.until("status")
        assert set(first) >= {"version", "startedAt", "upstream", "jobs", "storage", "replicas"}
        status = await stage.begun(stage.export)
        job = id_of(status)
        row = await found.until("job", lambda data: data["phase"] == "Generating")
        assert row["id"] == job
        assert set(row) >= {"owner", "origin", "joined", "replica", "delivered", "timeline"}
        await found.until("status", lambda data: data["jobs"]["running"] == 1)
        await stage.held()
        stage.simulator.release()
        row = await found.until("job", lambda data: data["status"] == "Success")
        assert row == (await get(stage, f"/api/jobs/{job}")).json()
        await found.until("status", lambda data: data["jobs"]["running"] == 0)
        await stage.ask("DELETE", status)
        gone = await found.until("job", lambda data: data["phase"] == "Forgotten")
        assert gone["id"] == job
        assert [each["event"] for each in gone["timeline"]] == ["accepted", "queued", "deleted"]


async def test_a_job_that_vb365_refuses_at_once_is_removed(make_stage: MakeStage) -> None:
    """§3.7: the kick-off gets the refusal, and there was no job."""
    stage = await make_stage(EXPORTS__GRACE="10s")
    stage.fault(hold=True, outlook_missing=True)
    async with events(stage) as found:
        await found.until("status")
        kickoff = asyncio.create_task(stage.kickoff(stage.export))
        row = await found.until("job")
        await stage.held()
        stage.simulator.release()
        assert (await kickoff).status == 500
        assert (await found.until("removed")) == {"id": row["id"]}


async def test_a_job_that_changes_often_is_one_event_per_interval(stage: Stage) -> None:
    """However many downloads and changes: the client gets its last state."""
    status = await stage.done()
    job = id_of(status)
    async with events(stage) as found:
        await found.until("status")
        loop = asyncio.get_running_loop()
        began = loop.time()
        for days in range(2, 31):
            response = await act(stage, "POST", f"{job}/extend", {"ttl": f"{days}d"})
        last = response.json()["eTag"]
        count = 1
        while (await found.until("job"))["eTag"] != last:
            count += 1
        spent = loop.time() - began
    assert count <= spent / 0.25 + 2


async def test_a_comment_comes_every_15_seconds(
    stage: Stage, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert stream.COMMENT == 15
    monkeypatch.setattr("proxy.admin.stream.COMMENT", 0.5)
    loop = asyncio.get_running_loop()
    began = loop.time()
    async with events(stage) as found:
        for _ in range(3):
            await found.until(":")
        assert loop.time() - began >= 1.5


async def test_the_number_of_streams_is_bounded_and_one_that_leaves_makes_room(
    stage: Stage, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert stream.MAX_STREAMS == 32
    monkeypatch.setattr("proxy.admin.stream.MAX_STREAMS", 2)
    monkeypatch.setattr("proxy.admin.stream.COMMENT", 0.25)
    async with events(stage), events(stage):
        response = await ask(stage.running.admin_url, "GET", "/api/events")
        assert (response.status, response["Retry-After"]) == (503, "15")
        assert "2 streams" in response.json()["detail"]
    async with asyncio.timeout(20):  # a stream ends when its next comment cannot be sent
        while True:
            try:
                async with events(stage) as found:
                    await found.until("status")
                    break
            except AssertionError:
                await asyncio.sleep(0.05)


async def test_a_client_that_does_not_read_is_dropped(
    make_stage: MakeStage, monkeypatch: pytest.MonkeyPatch
) -> None:
    """And what waits for it is bounded; another client sees everything meanwhile."""
    monkeypatch.setattr("proxy.admin.stream._PATIENCE", 0.5)
    monkeypatch.setattr("proxy.admin.stream.COMMENT", 0.0)
    monkeypatch.setattr("proxy.admin.stream.INTERVAL", 0.0)
    stage = await make_stage()
    with monkeypatch.context() as small:  # its buffers are full before those of the other client
        small.setattr("proxy.admin.stream._SENT", 1)
        small.setattr("proxy.admin.stream._UNSENT", 1)
        slow = await Peer.to(stage.running.admin_url, limit=1, receive_buffer=1)
        await slow.send(request_bytes("GET", "/api/events", {}, None, "localhost"))
        await slow.exactly(1)
    transport: Any = slow.writer.transport
    transport.pause_reading()
    with logged() as log:
        async with events(stage) as found:
            status = await stage.begun(stage.export)
            await found.until("job", lambda row: row["id"] == id_of(status) and row["endTime"])
            async with asyncio.timeout(20):
                while "event stream dropped" not in log.names:
                    await found.until(":")
    transport.resume_reading()
    async with asyncio.timeout(20):
        assert await slow.closed()
    await slow.close()


async def test_a_stream_ends_with_its_session(
    make_stage: MakeStage, monkeypatch: pytest.MonkeyPatch
) -> None:
    stage = await make_stage(ADMIN__TOKEN=TOKEN)
    session = session_of(await sign_in(stage))
    assert (await ask(stage.running.admin_url, "GET", "/api/events")).status == 401
    async with events(stage, Cookie=session) as found:
        await found.until("status")
        await ask(stage.running.admin_url, "POST", "/logout", {"Cookie": session}, b"")
        with pytest.raises(EOFError):
            await found.until("nothing")


async def test_a_stop_does_not_wait_for_streams(make_stage: MakeStage) -> None:
    stage = await make_stage()
    async with events(stage) as found:
        await found.until("status")
        async with asyncio.timeout(10):
            await stage.running.stop()
        assert await found.peer.closed()
