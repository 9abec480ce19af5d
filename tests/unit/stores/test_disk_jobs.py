"""What a store on disk promises beyond the contract: the next process finds every record, and
trusts none of the bytes.
"""

from __future__ import annotations

import asyncio
import os
import pickle
import shutil
import sqlite3
import subprocess
import sys
from collections.abc import Callable
from contextlib import closing
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from proxy.core.events import Claimed, Forgotten
from proxy.core.job import Job
from proxy.core.job_codec import encode
from proxy.core.transitions import advance
from proxy.ports import StoreUnavailable
from proxy.stores.disk_jobs import scan as job_scan
from proxy.stores.disk_jobs.database import Change, JobDatabase, PlainDisk, Unreadable
from proxy.stores.disk_jobs.directory_lock import DirectoryInUse
from proxy.stores.disk_jobs.layout import LAYOUT
from proxy.stores.disk_jobs.store import DiskJobs
from tests.support.fakes import new_job


def fill(directory: Path, count: int, body: bytes = b"{}") -> list[Job]:
    """A closed database of that many jobs, made without the loop."""
    directory.mkdir(exist_ok=True)
    jobs = [new_job(number, key=f"k{number}") for number in range(count)]
    database = JobDatabase(directory)
    database.open()
    assert database.commit([Change(job.id, job, body) for job in jobs]) == [None] * count
    database.close()
    return jobs


def execute(directory: Path, statement: str, *values: Any) -> None:
    with closing(
        sqlite3.connect(directory / "jobs" / "cache.db", isolation_level=None)
    ) as connection:
        connection.execute(statement, values)


async def opened(directory: Path) -> list[Job]:
    """The jobs of the directory."""
    store = await DiskJobs.open(directory)
    try:
        return list(await store.list())
    finally:
        await store.close()


def test_a_directory_of_version_0_1_0_is_read_and_numbered(tmp_path: Path) -> None:
    jobs = fill(tmp_path, 2)
    assert not (tmp_path / "layout").exists()
    for _ in range(2):
        assert {job.id for job in asyncio.run(opened(tmp_path))} == {job.id for job in jobs}
        assert (tmp_path / "layout").read_text(encoding="ascii") == f"{LAYOUT}\n"


@pytest.mark.parametrize("number", [f"{LAYOUT + 1}\n", "x", "-1", "\xff"])
def test_a_directory_of_a_newer_version_is_left_alone(tmp_path: Path, number: str) -> None:
    """The error has the fix; the records and the lock are as before."""
    fill(tmp_path, 2)
    (tmp_path / "layout").write_bytes(number.encode("latin-1"))
    before = {path: path.read_bytes() for path in tmp_path.rglob("*") if path.is_file()}
    for _ in range(2):
        with pytest.raises(StoreUnavailable, match="Install the newer version again"):
            asyncio.run(opened(tmp_path))
    assert {path: path.read_bytes() for path in before} == before


async def test_the_next_process_finds_every_record(tmp_path: Path) -> None:
    """§3.6: durable."""
    store = await DiskJobs.open(tmp_path)
    running = await store.add(new_job(1, key="k", session="S"), b"body")
    ended = await store.add(new_job(2, key="l"), b"body")
    gone = await store.add(new_job(3), b"body")
    claimed, tombstone = advance(running, Claimed("runner", 0), 5), advance(ended, Forgotten(), 6)
    assert await store.replace(running, claimed)
    assert await store.replace(ended, tombstone)
    assert await store.remove(gone)
    await store.close()

    store = await DiskJobs.open(tmp_path)
    assert store.notes == ()
    assert await store.list() == [tombstone, claimed]
    assert await store.list(session="s") == [claimed]
    assert await store.find("alice", "k") == claimed
    assert await store.find("alice", "l") is None
    assert [await store.body(job.id) for job in (running, ended, gone)] == [b"body", None, None]
    await store.close()


TEXTS = st.text(st.characters(), max_size=40)


