"""Sends a job's file: preconditions, ranges and bytes (CONTRACT §6)."""

from __future__ import annotations

import secrets
import time
from collections.abc import Callable, Iterable
from contextlib import aclosing
from email.utils import formatdate
from http import HTTPStatus
from typing import cast

from aiohttp import web
from aiohttp.http_writer import StreamWriter

from proxy.api.file_response import FileResponse
from proxy.api.request import ApiRequest
from proxy.api.responses import SERVER, respond
from proxy.core.errors import Problem
from proxy.core.events import Delivered
from proxy.core.http.disposition import content_disposition
from proxy.core.http.ranges import (
    Facts,
    Multipart,
    NotModified,
    One,
    Part,
    PreconditionFailed,
    Several,
    Unsatisfiable,
    content_range,
    multipart,
    select,
)
from proxy.core.job import Job
from proxy.core.job_document import file_etag
from proxy.core.naming import result_name
from proxy.core.request_id import FIELD as REQUEST_ID
from proxy.jobs import events
from proxy.jobs.deliveries import Deliveries
from proxy.ports import Artifact, ArtifactStore, Reader, StoreUnavailable
from proxy.ports.counts import FileCounts
from proxy.ports.sending import IMPOSSIBLE, FileSink, FileSource
from proxy.ports.tracing import NoTracing, Traced, Tracing

_Headers = list[tuple[str, str]]
#: Bytes from which on a turn of the kernel, in a thread, costs less than a write.
_LEAST = 256 << 10
#: Bytes of a piece that is written when the socket is full. A client that makes space for it within
#: `_FAST` seconds is a fast one.
_PIECE, _FAST = 16 << 10, 0.01


class NotOpened(StoreUnavailable):
    """The file cannot be opened now. Nothing of a response has been sent."""


