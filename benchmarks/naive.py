"""The proxy that anybody would write first with aiohttp: `python -m benchmarks.naive PORT UPSTREAM`."""

from __future__ import annotations

import sys
from collections.abc import AsyncIterator

from aiohttp import ClientSession, web

_HOP_BY_HOP = {"connection", "keep-alive", "transfer-encoding", "te", "trailer", "upgrade", "host"}
_SESSION = web.AppKey("session", ClientSession)


async def _session(application: web.Application) -> AsyncIterator[None]:
    async with ClientSession(auto_decompress=False) as session:
        application[_SESSION] = session
        yield


async def _forward(request: web.Request) -> web.StreamResponse:
    fields = {name: value for name, value in request.headers.items() if name.lower() not in _HOP_BY_HOP}
    body = request.content if request.can_read_body else None
    url = sys.argv[2] + request.raw_path
    async with request.app[_SESSION].request(request.method, url, headers=fields, data=body) as answer:
        kept = {name: value for name, value in answer.headers.items() if name.lower() not in _HOP_BY_HOP}
        response = web.StreamResponse(status=answer.status, headers=kept)
        await response.prepare(request)
        async for chunk in answer.content.iter_any():
            await response.write(chunk)
        await response.write_eof()
        return response


def main() -> None:
    """Serve until stopped."""
    application = web.Application()
    application.cleanup_ctx.append(_session)
    application.router.add_route("*", "/{path:.*}", _forward)
    web.run_app(application, host="127.0.0.1", port=int(sys.argv[1]), print=lambda *_: None)


if __name__ == "__main__":
    main()
