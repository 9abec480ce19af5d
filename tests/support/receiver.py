"""A webhook receiver on loopback, whose responses a test decides."""

from __future__ import annotations

import asyncio
import base64
import json
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import Any

from aiohttp import web

LIMIT = 30.0
#: A secret as `webhooks.secrets` has it.
SECRET = "whsec_" + base64.b64encode(bytes(range(32))).decode()
OTHER_SECRET = "whsec_" + base64.b64encode(bytes(range(100, 132))).decode()


@dataclass(frozen=True)
class Post:
    """A message as it arrived."""

    path: str
    headers: Mapping[str, str]
    body: bytes

    @property
    def id(self) -> str:
        return self.headers["webhook-id"]

    @property
    def type(self) -> str:
        return str(self.json["type"])

    @property
    def json(self) -> Any:
        return json.loads(self.body)


class Receiver:
    """Keeps what is posted. `respond` makes the response, 204 by default."""

    def __init__(self) -> None:
        self.posts: list[Post] = []
        self.url = ""
        self.respond: Callable[[web.Request], Awaitable[web.StreamResponse]] = self._no_content
        self._arrived = asyncio.Condition()

    async def _no_content(self, request: web.Request) -> web.StreamResponse:
        return web.Response(status=204)

    def always(self, status: int, **headers: str) -> None:
        """Respond with this status from now on."""

        async def respond(request: web.Request) -> web.StreamResponse:
            return web.Response(status=status, headers=headers)

        self.respond = respond

    async def handle(self, request: web.BaseRequest) -> web.StreamResponse:
        assert isinstance(request, web.Request)
        post = Post(request.path_qs, request.headers, await request.read())
        async with self._arrived:
            self.posts.append(post)
            self._arrived.notify_all()
        return await self.respond(request)

    async def until(self, condition: Callable[[list[Post]], bool]) -> list[Post]:
        """Wait until the condition holds for the posts, and return them."""
        async with asyncio.timeout(LIMIT), self._arrived:
            await self._arrived.wait_for(lambda: condition(self.posts))
        return self.posts

    async def count(self, number: int) -> list[Post]:
        """Wait for so many posts."""
        return await self.until(lambda posts: len(posts) >= number)

    async def types(self, *types: str) -> list[Post]:
        """Wait until a post of each type has arrived, and return them."""
        posts = await self.until(lambda posts: set(types) <= {post.type for post in posts})
        return [next(post for post in posts if post.type == each) for each in types]


@asynccontextmanager
async def receiving(port: int = 0) -> AsyncIterator[Receiver]:
    """Run a receiver."""
    receiver = Receiver()
    application = web.Application()
    application.router.add_route("*", "/{tail:.*}", receiver.handle)
    runner = web.AppRunner(application, shutdown_timeout=1.0)
    await runner.setup()
    try:
        site = web.TCPSite(runner, "127.0.0.1", port)
        await site.start()
        assert runner.addresses
        receiver.url = f"http://127.0.0.1:{runner.addresses[0][1]}/hook"
        yield receiver
    finally:
        await runner.cleanup()
