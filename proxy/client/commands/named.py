"""The commands `export mailbox|onedrive|site|team`: an object by its name, without a URL."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Annotated, Any, NoReturn

import typer

from proxy.client.batch import Request, Target
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
    DOCUMENT,
    DOCUMENT_FOLDER,
    FILE,
    FOLDER,
    LIBRARY,
    MAIL,
    MAILBOX,
    ONEDRIVE,
    POST,
    SITE,
    TEAM,
    Entry,
    Kind,
    pick,
)
from proxy.client.proxy import Proxy
from proxy.client.vb365 import VB365, base, segment

_GIB = 1 << 30


Folder = Annotated[
    str | None,
    typer.Option(metavar="NAME", help="Export this folder only; with --item, look in it."),
]
Items = Annotated[
    list[str] | None,
    typer.Option(
        "--item", metavar="NAME", help="Export this item only: its name, subject or id. Repeatable."
    ),
]


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
    folder: Folder = None,
    item: Items = None,
    msg: Annotated[
        bool,
        typer.Option(
            "--msg", help="Export the item to an MSG file, several to a ZIP of them, not to a PST."
        ),
    ] = False,
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
    with exit_on_error(connection.progress):
        if (msg and not item) or (item and keyword is not None):
            raise CommandError("--msg needs --item, and --keyword excludes it", code=2)

    async def request(vb365: VB365, session: str, found: Entry) -> Target:
        path, query = _below(MAILBOX, found), {}
        if folder is not None:
            inside = await _child(vb365, session, path, FOLDER, folder)
            if not item:
                return f"{_below(FOLDER, inside, path)}/exportToPst", _json(body)
            query = {"parentId": inside.id}
        if not item:
            return f"{path}/exportToPst", _json(body)
        mails = await _items(vb365, session, path, MAIL, item, query)
        if msg and len(mails) == 1:
            return f"{_below(MAIL, mails[0], path)}/save", None
        ids = [{"id": each.id} for each in mails]
        verb = "Save" if msg else "exportToPst"
        return f"{path}/items/{verb}", _json({"items": ids} | ({} if msg else body))

    _export(connection, MAILBOX, name, listed, place, chosen, request, whole=not (folder or item))


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
    folder: Folder = None,
    item: Items = None,
) -> None:
    """Export a OneDrive to a ZIP, verify the file and print its path.

    A single item is exported as it is. With --from, export all OneDrives of a list, and print a
    line for each.
    """

    async def request(vb365: VB365, session: str, found: Entry) -> Target:
        path = _below(ONEDRIVE, found)
        if folder is None and not item:
            return f"{path}/save", None
        return await _documents(vb365, session, path, folder, item)

    _export(connection, ONEDRIVE, name, listed, place, chosen, request, whole=not (folder or item))


def site(
    listed: Listed,
    place: Place,
    chosen: Chosen,
    connection: Connection,
    name: Annotated[
        str | None,
        typer.Argument(metavar="SITE", help="Name, URL or id of the site.", show_default=False),
    ] = None,
    library: Annotated[
        str | None, typer.Option(metavar="NAME", help="Library, if the site has several.")
    ] = None,
    folder: Folder = None,
    item: Items = None,
) -> None:
    """Export a document library of a SharePoint site to a ZIP and print its path.

    VB365 exports libraries, folders and items, not whole sites. A single item is exported as it is.
    With --from, export a library of all sites of a list, and print a line for each.
    """
    with exit_on_error(connection.progress):
        if library is not None and (folder is not None or item):
            raise CommandError("--library is not for --folder or --item", code=2)

    async def request(vb365: VB365, session: str, found: Entry) -> Target:
        path = _below(SITE, found)
        if folder is not None or item:
            return await _documents(vb365, session, path, folder, item)
        inside = await _child(vb365, session, path, LIBRARY, library)
        return f"{_below(LIBRARY, inside, path)}/save", None

    whole = not (folder or item)
    part = library or ""
    _export(connection, SITE, name, listed, place, chosen, request, whole=whole, part=part)


def team(
    listed: Listed,
    place: Place,
    chosen: Chosen,
    connection: Connection,
    name: Annotated[
        str | None,
        typer.Argument(metavar="TEAM", help="Name, address or id of the team.", show_default=False),
    ] = None,
    channel: Annotated[
        str | None, typer.Option(metavar="NAME", help="Channel, if the team has several.")
    ] = None,
    posts: Annotated[
        bool, typer.Option("--posts", help="Export the posts (HTML) instead of the files (ZIP).")
    ] = False,
    item: Items = None,
    msg: Annotated[
        bool,
        typer.Option(
            "--msg", help="Export the posts that are named to an MSG file, or a ZIP of them."
        ),
    ] = False,
) -> None:
    """Export the files or the posts of a channel of a team and print the path of the file.

    With --posts, an item is a post. VB365 exports channels and what is in them, not whole teams.
    With --from, export a channel of all teams of a list, and print a line for each.
    """
    with exit_on_error(connection.progress):
        if msg and not (posts and item):
            raise CommandError("--msg is for --posts and --item", code=2)

    async def request(vb365: VB365, session: str, found: Entry) -> Target:
        path = _below(TEAM, found)
        inside = await _child(vb365, session, path, CHANNEL, channel)
        if not item:
            verb = "posts/export" if posts else "files/save"
            return f"{path}/{verb}", _json({"channelId": inside.id})
        kind = POST if posts else FILE
        found_items = await _items(vb365, session, path, kind, item, {"channelId": inside.id})
        documents = [_document(each) for each in found_items]
        if not posts:
            return f"{path}/files/save", _json({"files": documents})
        verb = "save" if msg else "export"
        if len(documents) == 1:
            return f"{_below(POST, found_items[0], path)}/{verb}", None
        return f"{path}/posts/{verb}", _json({"channelId": inside.id, "posts": documents})

    part = f"{channel or ''} {'posts' if posts else 'files'}".strip()
    _export(connection, TEAM, name, listed, place, chosen, request, whole=not item, part=part)


def add_to(app: typer.Typer) -> None:
    """Add these commands to `export`."""
    for command in (mailbox, onedrive, site, team):
        app.command(command.__name__, epilog=EXIT_CODES)(with_groups(command))


def _pst_options(keyword: str | None, max_size: int | None) -> dict[str, Any]:
    options: dict[str, Any] = {}
    if keyword is not None:
        options["contentKeyword"] = keyword
    if max_size is not None:
        options |= {"enablePstSizeLimit": True, "pstSizeLimitBytes": max_size * _GIB}
    return options


def _json(body: dict[str, Any]) -> bytes:
    return json.dumps(body).encode()


async def _documents(
    vb365: VB365, session: str, path: str, folder: str | None, names: Sequence[str] | None
) -> Target:
    """The export of a folder, or of items, below the path of a OneDrive or a site."""
    query = {}
    if folder is not None:
        inside = await _child(vb365, session, path, DOCUMENT_FOLDER, folder)
        if not names:
            return f"{_below(DOCUMENT_FOLDER, inside, path)}/save", None
        query = {"parentId": inside.id}
    found = await _items(vb365, session, path, DOCUMENT, names or (), query)
    if len(found) == 1:
        return f"{_below(DOCUMENT, found[0], path)}/save", _json({"asZip": False})
    documents = [_document(each) for each in found]
    return f"{path}/Documents/save", _json({"documents": documents})


def _document(found: Entry) -> dict[str, Any]:
    """What VB365 said of an object, without links."""
    return {name: value for name, value in found.document.items() if not name.startswith("_")}


def _export(
    connection: Connection,
    kind: Kind,
    name: str | None,
    listed: Listed,
    place: Place,
    chosen: Chosen,
    request: Request,
    *,
    whole: bool,
    part: str = "",
) -> NoReturn:
    """Export the object with this name, or those of the list, and exit. `whole` and `part` are as
    in `export_list`.
    """
    if one_of(name, listed.from_file, connection.progress):
        export_list(connection, kind, place, listed, request, chosen, whole=whole, part=part)
    with exit_on_error(connection.progress):
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
        organization = place.organization or resolved.organization
        where = Source(kind=kind, at=time, organization=organization, session=place.session)
        options = chosen.options(resolved.segment)
        if place.session is None:  # the export cannot go on without the session
            options = replace(options, cancel_on_interrupt=True)
        async with opened(vb365, display, where) as at_session:
            objects = await vb365.objects(at_session, kind)
            found = pick(kind, objects, name or "", "this restore session")
            below, body = await request(vb365, at_session, found)
            path = f"/{vb365.api}/{base(at_session)}/{below}"
            return await export(proxy, display, path, body, "application/json", chosen.key, options)

    run(connection, work)


async def _items(
    vb365: VB365,
    session: str,
    parent: str,
    kind: Kind,
    names: Sequence[str],
    query: Mapping[str, str],
) -> list[Entry]:
    """Return the objects below `parent` with these names."""
    found = await vb365.objects(session, kind, parent, **query)
    return [pick(kind, found, name, "it") for name in dict.fromkeys(names)]


async def _child(vb365: VB365, session: str, parent: str, kind: Kind, name: str | None) -> Entry:
    """Return the object below `parent` with this name, or the only one."""
    found = await vb365.objects(session, kind, parent)
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
