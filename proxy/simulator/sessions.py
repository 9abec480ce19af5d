"""Restore sessions, their events, and the change feed of v8 (docs/upstream.md §2)."""

from __future__ import annotations

import asyncio
import uuid
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass, field
from datetime import datetime, timedelta, timezone
from typing import Any

from proxy.simulator import catalog
from proxy.simulator.bell import Bell
from proxy.simulator.settings import SimulatorSettings, User

TYPES = ("Vex", "Veod", "Vesp", "Vet")


def timestamp(seconds: float, utc_offset: int) -> str:
    """Unix seconds as .NET writes them: seven fractional digits and the server's offset in minutes."""
    ticks = round(seconds * 10_000_000)
    whole, fraction = divmod(ticks, 10_000_000)
    local = datetime.fromtimestamp(whole, timezone(timedelta(minutes=utc_offset)))
    text = local.isoformat()
    return f"{text[:19]}.{fraction:07}{text[19:]}"


@dataclass(slots=True)
class Event:
    """One line of a session's history. Times in Unix seconds."""

    id: str
    type: str
    title: str
    item: str
    order: int
    start: float
    status: str = "Running"
    end: float | None = None
    message: str = ""
    size: int | None = None


@dataclass(slots=True, eq=False)
class Session:
    """A restore session: `type` is one of `TYPES`."""

    id: str
    user: User
    type: str
    created: float
    touched: float
    ended: float | None = None
    etag: int = 1
    events: list[Event] = field(default_factory=list)
    stopped: asyncio.Event = field(default_factory=asyncio.Event)

    @property
    def working(self) -> bool:
        """True until the session is stopped."""
        return self.ended is None


class Sessions:
    """The sessions of one stand-in; `now` gives Unix seconds, `bell` rings at every change."""

    def __init__(self, settings: SimulatorSettings, now: Callable[[], float], bell: Bell) -> None:
        self._settings = settings
        self._now = now
        self._bell = bell
        self._sessions: dict[str, Session] = {}
        self.feed: deque[tuple[int, Session]] = deque(maxlen=settings.records)
        self._changes = 0

    def open(self, user: User, type: str = "Vex") -> Session:
        """Start a session."""
        now = self._now()
        session = Session(str(uuid.uuid4()), user, type, now, now)
        self._sessions[session.id] = session
        self.changed(session)
        return session

    def get(self, id: str) -> Session | None:
        """The session, whoever asks; stops it first if it was idle for too long."""
        session = self._sessions.get(id.lower())
        if session is None:
            return None
        idle, now = self._settings.session_idle, self._now()
        if session.working and idle is not None and now - session.touched > idle:
            self.stop(session)
        session.touched = now
        return session

    def list(self, user: User) -> list[Session]:
        """The sessions this user may see, newest first."""
        mine = [session for session in self._sessions.values() if may_see(user, session)]
        return mine[::-1]

    def stop(self, session: Session) -> None:
        """Stop it; what runs in it fails. Idempotent."""
        if session.working:
            session.ended = self._now()
            session.stopped.set()
            self.changed(session)

    def remove(self, id: str) -> bool:
        """Forget the session, as if it had never been; False if there is none."""
        session = self._sessions.pop(id.lower(), None)
        if session is not None:
            self.stop(session)
        return session is not None

    def begin(self, session: Session, type: str, title: str, item: str) -> Event:
        """Add a Running event."""
        order = len(session.events)
        event = Event(str(uuid.uuid4()), type, title, item, order, self._now(), message=f"{title} is running")
        session.events.append(event)
        self.changed(session)
        return event

    def finish(self, session: Session, event: Event, status: str, message: str, size: int | None = None) -> None:
        """Give the event its outcome."""
        event.status, event.message, event.size, event.end = status, message, size, self._now()
        self.changed(session)

    def changed(self, session: Session) -> None:
        """Count the change into the session's eTag and the feed."""
        session.etag += 1
        self._changes += 1
        self.feed.append((self._changes, session))
        self._bell.ring()

    @property
    def token(self) -> int:
        """The change token that stands for now."""
        return self._changes

    # -- as JSON ------------------------------------------------------------------------------------------------------

    def document(self, session: Session, version: int) -> dict[str, Any]:
        """RESTRestoreSession of that version, without its links."""
        organization = catalog.organization(session.user.tenant)
        result = "Warning" if any(event.status in ("Warning", "Failed") for event in session.events) else "Success"
        document = {
            "id": session.id,
            "name": organization["name"],
            "organization": organization["name"],
            "type": session.type,
            "creationTime": self._time(session.created),
            "endTime": self._time(session.ended),
            "state": "Working" if session.working else "Stopped",
            "result": result,
            "initiatedBy": session.user.name,
            "details": "",
            "scopeName": organization["name"],
            "clientHost": "localhost",
            "reason": "",
        }
        return {**document, "eTag": session.etag} if version >= 8 else document

    def event(self, session: Session, event: Event, version: int) -> dict[str, Any]:
        """RESTRestoreSessionEvent of that version, without its links."""
        end = event.end if event.end is not None else self._now()
        document = {
            "itemName": event.item,
            "itemType": "Mailbox" if event.type == "Export" else "File",
            "source": session.user.tenant,
            "target": "",
            "id": event.id,
            "type": event.type,
            "status": event.status,
            "startTime": self._time(event.start),
            "endTime": self._time(event.end),
            "duration": f"{timedelta(seconds=round(end - event.start))!s:0>8}",
            "title": event.title,
            "message": event.message,
            "order": event.order,
        }
        if event.size is not None:
            document["itemSizeBytes"] = event.size
        return {**document, "organizationId": self._organization(session)} if version >= 8 else document

    def statistics(self, session: Session) -> dict[str, Any]:
        """RESTRestoreSessionStatistics (v8): exports restore nothing, so only their failures show."""
        failed = [event for event in session.events if event.status == "Failed"]
        warned = [event.message for event in session.events if event.status == "Warning"]
        return {
            "totalItemsCount": len(session.events),
            "restoredItemsCount": 0,
            "failedItemsCount": len(failed),
            "skippedItemsCount": 0,
            "warnings": warned,
            "errors": [event.message for event in failed],
            "items": [],
        }

    def _organization(self, session: Session) -> str:
        return str(catalog.organization(session.user.tenant)["id"])

    def _time(self, seconds: float | None) -> str | None:
        return None if seconds is None else timestamp(seconds, self._settings.utc_offset)


def may_see(user: User, session: Session) -> bool:
    """Operators see all sessions, everybody else their own."""
    return user.operator or user.name == session.user.name
