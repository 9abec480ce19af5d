"""The steps of `export` and `jobs fetch`: kick-off, polls, download."""

from __future__ import annotations

import asyncio
import re
import time
from dataclasses import dataclass
from pathlib import Path

from proxy.client.display import Display, format_size
from proxy.client.download import download
from proxy.client.errors import CommandError, CorruptFile, ErrorResponse, Unreachable
from proxy.client.files import PartialFile, Target
from proxy.client.job import Job
from proxy.client.proxy import Proxy
from proxy.core.paths import Links

#: Seconds between polls if the server does not send Retry-After.
_POLL_INTERVAL = 2
_SESSION = re.compile(r"/restoresessions/([^/]+)/", re.IGNORECASE)
#: The job or its file no longer exists.
_GONE = frozenset({404, 410})


@dataclass(frozen=True, slots=True, kw_only=True)
class ExportOptions:
    """The options of an export.

    `output` is a file, a directory, or None for the working directory. `wait` also repeats a
    kick-off after 429 or 503. `segment` is the path segment of the proxy's resources.
    """

    output: str | None = None
    segment: str = "_async"
    wait: bool = True
    download: bool = True
    release: bool = False
    cancel_on_interrupt: bool = False


@dataclass(frozen=True, slots=True)
class Outcome:
    """The exit code and the text for stdout."""

    code: int
    result: str


async def export(
    proxy: Proxy,
    display: Display,
    path: str,
    body: bytes | None,
    content_type: str,
    key: str | None,
    options: ExportOptions,
) -> Outcome:
    """Start the export at `path`, follow it and download the file."""
    await proxy.check(options.segment)
    display.say(f"POST {path}")
    try:
        job, at = await proxy.kick_off(
            path, body, content_type=content_type, key=key, wait=options.wait
        )
    except (Unreachable, asyncio.CancelledError):
        if proxy.sent("POST", path):
            session = f" --session {match[1]}" if (match := _SESSION.search(path)) else ""
            display.say(
                "It is not known whether the export was started. To find out: vb365-async-proxy "
                f"jobs list{session}"
            )
        raise
    display.say(f"202 Accepted: job {job.id}, {proxy.url(at.status)}")
    if not (options.wait or options.download):
        return Outcome(0, proxy.url(at.status))
    return await complete(proxy, display, at, options)


async def complete(proxy: Proxy, display: Display, at: Links, options: ExportOptions) -> Outcome:
    """Follow the job with the paths `at` and download its file.

    The job continues whatever happens here, unless `cancel_on_interrupt` is set.
    """
    try:
        return await _complete(proxy, display, at, options)
    except asyncio.CancelledError:
        await _on_interrupt(proxy, display, at, options.cancel_on_interrupt)
        raise
    except (CommandError, OSError) as error:
        if not (isinstance(error, ErrorResponse) and error.status in _GONE):
            display.say(_fetch_hint(proxy, at))
        raise


async def _complete(proxy: Proxy, display: Display, at: Links, options: ExportOptions) -> Outcome:
    job = await follow(proxy, at, display)
    if job.exit_code in (1, 4):
        display.say(job.outcome)
        return Outcome(job.exit_code, "")
    if not options.download:
        display.say(f"The export ended with {job.status}.")
        return Outcome(job.exit_code, proxy.url(at.status))
    path = await fetch(proxy, display, at, job, options.output)
    if options.release:
        await _release(proxy, display, at)
    if job.exit_code:
        display.say(
            f"The export ended with {job.status}: "
            f"{job.document.get('message') or 'see the restore session'}"
        )
    return Outcome(job.exit_code, str(path))


async def follow(proxy: Proxy, at: Links, display: Display) -> Job:
    """Poll until the job has ended and return it."""
    etag: str | None = None
    while True:
        asked = time.monotonic()
        job, response = await proxy.job(at.status, etag)
        if job is not None:
            etag = response.fields.get("ETag")
            display.exporting(job)
            if job.ended:
                return job
        # A poll that waited for a change has waited for a part of Retry-After already.
        waited = int(time.monotonic() - asked)
        await proxy.sleep(max(0, (response.retry_after or _POLL_INTERVAL) - waited))


async def fetch(proxy: Proxy, display: Display, at: Links, job: Job, output: str | None) -> Path:
    """Download and verify the file; return its path."""
    if not job.available:
        raise ErrorResponse(
            f"The export has no file to download: its result is {job.result_state}", 410
        )
    target = Target(output, job)
    await asyncio.to_thread(target.prepare)
    file = await asyncio.to_thread(PartialFile, target.partial)
    try:
        try:
            summary = await _receive(proxy, display, at, job, file)
        finally:
            await asyncio.to_thread(file.release)
        path = await asyncio.to_thread(target.accept)
    except CorruptFile:
        await asyncio.to_thread(target.partial.unlink)  # a later try must not resume it
        raise
    finally:
        await asyncio.to_thread(file.close)
    display.say(f"{path}: {summary}")
    return path


async def _receive(proxy: Proxy, display: Display, at: Links, job: Job, file: PartialFile) -> str:
    """Download into the partial file; return a summary."""
    facts = await download(proxy, at.result, file, job.digest, display.downloading)
    proven = (
        "SHA-256 verified"
        if facts.digest or job.digest
        else "SHA-256 (not verified, since the server sent none)"
    )
    file_format = job.format or "unknown format"
    return f"{format_size(file.offset)}, {file_format}, {proven}: {file.digest.hex()}"


async def _release(proxy: Proxy, display: Display, at: Links) -> None:
    """Delete the proxy's copy. An error is reported but does not fail the command."""
    try:
        await proxy.ask("DELETE", at.result)
        display.say("The proxy has deleted its copy.")
    except CommandError as error:
        display.say(f"The proxy has not deleted its copy: {error}")


def _fetch_hint(proxy: Proxy, at: Links) -> str:
    command = _fetch_command(proxy, at)
    return f"The export continues at the proxy. To download the file: {command}"


def _fetch_command(proxy: Proxy, at: Links) -> str:
    return f"vb365-async-proxy jobs fetch {proxy.url(at.status)}"


async def _on_interrupt(proxy: Proxy, display: Display, at: Links, cancel: bool) -> None:
    if not cancel:
        display.say(_fetch_hint(proxy, at))
        return
    try:
        async with asyncio.timeout(10):
            job = Job((await proxy.ask("POST", at.cancel)).document())
        display.say(
            f"The export had already ended with {job.status}."
            if job.ended
            else "The export is being cancelled."
        )
        if job.available:
            display.say(f"To download the file: {_fetch_command(proxy, at)}")
    except (CommandError, TimeoutError) as error:
        display.say(f"The export could not be cancelled ({error}). {_fetch_hint(proxy, at)}")
