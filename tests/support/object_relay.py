"""An HTTP relay in front of an object store, which fails and delays requests on demand."""

from __future__ import annotations

from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import AbstractContextManager, asynccontextmanager
from io import BytesIO

import aiohttp
from aiohttp import web
from yarl import URL

from tests.support.threads import in_thread

#: Before a request is sent: its response instead, or None. Raising `Cut` closes the connection.
Before = Callable[[web.BaseRequest], Awaitable[web.Response | None]]
#: After the store has answered: as `Before`.
After = Callable[[web.BaseRequest], Awaitable[None]]
_OWN = {"transfer-encoding", "connection", "content-length", "date", "server"}


class Cut(Exception):
    """The connection is closed without a response."""


async def _nothing(request: web.BaseRequest) -> None:
    return None


@asynccontextmanager
async def relay(
    target: str, before: Before = _nothing, after: After = _nothing, *, more: str = ""
) -> AsyncIterator[str]:
    """The URL of a relay to `target`. `more` is added to the query of each PUT."""
    connector = aiohttp.TCPConnector(limit=0)
    async with aiohttp.ClientSession(
        connector=connector, auto_decompress=False, skip_auto_headers=("User-Agent", "Accept")
    ) as session:

        async def serve(request: web.BaseRequest) -> web.StreamResponse:
            try:
                if (instead := await before(request)) is not None:
                    return instead
                response = await _forward(session, target, request, more)
                await after(request)
            except (Cut, aiohttp.ClientError):
                assert request.transport is not None
                request.transport.abort()
                return web.Response()
            return response

        runner = web.ServerRunner(web.Server(serve, access_log=None), shutdown_timeout=1)
        await runner.setup()
        site = web.TCPSite(runner, "127.0.0.1", 0)
        await site.start()
        try:
            host, port = runner.addresses[0][:2]
            yield f"http://{host}:{port}"
        finally:
            await runner.cleanup()


async def _forward(
    session: aiohttp.ClientSession, target: str, request: web.BaseRequest, more: str
) -> web.Response:
    query = f"{'&' if '?' in request.raw_path else '?'}{more}" if request.method == "PUT" else ""
    url = URL(target + request.raw_path + (query if more else ""), encoded=True)
    # S3 signs the Host; the emulator of Google's storage wants its own
    left_out = _OWN | ({"host"} if more else set())
    fields = [(k, v) for k, v in request.headers.items() if k.lower() not in left_out]
    body = BytesIO(await request.content.read())  # `request.read` has a limit, and so have bytes
    async with session.request(
        request.method, url, headers=fields, data=body, allow_redirects=False
    ) as response:
        content = await response.read()
        headers = [(k, v) for k, v in response.headers.items() if k.lower() not in _OWN]
        if more and "ETag" not in response.headers:
            headers.append(("ETag", '"any"'))  # the emulator of Google's storage leaves it out
        if request.method == "HEAD":
            headers.append(("Content-Length", response.headers.get("Content-Length", "0")))
        return web.Response(status=response.status, headers=headers, body=content)


def relay_in_thread(target: str, *, more: str) -> AbstractContextManager[str]:
    """As `relay`, in a thread."""
    return in_thread(relay(target, more=more))
