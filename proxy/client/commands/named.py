"""The commands `export mailbox|onedrive|site|team`: an object by its name, without a URL."""

from __future__ import annotations

import json
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, replace
from typing import Annotated, Any, NoReturn

import typer

from proxy.client.commands.listed import Listed, export_list, one_of
from proxy.client.commands.options import EXIT_CODES, Chosen, with_groups
from proxy.client.commands.running import exit_on_error, run
from proxy.client.commands.session import (
    Place,
    Source,
    check_source,
    opened,
    parse_time,
)
from proxy.client.connection import Connection, Resolved
from proxy.client.display import Display
from proxy.client.errors import CommandError
from proxy.client.export import Outcome, export
from proxy.client.objects import (
    CHANNEL,
    FOLDER,
    LIBRARY,
    MAILBOX,
    ONEDRIVE,
    SITE,
    TEAM,
    Entry,
    Kind,
    pick,
)
from proxy.client.proxy import Proxy
from proxy.client.vb365 import VB365, base, segment

_GIB = 1 << 30


@dataclass(frozen=True, slots=True)
class Target:
    """The path of an export below its restore session, and its body."""

    path: str
    body: bytes | None = None


Find = Callable[[VB365, str], Awaitable[Target]]


def mailbox(
    listed: Listed,
    place: Place,
    chosen: Chosen,
    connection: Connection,
    name: Annotated[
        str | None,
        typer.Argument(
            metavar="MAILBOX", help="Address, name or id of the mailbox.", show_default=False
        ),
    ] = None,
    folder: Annotated[
        str | None, typer.Option(metavar="NAME", help="Export this folder only.")
    ] = None,
    max_size: Annotated[
        int | None,
        typer.Option(
            metavar="GIB", min=1, max=49, help="Split into a ZIP of PSTs of this size (1 to 49)."
        ),
    ] = None,
    keyword: Annotated[
        str | None, typer.Option(metavar="TEXT", help="Export only items with this text.")
    ] = None,
) -> None:
    """Export a mailbox to a PST, verify the file and print its path.

    With --from, export all mailboxes of a list, and print a line for each.
    """
    body = _pst_options(keyword, max_size)
    if one_of(name, listed.from_file):

        def request(found: Entry) -> tuple[str, bytes]:
            return _pst(found, body)

        whole = folder is None
        export_list(connection, MAILBOX, place, listed, request, chosen, whole=whole)
    _export(connection, MAILBOX, place, _find_mailbox(name or "", folder, body), chosen)


def _pst(found: Entry, body: bytes) -> tuple[str, bytes]:
    return f"{_below(MAILBOX, found)}/exportToPst", body


def _find_mailbox(name: str, folder: str | None, body: bytes) -> Find:
    async def find(vb365: VB365, session: str) -> Target:
        found = await _one(vb365, session, MAILBOX, name)
        if folder is None:
            return Target(*_pst(found, body))
        path = _below(MAILBOX, found)
        path = _below(FOLDER, await _child(vb365, session, path, FOLDER, folder), path)
        return Target(f"{path}/exportToPst", body)

    return find


def onedrive(
    listed: Listed,
    place: Place,
    chosen: Chosen,
    connection: Connection,
    name: Annotated[
        str | None,
        typer.Argument(
            metavar="ONEDRIVE", help="Name, URL or id of the OneDrive.", show_default=False
        ),
    ] = None,
) -> None:
    """Export a OneDrive to a ZIP, verify the file and print its path.

    With --from, export all OneDrives of a list, and print a line for each.
    """
    if one_of(name, listed.from_file):

        def request(found: Entry) -> tuple[str, None]:
            return f"{_below(ONEDRIVE, found)}/save", None

        export_list(connection, ONEDRIVE, place, listed, request, chosen, whole=True)

    async def find(vb365: VB365, session: str) -> Target:
        return Target(f"{_below(ONEDRIVE, await _one(vb365, session, ONEDRIVE, name or ''))}/save")

    _export(connection, ONEDRIVE, place, find, chosen)


