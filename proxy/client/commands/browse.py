"""The commands that list what is in VB365: organizations, restore sessions, and what can be
exported.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Annotated

import typer

from proxy.client.commands.options import CONTEXT, DefaultCommand, Printed, with_groups
from proxy.client.commands.running import exit_on_error, run
from proxy.client.commands.session import (
    At,
    Organization,
    Session,
    Source,
    check_source,
    opened,
    parse_time,
)
from proxy.client.connection import Connection, Resolved
from proxy.client.display import Display
from proxy.client.export import Outcome
from proxy.client.objects import KINDS, Entry, Kind, matching
from proxy.client.proxy import Proxy
from proxy.client.vb365 import SESSION, VB365

Filter = Annotated[
    str | None,
    typer.Option("--filter", metavar="TEXT", help="List only those whose name has this text."),
]


class _ListByDefault(DefaultCommand):
    """`sessions` means `sessions list`."""

    default = "list"
    even_alone = True


sessions_app = typer.Typer(cls=_ListByDefault, context_settings=CONTEXT)


@sessions_app.callback()
def _sessions() -> None:
    """List and stop restore sessions."""


@with_groups
def organizations(printed: Printed, connection: Connection, filter: Filter = None) -> None:
    """List the organizations that you may see."""

    async def work(proxy: Proxy, display: Display, resolved: Resolved) -> Outcome:
        found = matching(await VB365(proxy, resolved.api).organizations(), filter)
        rows = [(each.name, each.id, _text(each, "lastBackuptime")) for each in found]
        return _listed(("name", "id", "last backup"), found, rows, printed)

    run(connection, work)


@sessions_app.command("list")
@with_groups
def list_sessions(printed: Printed, connection: Connection, filter: Filter = None) -> None:
    """List the restore sessions that you may see, newest first."""
    members = ("type", "state", "creationTime", "organization", "initiatedBy")

    async def work(proxy: Proxy, display: Display, resolved: Resolved) -> Outcome:
        vb365 = VB365(proxy, resolved.api)
        found = matching(await vb365.entries(SESSION, "RestoreSessions"), filter)
        rows = [(each.id, *(_text(each, member) for member in members)) for each in found]
        names = ("id", "type", "state", "created", "organization", "by")
        return _listed(names, found, rows, printed)

    run(connection, work)


@sessions_app.command("stop")
@with_groups
def stop_session(
    connection: Connection, session: Annotated[str, typer.Argument(help="Id of the session.")]
) -> None:
    """Stop a restore session. Its running exports fail."""

    async def work(proxy: Proxy, display: Display, resolved: Resolved) -> Outcome:
        await VB365(proxy, resolved.api).stop(session)
        return Outcome(0, "")

    run(connection, work)


def _objects(kind: Kind) -> Callable[..., None]:
    """Return the command that lists the objects of this kind."""

    def command(
        printed: Printed,
        connection: Connection,
        filter: Filter = None,
        at: At = None,
        organization: Organization = None,
        session: Session = None,
    ) -> None:
        with exit_on_error(connection.progress):
            time = parse_time(at)
            check_source(at, session)

        async def work(proxy: Proxy, display: Display, resolved: Resolved) -> Outcome:
            vb365 = VB365(proxy, resolved.api)
            where = Source(
                kind=kind,
                at=time,
                organization=organization or resolved.organization,
                session=session,
            )
            async with opened(vb365, display, where) as found_in:
                found = matching(await vb365.objects(found_in, kind), filter)
            rows = [(each.name, each.address, each.note, each.id) for each in found]
            return _listed(("name", "address", "", "id"), found, rows, printed)

        run(connection, work)

    shown = kind.plural.replace("onedrives", "OneDrives")
    command.__name__, command.__doc__ = kind.plural, f"List the {shown} in a backup."
    return command


def add_to(app: typer.Typer) -> None:
    """Add these commands to the command line."""
    app.command("organizations")(organizations)
    app.add_typer(sessions_app, name="sessions")
    for kind in KINDS:
        app.command(kind.plural)(with_groups(_objects(kind)))


def _listed(
    names: Sequence[str], found: list[Entry], rows: Sequence[Sequence[str]], printed: Printed
) -> Outcome:
    return Outcome(0, printed.many([each.document for each in found], names, rows))


def _text(entry: Entry, member: str) -> str:
    value = entry.document.get(member)
    return value if isinstance(value, str) else ""
