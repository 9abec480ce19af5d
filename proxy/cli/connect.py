"""Tries the connections that `serve` would make (CONTRACT §18: start-up checks)."""

from __future__ import annotations

from collections.abc import Sequence

from proxy.clock import SteadyClock
from proxy.config.settings import Settings
from proxy.parts.backends import try_shared
from proxy.parts.clients import try_upstream
from proxy.parts.start import StartFailed


async def try_connections(settings: Settings) -> tuple[Sequence[str], Sequence[str]]:
    """Connect to VB365 and to stores that are not on this machine's disk. Return what prevents
    `serve` from working, and what only should be corrected.
    """
    failures: list[str] = []
    notes: Sequence[str] = ()
    try:
        await try_upstream(settings)
    except StartFailed as why:
        failures.append(str(why))
    try:
        notes = await try_shared(settings, SteadyClock())
    except* StartFailed as group:
        failures.extend(map(str, group.exceptions))
    return failures, notes
