"""A proxy in the process of the tests."""

from __future__ import annotations

import contextlib
from collections.abc import AsyncIterator, Mapping
from pathlib import Path

from proxy import app
from proxy.config import Settings, load


def settings_of(upstream: str, directory: Path, given: Mapping[str, str]) -> Settings:
    """Settings of a proxy on any ports of loopback, by default without a grace. `given` are named
    as in the environment, without the prefix: EXPORTS__GRACE.
    """
    flags = {
        "upstream.url": upstream,
        "listen.address": "127.0.0.1:0",
        "admin.address": "127.0.0.1:0",
        "storage.dir": str(directory),
    }
    environ = {"EXPORTS__GRACE": "0s", "STORAGE__MIN_FREE": "1MiB", **given}
    return load(None, flags, {f"VB365_PROXY_{name}": value for name, value in environ.items()})


@contextlib.asynccontextmanager
async def local_proxy(
    upstream: str, directory: Path, **settings: str
) -> AsyncIterator[app.Running]:
    """A running proxy; see `settings_of`."""
    running = await app.start(settings_of(upstream, directory, settings))
    try:
        yield running
    finally:
        await running.stop()
