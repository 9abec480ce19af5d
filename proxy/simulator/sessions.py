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
from proxy.simulator.settings import SimulatorSettings, User
from proxy.simulator.synchronization import Notifier

#: Session types: Exchange, OneDrive, SharePoint and Teams.
TYPES = ("Vex", "Veod", "Vesp", "Vet")
#: The unit of .NET timestamps is 100 ns.
_TICKS_PER_SECOND = 10_000_000


def timestamp(seconds: float, utc_offset: int) -> str:
    """Format Unix seconds as .NET does: seven fractional digits and a UTC offset.

    `utc_offset` is in minutes.
    """
    whole, fraction = divmod(round(seconds * _TICKS_PER_SECOND), _TICKS_PER_SECOND)
    local = datetime.fromtimestamp(whole, timezone(timedelta(minutes=utc_offset)))
    text = local.isoformat()
    return f"{text[:19]}.{fraction:07}{text[19:]}"


@dataclass(slots=True)
class Event:
    """An event of a restore session.

    `start` and `end` are in Unix seconds; `size` is the size of the exported item in bytes.
    """

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
    """A restore session.

    `type` is one of `TYPES`, `tenant` is the organization that it shows. `created`, `touched` (last
    used) and `ended` are in Unix seconds.
    """

    id: str
    user: User
    type: str
    tenant: str
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
    """The restore sessions of one simulator.

    `now` returns the time in Unix seconds. `notifier` is notified of every change. `feed` has the
    latest changes as pairs of change number and session, oldest first.
    """

    def __init__(
        self, settings: SimulatorSettings, now: Callable[[], float], notifier: Notifier
    ) -> None:
        self._settings = settings
        self._now = now
        self._notifier = notifier
        self._sessions: dict[str, Session] = {}
        self.feed: deque[tuple[int, Session]] = deque(maxlen=settings.records)
        self._changes = 0

    def open(self, user: User, type: str = "Vex", tenant: str | None = None) -> Session:
        """Start a session of the user, who sees that organization, by default his own."""
        now = self._now()
        session = Session(str(uuid.uuid4()), user, type, tenant or user.tenant, now, now)
        self._sessions[session.id] = session
        self._record_change(session)
        return session

    def get(self, id: str) -> Session | None:
        """Return the session, or None. A session that was idle for too long is stopped first."""
        session = self._sessions.get(id.lower())
        if session is None:
            return None
        idle, now = self._settings.session_idle, self._now()
        if session.working and idle is not None and now - session.touched > idle:
            self.stop(session)
        session.touched = now
        return session

    def list(self, user: User) -> list[Session]:
        """Return the sessions that the user may see, newest first."""
        visible = [session for session in self._sessions.values() if may_see(user, session)]
        return visible[::-1]

    def stop(self, session: Session) -> None:
        """Stop the session; its running exports fail. Idempotent."""
        if session.working:
            session.ended = self._now()
            session.stopped.set()
            self._record_change(session)

    def remove(self, id: str) -> bool:
        """Stop and remove the session. Returns False if there is none."""
        session = self._sessions.pop(id.lower(), None)
        if session is not None:
            self.stop(session)
        return session is not None

    def begin(self, session: Session, type: str, title: str, item: str) -> Event:
        """Add an event with status Running to the session."""
        event = Event(
            id=str(uuid.uuid4()),
            type=type,
            title=title,
            item=item,
            order=len(session.events),
            start=self._now(),
            message=f"{title} is running",
        )
        session.events.append(event)
        self._record_change(session)
        return event

    def finish(
        self, session: Session, event: Event, status: str, message: str, size: int | None = None
    ) -> None:
        """Set the final status of the event. `size` is the size of the item in bytes."""
        event.status, event.message, event.size, event.end = status, message, size, self._now()
        self._record_change(session)

    def _record_change(self, session: Session) -> None:
        session.etag += 1
        self._changes += 1
        self.feed.append((self._changes, session))
        self._notifier.notify()

    @property
    def token(self) -> int:
        """The change token of the latest change."""
        return self._changes

    # JSON documents

    def document(self, session: Session, version: int) -> dict[str, Any]:
        """Return the RESTRestoreSession document of that API version, without links."""
        organization = catalog.organization(session.tenant)
        problems = any(event.status in ("Warning", "Failed") for event in session.events)
        document = {
            "id": session.id,
            "name": organization["name"],
            "organization": organization["name"],
            "type": session.type,
            "creationTime": self._time(session.created),
            "endTime": self._time(session.ended),
            "state": "Working" if session.working else "Stopped",
            "result": "Warning" if problems else "Success",
            "initiatedBy": session.user.name,
            "details": "",
            "scopeName": organization["name"],
            "clientHost": "localhost",
            "reason": "",
        }
        return {**document, "eTag": session.etag} if version >= 8 else document

    def event(self, session: Session, event: Event, version: int) -> dict[str, Any]:
        """Return the RESTRestoreSessionEvent document of that API version, without links."""
        end = event.end if event.end is not None else self._now()
        document = {
            "itemName": event.item,
            "itemType": "Mailbox" if event.type == "Export" else "File",
            "source": session.tenant,
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
        if version >= 8:
            document["organizationId"] = catalog.organization(session.tenant)["id"]
        return document

    def statistics(self, session: Session) -> dict[str, Any]:
        """Return the RESTRestoreSessionStatistics document of v8.

        Exports restore nothing, so it counts only their failures.
        """
        failed = [event for event in session.events if event.status == "Failed"]
        warnings = [event.message for event in session.events if event.status == "Warning"]
        return {
            "totalItemsCount": len(session.events),
            "restoredItemsCount": 0,
            "failedItemsCount": len(failed),
            "skippedItemsCount": 0,
            "warnings": warnings,
            "errors": [event.message for event in failed],
            "items": [],
        }

    def _time(self, seconds: float | None) -> str | None:
        return None if seconds is None else timestamp(seconds, self._settings.utc_offset)


def may_see(user: User, session: Session) -> bool:
    """Return whether the user may see the session: its owner and operators may."""
    return user.operator or user.name == session.user.name
