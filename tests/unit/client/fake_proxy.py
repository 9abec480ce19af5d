"""A small proxy after CONTRACT §2-§7 and §9, for the commands under test."""

from __future__ import annotations

import asyncio
import base64
import hashlib
import json
import re
from collections.abc import Callable
from typing import Any

from aiohttp import web

ID = "5f0c6d3e-0000-4000-8000-000000000001"
EXPORT = "/v8/RestoreSessions/s%2F1/organization/mailboxes/m+1/exportToPst"
STATUS = f"/v8/_async/exports/{ID}"
FILE = b"!BDN" + bytes(range(256)) * 4096
ENDED = {"Success", "Warning", "Failed", "Cancelled"}


def document(status: str, phase: str, **members: Any) -> dict[str, Any]:
    """A job document of CONTRACT §5, with the members that the client reads."""
    result = None
    if status in ("Success", "Warning"):
        digest = base64.b64encode(hashlib.sha256(FILE).digest()).decode()
        result = {
            "state": "Available",
            "format": "Pst",
            "fileName": "Jane Roe.zip",
            "size": len(FILE),
        }
        result |= {"eTag": '"e1"', "digest": {"sha-256": digest}}
    base = {
        "id": ID,
        "type": "Export",
        "status": status,
        "phase": phase,
        "title": "exportToPst",
        "result": result,
    }
    return base | {"message": f"{phase} it", "progress": {}, "error": None} | members


def transferring(received: int) -> dict[str, Any]:
    rest = {
        "bytesReceived": received,
        "bytesTotal": len(FILE),
        "bytesPerSecond": 2**20,
        "secondsRemaining": 1,
    }
    return document("Running", "Transferring", progress=rest)


SUCCESS = document("Success", "Completed")
STORY = [document("Running", "Generating"), transferring(2**19), SUCCESS]


class FakeProxy:
    """Responds with `story` document by document; `broken` and `odd` come before anything else."""

    def __init__(self) -> None:
        self.story = list(STORY)
        self.seen: list[tuple[str, str, dict[str, str], bytes]] = []
        self.tokens = {"good"}
        #: (method and path ending, status or "abort", fields): each is used up once, in order.
        self.odd: list[tuple[str, int | str, dict[str, str]]] = []
        #: Bytes after which each download breaks, in order.
        self.cuts: list[int] = []
        #: Bytes that the client has on disk: if set, a download breaks only once all that was sent
        #: is there.
        self.kept: int | None = None
        self.fields: dict[str, str] = {}
        self.file = FILE
        #: Of a running job, in seconds.
        self.retry_after = "3"
        self.ranges = True
        self.listed = [SUCCESS]
        self.url = ""
        #: Called with every request before the response.
        self.before: Callable[[str], None] = lambda called: None

    def calls(self, ending: str) -> list[tuple[dict[str, str], bytes]]:
        """Fields and bodies of the requests so far whose `METHOD /path` has this ending."""
        return [
            (fields, body)
            for method, target, fields, body in self.seen
            if f"{method} {target}".endswith(ending)
        ]

    async def handle(self, request: web.Request) -> web.StreamResponse:
        called = f"{request.method} {request.raw_path}"
        self.seen.append(
            (request.method, request.raw_path, dict(request.headers), await request.read())
        )
        self.before(called)
        if self.odd and called.endswith(self.odd[0][0]):
            _, status, fields = self.odd.pop(0)
            if status == "abort":
                assert request.transport is not None
                request.transport.close()
                return web.Response()
            return web.json_response({"message": "not now"}, status=int(status), headers=fields)
        if request.raw_path == "/_async/openapi.json":
            return web.json_response({"openapi": "3.1.0"})
        if request.raw_path.endswith("/token"):
            return self.token(self.seen[-1][3].decode())
        if request.headers.get("Authorization", "").removeprefix("Bearer ") not in self.tokens:
            return web.Response(status=401)
        return await self.job(request)

    def token(self, form: str) -> web.Response:
        if "password=pa%26ss" not in form and "refresh_token=r1" not in form:
            return web.json_response({"message": "wrong password"}, status=400)
        self.tokens = {f"fresh{len(self.seen)}"}
        return web.json_response(
            {"access_token": next(iter(self.tokens)), "refresh_token": "r1", "expires_in": 3600}
        )

    async def job(self, request: web.Request) -> web.StreamResponse:
        path = request.path
        if "/_async/" not in path:
            return self.running(202, self.story[0])
        if path.endswith("/exports"):
            return web.json_response({"offset": 0, "limit": 30, "results": self.listed})
        if path.endswith("/result"):
            return (
                web.Response(status=204)
                if request.method == "DELETE"
                else await self.download(request)
            )
        if request.method == "DELETE":
            return web.Response(status=204)
        if path.endswith("/cancel"):
            self.story = [document("Cancelled", "Completed", message="cancelled by the caller")]
            return self.running(202, document("Running", "Cancelling"))
        return self.status(request)

    def status(self, request: web.Request) -> web.Response:
        now = self.story.pop(0) if len(self.story) > 1 else self.story[0]
        etag = f'W/"{len(json.dumps(now))}"'
        if request.headers.get("If-None-Match") == etag:
            return web.Response(status=304, headers={"ETag": etag, "Retry-After": "7"})
        if now["status"] in ENDED:
            return web.json_response(now, headers={"ETag": etag})
        return self.running(202, now, etag)

    def running(self, status: int, now: dict[str, Any], etag: str = 'W/"0"') -> web.Response:
        location = f"http://another.example/prefix{STATUS}"
        return web.json_response(
            now,
            status=status,
            headers={"Location": location, "Retry-After": self.retry_after, "ETag": etag},
        )

    async def download(self, request: web.Request) -> web.StreamResponse:
        digest = base64.b64encode(hashlib.sha256(FILE).digest()).decode()
        fields = {
            "ETag": '"e1"',
            "Repr-Digest": f"sha-512=:AA==:, sha-256=:{digest}:",
        } | self.fields
        start, size = 0, len(self.file)
        wanted = re.fullmatch(r"bytes=(\d+)-", request.headers.get("Range", ""))
        if wanted and self.ranges and request.headers.get("If-Range", '"e1"') == '"e1"':
            start = int(wanted[1])
            if start >= size:
                return web.Response(status=416, headers={"Content-Range": f"bytes */{size}"})
            fields["Content-Range"] = f"bytes {start}-{size - 1}/{size}"
        response = web.StreamResponse(
            status=206 if start else 200, headers={k: v for k, v in fields.items() if v}
        )
        response.content_length = size - start
        await response.prepare(request)
        stop = min(size, start + self.cuts.pop(0)) if self.cuts else size
        await response.write(self.file[start:stop])
        if stop < size:
            await self.wait_until_stored(stop)
            assert request.transport is not None
            request.transport.close()
        return response

    async def wait_until_stored(self, stop: int) -> None:
        """Wait until the client has stored the bytes up to `stop`: aiohttp drops its buffer at a
        break.
        """
        async with asyncio.timeout(10):
            while self.kept is not None and self.kept < stop:  # noqa: ASYNC110  # told from another thread
                await asyncio.sleep(0.001)
