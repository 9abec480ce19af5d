"""The REST API resources of all served API versions, except the export operations."""

from __future__ import annotations

import re
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass
from datetime import datetime
from functools import partial
from typing import Any
from urllib.parse import quote, unquote

from proxy.simulator import catalog, operations
from proxy.simulator.calls import Call, error, form, not_found
from proxy.simulator.operations import ResourcePath
from proxy.simulator.responses import Response, json_response
from proxy.simulator.sessions import TYPES, Event, Session, Sessions, may_see
from proxy.simulator.settings import SimulatorSettings
from proxy.simulator.synchronization import Notifier
from proxy.simulator.tokens import GrantDenied, Tokens

_INSTALLATION_ID = "36500000-0000-4000-8000-000000000001"
_DEFAULT_LIMIT, _MAX_LIMIT = 30, 10_000
_MAX_OFFSET = 2**31
#: Upper bound of a long poll, in seconds.
_MAX_POLL = 600.0

Handler = Callable[["Api", Call], Awaitable[Response]]


@dataclass(frozen=True, slots=True)
class HttpError(Exception):
    """Ends the handling of a request with an error response."""

    response: Response


@dataclass(frozen=True, slots=True)
class Route:
    """A route of the API.

    In `pattern`, `{}` matches one raw path segment and a trailing `**` any number of them. The
    route exists from API version `since` on. `anonymous` routes need no token.
    """

    method: str
    pattern: str
    handler: Handler
    since: int = 0
    anonymous: bool = False

    def ids(self, call: Call) -> list[str] | None:
        """Return the segments that match `{}`, or None if the route does not match the call."""
        methods = ("GET", "HEAD") if self.method == "GET" else (self.method,)
        if call.request.method not in methods or call.version < self.since:
            return None
        parts = self.pattern.split("/")
        if parts[-1] == "**":
            parts = parts[:-1] + ["**"] * (len(call.segments) - len(parts) + 1)
        if len(parts) != len(call.segments):
            return None
        pairs = list(zip(parts, call.segments, strict=True))
        if any(part not in ("{}", "**", segment.lower()) for part, segment in pairs):
            return None
        return [segment for part, segment in pairs if part == "{}"]


