"""The commands `jobs …`: the exports of a proxy."""

from __future__ import annotations

from typing import Annotated
from urllib.parse import urlencode

import typer

from proxy.client.commands.options import (
    CONTEXT,
    EXIT_CODES,
    CancelOnInterrupt,
    JobName,
    Output,
    Printed,
    Release,
    with_groups,
)
from proxy.client.commands.running import run, run_on_job
from proxy.client.connection import Connection, Resolved
from proxy.client.display import Display, format_size
from proxy.client.export import ExportOptions, Outcome, complete, follow
from proxy.client.job import Job
from proxy.client.output import to_json
from proxy.client.proxy import Proxy
from proxy.core.paths import Links, list_url

_COLUMNS = ("id", "created", "export", "status", "phase", "size", "file")

jobs_app = typer.Typer(no_args_is_help=True, context_settings=CONTEXT, epilog=EXIT_CODES)


@jobs_app.callback()
def _jobs() -> None:
    """List, show, watch, cancel, delete and fetch export jobs."""


@jobs_app.command("fetch", epilog=EXIT_CODES)
@with_groups
def fetch_command(
    connection: Connection,
    job: JobName,
    output: Output = None,
    release: Release = False,
    cancel_on_interrupt: CancelOnInterrupt = False,
) -> None:
    """Follow a job, download the file, verify it and print its path.

    An interrupted download is resumed.
    """
    options = ExportOptions(output=output, release=release, cancel_on_interrupt=cancel_on_interrupt)
    run_on_job(connection, job, lambda proxy, display, at: complete(proxy, display, at, options))


@jobs_app.command("watch", epilog=EXIT_CODES)
@with_groups
def watch_command(
    printed: Printed,
    connection: Connection,
    job: JobName,
    exit_status: Annotated[
        bool,
        typer.Option("--exit-status", help="Exit with the code of the outcome instead of 0."),
    ] = False,
) -> None:
    """Follow a job until it has ended, and print its status."""

    async def work(proxy: Proxy, display: Display, at: Links) -> Outcome:
        ended = await follow(proxy, at, display)
        if ended.exit_code:
            display.say(ended.outcome)
        code = ended.exit_code if exit_status else 0
        return Outcome(code, printed.one(ended.document, ended.status))

    run_on_job(connection, job, work)


@jobs_app.command("show")
@with_groups
def show_command(printed: Printed, connection: Connection, job: JobName) -> None:
    """Print the document of a job, as JSON."""

    async def work(proxy: Proxy, display: Display, at: Links) -> Outcome:
        return Outcome(0, printed.one((await proxy.ask("GET", at.status)).document()))

    run_on_job(connection, job, work)


@jobs_app.command("cancel")
@with_groups
def cancel_command(connection: Connection, job: JobName) -> None:
    """Cancel a running job and keep its record."""

    async def work(proxy: Proxy, display: Display, at: Links) -> Outcome:
        return Outcome(0, to_json((await proxy.ask("POST", at.cancel)).document()))

    run_on_job(connection, job, work)


@jobs_app.command("rm")
@jobs_app.command("delete", hidden=True)
@with_groups
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

    run_on_job(connection, job, work)


@jobs_app.command("list")
@with_groups
def list_command(
    printed: Printed,
    connection: Connection,
    status: Annotated[
        str | None, typer.Option(help="Running, Success, Warning, Failed or Cancelled.")
    ] = None,
    session: Annotated[
        str | None, typer.Option(help="List all jobs of this restore session.")
    ] = None,
    offset: Annotated[int, typer.Option(min=0, help="Number of jobs to skip.")] = 0,
    limit: Annotated[int, typer.Option(min=1, help="Maximum number of jobs.")] = 30,
) -> None:
    """List the jobs that were started with this token, newest first.

    A new login has a new token: use --session to list the jobs of a restore session.
    """
    query = {"offset": offset, "limit": limit, "status": status, "restoreSessionId": session}
    parameters = urlencode({name: value for name, value in query.items() if value is not None})

    async def work(proxy: Proxy, display: Display, resolved: Resolved) -> Outcome:
        path = list_url("", resolved.api, resolved.segment)
        page = (await proxy.ask("GET", f"{path}?{parameters}")).document()
        documents = page.get("results", [])
        rows = [] if printed.as_json else [_row(Job(document)) for document in documents]
        return Outcome(0, printed.many(documents, _COLUMNS, rows, page))

    run(connection, work)


def _row(job: Job) -> tuple[str, ...]:
    size = format_size(job.size) if job.size else ""
    created = str(job.document.get("creationTime") or "")
    return (job.id, created, job.title, job.status, job.phase, size, job.file_name or "")