def site(
    place: Place,
    chosen: Chosen,
    connection: Connection,
    name: Annotated[str, typer.Argument(metavar="SITE", help="Name, URL or id of the site.")],
    library: Annotated[
        str | None, typer.Option(metavar="NAME", help="Library, if the site has several.")
    ] = None,
) -> None:
    """Export a document library of a SharePoint site to a ZIP and print its path.

    VB365 exports libraries, not whole sites.
    """

    async def find(vb365: VB365, session: str) -> Target:
        path = _below(SITE, await _one(vb365, session, SITE, name))
        found = await _child(vb365, session, path, LIBRARY, library)
        return Target(f"{_below(LIBRARY, found, path)}/save")

    _export(connection, SITE, place, find, chosen)


def team(
    place: Place,
    chosen: Chosen,
    connection: Connection,
    name: Annotated[str, typer.Argument(metavar="TEAM", help="Name, address or id of the team.")],
    channel: Annotated[
        str | None, typer.Option(metavar="NAME", help="Channel, if the team has several.")
    ] = None,
    posts: Annotated[
        bool, typer.Option("--posts", help="Export the posts (HTML) instead of the files (ZIP).")
    ] = False,
) -> None:
    """Export the files or the posts of a channel of a team and print the path of the file.

    VB365 exports channels, not whole teams.
    """

    async def find(vb365: VB365, session: str) -> Target:
        path = _below(TEAM, await _one(vb365, session, TEAM, name))
        found = await _child(vb365, session, path, CHANNEL, channel)
        body = json.dumps({"channelId": found.id}).encode()
        return Target(f"{path}/{'posts/export' if posts else 'files/save'}", body)

    _export(connection, TEAM, place, find, chosen)


def add_to(app: typer.Typer) -> None:
    """Add these commands to `export`."""
    for command in (mailbox, onedrive, site, team):
        app.command(command.__name__, epilog=EXIT_CODES)(with_groups(command))


def _pst_options(keyword: str | None, max_size: int | None) -> bytes:
    options: dict[str, Any] = {}
    if keyword is not None:
        options["contentKeyword"] = keyword
    if max_size is not None:
        options |= {"enablePstSizeLimit": True, "pstSizeLimitBytes": max_size * _GIB}
    return json.dumps(options).encode()


def _export(
    connection: Connection, kind: Kind, place: Place, find: Find, chosen: Chosen
) -> NoReturn:
    """Find the object, export it, and exit."""
    with exit_on_error():
        time = parse_time(place.at)
        check_source(place.at, place.session)
        if place.session is None and not (chosen.download or chosen.wait):
            raise CommandError(
                "--no-download leaves before the export ends, which needs its restore session: "
                "use it with --session or --wait",
                code=2,
            )

    async def work(proxy: Proxy, display: Display, resolved: Resolved) -> Outcome:
        vb365 = VB365(proxy, resolved.api)
        await proxy.check(resolved.segment)
        where = Source(
            kind=kind,
            at=time,
            organization=place.organization or resolved.organization,
            session=place.session,
        )
        options = chosen.options(resolved.segment)
        if place.session is None:  # the export cannot go on without the session
            options = replace(options, cancel_on_interrupt=True)
        async with opened(vb365, display, where) as at_session:
            target = await find(vb365, at_session)
            path = f"/{vb365.api}/{base(at_session)}/{target.path}"
            return await export(
                proxy, display, path, target.body, "application/json", chosen.key, options
            )

    run(connection, work)


async def _one(vb365: VB365, session: str, kind: Kind, name: str) -> Entry:
    return pick(kind, await vb365.objects(session, kind), name, "this restore session")


async def _child(vb365: VB365, session: str, parent: str, kind: Kind, name: str | None) -> Entry:
    """Return the object below `parent` with this name, or the only one."""
    found = await vb365.objects(session, kind, f"{parent}/{kind.path}")
    if name is not None:
        return pick(kind, found, name, "it")
    if len(found) == 1:
        return found[0]
    listed = "\n".join(f"  {each}" for each in found[:20])
    raise CommandError(
        f"There are {len(found)} {kind.plural}. Name one with --{kind.noun}:\n{listed}", code=2
    )


def _below(kind: Kind, found: Entry, parent: str = "") -> str:
    return f"{parent}/{kind.path}/{segment(found.id)}".lstrip("/")
