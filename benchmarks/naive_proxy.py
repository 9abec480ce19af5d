"""A straightforward proxy on aiohttp: `python -m benchmarks.naive_proxy PORT UPSTREAM`.

It is a baseline: the cost of a proxy that uses nothing but aiohttp's server and client.
"""

from __future__ import annotations

import sys
from collections.abc import AsyncIterator, Mapping

from aiohttp import ClientSession, web

_HOP_BY_HOP = {
    "connection",
    "keep-alive",
    "transfer-encoding",
    "te",
    "trailer",
    "upgrade",
    "host",
}
_SESSION = web.AppKey("session", ClientSession)


async def _session(application: web.Application) -> AsyncIterator[None]:
    async with ClientSession(auto_decompress=False) as session:
        application[_SESSION] = session
        yield


def _end_to_end(fields: Mapping[str, str]) -> dict[str, str]:
    return {name: value for name, value in fields.items() if name.lower() not in _HOP_BY_HOP}


async def _forward(request: web.Request) -> web.StreamResponse:
    fields = _end_to_end(request.headers)
    body = request.content if request.can_read_body else None
    url = sys.argv[2] + request.raw_path
    session = request.app[_SESSION]
    async with session.request(request.method, url, headers=fields, data=body) as upstream:
        response = web.StreamResponse(status=upstream.status, headers=_end_to_end(upstream.headers))
        await response.prepare(request)
        async for chunk in upstream.content.iter_any():
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
