"""The options that several commands have."""

from __future__ import annotations

import inspect
import uuid
from collections.abc import Callable, Sequence
from dataclasses import dataclass, is_dataclass
from typing import Annotated, Any

import typer
import typer.core

from proxy.client.export import ExportOptions
from proxy.client.output import listing, members, to_cell, to_json

EXIT_CODES = (
    "Exit codes: 0 success, 1 failed, 2 wrong command line or address, 3 success with a warning, "
    "4 cancelled, 5 some of a list failed, 130 Ctrl-C."
)
#: Of the commands without an outcome of an export.
FEW_EXIT_CODES = "Exit codes: 0 success, 1 failed, 2 wrong command line or address, 130 Ctrl-C."
#: `-h` as well as `--help`, for a command line and everything below it.
CONTEXT = {"help_option_names": ["-h", "--help"]}


def explain_exit_codes(app: typer.Typer, text: str) -> None:
    """Add `text` to the help of each command that does not explain its exit codes, and to that of
    the groups.
    """
    for command in app.registered_commands:
        command.epilog = command.epilog or text
    for group in app.registered_groups:
        if group.typer_instance is not None:
            explain_exit_codes(group.typer_instance, text)
    app.info.epilog = app.info.epilog if isinstance(app.info.epilog, str) else text


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
Fields = Annotated[
    str | None,
    typer.Option(
        "--fields",
        metavar="NAME,…",
        help="Print only these members of the JSON, such as id,status,result.size; without --json, "
        "as columns.",
    ),
]


@dataclass(frozen=True, kw_only=True)
class Printed:
    """How to print documents; each member is an option."""

    as_json: AsJson = False
    fields: Fields = None

    @property
    def _names(self) -> list[str]:
        return [name.strip() for name in (self.fields or "").split(",") if name.strip()]

    def one(self, document: dict[str, Any], text: str | None = None) -> str:
        """Return the document, or `text` in place of the whole one without --json."""
        if self._names:
            found = members(document, self._names)
            return to_json(found) if self.as_json else listing(self._names, [_cells(found)])
        return to_json(document) if self.as_json or text is None else text

    def many(
        self,
        documents: Sequence[dict[str, Any]],
        columns: Sequence[str],
        rows: Sequence[Sequence[str]],
        page: dict[str, Any] | None = None,
    ) -> str:
        """Return the documents as JSON, as `results` of the page if there is one, or as rows."""
        if self._names:
            documents = [members(document, self._names) for document in documents]
            columns, rows = self._names, [*map(_cells, documents)]
        if not self.as_json:
            return listing(columns, rows)
        return to_json(list(documents) if page is None else page | {"results": documents})


@dataclass(frozen=True, kw_only=True)
class Chosen:
    """How to export and what to do with the file; each member is an option."""

    output: Output = None
    idempotency_key: Key = "auto"
    download: Download = True
    wait: Wait = False
    release: Release = False
    cancel_on_interrupt: CancelOnInterrupt = False

    @property
    def key(self) -> str | None:
        """The idempotency key: none, that which is given, or a new one."""
        if self.idempotency_key == "none":
            return None
        return str(uuid.uuid4()) if self.idempotency_key == "auto" else self.idempotency_key

    def options(self, segment: str) -> ExportOptions:
        """The options of an export at a proxy with this `public.segment`."""
        return ExportOptions(
            output=self.output,
            segment=segment,
            wait=self.wait,
            download=self.download,
            release=self.release,
            cancel_on_interrupt=self.cancel_on_interrupt,
        )


def _cells(document: dict[str, Any]) -> list[str]:
    return [to_cell(value) for value in document.values()]


def with_groups(command: Callable[..., None]) -> Callable[..., None]:
    """Give `command` the members of each parameter that is a dataclass of options, such as
    `Connection`, as options.
    """
    declared = inspect.signature(command, eval_str=True).parameters.values()
    own = [parameter for parameter in declared if not is_dataclass(parameter.annotation)]
    groups = [parameter for parameter in declared if is_dataclass(parameter.annotation)]
    members = {
        group.name: inspect.signature(group.annotation, eval_str=True).parameters
        for group in groups
    }

    def with_options(**given: Any) -> None:
        made = {
            group.name: group.annotation(**{name: given.pop(name) for name in members[group.name]})
            for group in groups
        }
        command(**made, **given)

    shared = [each for group in members.values() for each in group.values()]
    parameters = [
        parameter.replace(kind=inspect.Parameter.KEYWORD_ONLY) for parameter in (*own, *shared)
    ]
    with_options.__name__, with_options.__doc__ = command.__name__, command.__doc__
    with_options.__annotations__ = {
        parameter.name: parameter.annotation for parameter in parameters
    }
    with_options.__signature__ = inspect.Signature(parameters)  # type: ignore[attr-defined]  # read by inspect
    return with_options
