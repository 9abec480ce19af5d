"""The commands `export` and `jobs` (CONTRACT §15). stdout carries the result only, stderr the
story.
"""

from __future__ import annotations

import asyncio
import re
import sys
import uuid
from collections.abc import Awaitable, Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Annotated
from urllib.parse import urlencode

import typer
from rich.table import Column, Table
from rich.text import Text

from proxy.client.connection import Connection, connected
from proxy.client.display import Display, amount, display
from proxy.client.export import Outcome, Wishes, export, see_through
from proxy.client.faults import INTERRUPTED, Fault
from proxy.client.job import Job
from proxy.client.output import Stderr, complain, laid_out, pretty, print_result
from proxy.client.proxy import Proxy
from proxy.core.text import UTF_16, NotUtf8, visible

Work = Callable[[Proxy, Display], Awaitable[Outcome]]

client_app = typer.Typer(no_args_is_help=True, pretty_exceptions_show_locals=False)
jobs_app = typer.Typer(
    no_args_is_help=True, help="List, show, cancel, delete and fetch the export jobs of a proxy."
)
client_app.add_typer(jobs_app, name="jobs")

Named = Annotated[
    str, typer.Argument(metavar="JOB", help="The job's id, or its URL (then --url is not needed)")
]
Output = Annotated[
    str | None,
    typer.Option(
        "--output",
        "-o",
        metavar="PATH",
        help="A file (replaced), or a directory (the server's file name, nothing replaced)",
    ),
]
_WAIT = "Wait as long as a 429 or 503 asks for; with --no-download also until the export has ended"
Release = Annotated[
    bool, typer.Option("--release", help="Let the proxy drop its copy once the file is here")
]
CancelOnInterrupt = Annotated[
    bool,
    typer.Option(
        "--cancel-on-interrupt", help="Ctrl-C cancels the export; without it, the export goes on"
    ),
]


@client_app.command("export")
@connected
def export_command(
    connection: Connection,
    path: Annotated[str, typer.Option(help="The export, like /v8/RestoreSessions/…/exportToPst")],
    body: Annotated[
        str | None, typer.Option(help="The request body: a file, - for stdin, or JSON text")
    ] = None,
    content_type: Annotated[
        str, typer.Option(help="The media type of the body")
    ] = "application/json",
    output: Output = None,
    idempotency_key: Annotated[
        str,
        typer.Option(
            help="A kick-off with a key that was used before joins that export; 'none' sends no key"
        ),
    ] = "auto",
    download: Annotated[
        bool, typer.Option(help="Fetch the file, or print the job's URL instead")
    ] = True,
    wait: Annotated[
        bool,
        typer.Option(
            "--wait",
            help=(
                "Wait as long as a 429 or 503 asks; with --no-download also until the "
                "export has ended"
            ),
        ),
    ] = False,
    release: Release = False,
    cancel_on_interrupt: CancelOnInterrupt = False,
) -> None:
    """Run an export asynchronously: kick off, follow, download, verify.

    Prints the file's path. Exit codes: 0 success, 3 success with a warning, 1 failed, 2 usage, 4
    cancelled, 130 Ctrl-C.
    """
    wishes = Wishes(
        output=output,
        segment=connection.segment,
        wait=wait,
        download=download,
        release=release,
        cancel_on_interrupt=cancel_on_interrupt,
    )

    async def work(proxy: Proxy, display: Display) -> Outcome:
        return await export(
            proxy, display, path, content, content_type, _key(idempotency_key), wishes
        )

    with _faults():
        content = _body(body, content_type)
        version = _version(path)
    _run(replace(connection, api=version or connection.api), work)


@jobs_app.command("fetch")
@connected
def fetch_command(
    connection: Connection,
    job: Named,
    output: Output = None,
    release: Release = False,
    cancel_on_interrupt: CancelOnInterrupt = False,
) -> None:
    """Follow a job to its end and fetch its file. Goes on with a download that was interrupted.

    Prints the file's path. Exit codes as of `export`.
    """
    wishes = Wishes(output=output, release=release, cancel_on_interrupt=cancel_on_interrupt)
    _on_job(connection, job, lambda proxy, display, at: see_through(proxy, display, at, wishes))


@jobs_app.command("show")
@connected
def show_command(connection: Connection, job: Named) -> None:
    """Print a job's document."""

    async def work(proxy: Proxy, display: Display, at: str) -> Outcome:
        return Outcome(0, pretty((await proxy.ask("GET", at)).document()))

    _on_job(connection, job, work)


@jobs_app.command("cancel")
@connected
def cancel_command(connection: Connection, job: Named) -> None:
    """Cancel a running job; its record stays."""

    async def work(proxy: Proxy, display: Display, at: str) -> Outcome:
        return Outcome(0, pretty((await proxy.ask("POST", f"{at}/cancel")).document()))

    _on_job(connection, job, work)


