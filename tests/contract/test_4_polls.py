"""CONTRACT §4, §9: plain polls of a status, to which the proxy responds without its handler."""

from __future__ import annotations

import re

import pytest

from proxy.api.request import ApiRequest
from proxy.api.resources import Resources
from proxy.core.routing import Own
from tests.contract.conftest import MakeStage, Stage
from tests.support.wire import Given, Peer, connected, request_bytes

_PLAIN = {"X-Request-Id": "one"}
#: Fields that ask for nothing else, but that only the handler reads.
_HANDLED = [
    {"Prefer": "handling=strict"},
    {"If-None-Match": '"other"'},
    {"Connection": "close"},
]


@pytest.fixture
def handled(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """The methods of the requests that came to the handler."""
    methods: list[str] = []
    handle = Resources.handle

    async def noted(resources: Resources, request: ApiRequest, own: Own) -> object:
        methods.append(request.method)
        return await handle(resources, request, own)

    monkeypatch.setattr(Resources, "handle", noted)
    return methods


async def polled(stage: Stage, status: str, fields: Given) -> bytes:
    """The response, with any date."""
    async with connected(int(stage.url.rpartition(":")[2])) as peer:
        return await sent(peer, stage, status, fields)


async def sent(peer: Peer, stage: Stage, status: str, fields: Given) -> bytes:
    given = stage.fields | dict(fields)
    await peer.send(request_bytes("GET", status, given, None, "proxy.example"))
    head, body = await peer.response()
    return re.sub(rb"\r\nDate: [^\r]+ GMT\r\n", b"\r\nDate: any\r\n", head) + body


@pytest.mark.parametrize("running", [True, False])
async def test_a_plain_poll_gets_what_the_handler_responds(
    stage: Stage, handled: list[str], running: bool
) -> None:
    """§4: to the byte, but for the fields about the connection."""
    if running:
        stage.fault(hold=True)
        status = await stage.begun(stage.export, Prefer="respond-async, wait=0")
        await stage.until(status, lambda document: document["phase"] == "Generating")
    else:
        status = await stage.done()
    handled.clear()
    plain = await polled(stage, status, _PLAIN)
    assert handled == []
    assert plain.startswith(b"HTTP/1.1 202 Accepted\r\n" if running else b"HTTP/1.1 200 OK\r\n")
    assert b"\r\nX-Request-Id: one\r\n" in plain
    for fields in _HANDLED:
        response = await polled(stage, status, _PLAIN | fields)
        assert response.replace(b"Connection: close\r\n", b"") == plain
    assert handled == ["GET"] * len(_HANDLED)
    await stage.ask("HEAD", status)
    assert handled[-1] == "HEAD"


async def test_vb365_decides_before_the_first_poll_of_each_caller(
    make_stage: MakeStage, handled: list[str]
) -> None:
    """§9: what VB365 has allowed one caller, or allowed too long ago, lets nobody poll."""
    stage = await make_stage(ACCESS__CACHE="60s")
    status = await stage.done()
    await stage.get(status)
    handled.clear()
    for fields in ({}, {"Authorization": "Bearer nonsense"}):
        assert (await stage.ask("GET", status, fields)).status == 401
    assert handled == ["GET", "GET"]
    assert (await stage.get(status)).status == 200
    assert len(handled) == 2
    stage.clock.ahead += 61
    assert (await stage.get(status)).status == 200
    assert len(handled) == 3


async def test_a_job_that_is_deleted_or_over_is_no_longer_polled(
    make_stage: MakeStage, handled: list[str]
) -> None:
    """§7: 404, also while VB365's decision is cached."""
    stage = await make_stage(
        ACCESS__CACHE="30d", EXPORTS__RESULT_TTL="10m", EXPORTS__RECORD_TTL="1h"
    )
    deleted, over = await stage.done(), await stage.done()
    await stage.ask("DELETE", deleted)
    assert (await stage.get(deleted)).status == 404
    stage.clock.ahead += 601
    handled.clear()
    assert (await stage.get(over)).json()["result"]["state"] == "Expired"
    assert handled == []
    stage.clock.ahead += 3600
    assert (await stage.get(over)).status == 404


async def test_many_polls_at_once_get_a_response_each(stage: Stage) -> None:
    """In their order: pipelined ones, and ones of a kept connection."""
    first, second = await stage.done(), await stage.done()
    paths = [first, second] * 300
    async with connected(int(stage.url.rpartition(":")[2])) as peer:
        for path in (first, second):
            assert path.encode() in await sent(peer, stage, path, {})
        await peer.send(
            b"".join(request_bytes("GET", path, stage.fields, None, "p") for path in paths)
        )
        for path in paths:
            assert path.encode() in (await peer.response())[1]
