"""The data directory, the files with secrets, and the stores of replicas."""

from __future__ import annotations

import asyncio
import os
import shlex
import shutil
import stat
import sys
import tempfile
import tomllib
from collections.abc import AsyncIterator, Iterator
from contextlib import suppress
from pathlib import Path

from proxy.cli.diagnosis.findings import Finding, failed, ok, warning
from proxy.clock import SteadyClock
from proxy.config.settings import Settings
from proxy.core.amounts import size
from proxy.parts.backends import try_shared
from proxy.parts.start import StartFailed

_SETTING = "storage.dir"
#: Bytes that the check of the disk writes.
_PROBE = 64 << 10
#: Part of the message of a store without a connection. Other messages of stores name the fix.
_AWAY = "cannot be reached"
_STORES = ("storage.jobs", "storage.artifacts")


async def storage_findings(settings: Settings) -> AsyncIterator[Finding]:
    """Yield what is found of the disk."""
    for found in await asyncio.to_thread(lambda: list(_disk(settings))):
        yield found


async def store_findings(settings: Settings) -> AsyncIterator[Finding]:
    """Yield what is found of the stores that are not on this machine's disk."""
    storage = settings.storage
    used = zip(_STORES, (storage.jobs != "disk", storage.artifacts != "file"), strict=True)
    shared = [name for name, is_shared in used if is_shared]
    failures: list[str] = []
    try:
        for note in await try_shared(settings, SteadyClock()):
            yield warning("storage.jobs", "storage.jobs", note, "Change it there.")
    except* StartFailed as group:
        failures += map(str, group.exceptions)
    for name in shared:
        texts = [text.removeprefix(f"{name}: ") for text in failures if text.startswith(name)]
        failures = [text for text in failures if not text.startswith(name)]
        for text in texts:
            fix = "Check the address, and that the store runs." if _AWAY in text else ""
            yield failed(name, name, text, fix)
        if not texts and not failures:
            yield ok(name, name, "works")
    for text in failures:
        yield failed("storage", "storage", text)


def _disk(settings: Settings) -> Iterator[Finding]:
    directory = settings.storage.dir
    exists = directory.is_dir()
    place = directory if exists else _existing(directory)
    if (other := _other_owner(place)) is not None:
        yield other
    if exists:
        yield _written(directory)
    else:
        yield ok("storage.write", _SETTING, f"{directory} does not exist yet")
    if settings.storage.artifacts == "file":
        yield _space(settings, place)


def _existing(directory: Path) -> Path:
    return next(path for path in (directory, *directory.absolute().parents) if path.is_dir())


def _other_owner(place: Path) -> Finding | None:
    """A finding if root asks about the directory of the user that runs the service."""
    if sys.platform == "win32":
        return None
    import pwd

    owner = place.stat().st_uid
    if os.geteuid() != 0 or owner == 0:
        return None
    name = str(owner)
    with suppress(KeyError):
        name = pwd.getpwuid(owner).pw_name
    fix = f"Run this command as that user: sudo -u {shlex.quote(name)} vb365-async-proxy doctor …"
    message = f"{place} belongs to {name}; root, which may write everywhere, runs this command"
    return warning("storage.owner", _SETTING, message, fix)


def _written(directory: Path) -> Finding:
    """Whether a file can be written and synced there."""
    check = "storage.write"
    try:
        with tempfile.TemporaryFile(dir=directory, prefix=".doctor-") as file:
            file.write(os.urandom(_PROBE))
            file.flush()
            os.fsync(file.fileno())
    except OSError as why:
        fix = "Free some space, or allow this user to write there."
        return failed(check, _SETTING, f"{directory} cannot be written: {why.strerror}", fix)
    return ok(check, _SETTING, f"{directory} can be written and synced")


def _space(settings: Settings, place: Path) -> Finding:
    check, setting, least = "storage.space", "storage.min_free", settings.storage.min_free
    free = shutil.disk_usage(place).free
    message = f"{size(free)} free at {place}, {size(least)} needed"
    if free >= least:
        return ok(check, setting, message)
    fix = "Free space, choose another storage.dir, or lower storage.min_free."
    return failed(check, setting, f"{message}: exports get 503", fix)


async def secret_findings(settings: Settings, config: Path | None) -> AsyncIterator[Finding]:
    """Yield what is found of the files with secrets, which other users must not read."""
    for found in await asyncio.to_thread(lambda: list(_secrets(settings, config))):
        yield found


def _secrets(settings: Settings, config: Path | None) -> Iterator[Finding]:
    if sys.platform == "win32":
        return
    secrets = {
        "listen.tls_key": settings.listen.tls_key,
        "secrets.key_file": settings.secrets.key_file,
        "storage.dir": settings.storage.dir / "owner.key",
        "configuration": config if _has_secrets(config) else None,
    }
    for setting, path in secrets.items():
        if path is None:
            continue
        with suppress(OSError):
            mode = stat.S_IMODE(path.stat().st_mode)
            if mode & stat.S_IROTH:
                fix = f"Run: chmod o= {shlex.quote(str(path))}"
                message = f"all users can read {path} (mode {mode:04o})"
                yield warning("secrets.mode", setting, message, fix)
            elif mode & stat.S_IRWXO == 0:
                yield ok("secrets.mode", setting, f"{path} is private (mode {mode:04o})")


def _has_secrets(config: Path | None) -> bool:
    """Whether the configuration file holds secrets itself."""
    if config is None:
        return False
    try:
        found = tomllib.loads(config.read_text(encoding="utf-8-sig"))
    except (OSError, ValueError):
        return False
    tables = {name: table for name, table in found.items() if isinstance(table, dict)}
    places = (("admin", "token"), ("secrets", "key"), ("webhooks", "secrets"))
    named = any(tables.get(section, {}).get(key) for section, key in places)
    return named or "@" in str(tables.get("storage", {}).get("jobs", ""))
