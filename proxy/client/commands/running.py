"""Runs a command: an event loop, the connection, the result on stdout, and the exit code."""

from __future__ import annotations

import asyncio
import re
import signal
from collections.abc import Awaitable, Callable, Iterator
from contextlib import contextmanager, suppress
from typing import NoReturn

import typer

from proxy.client.connection import Connection, Resolved
from proxy.client.display import Display, Mode, display
from proxy.client.errors import EXIT_INTERRUPTED, EXIT_TERMINATED, CommandError
from proxy.client.export import Outcome
from proxy.client.job import Job
from proxy.client.output import Stderr, print_result
from proxy.client.proxy import Proxy, links_of
from proxy.core.paths import Links, list_url

Work = Callable[[Proxy, Display, Resolved], Awaitable[Outcome]]
#: The beginning of a job's id, of four digits or more, and the jobs in which it is looked for.
_PREFIX = re.compile(r"(?i)(?=.{4,35}\Z)[0-9a-f]{1,8}(?:-[0-9a-f-]*)?")
_LISTED = 1000

JobWork = Callable[[Proxy, Display, Links], Awaitable[Outcome]]


def run(connection: Connection, work: Work) -> NoReturn:
    """Run `work` on a new event loop, print its result and exit with its code."""

    async def main() -> Outcome:
        _cancel_on_sigterm()
        with display(Stderr(), connection.progress) as shown:
            async with resolved.open(shown) as proxy:
                return await work(proxy, shown, resolved)

    with exit_on_error(connection.progress):
        resolved = connection.resolved()
        outcome = asyncio.run(main())
    finish(outcome)


def run_on_job(connection: Connection, name: str, work: JobWork) -> NoReturn:
    """Run `work` for the job with this id or URL, print its result and exit with its code."""

    async def on_job(proxy: Proxy, display: Display, resolved: Resolved) -> Outcome:
        return await work(proxy, display, await find_job(proxy, name, resolved))

    run(connection.at_job(name), on_job)


async def find_job(proxy: Proxy, name: str, resolved: Resolved) -> Links:
    """Return the paths of the job with this id or URL, or of the only one of the caller whose id
    begins with it. Raises `CommandError`, which names them, if there are several.
    """
    if not _PREFIX.fullmatch(name):
        return links_of(name, resolved.api, resolved.segment)
    path = list_url("", resolved.api, resolved.segment)
    page = (await proxy.ask("GET", f"{path}?limit={_LISTED}")).document()
    ids = [Job(document).id for document in page.get("results", [])]
    found = [each for each in ids if each.startswith(name.lower())]
    if len(found) == 1:
        return links_of(found[0], resolved.api, resolved.segment)
    if found:
        raise CommandError(
            f"{len(found)} jobs begin with {name}. Use more of the id:\n"
            + "\n".join(f"  {each}" for each in found[:10]),
            code=2,
        )
    raise CommandError(
        f"None of your jobs begins with {name}. For a job that was started with another token, use "
        "the whole id: vb365-async-proxy jobs list --session ID",
        code=2,
    )


def finish(outcome: Outcome) -> NoReturn:
    """Print the result and exit."""
    if outcome.result:
        print_result(outcome.result)
    raise typer.Exit(outcome.code)


@contextmanager
def exit_on_error(progress: Mode) -> Iterator[None]:
    """Convert errors to a message on stderr and an exit code."""
    try:
        yield
    except (CommandError, OSError) as error:
        code = error.code if isinstance(error, CommandError) else 1
        display(Stderr(), Mode.JSON if progress is Mode.JSON else Mode.PLAIN).fail(str(error), code)
        raise typer.Exit(code) from error
    except KeyboardInterrupt as error:
        raise typer.Exit(EXIT_INTERRUPTED) from error
    except asyncio.CancelledError as error:
        raise typer.Exit(EXIT_TERMINATED) from error


def _cancel_on_sigterm() -> None:
    """End as on Ctrl-C when a service manager or CI system stops the command."""
    task, loop = asyncio.current_task(), asyncio.get_running_loop()
    with suppress(NotImplementedError, RuntimeError, ValueError):  # Windows, other threads
        loop.add_signal_handler(signal.SIGTERM, lambda: task and task.cancel())
