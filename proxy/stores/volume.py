"""The identity of a volume that replicas share (CONTRACT §18)."""

from __future__ import annotations

import contextlib
import os
import uuid
from pathlib import Path

from proxy.ports import StoreUnavailable

_NAME = "volume-id"


def volume_id(directory: Path) -> str:
    """Return the id of the volume that `directory` is on, which the first start writes there: equal
    ids mean the same volume. Raises `StoreUnavailable`.
    """
    path = directory / _NAME
    draft = directory / f".{_NAME}.{uuid.uuid4()}"
    try:
        directory.mkdir(mode=0o700, parents=True, exist_ok=True)
        try:
            descriptor = os.open(draft, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
            with os.fdopen(descriptor, "w", encoding="ascii") as file:
                file.write(f"{uuid.uuid4()}\n")
                file.flush()
                os.fsync(file.fileno())
            # as a whole or not at all, and never in place of another replica's
            with contextlib.suppress(FileExistsError):
                path.hardlink_to(draft)
        finally:
            draft.unlink(missing_ok=True)
        return str(uuid.UUID(path.read_text(encoding="ascii").strip()))
    except OSError as why:
        raise StoreUnavailable(f"{path}: {why}") from why
    except ValueError as why:
        raise StoreUnavailable(f"{path} is damaged: restore it from a backup") from why
