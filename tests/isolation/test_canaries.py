"""A canary scan: confidential data of a caller is searched for in all that the proxy writes and
sends (CONTRACT §9).
"""

from __future__ import annotations

from collections.abc import AsyncIterator
from pathlib import Path

import pytest
from cryptography.fernet import Fernet

from proxy.simulator import Simulator, SimulatorSettings
from tests.support.at_rest import at_rest
from tests.support.process import ProxyProcess, served
from tests.support.wire import Message, Peer, ask

SIZE = 300_000
QUERY, BODY = b"canary-query", b"canary-body"
CONFIDENTIAL = {
    "Cookie": "c=canary-cookie",
    "X-Canary": "canary-field",
    "User-Agent": "canary-agent",
}


class CanaryCaller:
    """A caller who sends only canaries, and all responses to it."""

    def __init__(self, simulator: Simulator) -> None:
        self.simulator = simulator
        self.fields = simulator.login() | CONFIDENTIAL
        self.responses: list[Message] = []
        session = simulator.open_session()
        self.export = next(
            path for path in simulator.export_paths(session) if path.endswith("exportToPst")
        )
        self.proxy: ProxyProcess

    @property
    def secrets(self) -> list[bytes]:
        """What must not appear anywhere."""
        return [
            value.rpartition(" ")[2].rpartition("=")[2].encode() for value in self.fields.values()
        ]

    async def ask(
        self, method: str, target: str, body: bytes | None = None, **more: str
    ) -> Message:
        given = self.fields | {name.replace("_", "-"): value for name, value in more.items()}
        message = await ask(self.proxy.url, method, target, given, body)
        self.responses.append(message)
        return message

    async def begin(self, **fault: object) -> str:
        if fault:
            self.simulator.fault(**({"path": self.export, "method": "POST", "count": 1} | fault))
        body = b'{"contentKeyword": "%b"}' % BODY
        target = f"{self.export}?note={QUERY.decode()}"
        response = await self.ask(
            "POST", target, body, Prefer="respond-async", Content_Type="application/json"
        )
        assert response.status == 202, response
        return response["Location"].removeprefix(self.proxy.url)

    async def end(self, status: str) -> str:
        """Wait for the job's outcome and keep every document on the way."""
        etag = '""'
        while (
            response := await self.ask("GET", status, Prefer="wait=5", If_None_Match=etag)
        ).status in (202, 304):
            etag = response["ETag"]
        outcome: str = response.json()["status"]
        return outcome

    async def outcomes(self) -> None:
        """Success, every kind of failure, a transfer that is interrupted and continued, a token
        that expires meanwhile.
        """
        status = await self.begin()
        assert await self.end(status) == "Success"
        await self.ask("GET", f"{status}/result")
        await self.ask("GET", f"{status}/result?x={QUERY.decode()}", Range="bytes=9999999-")
        assert await self.end(await self.begin(status=500, body='{"message":"no"}')) == "Failed"
        assert await self.end(await self.begin(reset=True)) == "Failed"
        assert await self.end(await self.begin(malformed="HTTP/1.1 nonsense\r\n\r\n")) == "Failed"
        assert await self.end(await self.begin(lie=-10)) in ("Failed", "Success")
        assert await self.end(await self.begin(cut_at=100_000)) == "Success"
        status = await self.begin(hold=True)
        await self.simulator.until(lambda: self.simulator.held == 1)
        await self.ask("POST", f"{status}/cancel?x={QUERY.decode()}")
        self.simulator.release()
        assert await self.end(status) == "Cancelled"
        await self.ask("DELETE", status)

    async def rejections(self) -> None:
        """Requests that are rejected or fail before there is a job."""
        query = QUERY.decode()
        await self.ask("POST", f"{self.export}?async={query}", BODY)
        await self.ask(
            "POST", f"{self.export}?async=1&note={query}", BODY, Idempotency_Key="canary body"
        )
        await self.ask("GET", f"/v8/_async/exports/none?x={query}")
        await self.ask("PATCH", f"/v8/_async/exports?x={query}")
        await self.ask("GET", f"/v8/_async/exports?status={query}")
        self.simulator.fault(path="/Organizations", reset=True, count=1)
        await self.ask("GET", f"/v8/Organizations?x={query}")
        self.simulator.fault(path="/Organizations", malformed="nonsense\r\n\r\n", count=1)
        await self.ask("GET", f"/v8/Organizations?x={query}")
        self.simulator.fault(path="/mailboxes", method="GET", reset=True, count=1)
        assert await self.end(await self.begin()) == "Success"

    async def malformed_heads(self) -> None:
        lines = [
            *(f"{name}: {value}" for name, value in self.fields.items()),
            "Content-Length: x",
            "bad line",
        ]
        wire = await Peer.to(self.proxy.url)
        await wire.send(
            "\r\n".join([f"GET /?x={QUERY.decode()} HTTP/1.1", "Host: x", *lines, "", ""]).encode()
        )
        self.responses.append(await wire.message(ends=True))
        wire.abort()

    async def operators_view(self) -> None:
        for path in ("/", "/healthz", "/readyz", "/metrics", "/api/jobs", "/api/overview"):
            self.responses.append(await ask(self.proxy.admin_url, "GET", path))


