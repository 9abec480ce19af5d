"""Threads that hang in the files of a volume, such as that of a network file system whose server is
away: what does not need the files does not wait for them (CONTRACT §3, §16), and what does waits
for a limited time.
"""

from __future__ import annotations

import asyncio
import contextlib
import threading
from collections.abc import Awaitable, Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from proxy.api import download
from proxy.ports import StoreUnavailable
from proxy.stores.file_artifacts import files, gauge, reader, spool, tail
from proxy.stores.file_artifacts import store as file_store
from proxy.stores.file_artifacts.store import FileArtifacts
from tests.contract.conftest import MakeStage
from tests.support.artifacts import begun, committed
from tests.support.wire import Message, Peer, ask, eventually, request_bytes

NOW = "respond-async, wait=0"


def open_files(directory: Path) -> int:
    """How many files of jobs in the directory are open in this process."""
    found = 0
    for link in Path("/proc/self/fd").iterdir():
        with contextlib.suppress(OSError):  # it was closed meanwhile
            path = str(link.readlink())
            found += path.startswith(f"{directory}/") and "/artifacts/" in path
    return found


@pytest.fixture
def volume() -> Iterator[threading.Event]:
    """What hangs, until the event is set."""
    alive = threading.Event()
    yield alive
    alive.set()


async def test_free_space_is_measured_while_all_threads_of_files_hang(
    tmp_path: Path, volume: threading.Event
) -> None:
    store = await FileArtifacts.at(tmp_path)
    hanging = [store.begin(volume.wait) for _ in range(2 * file_store._THREADS)]
    async with asyncio.timeout(20):
        assert await store.free() > 0
        volume.set()
        await asyncio.gather(*hanging)
    await store.close()


async def test_a_measurement_that_hangs_is_an_error_for_all_and_not_repeated(
    tmp_path: Path, volume: threading.Event, monkeypatch: pytest.MonkeyPatch
) -> None:
    calls: list[Path] = []

    def hang(root: Path) -> int:
        calls.append(root)
        volume.wait()
        return 7

    monkeypatch.setattr(gauge, "_PATIENCE", 0.05)
    monkeypatch.setattr(files, "free", hang)
    store = await FileArtifacts.at(tmp_path)
    for _ in range(3):
        with pytest.raises(StoreUnavailable, match="artifacts does not respond"):
            await store.free()
    assert len(calls) == 1
    volume.set()
    monkeypatch.setattr(gauge, "_PATIENCE", 20)
    assert [await store.free(), await store.free()] == [7, 7]
    await store.close()


