"""The resources of the REST API but for the exports' files: what is answered to whom, in which version's words."""

from __future__ import annotations

import re
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any
from urllib.parse import quote, unquote

from proxy.simulator import catalog, operations
from proxy.simulator.bell import Bell
from proxy.simulator.calls import Call, error, form, not_found
from proxy.simulator.operations import Place
from proxy.simulator.sessions import TYPES, Event, Session, Sessions, may_see
from proxy.simulator.settings import SimulatorSettings
from proxy.simulator.tokens import Denied, Tokens
from proxy.simulator.wire import Answer, json_answer

_DEFAULT_LIMIT, _MOST = 30, 10_000
_LONGEST_POLL = 600.0

Handler = Callable[["Api", Call], Awaitable[Answer]]


@dataclass(frozen=True, slots=True)
class Refusal(Exception):
    """The answer to a request that goes no further."""

    answer: Answer


@dataclass(frozen=True, slots=True)
class Route:
    """One row of the table: `{}` in the pattern stands for one raw segment, `**` for any number of them."""

    method: str
    pattern: str
    handler: Handler
    since: int = 0
    anonymous: bool = False

    def ids(self, call: Call) -> list[str] | None:
        """The segments that stand at `{}`, or None if the call is none of this route's."""
        if (
            call.request.method not in (self.method, "HEAD" if self.method == "GET" else "")
            or call.version < self.since
        ):
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
    """The handlers. Each takes a call whose user is known and whose version is served."""

    def __init__(self, settings: SimulatorSettings, tokens: Tokens, sessions: Sessions, bell: Bell) -> None:
        self._settings = settings
        self._tokens = tokens
        self._sessions = sessions
        self._bell = bell

    def route(self, call: Call) -> Route | None:
        """The route of this call, `call.ids` filled in."""
        for route in ROUTES:
            ids = route.ids(call)
            if ids is not None:
                call.ids = ids
                return route
        return None

    # -- the server ---------------------------------------------------------------------------------------------------

    async def token(self, call: Call) -> Answer:
        """POST token (docs/upstream.md §3)."""
        try:
            grant = self._tokens.grant(form(call))
        except ValueError as why:
            return error(call.version, 400, f"The request is not valid: {why}")
        except Denied as why:
            return error(call.version, why.status, str(why))
        return json_answer(200, grant.body, *(("Set-Cookie", cookie) for cookie in grant.cookies))

    async def logout(self, call: Call) -> Answer:
        """POST token/logout."""
        self._tokens.revoke(call.request.headers.get("Authorization", ""))
        return Answer(204 if call.version >= 8 else 200, b"", "")

    async def service_instance(self, call: Call) -> Answer:
        """GET ServiceInstance: what clients ask to learn which versions are served."""
        return json_answer(200, {"installationId": "36500000-0000-4000-8000-000000000001", "version": "8.0.0.1"})

    async def health(self, call: Call) -> Answer:
        """GET Health."""
        entries = {name: {"status": "Healthy", "description": None} for name in ("Controller", "Database")}
        return json_answer(200, {"status": "Healthy", "entries": entries})

    async def feed(self, call: Call) -> Answer:
        """GET Events: a long-poll for changes after the token `from` (`latest`: from now on)."""
        since = call.query.get("from", "latest")
        if since != "latest" and not since.isdigit():
            return error(call.version, 400, "The change token is outdated", "OutdatedChangeToken")
        token = self._sessions.token if since == "latest" else int(since)
        limit, seconds = _count(call, "limit", _DEFAULT_LIMIT, _MOST), _count(call, "timeoutseconds", 0, 3600)
        await self._bell.until(lambda: bool(self._changes(call, token)), min(seconds, _LONGEST_POLL))
        changes = self._changes(call, token)[:limit]
        reached = changes[-1][0] if changes else max(token, 0)
        results = [
            {"eventType": "RestoreSessionUpdate", "id": session.id, "eTag": session.etag} for _, session in changes
        ]
        return json_answer(200, {"nextChangeToken": str(reached), "limit": limit, "results": results})

    def _changes(self, call: Call, token: int) -> list[tuple[int, Session]]:
        return [change for change in self._sessions.feed if change[0] > token and may_see(call.who, change[1])]

    # -- organisations ------------------------------------------------------------------------------------------------

    async def organizations(self, call: Call) -> Answer:
        """GET Organizations: a page from v8 on, a plain list before."""
        found = [self._organization(call, tenant) for tenant in self._tenants(call)]
        return self._page(call, found) if call.version >= 8 else json_answer(200, found)

    async def organization(self, call: Call) -> Answer:
        """GET Organizations/{id}, and Organization: the caller's own."""
        return json_answer(200, self._organization(call, self._tenant(call)))

    async def explore(self, call: Call) -> Answer:
        """POST Organizations/{id}/explore, Organization/Explore: a new restore session (v6, v7: 200, v8: 201)."""
        self._tenant(call)
        named = re.search(rb'"type"\s*:\s*"(\w+)"', call.body, re.IGNORECASE)
        wanted = named[1].decode().capitalize() if named else "Vex"
        if wanted not in TYPES:
            return error(call.version, 400, f"The type must be one of {', '.join(TYPES)}")
        session = self._sessions.open(call.who, wanted)
        return json_answer(201 if call.version in (5, 8) else 200, self._session_document(call, session))

    def _tenants(self, call: Call) -> list[str]:
        known = sorted({user.tenant for user in self._settings.users})
        return known if call.who.operator else [call.who.tenant]

    def _tenant(self, call: Call) -> str:
        if not call.ids:
            return call.who.tenant
        for tenant in self._tenants(call):
            if catalog.organization(tenant)["id"] == call.ids[0].lower():
                return tenant
        raise Refusal(not_found(call))

    def _organization(self, call: Call, tenant: str) -> dict[str, Any]:
        document = catalog.organization(tenant)
        return _linked(call, document, f"Organizations/{document['id']}", explore="explore")

    # -- restore sessions ---------------------------------------------------------------------------------------------

    async def sessions(self, call: Call) -> Answer:
        """GET RestoreSessions: the caller's own."""
        return self._page(call, [partial(self._session_document, call, one) for one in self._sessions.list(call.who)])

    async def session(self, call: Call) -> Answer:
        """GET RestoreSessions/{id}."""
        return json_answer(200, self._session_document(call, self.own_session(call)))

    async def stop(self, call: Call) -> Answer:
        """POST RestoreSessions/{id}/Stop (v8: 204)."""
        session = self.own_session(call)
        self._sessions.stop(session)
        if call.version >= 8:
            return Answer(204, b"", "")
        return json_answer(200, self._session_document(call, session))

    async def events(self, call: Call) -> Answer:
        """GET RestoreSessions/{id}/Events."""
        session = self.own_session(call)
        return self._page(call, [partial(self._event_document, call, session, event) for event in session.events])

    async def event(self, call: Call) -> Answer:
        """GET RestoreSessions/{id}/Events/{event}."""
        session = self.own_session(call)
        for event in session.events:
            if event.id == call.ids[1].lower():
                return json_answer(200, self._event_document(call, session, event))
        return not_found(call)

    async def statistics(self, call: Call) -> Answer:
        """GET RestoreSessions/{id}/Statistics (v8)."""
        return json_answer(200, self._sessions.statistics(self.own_session(call)))

    def own_session(self, call: Call) -> Session:
        """The session of this call. Raises `Refusal` if there is none or it is another user's."""
        session = self._sessions.get(unquote(call.ids[0]))
        if session is None:
            raise Refusal(error(call.version, 404, f"The restore session {call.ids[0]} was not found"))
        if not may_see(call.who, session):
            raise Refusal(error(call.version, self._settings.foreign_session, "Access to the session is denied"))
        return session

    def working_session(self, call: Call) -> Session:
        """The same, and it must not be stopped. Raises `Refusal`."""
        session = self.own_session(call)
        if not session.working:
            raise Refusal(error(call.version, self._settings.stopped_session, "The restore session has been stopped"))
        return session

    def _session_document(self, call: Call, session: Session) -> dict[str, Any]:
        document = self._sessions.document(session, call.version)
        return _linked(call, document, f"RestoreSessions/{session.id}", organization="organization", events="events")

    def _event_document(self, call: Call, session: Session, event: Event) -> dict[str, Any]:
        document = self._sessions.event(session, event, call.version)
        return _linked(call, document, f"RestoreSessions/{session.id}/Events/{event.id}")

    # -- below a restore session --------------------------------------------------------------------------------------

    async def browse(self, call: Call) -> Answer:
        """GET RestoreSessions/{id}/organization/…: every collection and object, the exports' parents among them."""
        session = self.working_session(call)
        place = self.place(call, session, call.segments[3:])
        tenant = session.user.tenant
        if place is None:
            facts = catalog.organization(tenant)
            own = {name: facts[name] for name in ("id", "name", "type")}
            return json_answer(
                200, _linked(call, own, "/".join(call.segments), **{name: name for name in operations.TREE})
            )
        if not place.is_page:
            return json_answer(200, self._object(call, session, place, "/".join(call.segments)))
        ids = catalog.ids(tenant, place.collections, place.ids, self._settings.objects)
        base = "/".join(call.segments)
        members = [Place(place.collections, (*place.ids, member)) for member in ids]
        here = [
            partial(self._object, call, session, member, f"{base}/{quote(member.ids[-1], safe='')}")
            for member in members
        ]
        return self._page(call, here)

    def place(self, call: Call, session: Session, segments: list[str]) -> Place | None:
        """Where these raw segments below `organization` lead; None: to itself. Raises `Refusal` if nowhere."""
        if not segments:
            return None
        place = operations.walk(segments)
        if place is None:
            raise Refusal(not_found(call))
        if self._settings.strict and not catalog.exists(session.user.tenant, place, self._settings.objects):
            raise Refusal(not_found(call))
        return place

    def _object(self, call: Call, session: Session, place: Place, path: str) -> dict[str, Any]:
        facts = catalog.describe(session.user.tenant, place, self._settings.objects)
        return _linked(call, facts, path)

    def _page(self, call: Call, items: Sequence[Any]) -> Answer:
        """A page of items, or of functions that make them."""
        offset, limit = _count(call, "offset", 0, 2**31), _count(call, "limit", _DEFAULT_LIMIT, _MOST)
        shown = [item() if callable(item) else item for item in items[offset : offset + limit]]
        path = f"{call.base}/v{call.version}/{'/'.join(call.segments)}"
        links = {"self": {"href": f"{path}?offset={offset}&limit={limit}"}}
        if offset:
            links["prev"] = {"href": f"{path}?offset={max(0, offset - limit)}&limit={limit}"}
        if offset + limit < len(items):
            links["next"] = {"href": f"{path}?offset={offset + limit}&limit={limit}"}
        return json_answer(200, {"offset": offset, "limit": limit, "results": shown, "_links": links})


def _count(call: Call, name: str, default: int, most: int) -> int:
    """A query parameter that is a whole number ≥ 0. Raises `Refusal`."""
    text = call.query.get(name, str(default))
    if not re.fullmatch(r"\d{1,10}", text) or int(text) > most:
        raise Refusal(error(call.version, 400, f"The value {text!r} of {name} is not valid"))
    return int(text)


def _linked(call: Call, document: dict[str, Any], path: str, **below: str) -> dict[str, Any]:
    """The document with its links: relative from v6 on, absolute in v5 (docs/upstream.md §5)."""
    own = f"{call.base}/v{call.version}/{path}"
    links = {"self": {"href": own}} | {name: {"href": f"{own}/{path}"} for name, path in below.items()}
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
