"""Checks of valid settings against this version and this machine, before `serve` starts."""

from __future__ import annotations

import os
import sys
from pathlib import Path

from proxy.config.directory import foreign_access
from proxy.config.loading import Problem
from proxy.config.settings import Settings

#: The hosts that mean every address of this machine.
_ANY = {"0.0.0.0", "::"}  # noqa: S104  # compared, not bound


def startup_problems(settings: Settings) -> list[Problem]:
    """Return what prevents `serve` from starting with these settings on this machine."""
    problems: list[Problem] = []
    if settings.listen.workers > 1 and sys.platform == "win32":
        problem = f"= {settings.listen.workers} is not supported on Windows"
        problems.append(Problem("configuration", "listen.workers", problem, "Leave it at 1."))
    cluster = settings.cluster
    if cluster.lease < 2 * cluster.heartbeat:
        problem = f"is too short for cluster.heartbeat = {cluster.heartbeat:g}s"
        hint = "Make it at least twice as long, better three times."
        problems.append(Problem("configuration", "cluster.lease", problem, hint))
    listen, admin = settings.listen.address, settings.admin.address
    if admin.port and admin.port == listen.port and _overlap(admin.host, listen.host):
        problem = f"= {admin} is taken by listen.address = {listen}"
        hint = "Choose another port with --admin."
        problems.append(Problem("configuration", "admin.address", problem, hint))
    directory = settings.storage.dir
    if not _writable(directory):
        hint = "Choose another one with --data-dir, or allow this user to write to it."
        problem = f"= {directory} is not writable"
        problems.append(Problem("configuration", "storage.dir", problem, hint))
    elif found := foreign_access(directory):
        how, command = found
        problem = f"= {directory} {how}"
        problems.append(Problem("configuration", "storage.dir", problem, f"Run: {command}"))
    return problems


def _overlap(one: str, other: str) -> bool:
    """Whether both hosts have an address in common, as far as that is known without their names'
    addresses. `::` is IPv6 only.
    """
    one, other = ("127.0.0.1" if each.lower() == "localhost" else each for each in (one, other))
    if (":" in one) != (":" in other):
        return False
    return one.lower() == other.lower() or not {one, other}.isdisjoint(_ANY)


def _writable(directory: Path) -> bool:
    """Return whether `directory` can be written to, or created."""
    existing = next(path for path in (directory, *directory.absolute().parents) if path.exists())
    return existing.is_dir() and os.access(existing, os.W_OK | os.X_OK)