class Api:
    """The request handlers.

    A handler gets an authenticated call (unless its route is anonymous) of a served API version.
    """

    def __init__(
        self, settings: SimulatorSettings, tokens: Tokens, sessions: Sessions, notifier: Notifier
    ) -> None:
        self._settings = settings
        self._tokens = tokens
        self._sessions = sessions
        self._notifier = notifier

    def route(self, call: Call) -> Route | None:
        """Return the route of this call and set `call.ids`; None if no route matches."""
        for route in ROUTES:
            ids = route.ids(call)
            if ids is not None:
                call.ids = ids
                return route
        return None

    # Server

    async def token(self, call: Call) -> Response:
        """POST token: log in or refresh a token (docs/upstream.md §3)."""
        try:
            grant = self._tokens.grant(form(call))
        except ValueError as malformed:
            return error(call.version, 400, f"The request is not valid: {malformed}")
        except GrantDenied as denied:
            return error(call.version, denied.status, str(denied))
        return json_response(200, grant.body, *(("Set-Cookie", cookie) for cookie in grant.cookies))

    async def logout(self, call: Call) -> Response:
        """POST token/logout: revoke the token."""
        self._tokens.revoke(call.request.headers.get("Authorization", ""))
        return Response(204 if call.version >= 8 else 200, b"", "")

    async def service_instance(self, call: Call) -> Response:
        """GET ServiceInstance: clients use it to find out whether an API version is served."""
        return json_response(200, {"installationId": _INSTALLATION_ID, "version": "8.0.0.1"})

    async def health(self, call: Call) -> Response:
        """GET Health: always healthy."""
        healthy = {"status": "Healthy", "description": None}
        entries = {"Controller": healthy, "Database": healthy}
        return json_response(200, {"status": "Healthy", "entries": entries})

    async def feed(self, call: Call) -> Response:
        """GET Events: wait for changes after the change token `from`; `latest` means now."""
        since = call.query.get("from", "latest")
        if since != "latest" and not since.isdigit():
            return error(call.version, 400, "The change token is outdated", "OutdatedChangeToken")
        token = self._sessions.token if since == "latest" else int(since)
        limit = _count(call, "limit", _DEFAULT_LIMIT, _MAX_LIMIT)
        seconds = _count(call, "timeoutseconds", 0, 3600)
        await self._notifier.wait_for(
            lambda: bool(self._changes(call, token)), min(seconds, _MAX_POLL)
        )
        changes = self._changes(call, token)[:limit]
        last = changes[-1][0] if changes else token
        results = [
            {"eventType": "RestoreSessionUpdate", "id": session.id, "eTag": session.etag}
            for _, session in changes
        ]
        return json_response(
            200, {"nextChangeToken": str(last), "limit": limit, "results": results}
        )

    def _changes(self, call: Call, token: int) -> list[tuple[int, Session]]:
        return [
            (number, session)
            for number, session in self._sessions.feed
            if number > token and may_see(call.caller, session)
        ]

    # Organizations

    async def organizations(self, call: Call) -> Response:
        """GET Organizations: a page from v8 on, a JSON array before."""
        found = [self._organization(call, tenant) for tenant in self._tenants(call)]
        return self._page(call, found) if call.version >= 8 else json_response(200, found)

    async def organization(self, call: Call) -> Response:
        """GET Organizations/{id} and GET Organization, the organization of the caller."""
        return json_response(200, self._organization(call, self._tenant(call)))

    async def explore(self, call: Call) -> Response:
        """POST …/explore: start a restore session; 200 in v6 and v7, 201 in v5 and v8."""
        tenant = self._tenant(call)
        at = re.search(rb'"dateTime"\s*:\s*"([^"]*)"', call.body, re.IGNORECASE)
        if at and not _is_time(at[1].decode(errors="replace")):
            return error(call.version, 400, "The value of dateTime is not valid")
        found = re.search(rb'"type"\s*:\s*"(\w+)"', call.body, re.IGNORECASE)
        session_type = found[1].decode().capitalize() if found else "Vex"
        if session_type not in TYPES:
            return error(call.version, 400, f"The type must be one of {', '.join(TYPES)}")
        session = self._sessions.open(call.caller, session_type, tenant)
        status = 201 if call.version in (5, 8) else 200
        return json_response(status, self._session_document(call, session))

    def _tenants(self, call: Call) -> list[str]:
        tenants = sorted({user.tenant for user in self._settings.users})
        return tenants if call.caller.operator else [call.caller.tenant]

    def _tenant(self, call: Call) -> str:
        if not call.ids:
            return call.caller.tenant
        for tenant in self._tenants(call):
            if catalog.organization(tenant)["id"] == call.ids[0].lower():
                return tenant
        raise HttpError(not_found(call))

    def _organization(self, call: Call, tenant: str) -> dict[str, Any]:
        document = catalog.organization(tenant)
        return _linked(call, document, f"Organizations/{document['id']}", explore="explore")

    # Restore sessions

    async def sessions(self, call: Call) -> Response:
        """GET RestoreSessions: the sessions that the caller may see."""
        sessions = self._sessions.list(call.caller)
        return self._page(
            call, [partial(self._session_document, call, session) for session in sessions]
        )

    async def session(self, call: Call) -> Response:
        """GET RestoreSessions/{id}: one session."""
        return json_response(200, self._session_document(call, self.visible_session(call)))

    async def stop(self, call: Call) -> Response:
        """POST RestoreSessions/{id}/Stop: 200 with the session up to v7, 204 in v8."""
        session = self.visible_session(call)
        self._sessions.stop(session)
        if call.version >= 8:
            return Response(204, b"", "")
        return json_response(200, self._session_document(call, session))

    async def events(self, call: Call) -> Response:
        """GET RestoreSessions/{id}/Events: the events of a session."""
        session = self.visible_session(call)
        return self._page(
            call, [partial(self._event_document, call, session, event) for event in session.events]
        )

    async def event(self, call: Call) -> Response:
        """GET RestoreSessions/{id}/Events/{event}: one event."""
        session = self.visible_session(call)
        for event in session.events:
            if event.id == call.ids[1].lower():
                return json_response(200, self._event_document(call, session, event))
        return not_found(call)

    async def statistics(self, call: Call) -> Response:
        """GET RestoreSessions/{id}/Statistics: the statistics of a session, from v8 on."""
        return json_response(200, self._sessions.statistics(self.visible_session(call)))

    def visible_session(self, call: Call) -> Session:
        """Return the session that the path names.

        Raises `HttpError` if it does not exist or the caller may not see it.
        """
        session = self._sessions.get(unquote(call.ids[0]))
        if session is None:
            message = f"The restore session {call.ids[0]} was not found"
            raise HttpError(error(call.version, 404, message))
        if not may_see(call.caller, session):
            message = "Access to the session is denied"
            raise HttpError(error(call.version, self._settings.foreign_session, message))
        return session

    def working_session(self, call: Call) -> Session:
        """Return the session that the path names.

        Raises `HttpError` as `visible_session` does, and if the session is stopped.
        """
        session = self.visible_session(call)
        if not session.working:
            message = "The restore session has been stopped"
            raise HttpError(error(call.version, self._settings.stopped_session, message))
        return session

    def _session_document(self, call: Call, session: Session) -> dict[str, Any]:
        document = self._sessions.document(session, call.version)
        path = f"RestoreSessions/{session.id}"
        return _linked(call, document, path, organization="organization", events="events")

    def _event_document(self, call: Call, session: Session, event: Event) -> dict[str, Any]:
        document = self._sessions.event(session, event, call.version)
        return _linked(call, document, f"RestoreSessions/{session.id}/Events/{event.id}")

    # Objects of a restore session

    async def browse(self, call: Call) -> Response:
        """GET RestoreSessions/{id}/organization/…: a collection or an object.

        The parent resource of every export is one of them.
        """
        session = self.working_session(call)
        path = "/".join(call.segments)
        resource = self.resource(call, session, call.segments[3:])
        tenant = session.tenant
        if resource is None:
            facts = catalog.organization(tenant)
            document = {name: facts[name] for name in ("id", "name", "type")}
            links = {name: name for name in operations.COLLECTIONS}
            return json_response(200, _linked(call, document, path, **links))
        if not resource.is_collection:
            return json_response(200, self._object(call, session, resource, path))
        ids = catalog.ids(tenant, resource.collections, resource.ids, self._settings.objects)
        members = [ResourcePath(resource.collections, (*resource.ids, member)) for member in ids]
        items = [
            partial(self._object, call, session, member, f"{path}/{quote(member.ids[-1], safe='')}")
            for member in members
        ]
        return self._page(call, items)

    def resource(self, call: Call, session: Session, segments: list[str]) -> ResourcePath | None:
        """Return the resource that these raw path segments below `organization` name.

        Without segments that is the organization itself: None. Raises `HttpError` if there is no
        such resource.
        """
        if not segments:
            return None
        resource = operations.parse_path(segments)
        if resource is None:
            raise HttpError(not_found(call))
        if self._settings.strict and not catalog.exists(
            session.tenant, resource, self._settings.objects
        ):
            raise HttpError(not_found(call))
        return resource

    def _object(
        self, call: Call, session: Session, resource: ResourcePath, path: str
    ) -> dict[str, Any]:
        facts = catalog.describe(session.tenant, resource, self._settings.objects)
        return _linked(call, facts, path)

    def _page(self, call: Call, items: Sequence[Any]) -> Response:
        """Return one page of the items, selected by `offset` and `limit`.

        An item may be a function that creates the item; only those of the page are called.
        """
        offset = _count(call, "offset", 0, _MAX_OFFSET)
        limit = _count(call, "limit", _DEFAULT_LIMIT, _MAX_LIMIT)
        results = [item() if callable(item) else item for item in items[offset : offset + limit]]
        path = f"{call.base}/v{call.version}/{'/'.join(call.segments)}"
        links = {"self": {"href": f"{path}?offset={offset}&limit={limit}"}}
        if offset:
            links["prev"] = {"href": f"{path}?offset={max(0, offset - limit)}&limit={limit}"}
        if offset + limit < len(items):
            links["next"] = {"href": f"{path}?offset={offset + limit}&limit={limit}"}
        page = {"offset": offset, "limit": limit, "results": results, "_links": links}
        return json_response(200, page)


