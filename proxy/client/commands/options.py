"""The options that several commands have."""

from __future__ import annotations

import inspect
import uuid
from collections.abc import Callable
from typing import Annotated, Any

import typer
import typer.core

from proxy.client.connection import Connection

EXIT_CODES = (
    "Exit codes: 0 success, 1 failed, 2 wrong command line or address, 3 success with a warning, "
    "4 cancelled, 5 some of a list failed, 130 Ctrl-C."
)
#: `-h` as well as `--help`, for a command line and everything below it.
CONTEXT = {"help_option_names": ["-h", "--help"]}


class DefaultCommand(typer.core.TyperGroup):
    """A group in which a command line without the name of a command means one of them."""

    default: str
    #: Whether no arguments at all mean that command too; otherwise they show the help.
    even_alone = False

    def parse_args(self, ctx: Any, args: list[str]) -> list[str]:
        """Insert the name of the command, unless there is one or help is asked for."""
        asks = bool(args) and (args[0] in self.commands or args[0] in ctx.help_option_names)
        if not asks and (args or self.even_alone):
            args = [self.default, *args]
        return super().parse_args(ctx, args)


JobName = Annotated[
    str, typer.Argument(metavar="JOB", help="Id of the job or its first digits, or its URL.")
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
Key = Annotated[
    str,
    typer.Option(
        "--idempotency-key",
        help="Key of the export. A key that was used before joins that export; 'none' sends no "
        "key.",
    ),
]
Download = Annotated[
    bool,
    typer.Option("--download/--no-download", help="Download the file, or print the job URL."),
]
Wait = Annotated[
    bool,
    typer.Option(
        "--wait",
        help="After 429 or 503, wait and try again. With --no-download, also wait for the end of "
        "the export.",
    ),
]
AsJson = Annotated[bool, typer.Option("--json", help="Print JSON.")]


def key_of(given: str) -> str | None:
    """Return the idempotency key: none, that which is given, or a new one."""
    if given == "none":
        return None
    return str(uuid.uuid4()) if given == "auto" else given


def with_connection(command: Callable[..., None]) -> Callable[..., None]:
    """Give `command`, whose first parameter is a `Connection`, its members as options."""
    own = list(inspect.signature(command, eval_str=True).parameters.values())[1:]
    shared = list(inspect.signature(Connection, eval_str=True).parameters.values())
    names = [parameter.name for parameter in shared]

    def with_options(**given: Any) -> None:
        connection = Connection(**{name: given.pop(name) for name in names})
        command(connection, **given)

    parameters = [
        parameter.replace(kind=inspect.Parameter.KEYWORD_ONLY) for parameter in (*own, *shared)
    ]
    with_options.__name__, with_options.__doc__ = command.__name__, command.__doc__
    with_options.__annotations__ = {
        parameter.name: parameter.annotation for parameter in parameters
    }
    with_options.__signature__ = inspect.Signature(parameters)  # type: ignore[attr-defined]  # read by inspect
    return with_options
