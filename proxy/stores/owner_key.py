"""The secret that keys every owner hash (CONTRACT §9)."""

from __future__ import annotations

import contextlib
import os
import secrets
from pathlib import Path

from proxy.ports import StoreUnavailable
from proxy.stores.durable import read_small, sync_directory


def owner_key(path: Path) -> bytes:
    """Return the key of all owner hashes, created on the first start (CONTRACT §9). Raises
    `StoreUnavailable`.
    """
    try:
        with contextlib.suppress(FileExistsError):
            _write_new(path, secrets.token_bytes(32))
        key = read_small(path)
    except OSError as why:
        raise StoreUnavailable(f"owner key {path}: {why}") from why
    if len(key) < 32:
        raise StoreUnavailable(
            f"owner key {path} is damaged: restore it, or remove it and lose who owns which job."
        )
    return key


def _write_new(path: Path, content: bytes) -> None:
    """Create a private file, whole or not at all. Raises FileExistsError."""
    temporary = path.with_suffix(f".{os.getpid()}")
    descriptor = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600)
    try:
        with os.fdopen(descriptor, "wb") as file:
            file.write(content)
            file.flush()
            os.fsync(file.fileno())
        if path.exists():
            raise FileExistsError(path)
        temporary.replace(path)
        sync_directory(path.parent)
    finally:
        temporary.unlink(missing_ok=True)