async def test_kickoffs_and_polls_do_not_wait_for_files_that_hang(
    make_stage: MakeStage, volume: threading.Event, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(file_store, "_THREADS", 1)
    create, entered = spool.Spool.create, threading.Event()

    def hang(*args: object, **more: object) -> spool.Spool:
        entered.set()
        volume.wait()
        return create(*args, **more)  # type: ignore[arg-type]

    monkeypatch.setattr(spool.Spool, "create", hang)
    stage = await make_stage()
    async with asyncio.timeout(20):
        jobs = [await stage.begun(stage.export, Prefer=NOW)]
        await asyncio.to_thread(entered.wait)
        jobs.append(await stage.begun(stage.export, Prefer=NOW))
        for job in jobs:
            assert (await stage.get(job)).json()["status"] == "Running"
        ready = await ask(stage.running.admin_url, "GET", "/readyz", {})
        assert ready.status == 200
        volume.set()
        for job in jobs:
            assert (await stage.finished(job)).json()["status"] == "Success"


@pytest.fixture
def hang(volume: threading.Event, monkeypatch: pytest.MonkeyPatch) -> Callable[[str], list[str]]:
    """Make a function of `files` hang in the volume, and return the names of the threads in it."""

    def hang(name: str) -> list[str]:
        original, entered = getattr(files, name), list[str]()

        def hanging(*args: Any, **more: Any) -> Any:
            entered.append(threading.current_thread().name)
            volume.wait()
            return original(*args, **more)

        monkeypatch.setattr(files, name, hanging)
        return entered

    return hang


#: The limits on waiting, by the modules that have them.
LIMITS = {
    "_OPENING": (file_store,),
    "_REMOVAL": (file_store,),
    "READING": (reader, tail),
    "CLOSING": (reader, tail),
}


@pytest.fixture
def limit(monkeypatch: pytest.MonkeyPatch) -> Callable[..., None]:
    """Set the limits of these names, in seconds."""

    def limit(seconds: float, *names: str) -> None:
        for name in names:
            for module in LIMITS[name]:
                monkeypatch.setattr(module, name, seconds)

    return limit


async def available(ask: Callable[[], Awaitable[Message]]) -> Message:
    """The response once the volume is available."""
    while (response := await ask()).status == 503:
        pass
    return response


async def test_a_download_whose_file_cannot_be_opened_gets_503(
    make_stage: MakeStage,
    volume: threading.Event,
    hang: Callable[[str], list[str]],
    limit: Callable[..., None],
    tmp_path: Path,
) -> None:
    """Also once so many threads hang that it is not opened again. None of them keeps a file."""
    stage = await make_stage()
    job = await stage.done()
    entered = hang("opened")
    limit(0.1, "_OPENING")
    async with asyncio.timeout(20):
        for _ in range(file_store._HANGING + 3):
            refused = await stage.get(f"{job}/result")
            assert (refused.status, refused["Retry-After"]) == (503, "5")
            assert refused.json()["type"].endswith(":store-unavailable")
        await eventually(lambda: len(entered) == file_store._READERS)
        limit(20, "_OPENING")
        volume.set()
        found = await available(lambda: stage.get(f"{job}/result"))
        assert found.body == stage.file()
        await eventually(lambda: open_files(tmp_path) == 0)


@pytest.mark.parametrize("name", ["opened", "read_at", "send"])
async def test_one_file_that_hangs_leaves_the_threads_to_others(
    make_stage: MakeStage,
    volume: threading.Event,
    limit: Callable[..., None],
    monkeypatch: pytest.MonkeyPatch,
    name: str,
) -> None:
    """However often it is asked for, at once and later."""
    stage = await make_stage()
    bad, good = [await stage.done() for _ in range(2)]
    original, place = getattr(files, name), f"/{bad.rpartition('/')[2]}."
    entered = threading.Event()

    def hanging(asked: files.Places | int, *args: Any, **more: Any) -> Any:
        path = asked.file if isinstance(asked, files.Places) else f"/proc/self/fd/{asked}"
        if place in str(Path(path).resolve()):
            entered.set()
            volume.wait()
        return original(asked, *args, **more)

    monkeypatch.setattr(files, name, hanging)
    monkeypatch.setattr(files, "read_cached", lambda *args: b"")
    monkeypatch.setattr(download, "_LEAST", 1 if name == "send" else 1 << 40)

    async def ask(clients: int) -> None:
        peers = [await Peer.to(stage.url) for _ in range(clients)]
        try:
            for peer in peers:
                await peer.send(request_bytes("GET", f"{bad}/result", stage.fields, None, "proxy"))
            assert (await stage.get(f"{good}/result")).body == stage.file()
        finally:
            for peer in peers:
                peer.abort()

    async with asyncio.timeout(20):
        await ask(2 * file_store._THREADS)
        assert entered.is_set()
        limit(0.1, "_OPENING", "READING", "CLOSING")
        for _ in range(file_store._HANGING + 3):
            peer = await Peer.to(stage.url)
            await peer.send(request_bytes("GET", f"{bad}/result", stage.fields, None, "proxy"))
            await peer.head()
            peer.abort()
        limit(20, "_OPENING", "READING", "CLOSING")
        await ask(1)
        volume.set()


@pytest.mark.parametrize("name", ["read_at", "send"])
async def test_a_download_whose_file_cannot_be_read_is_broken_off(
    make_stage: MakeStage,
    volume: threading.Event,
    hang: Callable[[str], list[str]],
    limit: Callable[..., None],
    monkeypatch: pytest.MonkeyPatch,
    tmp_path: Path,
    name: str,
) -> None:
    """By a thread that reads it, or one that sends it: it sends nothing when the volume responds
    again, and nothing is left open.
    """
    stage = await make_stage()
    job = await stage.done()
    monkeypatch.setattr(files, "read_cached", lambda *args: b"")
    monkeypatch.setattr(download, "_LEAST", 1 if name == "send" else 1 << 40)
    entered = hang(name)
    limit(0.1, "READING", "CLOSING")
    async with asyncio.timeout(20):
        clients = [await Peer.to(stage.url) for _ in range(file_store._READERS)]
        for client in clients:
            await client.send(request_bytes("GET", f"{job}/result", stage.fields, None, "proxy"))
            assert b" 200 OK" in await client.head()
        for client in clients:
            assert await client.closed()
        await eventually(lambda: len(entered) == len(clients))
        for client in clients:
            client.abort()
        limit(20, "READING", "CLOSING")
        volume.set()
        await eventually(lambda: open_files(tmp_path) == 0)
        assert (await stage.get(f"{job}/result")).body == stage.file()


async def test_a_release_whose_file_cannot_be_removed_gets_503(
    make_stage: MakeStage,
    volume: threading.Event,
    hang: Callable[[str], list[str]],
    limit: Callable[..., None],
) -> None:
    """Repeated ones wait for the same thread; each client and the rest of the proxy go on."""
    stage = await make_stage()
    job = await stage.done()
    entered = hang("remove_all")
    limit(0.1, "_REMOVAL")
    async with asyncio.timeout(20):
        for _ in range(file_store._HANGING + 3):
            refused = await stage.ask("DELETE", f"{job}/result")
            assert (refused.status, refused["Retry-After"]) == (503, "5")
        await eventually(lambda: len(entered) == 1)
        assert (await stage.get(job)).json()["result"]["state"] == "Deleted"
        limit(20, "_REMOVAL")
        volume.set()
        found = await available(lambda: stage.ask("DELETE", f"{job}/result"))
        assert found.status == 204


async def test_a_caller_that_leaves_does_not_wait_for_the_volume(
    tmp_path: Path,
    volume: threading.Event,
    hang: Callable[[str], list[str]],
    limit: Callable[..., None],
) -> None:
    store = await FileArtifacts.at(tmp_path)
    job = await committed(store)
    limit(0.1, "_OPENING")
    entered = hang("opened")
    opening = asyncio.ensure_future(store.open(job))
    async with asyncio.timeout(20):
        await eventually(lambda: len(entered) == 1)
        opening.cancel()
        with pytest.raises(asyncio.CancelledError):
            await opening
        assert not volume.is_set()
    await store.close()


async def test_a_list_of_all_files_that_hangs_is_left_and_found_by_the_next_call(
    tmp_path: Path, volume: threading.Event, hang: Callable[[str], list[str]]
) -> None:
    store = await FileArtifacts.at(tmp_path)
    job = await committed(store)
    entered = hang("survey")
    async with asyncio.timeout(20):
        for _ in range(3):
            listing = asyncio.ensure_future(store.ids())
            await eventually(lambda: len(entered) == 1)
            listing.cancel()
            with pytest.raises(asyncio.CancelledError):
                await listing
        volume.set()
        assert await store.ids() == {job}
    assert (len(entered), await store.used()) == (1, 5)
    await store.close()


async def test_a_follower_of_a_growing_file_does_not_wait_for_the_volume(
    tmp_path: Path,
    volume: threading.Event,
    hang: Callable[[str], list[str]],
    limit: Callable[..., None],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    store = await FileArtifacts.at(tmp_path)
    job, partial = await begun(store, bytes(3 << 20))
    await partial.read(0, 1)  # it is on disk
    monkeypatch.setattr(files, "read_cached", lambda *args: b"")
    hang("read_at")
    follower = store.tail(job)
    assert follower is not None
    limit(0.1, "READING", "CLOSING")
    async with asyncio.timeout(20):
        with pytest.raises(StoreUnavailable, match="does not respond"):
            await follower.read(0)
        await follower.close()
        volume.set()
        await eventually(lambda: open_files(tmp_path) == 1)  # the writer's
    await partial.discard()
    await store.close()