@jobs_app.command("delete")
@connected
def delete_command(
    connection: Connection,
    job: Named,
    file_only: Annotated[
        bool, typer.Option("--file-only", help="Release the file, keep the record")
    ] = False,
) -> None:
    """Cancel a job, release its file and forget it."""

    async def work(proxy: Proxy, display: Display, at: str) -> Outcome:
        await proxy.ask("DELETE", f"{at}/result" if file_only else at)
        return Outcome(0, "")

    _on_job(connection, job, work)


@jobs_app.command("list")
@connected
def list_command(
    connection: Connection,
    status: Annotated[
        str | None, typer.Option(help="Running, Success, Warning, Failed or Cancelled")
    ] = None,
    session: Annotated[
        str | None, typer.Option(help="All jobs of this restore session, whoever started them")
    ] = None,
    offset: Annotated[int, typer.Option(min=0)] = 0,
    limit: Annotated[int, typer.Option(min=1)] = 30,
    as_json: Annotated[bool, typer.Option("--json", help="Print the server's document")] = False,
) -> None:
    """List the jobs that this token started, newest first; with --session, all of a restore
    session.

    A new login is a new token.
    """
    query = {"offset": offset, "limit": limit, "status": status, "restoreSessionId": session}
    asked = urlencode({name: value for name, value in query.items() if value is not None})

    async def work(proxy: Proxy, display: Display) -> Outcome:
        page = (
            await proxy.ask("GET", f"/{connection.api}/{connection.segment}/exports?{asked}")
        ).document()
        if as_json:
            return Outcome(0, pretty(page))
        return Outcome(0, laid_out(_table([Job(document) for document in page.get("results", [])])))

    _run(connection, work)


def _on_job(
    connection: Connection, name: str, work: Callable[[Proxy, Display, str], Awaitable[Outcome]]
) -> None:
    with _faults():
        connection, at = connection.for_job(name)
    _run(connection, lambda proxy, display: work(proxy, display, at))


def _run(connection: Connection, work: Work) -> None:
    """Do the work on a loop of its own, print its result, and end the process with its exit
    code.
    """

    async def run() -> Outcome:
        with display(Stderr()) as shown:
            async with connection.open(shown, credentials) as proxy:
                return await work(proxy, shown)

    with _faults():
        credentials = connection.credentials()
        outcome = asyncio.run(run())
    if outcome.result:
        print_result(outcome.result)
    raise typer.Exit(outcome.code)


@contextmanager
def _faults() -> Iterator[None]:
    """Turn what ends a command early into a sentence on stderr and an exit code."""
    try:
        yield
    except Fault as why:
        complain(str(why))
        raise typer.Exit(why.code) from why
    except OSError as why:
        complain(str(why))
        raise typer.Exit(1) from why
    except KeyboardInterrupt as why:
        raise typer.Exit(INTERRUPTED) from why


def _body(given: str | None, content_type: str) -> bytes | None:
    """The bytes to send, as they are: bodies in the wild are not strict JSON, so they are never
    parsed.

    Raises `Fault` for a file that cannot be read, and for JSON in UTF-16, which VB365 does not read
    (RFC 8259 §8.1).
    """
    if given is None:
        return None
    if given.lstrip()[:1] in ("{", "["):
        return given.encode(errors="surrogateescape")
    path = Path(given.removeprefix("@"))
    try:
        body = sys.stdin.buffer.read() if given == "-" else path.read_bytes()
    except OSError as why:
        raise Fault(f"--body: {path} cannot be read: {why.strerror}", code=2) from why
    if "json" in content_type.lower() and body.startswith(UTF_16):
        raise Fault(f"--body: {'stdin' if given == '-' else path} is UTF-16: {NotUtf8.fix}", code=2)
    return body


def _version(path: str) -> str | None:
    """The path's API version, to log in with. Raises `Fault` if the path cannot go over the wire as
    it is.
    """
    if not re.fullmatch(r"/[!-~]*", path) or "#" in path:
        raise Fault(
            "--path must be a path as it goes over the wire: begin with /, percent-encode the rest",
            code=2,
        )
    match = re.match(r"/+(v\d+)/", path, re.IGNORECASE)
    return match[1] if match else None


def _key(given: str) -> str | None:
    if given == "none":
        return None
    return str(uuid.uuid4()) if given == "auto" else given


def _table(jobs: list[Job]) -> Table:
    table = Table(
        Column("id", min_width=36),
        "created",
        "export",
        "status",
        "phase",
        "size",
        "file",
        box=None,
        pad_edge=False,
    )
    for job in jobs:
        size = amount(job.size) if job.size else ""
        created = str(job.document.get("creationTime") or "")
        row = (job.id, created, job.title, job.status, job.phase, size, job.file_name or "")
        table.add_row(*(Text(visible(cell)) for cell in row))
    return table
