"""The commands `export` and `jobs` (CONTRACT §15).

Only the result goes to stdout; progress and errors go to stderr.
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

from proxy.client.connection import Connection, with_connection
from proxy.client.display import Display, display, format_size
from proxy.client.errors import EXIT_INTERRUPTED, CommandError
from proxy.client.export import ExportOptions, Outcome, complete, export
from proxy.client.job import Job
from proxy.client.output import Stderr, print_error, print_result, render, to_json
from proxy.client.proxy import Proxy
from proxy.core.paths import Links, list_url
from proxy.core.text import UTF_16, NotUtf8, visible

Work = Callable[[Proxy, Display], Awaitable[Outcome]]

client_app = typer.Typer(no_args_is_help=True, pretty_exceptions_show_locals=False)
jobs_app = typer.Typer(
    no_args_is_help=True, help="List, show, cancel, delete and fetch export jobs of a proxy."
)
client_app.add_typer(jobs_app, name="jobs")

JobName = Annotated[
    str, typer.Argument(metavar="JOB", help="Id of the job, or its URL instead of --url.")
]
Output = Annotated[
    str | None,
    typer.Option(
        "--output",
        "-o",
        metavar="PATH",
        help="File to write or replace, or directory for a new file with the server's name.",
    ),
]
Release = Annotated[
    bool, typer.Option("--release", help="Delete the proxy's copy after the download.")
]
CancelOnInterrupt = Annotated[
    bool,
    typer.Option(
        "--cancel-on-interrupt", help="Cancel the export on Ctrl-C. By default it continues."
    ),
]


@client_app.command("export")
@with_connection
def export_command(
    connection: Connection,
    path: Annotated[
        str, typer.Option(help="Path of the export, such as /v8/RestoreSessions/…/exportToPst.")
    ],
    body: Annotated[
        str | None, typer.Option(help="Request body: a file, - for stdin, or JSON text.")
    ] = None,
    content_type: Annotated[str, typer.Option(help="Media type of the body.")] = "application/json",
    output: Output = None,
    idempotency_key: Annotated[
        str,
        typer.Option(
            help=(
                "Key of the export. A key that was used before joins that export; 'none' sends "
                "no key."
            ),
        ),
    ] = "auto",
    download: Annotated[
        bool, typer.Option(help="Download the file, or print the URL of the job.")
    ] = True,
    wait: Annotated[
        bool,
        typer.Option(
            "--wait",
            help=(
                "After 429 or 503, wait and try again. With --no-download, also wait for the end "
                "of the export."
            ),
        ),
    ] = False,
    release: Release = False,
    cancel_on_interrupt: CancelOnInterrupt = False,
) -> None:
    """Start an export, follow it, download the file, verify it and print its path.

    Exit codes: 0 success, 1 failed, 2 usage, 3 success with a warning, 4 cancelled, 130 Ctrl-C.
    """
    options = ExportOptions(
        output=output,
        segment=connection.segment,
        wait=wait,
        download=download,
        release=release,
        cancel_on_interrupt=cancel_on_interrupt,
    )

    async def work(proxy: Proxy, display: Display) -> Outcome:
        return await export(
            proxy, display, path, content, content_type, _key(idempotency_key), options
        )

    with _exit_on_error():
        content = _body(body, content_type)
        version = _version(path)
    _run(replace(connection, api=version or connection.api), work)


@jobs_app.command("fetch")
@with_connection
def fetch_command(
    connection: Connection,
    job: JobName,
    output: Output = None,
    release: Release = False,
    cancel_on_interrupt: CancelOnInterrupt = False,
) -> None:
    """Follow a job, download the file, verify it and print its path.

    An interrupted download is resumed. Exit codes are those of `export`.
    """
    options = ExportOptions(output=output, release=release, cancel_on_interrupt=cancel_on_interrupt)
    _on_job(connection, job, lambda proxy, display, at: complete(proxy, display, at, options))


@jobs_app.command("show")
@with_connection
def show_command(connection: Connection, job: JobName) -> None:
    """Print the document of a job."""

    async def work(proxy: Proxy, display: Display, at: Links) -> Outcome:
        return Outcome(0, to_json((await proxy.ask("GET", at.status)).document()))

    _on_job(connection, job, work)


@jobs_app.command("cancel")
@with_connection
def cancel_command(connection: Connection, job: JobName) -> None:
    """Cancel a running job and keep its record."""

    async def work(proxy: Proxy, display: Display, at: Links) -> Outcome:
        return Outcome(0, to_json((await proxy.ask("POST", at.cancel)).document()))

    _on_job(connection, job, work)


@jobs_app.command("delete")
@with_connection
def delete_command(
    connection: Connection,
    job: JobName,
    file_only: Annotated[
        bool, typer.Option("--file-only", help="Delete the file and keep the record.")
    ] = False,
) -> None:
    """Cancel a job and delete its file and record."""

    async def work(proxy: Proxy, display: Display, at: Links) -> Outcome:
        await proxy.ask("DELETE", at.result if file_only else at.status)
        return Outcome(0, "")

    _on_job(connection, job, work)


@jobs_app.command("list")
@with_connection
def list_command(
    connection: Connection,
    status: Annotated[
        str | None, typer.Option(help="Running, Success, Warning, Failed or Cancelled.")
    ] = None,
    session: Annotated[
        str | None, typer.Option(help="List all jobs of this restore session.")
    ] = None,
    offset: Annotated[int, typer.Option(min=0, help="Number of jobs to skip.")] = 0,
    limit: Annotated[int, typer.Option(min=1, help="Maximum number of jobs.")] = 30,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON.")] = False,
) -> None:
    """List the jobs that were started with this token, newest first.

    A new login has a new token: use --session to list the jobs of a restore session.
    """
    query = {"offset": offset, "limit": limit, "status": status, "restoreSessionId": session}
    parameters = urlencode({name: value for name, value in query.items() if value is not None})

    async def work(proxy: Proxy, display: Display) -> Outcome:
        path = list_url("", connection.api, connection.segment)
        page = (await proxy.ask("GET", f"{path}?{parameters}")).document()
        if as_json:
            return Outcome(0, to_json(page))
        return Outcome(0, render(_table([Job(document) for document in page.get("results", [])])))

    _run(connection, work)


def _on_job(
    connection: Connection, name: str, work: Callable[[Proxy, Display, Links], Awaitable[Outcome]]
) -> None:
    with _exit_on_error():
        connection, at = connection.for_job(name)
    _run(connection, lambda proxy, display: work(proxy, display, at))


def _run(connection: Connection, work: Work) -> None:
    """Run `work` on a new event loop, print its result and exit with its code."""

    async def run() -> Outcome:
        with display(Stderr()) as shown:
            async with connection.open(shown, credentials) as proxy:
                return await work(proxy, shown)

    with _exit_on_error():
        credentials = connection.credentials()
        outcome = asyncio.run(run())
    if outcome.result:
        print_result(outcome.result)
    raise typer.Exit(outcome.code)


@contextmanager
def _exit_on_error() -> Iterator[None]:
    """Convert errors to a message on stderr and an exit code."""
    try:
        yield
    except CommandError as error:
        print_error(str(error))
        raise typer.Exit(error.code) from error
    except OSError as error:
        print_error(str(error))
        raise typer.Exit(1) from error
    except KeyboardInterrupt as error:
        raise typer.Exit(EXIT_INTERRUPTED) from error


def _body(given: str | None, content_type: str) -> bytes | None:
    """Return the bytes to send. They are not parsed, because bodies in use are not strict JSON.

    Raises `CommandError` for an unreadable file, and for JSON in UTF-16, which VB365 does not
    support (RFC 8259 §8.1).
    """
    if given is None:
        return None
    if given.lstrip()[:1] in ("{", "["):
        return given.encode(errors="surrogateescape")
    path = Path(given.removeprefix("@"))
    try:
        body = sys.stdin.buffer.read() if given == "-" else path.read_bytes()
    except OSError as error:
        raise CommandError(f"--body: {path} cannot be read: {error.strerror}", code=2) from error
    if "json" in content_type.lower() and body.startswith(UTF_16):
        raise CommandError(
            f"--body: {'stdin' if given == '-' else path} is UTF-16: {NotUtf8.fix}", code=2
        )
    return body


def _version(path: str) -> str | None:
    """Return the API version in the path, to log in with.

    Raises `CommandError` if the path is not valid in a request line.
    """
    if not re.fullmatch(r"/[!-~]*", path) or "#" in path:
        raise CommandError(
            "--path must begin with / and be percent-encoded",
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
        size = format_size(job.size) if job.size else ""
        created = str(job.document.get("creationTime") or "")
        row = (job.id, created, job.title, job.status, job.phase, size, job.file_name or "")
        table.add_row(*(Text(visible(cell)) for cell in row))
    return table
