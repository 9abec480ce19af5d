"""CONTRACT §4, §6, §11: HTTP/1.0 clients, and HEAD, on every path that the proxy serves itself."""

from __future__ import annotations

import asyncio
import json
import re

import pytest

from tests.contract.conftest import SIZE, Stage
from tests.support.wire import Message, Peer

PATHS = {
    "running": "{running}",
    "not ready": "{running}/result",
    "ended": "{ended}",
    "file": "{ended}/result",
    "failed": "{failed}",
    "no file": "{failed}/result",
    "list": "/v8/_async/exports",
    "description": "/_async/openapi.json",
    "unknown": "/v8/_async/exports/5f0c6d3e-0000-4000-8000-000000000001",
    "nothing": "/v8/_async/nothing",
}
#: May differ between two responses to the same request, because they are sent at different times.
CHANGING = {"x-request-id", "date", "retry-after", "x-progress"}


async def jobs(stage: Stage) -> dict[str, str]:
    """The status paths of one job of each kind; the running one waits for the simulator."""
    ended = await stage.done()
    stage.fault(outlook_missing=True, count=1)
    failed = await stage.begun(stage.export)
    await stage.finished(failed)
    stage.fault(hold=True)
    running = await stage.begun(stage.export)
    await stage.simulator.until(lambda: stage.simulator.held == 1)
    return {"running": running, "ended": ended, "failed": failed}


async def exchange(
    stage: Stage, first: str, fields: dict[str, str], *, bodiless: bool = False
) -> tuple[Message, bool]:
    """Send a request line with these fields and no others; return the response and whether the
    connection is closed after it.
    """
    wire = await Peer.to(stage.url)
    try:
        lines = [first, *(f"{name}: {value}" for name, value in fields.items()), "", ""]
        await wire.send("\r\n".join(lines).encode("latin-1"))
        message = await wire.message(bodiless=bodiless)
        if (
            "close" in (message.get("Connection") or "")
            or "keep-alive" not in (message.get("Connection") or "") + first
        ):
            return message, await asyncio.wait_for(wire.reader.read(), 20) == b""
        await wire.send("\r\n".join(lines).encode("latin-1"))
        again = await wire.message(bodiless=bodiless)
        assert again.status == message.status
        return message, False
    finally:
        wire.abort()


async def test_head_is_get_without_its_body(stage: Stage) -> None:
    """§4, §6: the same status and fields, Content-Length included, on every path; errors too."""
    known = await jobs(stage)
    for name, path in PATHS.items():
        target = path.format(**known)
        got, head = await stage.get(target), await stage.ask("HEAD", target)
        assert head.first == got.first, name
        assert head.body == b""
        differing = {field.lower() for field, _ in set(got.fields) ^ set(head.fields)}
        assert differing <= CHANGING, name
        assert head["Content-Length"] == str(len(got.body))
    stage.simulator.release()


@pytest.mark.parametrize("method", ["GET", "HEAD"])
@pytest.mark.parametrize("keep", [False, True])
async def test_an_http_1_0_client_is_served_on_every_path(
    stage: Stage, method: str, keep: bool
) -> None:
    """RFC 9112 §9.3: Host is not required; the response is never chunked, and the connection is
    closed unless keep-alive is requested; URLs are absolute.
    """
    known = await jobs(stage)
    fields = stage.fields | ({"Connection": "keep-alive"} if keep else {})
    for name, path in PATHS.items():
        target = path.format(**known)
        message, closed = await exchange(
            stage, f"{method} {target} HTTP/1.0", fields, bodiless=method == "HEAD"
        )
        expected = await stage.ask(method, target)
        assert (message.first, closed) == (expected.first, not keep), name
        assert message["Connection"] == ("keep-alive" if keep else "close")
        assert "Transfer-Encoding" not in message
        if name == "file":
            assert (message["Content-Length"], message.body) == (str(SIZE), expected.body)
        elif method == "GET":
            assert json.loads(message.body), name
        if name == "running":
            assert re.fullmatch(
                r"http://127\.0\.0\.1:\d+/v8/_async/exports/[0-9a-f-]{36}", message["Location"]
            )
    stage.simulator.release()


async def test_an_http_1_0_client_can_kick_off_cancel_and_delete(stage: Stage) -> None:
    """§3, §7: 202 with the document; 204 without a body."""
    stage.fault(hold=True)
    given = stage.fields | {"Prefer": "respond-async", "Content-Length": "0"}
    accepted, closed = await exchange(stage, f"POST {stage.export} HTTP/1.0", given)
    assert (accepted.status, accepted.json()["status"], closed) == (202, "Running", True)
    path = stage.path(accepted["Location"])
    for first, status in ((f"POST {path}/cancel HTTP/1.0", 202), (f"DELETE {path} HTTP/1.0", 204)):
        response, closed = await exchange(
            stage, first, stage.fields | {"Content-Length": "0"}, bodiless="DELETE" in first
        )
        assert (response.status, closed) == (status, True)
    assert "Content-Length" not in response
    assert (await stage.get(path)).status == 404
    stage.simulator.release()
