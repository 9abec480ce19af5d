"""Says what a start waits for, if it takes long: a directory on a volume that does not respond."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress

from proxy.config.settings import Settings

#: Seconds between two warnings.
_PAUSE = 10.0


@contextmanager
def warned(settings: Settings, warn: Callable[[str], None]) -> Iterator[None]:
    """Within the block, warn every few seconds. The thread may be blocked meanwhile: opening a
    file, or looking for one, cannot be interrupted. If the system starts no thread, there is no
    warning.
    """
    over = threading.Event()

    def watch() -> None:
        seconds = 0.0
        while not over.wait(_PAUSE):
            seconds += _PAUSE
            warn(f"still starting after {seconds:.0f} s: {_waited_for(settings)}")

    watching = threading.Thread(target=watch, name="late", daemon=True)
    with suppress(RuntimeError):
        watching.start()
    try:
        yield
    finally:
        over.set()
        if watching.ident is not None:
            watching.join()


def _waited_for(settings: Settings) -> str:
    storage = settings.storage
    if storage.artifacts != "file" and storage.jobs != "disk":
        return "storage.jobs or storage.artifacts responds late"
    return f"storage.dir {storage.dir} has many files, or its volume does not respond"
