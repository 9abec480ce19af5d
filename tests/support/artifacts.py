"""Files of jobs in an artifact store."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from uuid import uuid4

import pytest

from proxy.ports import Artifact, ArtifactStore, Partial
from proxy.stores.file_artifacts import files
from proxy.stores.file_artifacts.reader import FileReader
from proxy.stores.file_artifacts.store import FileArtifacts


def new_id() -> str:
    return str(uuid4())


def note(artifact: Artifact) -> bytes:
    """A copy of a record that differs for each artifact."""
    return f"{artifact.id} {artifact.size} {artifact.sha256.hex()}".encode()


async def begun(store: ArtifactStore, content: bytes = b"12345") -> tuple[str, Partial]:
    """A job, and its partial file with this content."""
    job = new_id()
    partial = await store.create(job)
    await partial.write(content)
    return job, partial


async def committed(store: ArtifactStore, content: bytes = b"12345") -> str:
    """A job with this file."""
    job, partial = await begun(store, content)
    await partial.commit(len(content), note)
    return job


@asynccontextmanager
async def blocked_read(
    store: FileArtifacts, job: str, monkeypatch: pytest.MonkeyPatch
) -> AsyncIterator[tuple[FileReader, asyncio.Task[bytes | bytearray], threading.Event]]:
    """A reader, and a cancelled read of it whose thread waits for the event."""
    gate, read = threading.Event(), files.read_at
    monkeypatch.setattr(files, "read_cached", lambda *args: b"")
    monkeypatch.setattr(files, "read_at", lambda *args: gate.wait(30) and read(*args))
    reader = await store.open(job)
    assert reader is not None
    size = reader.artifact.size
    reading = asyncio.ensure_future(anext(reader.chunks(0, size)))
    await asyncio.sleep(0)
    reading.cancel()
    try:
        yield reader, reading, gate
    finally:
        gate.set()
