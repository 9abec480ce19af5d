"""A server that leaves bodies unread and parses them as the next request: no other client's request
follows them (§2, §12).
"""

from __future__ import annotations

import contextlib
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from proxy import app
from proxy.upstream.client import HttpUpstream
from proxy.upstream.pool import Pool
from tests.contract.conftest import ApiClient, Clock
from tests.support.local_proxy import settings_of
from tests.support.proxies import proxy_to
from tests.support.upstreams import Origin
from tests.support.wire import LIMIT, Peer, eventually

#: The head that follows on the connection would become part of this request's last field.
TRAP = b"GET /open HTTP/1.1\r\nHost: h\r\nX: "
EXPORT = "/v8/RestoreSessions/s/organization/mailboxes/m/exportToPst"


class IgnoringServer:
    """Reads heads and never a body. Restore session `s` is visible to alice only, `/open` to
    everybody.
    """

    def __init__(self) -> None:
        self.origin = Origin(self.script)
        self.heard: list[bytes] = []

    async def script(self, peer: Peer) -> None:
        while True:
            head = await peer.head()
            line = head.partition(b"\r\n")[0]
            self.heard.append(line)
            foreign = (
                b"/RestoreSessions/s" in line and b"\r\nAuthorization: Bearer alice\r\n" not in head
            )
            if foreign and line.startswith(b"GET /v8/RestoreSessions/s HTTP"):
                await peer.send(b"HTTP/1.1 403 Forbidden\r\nContent-Length: 0\r\n\r\n")
            else:
                await peer.send(
                    b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n%b" % (len(line), line)
                )


@contextlib.asynccontextmanager
async def ignoring_server() -> AsyncIterator[IgnoringServer]:
    server = IgnoringServer()
    async with server.origin.running():
        yield server


async def test_12_no_relayed_request_follows_an_unread_body() -> None:
    async with ignoring_server() as server, proxy_to(server.origin.port) as proxy:
        for method in (b"POST", b"PUT", b"GET", b"DELETE"):
            for framing in (
                b"Content-Length: %d\r\n\r\n%b",
                b"Transfer-Encoding: chunked\r\n\r\n%x\r\n%b\r\n0\r\n\r\n",
            ):
                mallory = await proxy.ask(
                    method + b" /m HTTP/1.1\r\nHost: h\r\n" + framing % (len(TRAP), TRAP)
                )
                await mallory.response()
                victim = await proxy.ask(
                    b"GET /v HTTP/1.1\r\nHost: h\r\nAuthorization: secret\r\n\r\n"
                )
                assert (await victim.response())[1] == b"GET /v HTTP/1.1"
    assert not any(b"/open" in line for line in server.heard)


async def test_12_no_request_of_the_proxy_follows_an_unread_body() -> None:
    async with ignoring_server() as server:
        upstream = HttpUpstream(Pool("127.0.0.1", server.origin.port))
        for _ in range(3):
            for method, body, line in (
                (b"POST", TRAP, b"POST /x HTTP/1.1"),
                (b"GET", b"", b"GET /x HTTP/1.1"),
            ):
                fields = [(b"Host", b"h"), (b"Authorization", b"Bearer victim")]
                response = await upstream.send(
                    method, b"/x", fields, body, timeout=LIMIT, stall=LIMIT
                )
                assert await response.read() == line
                assert await response.read() == b""
        await upstream.close()
    assert set(server.heard) == {b"POST /x HTTP/1.1", b"GET /x HTTP/1.1"}


async def test_2_no_access_check_follows_another_callers_body(tmp_path: Path) -> None:
    """The body of Mallory's export must not become the access check for alice's session."""
    async with ignoring_server() as server:
        running = await app.start(
            settings_of(f"http://127.0.0.1:{server.origin.port}", tmp_path / "data", {})
        )
        try:
            client = ApiClient(
                running=running, clock=Clock(), fields={"Authorization": "Bearer alice"}
            )
            alices = await client.begun(EXPORT, body=b"")
            assert (await client.finished(alices)).json()["status"] == "Success"
            for _ in range(3):
                client.fields = {"Authorization": "Bearer mallory"}
                await client.kickoff(EXPORT.replace("/s/", "/mine/"), body=TRAP)
                await client.kickoff(EXPORT, body=TRAP)
                await eventually(
                    lambda: server.heard.count(b"POST " + EXPORT.encode() + b" HTTP/1.1") > 1
                )
                for path in (alices, alices + "/result"):
                    assert (await client.get(path)).status == 404
        finally:
            await running.stop()
    assert not any(b"/open" in line for line in server.heard)


async def test_2_an_access_check_has_no_body() -> None:
    checks = HttpUpstream(Pool("127.0.0.1", 1), checks_only=True)
    for method, body in ((b"GET", b"x"), (b"POST", b""), (b"PUT", b"x")):
        with pytest.raises(ValueError, match="safe method"):
            await checks.send(method, b"/", (), body, timeout=LIMIT, stall=LIMIT)