@pytest.fixture
async def caller() -> AsyncIterator[CanaryCaller]:
    simulator = Simulator(SimulatorSettings(size=SIZE))
    await simulator.start()
    yield CanaryCaller(simulator)
    await simulator.stop()


def assert_clean(where: str, content: bytes, canaries: list[bytes]) -> None:
    for canary in canaries:
        place = content.find(canary)
        assert place < 0, f"{canary!r} in {where}: {content[max(0, place - 80) : place + 80]!r}"


@pytest.mark.parametrize("format", ["console", "json"])
async def test_no_canary_is_found(caller: CanaryCaller, tmp_path: Path, format: str) -> None:
    """§9: through success, failure, suspension, resumption, `kill -9` and restart, in logs,
    documents, disk and admin responses.
    """
    settings = {"LOG__FORMAT": format, "LOG__ACCESS": "true"} | (
        {"SECRETS__KEY": Fernet.generate_key().decode()} if format == "json" else {}
    )
    async with served(caller.simulator.url, tmp_path, **settings) as caller.proxy:
        await caller.outcomes()
        await caller.rejections()
        await caller.malformed_heads()
        await caller.operators_view()
        status = await caller.begin(hold=True)
        await caller.simulator.until(lambda: caller.simulator.held == 1)
        await caller.proxy.kill()
    scan_disk(caller, tmp_path)
    scan_output(caller, caller.proxy.log)
    store = b"".join(
        content for name, content in at_rest(tmp_path).items() if name.startswith("jobs")
    )
    assert QUERY in store  # the scan finds what there is
    assert BODY in store
    caller.simulator.release()
    async with served(caller.simulator.url, tmp_path, **settings) as caller.proxy:
        assert await caller.end(status) == "Success"
        await caller.ask("GET", f"/v8/_async/exports?x={QUERY.decode()}")
        await caller.operators_view()
        await caller.proxy.stop()
    assert b"job.ended" in caller.proxy.log
    scan_disk(caller, tmp_path)
    scan_output(caller, caller.proxy.log)


def scan_output(caller: CanaryCaller, log: bytes) -> None:
    """Check that the output contains nothing of the caller's: no credential, field, query value or
    body.
    """
    assert_clean("the log", log, [*caller.secrets, QUERY, BODY])
    for message in caller.responses:
        shown = "\n".join([message.first, *map(": ".join, message.fields)]).encode() + message.body
        assert_clean(message.first, shown, [*caller.secrets, QUERY, BODY])


def scan_disk(caller: CanaryCaller, data: Path) -> None:
    """Check that on disk target and body are in the job store alone; a file's sidecar has the
    target, which may have a query.
    """
    for name, content in at_rest(data).items():
        assert_clean(f"a file's name: {name}", name.encode(), [*caller.secrets, QUERY, BODY])
        assert_clean(name, content, caller.secrets)
        if not name.startswith("jobs"):
            assert_clean(name, content, [BODY])
