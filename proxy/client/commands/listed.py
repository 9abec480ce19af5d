"""Exports of a list: `export mailbox --from list.csv`, and so for the other kinds."""

from __future__ import annotations

from contextlib import closing
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, NoReturn

import typer

from proxy.client.batch import Batch, Request, State, read_rows
from proxy.client.commands.options import Chosen
from proxy.client.commands.running import exit_on_error, run
from proxy.client.commands.session import Place, check_source, parse_time
from proxy.client.connection import Connection, Resolved
from proxy.client.display import Display, Mode
from proxy.client.errors import CommandError
from proxy.client.export import Outcome
from proxy.client.objects import Kind
from proxy.client.output import listing
from proxy.client.proxy import Proxy
from proxy.client.vb365 import VB365

_PANEL = "Exports of a list"
#: The names of files without --output.
_NAMES = {
    "mailbox": "{mailbox}-{date}.pst",
    "onedrive": "{onedrive}-{date}.zip",
    "site": "{site}-{date}.zip",
    "team": "{team}-{date}.zip",
}

From = Annotated[
    Path | None,
    typer.Option(
        "--from",
        metavar="FILE",
        rich_help_panel=_PANEL,
        help="CSV file with the names, in its first column or that with the kind as heading. "
        "--output may have {mailbox}, {onedrive}, {site} or {team}, {date}, {organization} and "
        "{number}.",
    ),
]
Parallel = Annotated[
    int,
    typer.Option(
        "--parallel", metavar="N", min=1, max=100, rich_help_panel=_PANEL, help="Exports at a time."
    ),
]
StateFile = Annotated[
    Path | None,
    typer.Option(
        "--state",
        metavar="FILE",
        rich_help_panel=_PANEL,
        help="File that remembers what is done. After an interruption, the same command continues.",
    ),
]


@dataclass(frozen=True, kw_only=True)
class Listed:
    """The exports of a list; each member is an option."""

    from_file: From = None
    parallel: Parallel = 4
    state: StateFile = None


def one_of(name: str | None, file: Path | None, progress: Mode) -> bool:
    """Return whether there is a list. Exits with an error unless there is either it or a name."""
    with exit_on_error(progress):
        if (name is None) == (file is None):
            raise CommandError("Name what to export, or use --from FILE, and not both", code=2)
    return file is not None


def export_list(
    connection: Connection,
    kind: Kind,
    place: Place,
    listed: Listed,
    request: Request,
    chosen: Chosen,
    *,
    whole: bool,
    part: str = "",
) -> NoReturn:
    """Export the objects of the list, print a line for each, and exit.

    `whole`: not only some of what is in one of them. `part` says which part of all of them.
    """
    organization = place.organization
    with exit_on_error(connection.progress):
        time = parse_time(place.at)
        check_source(place.at, place.session)
        if not whole or not chosen.download:
            raise CommandError(
                "--from is not for --folder or --no-download, nor for --item", code=2
            )
        values = {"date": time.date().isoformat(), "organization": organization or ""}
        default = "{team}-{date}.html" if part.endswith("posts") else _NAMES[kind.noun]
        rows = read_rows(listed.from_file or Path(), kind, chosen.output, default, values)
        about = " ".join(filter(None, (kind.noun, place.at, organization, place.session, part)))
        state = State(listed.state, about)

    async def work(proxy: Proxy, display: Display, resolved: Resolved) -> Outcome:
        await proxy.check(resolved.segment)
        batch = Batch(
            vb365=VB365(proxy, resolved.api),
            display=display,
            kind=kind,
            at=time,
            organization=organization or resolved.organization,
            session=place.session,
            rows=rows,
            request=request,
            state=state,
            options=chosen.options(resolved.segment),
            parallel=listed.parallel,
        )
        await batch.run()
        display.say(batch.summary)
        results = ((row, batch.results[row.number]) for row in rows)
        lines = [(row.name, result.status, result.text) for row, result in results]
        return Outcome(batch.exit_code, listing((kind.noun, "status", "file or error"), lines))

    with closing(state):
        run(connection, work)
