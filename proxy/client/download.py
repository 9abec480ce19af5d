"""The download (CONTRACT §6): resumed after an interruption, verified by length and SHA-256."""

from __future__ import annotations

import asyncio
import re
from collections.abc import Callable
from dataclasses import dataclass

import aiohttp

from proxy.client.errors import CommandError, CorruptFile, Unreachable
from proxy.client.files import PartialFile
from proxy.client.job import decode_digest
from proxy.client.proxy import BUSY, TRIES, Proxy, backoff
from proxy.client.wire import error_from, read_whole
from proxy.core.http.validators import strong
from proxy.core.outcome import codings

#: Called with the number of downloaded bytes and the size of the file.
Report = Callable[[int, int], None]

_CHUNK = 2**20
_CONTENT_RANGE = re.compile(r"bytes ([0-9]{1,18})-([0-9]{1,18})/([0-9]{1,18})")
_SHA_256 = re.compile(r"(?:^|,)\s*sha-256\s*=\s*:([A-Za-z0-9+/=]*):")


@dataclass(frozen=True, slots=True)
class Facts:
    """Size in bytes, strong ETag and SHA-256 of the complete file, as the server reports them."""

    size: int
    etag: str | None
    digest: bytes | None


class _RetryLater(Exception):
    """The download must be tried again, after `seconds` if the server has a preference."""

    def __init__(self, error: str, seconds: int | None) -> None:
        super().__init__(error)
        self.seconds = seconds


async def download(
    proxy: Proxy, path: str, file: PartialFile, digest: bytes | None, report: Report
) -> Facts:
    """Download `path` into `file` and verify `digest`, from the job document, and `Repr-Digest`.

    An interrupted download is resumed. A file that is complete already, since an earlier run could
    not rename it, is not downloaded again. Raises `Unreachable` after `TRIES` consecutive tries
    without a new byte. A file with a wrong digest is downloaded again once; then `CorruptFile` is
    raised.
    """
    try:
        if file.offset and file.digest == digest:
            await asyncio.to_thread(file.sync)
            return Facts(file.offset, None, digest)
        return await _download(proxy, path, file, digest, report)
    except CorruptFile as error:
        await proxy.pause(str(error), 0)
        await asyncio.to_thread(file.restart)
        return await _download(proxy, path, file, digest, report)


async def _download(
    proxy: Proxy, path: str, file: PartialFile, digest: bytes | None, report: Report
) -> Facts:
    facts = await _transfer(proxy, path, file, digest is not None, report)
    for promised in (digest, facts.digest):
        if promised is not None and promised != file.digest:
            raise CorruptFile("The file does not have the expected SHA-256")
    await asyncio.to_thread(file.sync)
    return facts


async def _transfer(
    proxy: Proxy, path: str, file: PartialFile, proof: bool, report: Report
) -> Facts:
    facts: Facts | None = None
    failures, furthest = 0, file.offset
    while True:
        try:
            async with proxy.open(
                "GET", path, _range_fields(file.offset, facts, proof)
            ) as response:
                facts = await _check_head(response, file)
                await _receive(response, file, facts.size, report)
            return facts
        except (Unreachable, _RetryLater) as error:
            failures = failures + 1 if file.offset <= furthest else 1
            furthest = max(furthest, file.offset)
            if failures == TRIES:
                raise Unreachable(f"{error}: giving up after {TRIES} tries") from error
            seconds = error.seconds if isinstance(error, _RetryLater) else None
            await proxy.pause(str(error), seconds or backoff(failures))


def _range_fields(offset: int, facts: Facts | None, proof: bool) -> dict[str, str]:
    """Return the fields that request the rest, if an ETag or a digest can prove that it fits.

    With If-Range, a file that has changed is sent completely (RFC 9110 §13.1.5).
    """
    etag = facts.etag if facts is not None else None
    if not offset or not (etag or proof):
        return {}
    return {"Range": f"bytes={offset}-"} | ({"If-Range": etag} if etag else {})


async def _check_head(response: aiohttp.ClientResponse, file: PartialFile) -> Facts:
    """Check that the body continues or restarts the file; return the facts of the file."""
    if codings(value.encode() for value in response.headers.getall("Content-Encoding", [])):
        raise CommandError(
            "A server in front of the proxy compresses the download, which no-transform forbids"
        )
    if response.status == 206:
        size = _size_of_part(response.headers.get("Content-Range", ""), file.offset)
    elif response.status == 200:
        size = _size_of_whole(response)
        await asyncio.to_thread(file.restart)
    else:
        await _handle_error(response, file)
        raise _RetryLater("The partial file is not of this job", None)
    return Facts(
        size,
        _strong_etag(response.headers.get("ETag")),
        _repr_digest(response.headers.get("Repr-Digest", "")),
    )


def _size_of_part(content_range: str, offset: int) -> int:
    match = _CONTENT_RANGE.fullmatch(content_range)
    if match is None or int(match[1]) != offset or int(match[2]) != int(match[3]) - 1:
        raise CommandError(
            f"The server sent {content_range!r} instead of the bytes from {offset} on"
        )
    return int(match[3])


def _size_of_whole(response: aiohttp.ClientResponse) -> int:
    if response.content_length is None:
        raise CommandError(
            "The server does not send the length of the file, which is needed to verify it"
        )
    return response.content_length


async def _handle_error(response: aiohttp.ClientResponse, file: PartialFile) -> None:
    """Raise an error for a response without the file.

    Returns for a 416 only, after truncating the partial file, which is then not of this job.
    """
    if response.status == 416 and file.offset:
        await asyncio.to_thread(file.restart)
        return
    whole = await read_whole(response)
    if whole.status in BUSY or (whole.status == 409 and whole.retry_after):
        raise _RetryLater(str(error_from(whole)), whole.retry_after)
    raise error_from(whole)


async def _receive(
    response: aiohttp.ClientResponse, file: PartialFile, size: int, report: Report
) -> None:
    async for chunk in response.content.iter_chunked(_CHUNK):
        await asyncio.to_thread(file.write, chunk)
        report(file.offset, size)
    if file.offset != size:  # aiohttp may report a reset as the end of the body
        raise Unreachable(f"The download was interrupted at {file.offset} of {size} bytes")


def _strong_etag(etag: str | None) -> str | None:
    return etag if etag and strong(etag.encode("utf-8", "surrogateescape")) else None


def _repr_digest(value: str) -> bytes | None:
    match = _SHA_256.search(value)
    return decode_digest(match[1]) if match else None