def _count(call: Call, name: str, default: int, maximum: int) -> int:
    """Return a query parameter that is an integer from 0 to `maximum`. Raises `HttpError`."""
    text = call.query.get(name, str(default))
    if not re.fullmatch(r"\d{1,10}", text) or int(text) > maximum:
        raise HttpError(error(call.version, 400, f"The value {text!r} of {name} is not valid"))
    return int(text)


def _is_time(text: str) -> bool:
    """Return whether the text is a date and time of ISO 8601, as .NET reads it."""
    try:
        datetime.fromisoformat(text)
    except ValueError:
        return False
    return True


def _linked(call: Call, document: dict[str, Any], path: str, **children: str) -> dict[str, Any]:
    """Return the document with `_links`: to itself and to its children, by relation name.

    Links are relative from v6 on and absolute in v5 (docs/upstream.md §5).
    """
    href = f"{call.base}/v{call.version}/{path}"
    links = {"self": {"href": href}}
    links |= {name: {"href": f"{href}/{child}"} for name, child in children.items()}
    return {**document, "_links": links}


ROUTES = (
    Route("POST", "token", Api.token, anonymous=True),
    Route("POST", "token/logout", Api.logout),
    Route("GET", "serviceinstance", Api.service_instance),
    Route("GET", "health", Api.health, since=8, anonymous=True),
    Route("GET", "events", Api.feed, since=8),
    Route("GET", "organizations", Api.organizations),
    Route("GET", "organizations/{}", Api.organization),
    Route("GET", "organization", Api.organization),
    Route("POST", "organizations/{}/explore", Api.explore),
    Route("POST", "organization/explore", Api.explore),
    Route("POST", "organization/operatorexplore", Api.explore),
    Route("GET", "restoresessions", Api.sessions),
    Route("GET", "restoresessions/{}", Api.session),
    Route("POST", "restoresessions/{}/stop", Api.stop),
    Route("GET", "restoresessions/{}/events", Api.events),
    Route("GET", "restoresessions/{}/events/{}", Api.event),
    Route("GET", "restoresessions/{}/statistics", Api.statistics, since=8),
    Route("GET", "restoresessions/{}/organization/**", Api.browse),
)
