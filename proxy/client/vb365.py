"""VB365's own calls that lead to an export: organizations, restore sessions, objects. They pass
through the proxy unchanged.
"""

from __future__ import annotations

import asyncio
import json
import re
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any
from urllib.parse import quote, urlencode

from proxy.client.display import Display
from proxy.client.errors import CommandError, ErrorResponse
from proxy.client.objects import Entry, Kind, entry, pick, shown
from proxy.client.proxy import FIRST_TRIES, Proxy
from proxy.client.wire import WholeResponse, error_from

#: The API versions that are tried, the newest first.
VERSIONS = ("v8", "v7", "v6")
#: Objects of one page, and of all pages together.
_PAGE, _MOST = 1000, 500_000
#: Seconds to wait for VB365 to stop a session when the command ends.
_STOPPING = 20.0

ORGANIZATION = Kind("organization", "organizations", "", "Organizations", addresses=("officeName",))
SESSION = Kind("restore session", "sessions", "", "RestoreSessions")
_SESSION_ID = re.compile(r"[0-9A-Za-z-]{1,64}")
_PRODUCTS = {"Vex": "Exchange", "Veod": "OneDrive", "Vesp": "SharePoint", "Vet": "Teams"}


@dataclass(frozen=True, slots=True)
class VB365:
    """VB365 behind the proxy, with the API version `api`."""

    proxy: Proxy
    api: str

    async def entries(self, kind: Kind, path: str, **query: str) -> list[Entry]:
        """Return all objects of a collection, page by page."""
        found: list[Entry] = []
        while True:
            parameters = urlencode({"offset": len(found), "limit": _PAGE, **query})
            page = await self._page(f"/{self.api}/{path}?{parameters}")
            results = page if isinstance(page, list) else page.get("results")
            if not isinstance(results, list):
                raise CommandError(f"VB365's response to {path} has no list of {kind.plural}")
            found += [entry(kind, document) for document in results]
            if len(found) > _MOST:
                raise CommandError(f"VB365 has more than {_MOST} {kind.plural}")
            # Before v8, the organizations are an array without pages.
            if isinstance(page, list) or not results or not _has_next(page, len(results)):
                return found

    async def organizations(self) -> list[Entry]:
        """Return the organizations that the user may see."""
        return await self.entries(ORGANIZATION, "Organizations")

    async def organization(self, name: str | None) -> Entry:
        """Return the organization with this name, or the only one. Raises `CommandError`."""
        found = await self.organizations()
        if name is not None:
            return pick(ORGANIZATION, found, name, "this VB365")
        if len(found) == 1:
            return found[0]
        if not found:
            raise CommandError("You may see no organization in this VB365", code=2)
        raise CommandError(
            "There are several organizations. Name one with --organization:\n"
            + "\n".join(f"  {each}" for each in found[:20]),
            code=2,
        )

    async def explore(self, organization: Entry, kind: Kind, at: datetime) -> str:
        """Start a restore session and return its id."""
        body = {
            "dateTime": at.astimezone(UTC).strftime("%Y-%m-%dT%H:%M:%SZ"),
            "type": kind.session,
            "showDeleted": False,
            "showAllVersions": False,
        }
        path = f"/{self.api}/Organizations/{segment(organization.id)}/explore"
        fields = {"Content-Type": "application/json", "Accept": "application/json"}
        content = json.dumps(body).encode()
        response = await self.proxy.call("POST", path, fields, content)
        session = entry(SESSION, _expected(response, path).document()).id
        if not _SESSION_ID.fullmatch(session):  # it becomes part of commands to copy
            raise CommandError(f"{shown(session)!r} is not the id of a restore session")
        return session

    async def stop(self, session: str) -> None:
        """Stop the restore session. One that is stopped already, or gone, is no error."""
        path = f"/{self.api}/RestoreSessions/{segment(session)}/Stop"
        response = await self.proxy.call_with_retries("POST", path, tries=FIRST_TRIES)
        if response.status not in (404, 409):
            _expected(response, path)

    async def works(self, session: str) -> bool:
        """Return whether the restore session exists and is not stopped."""
        path = f"/{self.api}/RestoreSessions/{segment(session)}"
        response = await self.proxy.call_with_retries("GET", path, tries=FIRST_TRIES)
        return response.status == 200 and response.document().get("state") == "Working"

    async def objects(
        self, session: str, kind: Kind, parent: str = "", **query: str
    ) -> list[Entry]:
        """Return the objects of a restore session, or those below the path `parent` in it."""
        path = f"{parent}/{kind.path}" if parent else kind.path
        return await self.entries(kind, f"{base(session)}/{path}", **query)

    async def _page(self, path: str) -> Any:
        fields = {"Accept": "application/json"}
        response = await self.proxy.call_with_retries("GET", path, fields, tries=FIRST_TRIES)
        try:
            return json.loads(_expected(response, path.partition("?")[0]).body)
        except (ValueError, RecursionError) as error:
            raise CommandError(f"VB365's response to {path} is not JSON") from error


def base(session: str) -> str:
    """The path of a restore session, without the API version."""
    return f"RestoreSessions/{segment(session)}"


def segment(id: str) -> str:
    """An id as one segment of a path, whatever characters it has."""
    if id in ("", ".", ".."):
        raise CommandError(f"{id!r} is not the id of an object of VB365")
    return quote(id, safe="")


@asynccontextmanager
async def restore_session(
    vb365: VB365, display: Display, kind: Kind, at: datetime, organization: str | None
) -> AsyncIterator[str]:
    """Yield the id of a new restore session, which is stopped at the end, also after an error or
    Ctrl-C.
    """
    session = await open_session(vb365, display, kind, at, organization)
    try:
        yield session
    finally:
        await stop_session(vb365, display, session)


async def open_session(
    vb365: VB365, display: Display, kind: Kind, at: datetime, organization: str | None
) -> str:
    """Return the id of a new restore session. After Ctrl-C, none stays open."""
    found = await vb365.organization(organization)
    display.say(
        f"Opening a restore session: {_PRODUCTS[kind.session]}, {shown(found.name)}, "
        f"{at.isoformat(timespec='minutes')}"
    )
    opening = asyncio.ensure_future(vb365.explore(found, kind, at))
    try:
        return await asyncio.shield(opening)
    except asyncio.CancelledError:
        # VB365 may have opened it already.
        await _stop_opened(vb365, display, opening)
        raise


async def _stop_opened(vb365: VB365, display: Display, opening: asyncio.Future[str]) -> None:
    try:
        async with asyncio.timeout(_STOPPING):
            session = await opening
    except (CommandError, TimeoutError):
        return
    await stop_session(vb365, display, session)


async def stop_session(vb365: VB365, display: Display, session: str) -> None:
    """Stop the session. An error is reported but does not fail the command."""
    try:
        async with asyncio.timeout(_STOPPING):
            await vb365.stop(session)
    except (CommandError, TimeoutError) as error:
        reason = str(error) or "no response"
        display.say(
            f"The restore session could not be stopped ({reason}). To stop it: "
            f"vb365-async-proxy sessions stop {session}"
        )
        return
    display.say("The restore session is stopped.")


def _has_next(page: dict[str, Any], count: int) -> bool:
    links = page.get("_links")
    return count >= _PAGE or (isinstance(links, dict) and "next" in links)


def _expected(response: WholeResponse, path: str) -> WholeResponse:
    """Return a response that is a success. Raises `ErrorResponse`."""
    if 200 <= response.status < 300:
        return response
    error = error_from(response)
    raise ErrorResponse(f"{path}: {error}", response.status)
