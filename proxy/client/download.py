"""The download (CONTRACT §6): resumed where it broke, and only accepted when length and SHA-256 are
right.
"""

from __future__ import annotations

import asyncio
import re
from collections.abc import Callable
from dataclasses import dataclass

import aiohttp

from proxy.client.faults import Corrupt, Fault, Unreachable
from proxy.client.files import PartialFile
from proxy.client.job import decode_digest
from proxy.client.proxy import BUSY, TRIES, Proxy, backoff
from proxy.client.wire import Answer, refusal
from proxy.core.outcome import codings

#: Called with the bytes on disk and the size of the whole.
Report = Callable[[int, int], None]

_CHUNK = 2**20
_CONTENT_RANGE = re.compile(r"bytes (\d+)-(\d+)/(\d+)")
_SHA_256 = re.compile(r"(?:^|,)\s*sha-256\s*=\s*:([A-Za-z0-9+/=]*):")


@dataclass(frozen=True, slots=True)
class Facts:
    """What the server says of the whole file: `size` in bytes, its strong validator, its
    SHA-256.
    """

    size: int
    etag: str | None
    digest: bytes | None


class _Again(Exception):
    """Not now: the server says to come back in `seconds`."""

    def __init__(self, why: str, seconds: int | None) -> None:
        super().__init__(why)
        self.seconds = seconds


async def download(
    proxy: Proxy, path: str, file: PartialFile, digest: bytes | None, report: Report
) -> Facts:
    """Fetch `path` into `file`. `digest` is what the job document promises, to be held beside
    `Repr-Digest`.

    A broken connection is resumed; `TRIES` in a row that bring no byte end it with `Unreachable`.
    Bytes that turn out wrong are fetched again from zero once, then `Corrupt`.
    """
    try:
        return await _verified(proxy, path, file, digest, report)
    except Corrupt as why:
        await proxy.pause(str(why), 0)
        await asyncio.to_thread(file.restart)
        return await _verified(proxy, path, file, digest, report)


async def _verified(
    proxy: Proxy, path: str, file: PartialFile, digest: bytes | None, report: Report
) -> Facts:
    facts = await _whole(proxy, path, file, digest is not None, report)
    for promised in (digest, facts.digest):
        if promised is not None and promised != file.digest:
            raise Corrupt("The file's SHA-256 is not the promised one")
    await asyncio.to_thread(file.sync)
    return facts


async def _whole(proxy: Proxy, path: str, file: PartialFile, proof: bool, report: Report) -> Facts:
    facts: Facts | None = None
    failures, furthest = 0, file.offset
    while True:
        try:
            async with proxy.open("GET", path, _asking(file.offset, facts, proof)) as response:
                facts = await _begin(response, file)
                await _receive(response, file, facts.size, report)
            return facts
        except (Unreachable, _Again) as why:
            failures = failures + 1 if file.offset <= furthest else 1
            furthest = max(furthest, file.offset)
            if failures == TRIES:
                raise Unreachable(f"{why}: given up after {TRIES} tries") from why
            seconds = why.seconds if isinstance(why, _Again) else None
            await proxy.pause(str(why), seconds or backoff(failures))


def _asking(offset: int, facts: Facts | None, proof: bool) -> dict[str, str]:
    """Ask for the rest only if it can be told from the rest of another file: by validator, or by
    digest at the end.

    RFC 9110 §13.1.5: If-Range makes a changed file come whole instead of as a wrong rest.
    """
    etag = facts.etag if facts is not None else None
    if not offset or not (etag or proof):
        return {}
    return {"Range": f"bytes={offset}-"} | ({"If-Range": etag} if etag else {})


async def _begin(response: aiohttp.ClientResponse, file: PartialFile) -> Facts:
    """Check that the body continues the file (or begins it anew) and return the facts of the
    whole.
    """
    if codings(value.encode() for value in response.headers.getall("Content-Encoding", [])):
        raise Fault(
            "Something between here and the proxy compresses the download: it must not "
            "(no-transform)"
        )
    if response.status == 206:
        size = _continued(response.headers.get("Content-Range", ""), file.offset)
    elif response.status == 200:
        size = _announced(response)
        await asyncio.to_thread(file.restart)
    else:
        await _refuse(response, file)
        raise _Again("The kept bytes do not fit", None)
    return Facts(
        size,
        _strong(response.headers.get("ETag")),
        _repr_digest(response.headers.get("Repr-Digest", "")),
    )


def _continued(content_range: str, offset: int) -> int:
    match = _CONTENT_RANGE.fullmatch(content_range)
    if match is None or int(match[1]) != offset or int(match[2]) != int(match[3]) - 1:
        raise Fault(
            f"The server was asked for the bytes from {offset} on and sent {content_range!r}"
        )
    return int(match[3])


def _announced(response: aiohttp.ClientResponse) -> int:
    if response.content_length is None:
        raise Fault("The server does not say how long the file is: no way to know when it is whole")
    return response.content_length


async def _refuse(response: aiohttp.ClientResponse, file: PartialFile) -> None:
    """Raise for any answer without file; only a 416 comes back, with the file emptied: its bytes
    were not the job's.
    """
    if response.status == 416 and file.offset:
        await asyncio.to_thread(file.restart)
        return
    answer = Answer(response.status, response.headers.copy(), await response.read())
    if answer.status in BUSY or (answer.status == 409 and answer.retry_after):
        raise _Again(str(refusal(answer)), answer.retry_after)
    raise refusal(answer)


async def _receive(
    response: aiohttp.ClientResponse, file: PartialFile, size: int, report: Report
) -> None:
    async for chunk in response.content.iter_chunked(_CHUNK):
        await asyncio.to_thread(file.write, chunk)
        report(file.offset, size)
    if file.offset != size:  # aiohttp takes a reset at the right moment for a clean end
        raise Unreachable(f"The download broke at {file.offset} of {size} bytes")


def _strong(etag: str | None) -> str | None:
    return etag if etag and etag.startswith('"') else None


def _repr_digest(value: str) -> bytes | None:
    match = _SHA_256.search(value)
    return decode_digest(match[1]) if match else None