class Download:
    """Sends the artifacts of jobs whose result is Available."""

    def __init__(
        self, artifacts: ArtifactStore, deliveries: Deliveries, tracing: Tracing | None = None
    ) -> None:
        self._tracing = tracing or NoTracing()
        self._artifacts = artifacts
        self._deliveries = deliveries
        self.counts = FileCounts()

    async def send(
        self, request: ApiRequest, job: Job, *, method: str, extra: Iterable[tuple[str, str]] = ()
    ) -> web.StreamResponse:
        """Send the file, or the ranges that the request's fields select, with `extra` fields.

        `method` is "GET" or "HEAD", or "POST" for a kick-off, which gets the whole file. Raises
        `Problem`.
        """
        if method == "HEAD":
            return (await self._deliver(request, job, method, extra))[0]
        facts = {"vb365.job.id": job.id}
        with self._tracing.span(Traced.DELIVERY, request.fields, facts) as span:
            try:
                response, sent = await self._deliver(request, job, method, extra)
            except Problem as problem:
                span.set("http.response.status_code", problem.status)
                raise
            except BaseException as why:
                span.fail(type(why).__name__, "The response broke off.")
                raise
            span.set("http.response.status_code", response.status)
            span.set("vb365.bytes", sent)
            return response

    async def _deliver(
        self, request: ApiRequest, job: Job, method: str, extra: Iterable[tuple[str, str]]
    ) -> tuple[web.StreamResponse, int]:
        """Send the file; see `send`. Also return the number of its bytes that were sent."""
        try:
            reader = await self._artifacts.open(job.id, job.fence)
        except StoreUnavailable as why:
            raise NotOpened(str(why)) from why
        if reader is None:
            raise Problem("result-deleted", "The exported file no longer exists.")
        response: web.StreamResponse | None = None
        try:
            began, sent = time.monotonic(), FileCounts()
            headers = [*_file_headers(job, reader.artifact), (REQUEST_ID, request.id), *extra]
            try:
                response = await self._send(request, job, reader, method, headers, sent)
            finally:
                if not isinstance(response, FileResponse) and sent.served:  # it broke off
                    self._deliveries.note(job.id, Delivered(sent.served, whole=False, count=0))
        finally:
            await reader.close()  # also without memory for the fields or the note
        if isinstance(response, FileResponse) and method != "HEAD":
            status, seconds = response.status, time.monotonic() - began
            whole = status == HTTPStatus.OK
            self._deliveries.note(job.id, Delivered(sent.served, whole=whole))
            events.delivered(job, status=status, sent=sent.served, whole=whole, seconds=seconds)
        return response, sent.served

    async def _send(
        self,
        request: ApiRequest,
        job: Job,
        reader: Reader,
        method: str,
        headers: _Headers,
        sent: FileCounts,
    ) -> web.StreamResponse:
        size = reader.artifact.size
        facts = Facts(size=size, etag=file_etag(job), modified=reader.artifact.created)
        chosen = None if method == "POST" else select(method, request.lines, facts)
        media_type = "application/octet-stream" if job.file is None else job.file.media_type
        match chosen:
            case NotModified():
                return respond(304, headers)
            case PreconditionFailed():
                raise Problem("precondition-failed", "The file does not match the precondition.")
            case Unsatisfiable():
                detail = f"The file has {size} bytes; at most 8 ranges are served at once."
                raise Problem(
                    "range-not-satisfiable", detail, headers=(("Content-Range", f"bytes */{size}"),)
                )
            case One(start, stop):
                headers.append(("Content-Range", content_range(start, stop, size)))
                body = _plain(start, stop, media_type)
                return await self._stream(request, reader, 206, headers, body, sent)
            case Several(parts):
                body = multipart(parts, size, media_type, secrets.token_hex(16))
                return await self._stream(request, reader, 206, headers, body, sent)
            case _:
                body = _plain(0, size, media_type)
                return await self._stream(request, reader, 200, headers, body, sent)

    async def _stream(
        self,
        request: ApiRequest,
        reader: Reader,
        status: int,
        headers: _Headers,
        body: Multipart,
        sent: FileCounts,
    ) -> web.StreamResponse:
        fields = [*headers, ("Server", SERVER), ("Content-Type", body.media_type)]
        response = FileResponse(status, fields, body.length)
        await response.prepare(request.inner)
        if request.method != "HEAD":
            for piece in body.pieces:
                if isinstance(piece, bytes):
                    await response.write(piece)
                else:
                    await self._copy(request, response, reader, *piece, sent)
        await response.write_eof()
        return response

    async def _copy(
        self,
        request: ApiRequest,
        response: FileResponse,
        reader: Reader,
        start: int,
        stop: int,
        sent: FileCounts,
    ) -> None:
        """Send [start, stop) of the file."""
        at = start

        def count(size: int) -> None:
            nonlocal at
            at += size
            self.counts.served += size
            sent.served += size

        def copied(size: int) -> None:
            response.note_sent(size)
            count(size)

        writer = cast("StreamWriter", request.inner.writer)
        sink = request.inner.transport
        await writer.drain()  # the head: a piece behind it would not count as unread
        if isinstance(reader, FileSource) and isinstance(sink, FileSink):
            now, fast = time.monotonic, False
            while stop - at >= _LEAST:
                turn = await reader.send(sink, at, stop, copied, fast=fast)
                if turn == IMPOSSIBLE:
                    break
                if turn.full:  # until the client has read, the transport waits to write a piece
                    before = now()
                    await _write(writer, reader, at, min(at + _PIECE, stop), count)
                    fast = now() - before < _FAST
        await _write(writer, reader, at, stop, count)


async def _write(
    writer: StreamWriter, reader: Reader, start: int, stop: int, count: Callable[[int], None]
) -> None:
    """Write [start, stop) of the file, and wait until the transport has sent it. For a client that
    reads nothing, one piece is in memory.
    """
    async with aclosing(reader.chunks(start, stop)) as chunks:
        async for chunk in chunks:
            await writer.write(chunk, drain=False)
            count(len(chunk))
            del chunk  # TLS has its own copy
            await writer.drain()


def _file_headers(job: Job, artifact: Artifact) -> _Headers:
    """Return the fields of every response that represents the file (CONTRACT §6)."""
    headers = [
        ("ETag", file_etag(job)),
        ("Last-Modified", formatdate(artifact.created, usegmt=True)),
        ("Accept-Ranges", "bytes"),
        ("Content-Disposition", content_disposition(result_name(job) or f"export-{job.id}")),
        ("Repr-Digest", f"sha-256=:{job.digest}:"),
        ("X-Content-Type-Options", "nosniff"),
        ("Cache-Control", "private, no-cache, no-transform"),
        ("X-Accel-Buffering", "no"),
    ]
    if job.expires is not None:
        headers.append(("Sunset", formatdate(job.expires, usegmt=True)))
    return headers


def _plain(start: int, stop: int, media_type: str) -> Multipart:
    pieces: tuple[Part, ...] = ((start, stop),) if stop > start else ()
    return Multipart(media_type, pieces, stop - start)
