"""The restore session of a command: a given one, or a new one that is stopped at the end."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from datetime import datetime
from typing import Annotated

import typer

from proxy.client.display import Display
from proxy.client.errors import CommandError
from proxy.client.objects import Kind
from proxy.client.vb365 import VB365, restore_session

_PANEL = "Restore session"

At = Annotated[
    str | None,
    typer.Option(
        "--at",
        metavar="TIME",
        rich_help_panel=_PANEL,
        help="State to export, such as 2026-11-01T00:00 in the local time zone (default: now).",
    ),
]
Organization = Annotated[
    str | None,
    typer.Option(
        "--organization",
        metavar="NAME",
        rich_help_panel=_PANEL,
        help="Organization, if there are several (default: that of the profile).",
    ),
]
Session = Annotated[
    str | None,
    typer.Option(
        "--session",
        metavar="ID",
        rich_help_panel=_PANEL,
        help="Use this restore session. By default one is opened, and stopped at the end.",
    ),
]


@dataclass(frozen=True, kw_only=True)
class Place:
    """Where to find an object; each member is an option."""

    at: At = None
    organization: Organization = None
    session: Session = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Source:
    """Where to look: an open session, or the organization and the time of a new one."""

    kind: Kind
    at: datetime
    organization: str | None
    session: str | None


@asynccontextmanager
async def opened(vb365: VB365, display: Display, source: Source) -> AsyncIterator[str]:
    """Yield the session: that which is given, or a new one that is stopped at the end."""
    if source.session is not None:
        yield source.session
        return
    async with restore_session(
        vb365, display, source.kind, source.at, source.organization
    ) as session:
        yield session


def check_source(at: str | None, session: str | None) -> None:
    """Raise `CommandError` for a time beside a session, which has one."""
    if session is not None and at is not None:
        raise CommandError("--at is of a new restore session: use it without --session", code=2)


def parse_time(text: str | None) -> datetime:
    """Return the time; one without an offset is in the local time zone. Raises `CommandError`."""
    if text is None:
        return datetime.now().astimezone()
    try:
        return datetime.fromisoformat(text).astimezone()
    except (ValueError, OverflowError) as error:
        raise CommandError(
            f"--at: {text!r} is not a time such as 2026-11-01T00:00 or 2026-11-01T00:00Z", code=2
        ) from error
