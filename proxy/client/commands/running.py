"""Runs a command: an event loop, the connection, the result on stdout, and the exit code."""

from __future__ import annotations

import asyncio
import signal
from collections.abc import Awaitable, Callable, Iterator
from contextlib import contextmanager, suppress
from typing import NoReturn

import typer

from proxy.client.connection import Connection, Resolved
from proxy.client.display import Display, display
from proxy.client.errors import EXIT_INTERRUPTED, EXIT_TERMINATED, CommandError
from proxy.client.export import Outcome
from proxy.client.output import Stderr, print_error, print_result
from proxy.client.proxy import Proxy, links_of
from proxy.core.paths import Links

Work = Callable[[Proxy, Display, Resolved], Awaitable[Outcome]]
JobWork = Callable[[Proxy, Display, Links], Awaitable[Outcome]]


def run(connection: Connection, work: Work) -> NoReturn:
    """Run `work` on a new event loop, print its result and exit with its code."""

    async def main() -> Outcome:
        _cancel_on_sigterm()
        with display(Stderr()) as shown:
            async with resolved.open(shown) as proxy:
                return await work(proxy, shown, resolved)

    with exit_on_error():
        resolved = connection.resolved()
        outcome = asyncio.run(main())
    finish(outcome)


def run_on_job(connection: Connection, name: str, work: JobWork) -> NoReturn:
    """Run `work` for the job with this id or URL, print its result and exit with its code."""

    async def on_job(proxy: Proxy, display: Display, resolved: Resolved) -> Outcome:
        return await work(proxy, display, links_of(name, resolved.api, resolved.segment))

    run(connection.at_job(name), on_job)


def finish(outcome: Outcome) -> NoReturn:
    """Print the result and exit."""
    if outcome.result:
        print_result(outcome.result)
    raise typer.Exit(outcome.code)


@contextmanager
def exit_on_error() -> Iterator[None]:
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
    except asyncio.CancelledError as error:
        raise typer.Exit(EXIT_TERMINATED) from error


def _cancel_on_sigterm() -> None:
    """End as on Ctrl-C when a service manager or CI system stops the command."""
    task, loop = asyncio.current_task(), asyncio.get_running_loop()
    with suppress(NotImplementedError, RuntimeError, ValueError):  # Windows, other threads
        loop.add_signal_handler(signal.SIGTERM, lambda: task and task.cancel())
