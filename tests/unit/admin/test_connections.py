"""Connections of the admin listener, on asyncio's loop and on uvloop."""

from __future__ import annotations

import asyncio

import pytest

from proxy.admin.guard import TokenGuard
from proxy.admin.listener import Admin, listen, runner
from tests.support.loops import run as run
from tests.support.tls_peers import Run

_HEALTH = b"GET /healthz HTTP/1.1\r\nHost: localhost\r\n\r\n"


async def _healthy() -> dict[str, str | None]:
    return {}


@pytest.mark.parametrize("requests", [0, 1])
def test_16_clients_that_wait_make_room_for_others(
    run: Run, monkeypatch: pytest.MonkeyPatch, requests: int
) -> None:
    """Silent, or idle after a response: strangers must not keep the health checks away."""
    monkeypatch.setattr("proxy.admin.connections.MAX_CONNECTIONS", 3)

    async def scenario() -> None:
        admin = Admin(checks=_healthy, hosts=(), guard=TokenGuard("token", lambda: 0.0))
        serving = runner(admin.application())
        await serving.setup()
        server = await listen(serving, admin.connections, "127.0.0.1", 0)
        port = server.sockets[0].getsockname()[1]
        peers = [await asyncio.open_connection("127.0.0.1", port) for _ in range(3)]
        for reader, writer in peers[: 3 * requests]:
            writer.write(_HEALTH)
            await reader.readuntil(b"}")
        for _ in range(3):
            reader, writer = await asyncio.open_connection("127.0.0.1", port)
            writer.write(_HEALTH)
            assert (await reader.readline()).startswith(b"HTTP/1.1 200")
            writer.transport.abort()
        assert not await peers[0][0].read()
        for _, writer in peers:
            writer.transport.abort()
        server.close()
        await serving.cleanup()

    run(scenario())
