"""An export from kick-off to the verified file: the story that the `export` and `jobs fetch`
commands tell.
"""

from __future__ import annotations

import asyncio
import re
from dataclasses import dataclass
from pathlib import Path

from proxy.client.display import Display, amount
from proxy.client.download import download
from proxy.client.faults import Corrupt, Fault, Refused, Unreachable
from proxy.client.files import PartialFile, Target
from proxy.client.job import Job
from proxy.client.proxy import Proxy

#: Seconds between polls where the server names none.
_PAUSE = 2
_SESSION = re.compile(r"/restoresessions/([^/]+)/", re.IGNORECASE)
#: The job or its file is no more.
_GONE = frozenset({404, 410})


@dataclass(frozen=True, slots=True, kw_only=True)
class Wishes:
    """What the user wants done with the job. `output` is a file, a directory, or None for the
    working directory; `wait` also waits for a kick-off that is refused for now; `segment` is the
    proxy's own path segment.
    """

    output: str | None = None
    segment: str = "_async"
    wait: bool = True
    download: bool = True
    release: bool = False
    cancel_on_interrupt: bool = False


@dataclass(frozen=True, slots=True)
class Outcome:
    """How it ended: the exit code, and what goes to stdout."""

    code: int
    result: str


async def export(
    proxy: Proxy,
    display: Display,
    path: str,
    body: bytes | None,
    content_type: str,
    key: str | None,
    wishes: Wishes,
) -> Outcome:
    """Kick off the export at `path` and see it through."""
    await proxy.check(wishes.segment)
    display.say(f"POST {path}")
    try:
        job, at = await proxy.kick_off(
            path, body, content_type=content_type, key=key, patient=wishes.wait
        )
    except (Unreachable, asyncio.CancelledError):
        if proxy.sent("POST", path):
            session = f" --session {match[1]}" if (match := _SESSION.search(path)) else ""
            display.say(
                "Whether the export has started is not known. This tells: vb365-async-proxy "
                f"jobs list{session}"
            )
        raise
    display.say(f"202 Accepted: job {job.id}, {proxy.url(at)}")
    if not (wishes.wait or wishes.download):
        return Outcome(0, proxy.url(at))
    return await see_through(proxy, display, at, wishes)


async def see_through(proxy: Proxy, display: Display, at: str, wishes: Wishes) -> Outcome:
    """Follow the job at the path `at` to its end and fetch its file. The job outlives whatever
    happens here.
    """
    try:
        return await _see_through(proxy, display, at, wishes)
    except asyncio.CancelledError:
        await _interrupted(proxy, display, at, wishes.cancel_on_interrupt)
        raise
    except (Fault, OSError) as why:
        if not (isinstance(why, Refused) and why.status in _GONE):
            display.say(_later(proxy, at))
        raise


async def _see_through(proxy: Proxy, display: Display, at: str, wishes: Wishes) -> Outcome:
    job = await follow(proxy, at, display)
    if job.exit_code in (1, 4):
        display.say(job.outcome)
        return Outcome(job.exit_code, "")
    if not wishes.download:
        display.say(f"The export ended {job.status}.")
        return Outcome(job.exit_code, proxy.url(at))
    path = await fetch(proxy, display, at, job, wishes.output)
    if wishes.release:
        await _release(proxy, display, at)
    if job.exit_code:
        display.say(
            f"The export ended {job.status}: "
            f"{job.document.get('message') or 'see the restore session'}"
        )
    return Outcome(job.exit_code, str(path))


async def follow(proxy: Proxy, at: str, display: Display) -> Job:
    """Poll as the server asks, until the job has ended."""
    etag: str | None = None
    while True:
        job, answer = await proxy.job(at, etag)
        if job is not None:
            etag = answer.fields.get("ETag")
            display.exporting(job)
            if job.ended:
                return job
        await proxy.sleep(answer.retry_after or _PAUSE)


async def fetch(proxy: Proxy, display: Display, at: str, job: Job, output: str | None) -> Path:
    """The job's file, verified, under its name on the disk."""
    if not job.available:
        raise Refused(
            f"The export has no file to fetch (any more): its result is {job.result_state}", 410
        )
    target = Target(output, job)
    await asyncio.to_thread(target.prepare)
    try:
        summary = await _receive(proxy, display, at, job, target.partial)
    except Corrupt:
        await asyncio.to_thread(target.partial.unlink)  # no start for a later try
        raise
    path = await asyncio.to_thread(target.accept)
    display.say(f"{path}: {summary}")
    return path


async def _receive(proxy: Proxy, display: Display, at: str, job: Job, partial: Path) -> str:
    """Fill the partial file; what can be said of it."""
    file = await asyncio.to_thread(PartialFile, partial)
    try:
        facts = await download(proxy, f"{at}/result", file, job.digest, display.downloading)
    finally:
        await asyncio.to_thread(file.close)
    proven = (
        "SHA-256 verified"
        if facts.digest or job.digest
        else "SHA-256 (the server told none to compare with)"
    )
    return f"{amount(file.offset)}, {job.format or 'kind unknown'}, {proven}: {file.digest.hex()}"


async def _release(proxy: Proxy, display: Display, at: str) -> None:
    """The file is here: that the proxy keeps its copy a while longer is no failure."""
    try:
        await proxy.ask("DELETE", f"{at}/result")
        display.say("The proxy has released its copy.")
    except Fault as why:
        display.say(f"The proxy has not released its copy: {why}")


def _later(proxy: Proxy, at: str) -> str:
    command = f"vb365-async-proxy jobs fetch {proxy.url(at)}"
    return f"The proxy goes on with the export and keeps its file. Fetch it with: {command}"


async def _interrupted(proxy: Proxy, display: Display, at: str, cancel: bool) -> None:
    if not cancel:
        display.say(_later(proxy, at))
        return
    try:
        async with asyncio.timeout(10):
            job = Job((await proxy.ask("POST", f"{at}/cancel")).document())
        display.say(
            f"The export had already ended {job.status}."
            if job.ended
            else "The export is being cancelled."
        )
    except (Fault, TimeoutError) as why:
        display.say(f"The export could not be cancelled ({why}). {_later(proxy, at)}")
