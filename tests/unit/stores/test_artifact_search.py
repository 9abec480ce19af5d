"""Looking for many artifacts at once (`Searchable`)."""

from __future__ import annotations

from pathlib import Path

from proxy.ports import Searchable
from proxy.stores.file_artifacts.store import FileArtifacts
from tests.support.artifacts import new_id, note


async def test_missing_artifacts_are_those_that_get_does_not_find(tmp_path: Path) -> None:
    """A file that does not match its sidecar, or is of another fence, is none."""
    store = await FileArtifacts.at(tmp_path, durable=False)
    assert isinstance(store, Searchable)
    whole, short, growing, without, broken = (new_id() for _ in range(5))
    for job in (whole, short, growing, broken):
        partial = await store.create(job, 7)
        await partial.write(b"content")
        if job != growing:
            await partial.commit(7, note)
    store._places(short, 7).file.write_bytes(b"conten")
    store._places(broken, 7).sidecar.write_bytes(b"{")
    wanted = [(job, 7) for job in (whole, short, growing, without, broken)]
    missing = await store.missing(wanted)
    assert missing == {short, growing, without, broken}
    assert missing == {job for job, fence in wanted if await store.get(job, fence) is None}
    assert await store.missing([(whole, 6)]) == {whole}
    await store.close()