@pytest.fixture(scope="module")
def shared_directory(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("jobs")


@settings(max_examples=20)
@given(
    owner=TEXTS,
    session=st.none() | TEXTS,
    key=st.none() | TEXTS.filter(bool),
    target=TEXTS,
    body=st.binary(),
)
def test_any_text_and_any_body_round_trip_through_the_disk(
    shared_directory: Path,
    owner: str,
    session: str | None,
    key: str | None,
    target: str,
    body: bytes,
) -> None:
    """§1: bodies and targets in the wild are any bytes."""
    job = new_job(owner=owner, session=session, key=key, target=target)

    async def store_and_find() -> None:
        store = await DiskJobs.open(shared_directory)
        await store.add(replace(job, owner=f"{job.id}{owner}"), body)
        await store.close()
        store = await DiskJobs.open(shared_directory)
        assert store.notes == ()
        assert await store.get(job.id) == replace(job, owner=f"{job.id}{owner}")
        assert await store.body(job.id) == body
        await store.close()

    asyncio.run(store_and_find())


async def test_a_directory_has_one_owner(tmp_path: Path) -> None:
    store = await DiskJobs.open(tmp_path / "data")
    with pytest.raises(DirectoryInUse, match=str(tmp_path / "data")):
        await DiskJobs.open(tmp_path / "data")
    await store.close()
    await (await DiskJobs.open(tmp_path / "data")).close()


async def test_only_the_owner_of_the_process_can_read_it(tmp_path: Path) -> None:
    store = await DiskJobs.open(tmp_path / "data")
    await store.close()
    assert (tmp_path / "data").stat().st_mode & 0o777 == 0o700
    assert (tmp_path / "data" / "jobs").stat().st_mode & 0o777 == 0o700
    assert (tmp_path / "data" / "lock").stat().st_mode & 0o777 == 0o600


def test_every_commit_is_synced_and_nothing_is_ever_evicted(tmp_path: Path) -> None:
    """A power failure loses nothing that a call returned for."""
    database = JobDatabase(tmp_path)
    database.open()
    cache = database._cache
    pragmas = {
        name: cache._con.execute(f"PRAGMA {name}").fetchone()[0]
        for name in ("synchronous", "journal_mode")
    }
    assert pragmas == {"synchronous": 2, "journal_mode": "wal"}
    assert (cache.eviction_policy, cache.cull_limit, cache.size_limit) == ("none", 0, 2**62)
    database.close()


async def test_look_ups_never_read_the_disk(tmp_path: Path) -> None:
    store = await DiskJobs.open(tmp_path)
    job = await store.add(new_job(key="k"), b"")
    shutil.rmtree(tmp_path / "jobs")
    store._database._cache.close()
    assert await store.get(job.id) == job == await store.find("alice", "k")
    assert await store.list(owner="alice", session="s1") == [job]
    assert await store.wait(job.id, 0, 60) == job
    await store.close()


OPENED = """
import asyncio, pathlib, sys, time
from proxy.stores.disk_jobs.store import DiskJobs

async def main():
    before = time.process_time()
    store = await DiskJobs.open(pathlib.Path(sys.argv[1]))
    print(time.process_time() - before, len(await store.list()))
    await store.close()

asyncio.run(main())
"""


def test_ten_thousand_jobs_are_read_in_bounded_time(tmp_path: Path) -> None:
    """In seconds of processor time, in a process of its own: coverage would count as well."""
    fill(tmp_path, 10_000)
    environment = {name: value for name, value in os.environ.items() if not name.startswith("COV")}
    done = subprocess.run(
        [sys.executable, "-c", OPENED, str(tmp_path)],
        cwd=Path(__file__).parents[3],
        env=environment,
        capture_output=True,
        text=True,
        timeout=60,
        check=True,
    )
    seconds, count = done.stdout.split()
    assert float(seconds) < 2
    assert int(count) == 10_000


class Canary:
    """Unpickling it removes a file."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> tuple[Callable[[str], object], tuple[str]]:
        return eval, (f"__import__('os').unlink({str(self.path)!r})",)


PLANT = (
    "INSERT INTO Cache(key, raw, store_time, mode, filename, value, expire_time) VALUES "
    "(?, ?, 0, ?, ?, ?, ?)"
)


def hostile_rows(job: Job, canary: Path) -> dict[str, tuple[object, ...]]:
    bomb, record, name = pickle.dumps(Canary(canary)), encode(job), f"job:{job.id}"
    return {
        "a pickled value": (name, 1, 4, None, bomb, None),
        "a pickled value in a file": (name, 1, 4, "bomb", None, None),
        "a pickled key": (bomb, 0, 1, None, record, None),
        "a pickled key and value": (bomb, 0, 4, None, bomb, None),
        "a pickled body": (f"body:{job.id}", 1, 4, None, bomb, None),
        "a value in a named file": (name, 1, 2, str(canary), None, None),
        "a value beside a named file": (name, 1, 1, str(canary), record, None),
        "a record under a pickled key": (name, 0, 1, None, record, None),
        "a text in a named file": (name, 1, 3, "../../canary", None, None),
        "a text": (name, 1, 1, None, record.decode(), None),
        "a number": (name, 1, 1, None, 5, None),
        "no value": (name, 1, 1, None, None, None),
        "a key of bytes": (name.encode(), 1, 1, None, record, None),
        "a number as key": (5, 1, 1, None, record, None),
        "an expiry": (name, 1, 1, None, record, 1.0),
        "no JSON": (name, 1, 1, None, b"\x00\xff", None),
        "JSON of another kind": (name, 1, 1, None, b"[]", None),
        "half a record": (name, 1, 1, None, record[:-40], None),
        "another job's record": (f"job:{new_job().id}", 1, 1, None, record, None),
        "an id that is no text": (
            name,
            1,
            1,
            None,
            record.replace(f'"{job.id}"'.encode(), b"5"),
            None,
        ),
        "a time that is no number": (
            name,
            1,
            1,
            None,
            record.replace(b'"created":0.0', b'"created":"0"'),
            None,
        ),
        "an unknown key": ("settings", 1, 1, None, b"{}", None),
        "a body without a record": (f"body:{job.id}", 1, 1, None, b"body", None),
    }


@pytest.mark.parametrize("name", hostile_rows(new_job(), Path("x")).keys())
async def test_a_foreign_row_is_moved_aside_and_never_unpickled(tmp_path: Path, name: str) -> None:
    """CVE-2025-69872: whoever can write the database must not run code in the proxy."""
    good = await asyncio.to_thread(fill, tmp_path, 3)
    canary = tmp_path / "canary"
    await asyncio.to_thread(canary.write_bytes, b"alive")
    await asyncio.to_thread(execute, tmp_path, PLANT, *hostile_rows(new_job(), canary)[name])

    store = await DiskJobs.open(tmp_path)
    assert await store.list() == good[::-1]
    assert await store.body(good[0].id) == b"{}"
    (note,) = store.notes
    (place,) = await asyncio.to_thread(lambda: list(tmp_path.glob("jobs.rejected-*.jsonl")))
    assert str(place) in note
    assert place.read_text().count("\n") == 1
    assert place.stat().st_mode & 0o777 == 0o600
    await store.close()
    assert canary.read_bytes() == b"alive"

    store = await DiskJobs.open(tmp_path)
    assert store.notes == ()
    await store.close()


async def test_a_body_that_was_tampered_with_at_run_time_is_not_unpickled(tmp_path: Path) -> None:
    canary = tmp_path / "canary"
    canary.touch()
    store = await DiskJobs.open(tmp_path)
    job = await store.add(new_job(), b"body")
    update = "UPDATE Cache SET mode = 4, value = ? WHERE key LIKE 'body:%'"
    await asyncio.to_thread(execute, tmp_path, update, pickle.dumps(Canary(canary)))
    with pytest.raises(StoreUnavailable):
        await store.body(job.id)
    update = "UPDATE Cache SET mode = 2, value = NULL, filename = ? WHERE key LIKE 'body:%'"
    await asyncio.to_thread(execute, tmp_path, update, str(canary))
    with pytest.raises(StoreUnavailable):
        await store.body(job.id)
    assert await store.remove(job)
    await store.close()
    assert canary.exists()


def test_the_disk_refuses_to_pickle(tmp_path: Path) -> None:
    disk = PlainDisk(str(tmp_path))
    for key in (b"k", 5, None, ("k",)):
        with pytest.raises(Unreadable):
            disk.put(key)
    for value in ("text", 5, None, bytearray(b"x"), ["x"]):
        with pytest.raises(Unreadable):
            disk.store(value, False)
    with pytest.raises(Unreadable):
        disk.store(b"x", True)
    with pytest.raises(Unreadable):
        disk.get(b"key", True)
    with pytest.raises(Unreadable):
        disk.get("key", 0)
    for mode, filename, held, read in (
        (4, None, b"x", False),
        (1, "x", b"x", False),
        (1, None, "x", False),
    ):
        with pytest.raises(Unreadable):
            disk.fetch(mode, filename, held, read)
    assert disk.fetch(1, None, b"x", False) == b"x"


def overwrite(file: Path, at: int, data: bytes) -> None:
    with file.open("r+b") as database:
        database.seek(at)
        database.write(data)


def cut(file: Path, size: int) -> None:
    os.truncate(file, size)


DAMAGE: dict[str, Callable[[Path], object]] = {
    "garbage": lambda file: file.write_bytes(b"<html>" * 4000),
    "empty": lambda file: file.write_bytes(b""),
    "missing": lambda file: file.unlink(),
    "cut in half": lambda file: cut(file, file.stat().st_size // 8192 * 4096),
    "cut in a page": lambda file: cut(file, file.stat().st_size - 100),
    "header smashed": lambda file: overwrite(file, 0, b"\x00" * 100),
    "schema smashed": lambda file: overwrite(file, 100, b"\xff" * 3996),
    "a page smashed": lambda file: overwrite(
        file, file.stat().st_size // 8192 * 4096, b"\xa5" * 4096
    ),
    "another schema": lambda file: execute(
        file.parent.parent, "ALTER TABLE Cache RENAME COLUMN mode TO mood"
    ),
    "a foreign setting": lambda file: execute(
        file.parent.parent, "INSERT INTO Settings VALUES ('close', 'x')"
    ),
    "a foreign pragma": lambda file: execute(
        file.parent.parent, "INSERT INTO Settings VALUES ('sqlite_x', 'x')"
    ),
}


@pytest.mark.parametrize("damage", DAMAGE.values(), ids=DAMAGE.keys())
async def test_a_damaged_database_is_moved_aside_and_a_new_one_made(
    tmp_path: Path, damage: Callable[[Path], object]
) -> None:
    """The proxy starts, says so, and keeps every record that can still be read."""
    jobs = await asyncio.to_thread(fill, tmp_path, 200, b"x" * 500)
    await asyncio.to_thread(damage, tmp_path / "jobs" / "cache.db")
    store = await DiskJobs.open(tmp_path)
    (note,) = store.notes
    (place,) = await asyncio.to_thread(lambda: list(tmp_path.glob("jobs.corrupt-*")))
    assert await asyncio.to_thread(place.is_dir)
    assert str(place) in note
    kept = await store.list()
    assert f"{len(kept)} records" in note
    assert {job.id: job for job in jobs}.items() >= {job.id: job for job in kept}.items()
    for job in kept[:5]:
        assert await store.body(job.id) in (b"x" * 500, None)
    added = await store.add(new_job(9999), b"body")
    await store.close()

    store = await DiskJobs.open(tmp_path)
    assert store.notes == ()
    assert await store.list() == [added, *kept]
    await store.close()


@pytest.mark.parametrize("name", ["a page smashed", "a foreign setting", "cut in a page"])
async def test_most_records_survive_a_little_damage(tmp_path: Path, name: str) -> None:
    await asyncio.to_thread(fill, tmp_path, 1000)
    await asyncio.to_thread(DAMAGE[name], tmp_path / "jobs" / "cache.db")
    store = await DiskJobs.open(tmp_path)
    (note,) = store.notes
    assert "jobs.corrupt-" in note
    assert len(await store.list()) > 900
    await store.close()


async def test_a_database_that_is_only_locked_is_not_moved_aside(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(job_scan, "PATIENCE", 0)
    jobs = await asyncio.to_thread(fill, tmp_path, 2)

    def open_locked() -> None:
        with closing(
            sqlite3.connect(tmp_path / "jobs" / "cache.db", isolation_level=None)
        ) as other:
            other.execute("PRAGMA locking_mode = EXCLUSIVE")
            other.execute("BEGIN EXCLUSIVE")
            with pytest.raises(StoreUnavailable, match="locked"):
                asyncio.run(DiskJobs.open(tmp_path))

    await asyncio.to_thread(open_locked)
    store = await DiskJobs.open(tmp_path)
    assert (store.notes, await store.list()) == ((), jobs[::-1])
    await store.close()


async def test_an_interrupted_rebuild_is_finished_or_undone(tmp_path: Path) -> None:
    jobs = await asyncio.to_thread(fill, tmp_path, 2)
    (tmp_path / "jobs.new").mkdir()
    store = await DiskJobs.open(tmp_path)
    assert await store.list() == jobs[::-1]
    await store.close()
    (tmp_path / "jobs").rename(tmp_path / "jobs.new")
    store = await DiskJobs.open(tmp_path)
    assert (store.notes, await store.list()) == ((), jobs[::-1])
    await store.close()
    shutil.rmtree(tmp_path / "jobs")
    (tmp_path / "jobs.new").mkdir()
    (tmp_path / "jobs.new" / "cache.db").write_bytes(b"half")
    store = await DiskJobs.open(tmp_path)
    assert (store.notes, await store.list()) == ((), [])
    assert not (tmp_path / "jobs.new").exists()
    await store.close()


async def test_a_file_in_place_of_the_directory_is_reported(tmp_path: Path) -> None:
    (tmp_path / "data").touch()
    with pytest.raises(StoreUnavailable, match=str(tmp_path / "data")):
        await DiskJobs.open(tmp_path / "data")
    (tmp_path / "other").mkdir()
    (tmp_path / "other" / "jobs").touch()
    store = await DiskJobs.open(tmp_path / "other")
    (note,) = store.notes
    assert "jobs.corrupt-" in note
    await store.close()


async def test_members_of_a_newer_version_are_left_out(tmp_path: Path) -> None:
    job = (await asyncio.to_thread(fill, tmp_path, 1))[0]
    renewed = encode(job).replace(b'{"id"', b'{"colour":"blue","id"')
    await asyncio.to_thread(
        execute, tmp_path, "UPDATE Cache SET value = ? WHERE key LIKE 'job:%'", renewed
    )
    store = await DiskJobs.open(tmp_path)
    assert (store.notes, await store.list()) == ((), [job])
    assert await store.replace(job, replace(job, version=2))
    await store.close()
