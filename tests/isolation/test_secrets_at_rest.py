"""What a kill leaves of a caller's credentials, and who provides them again (CONTRACT §9
`secrets.key`, `suspend_ttl`).
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest
from cryptography.fernet import Fernet

from proxy import app
from proxy.jobs.runner import Runner
from proxy.parts.start import StartFailed
from proxy.ports import StoreUnavailable
from proxy.simulator import Simulator, SimulatorSettings
from proxy.stores.disk_jobs.store import DiskJobs
from tests.support.at_rest import at_rest
from tests.support.local_proxy import settings_of
from tests.support.process import ProxyProcess, served
from tests.support.wire import Message, ask

SIZE = 300_000
OLD, NEW = Fernet.generate_key().decode(), Fernet.generate_key().decode()


class Caller:
    """Alice, her session, and the proxy that currently runs."""

    def __init__(self, simulator: Simulator) -> None:
        self.simulator = simulator
        self.fields = simulator.login() | {"Cookie": "c=canary-cookie", "X-Canary": "canary-field"}
        self.secrets = [*(value.rpartition(" ")[2].encode() for value in self.fields.values())]
        session = simulator.open_session()
        self.export = next(
            path for path in simulator.export_paths(session) if path.endswith("exportToPst")
        )

    async def begin(self, proxy: ProxyProcess) -> str:
        """Start an export that VB365 keeps generating and return the path of its status monitor."""
        self.simulator.fault(path=self.export, method="POST", hold=True, count=1)
        response = await ask(
            proxy.url, "POST", self.export, self.fields | {"Prefer": "respond-async"}, b"{}"
        )
        assert response.status == 202, response
        await self.simulator.until(lambda: self.simulator.held == 1)
        return response["Location"].removeprefix(proxy.url)

    async def job(self, proxy: ProxyProcess) -> Any:
        """The job as the list shows it, which provides no credentials to it."""
        response = await ask(proxy.url, "GET", "/v8/_async/exports", self.fields)
        (job,) = response.json()["results"]
        return job

    async def finished(self, proxy: ProxyProcess, status: str) -> Message:
        etag = '""'
        while (response := await self.get(proxy, status, etag)).status in (202, 304):
            etag = response["ETag"]
        return response

    async def get(self, proxy: ProxyProcess, path: str, etag: str = '""') -> Message:
        return await ask(
            proxy.url, "GET", path, self.fields | {"Prefer": "wait=5", "If-None-Match": etag}
        )

    @property
    def posts(self) -> int:
        return sum(request.method == "POST" for request in self.simulator.requests)

    async def assert_whole(self, proxy: ProxyProcess, status: str) -> None:
        response = await self.finished(proxy, status)
        assert response.json()["status"] == "Success", response
        content = self.simulator.content(self.export)
        assert (await self.get(proxy, f"{status}/result")).body == bytes(
            content.read(0, content.size)
        )


@pytest.fixture
async def caller() -> AsyncIterator[Caller]:
    simulator = Simulator(SimulatorSettings(size=SIZE))
    await simulator.start()
    yield Caller(simulator)
    await simulator.stop()


def assert_nothing_readable(caller: Caller, data: Path) -> None:
    files = at_rest(data)
    assert any(name.startswith("jobs") and content for name, content in files.items())
    for name, content in files.items():
        for secret in caller.secrets:
            assert secret not in content, name
            assert secret.decode() not in name


@pytest.mark.parametrize("after", [OLD, f"{NEW},{OLD}"], ids=["the same key", "rotated"])
async def test_with_the_key_a_killed_job_resumes_unattended(
    caller: Caller, tmp_path: Path, after: str
) -> None:
    """§9: after kill -9 and a restart VB365 gets the request before any caller calls; no credential
    is readable at rest.
    """
    async with served(caller.simulator.url, tmp_path, SECRETS__KEY=OLD) as proxy:
        status = await caller.begin(proxy)
        await proxy.kill()
    assert_nothing_readable(caller, tmp_path)
    caller.simulator.release()
    async with served(caller.simulator.url, tmp_path, SECRETS__KEY=after) as proxy:
        await caller.simulator.until(lambda: caller.posts == 2)
        again = [request for request in caller.simulator.requests if request.method == "POST"][-1]
        assert [again.header(name) for name in caller.fields] == list(caller.fields.values())
        await caller.assert_whole(proxy, status)
        await proxy.stop()
    assert_nothing_readable(caller, tmp_path)
    jobs = await DiskJobs.open(tmp_path)
    assert [job.sealed for job in await jobs.list()] == [
        None
    ]  # a job that no longer needs VB365 needs no credentials
    await jobs.close()


async def test_a_start_that_fails_leaves_nothing_running(
    caller: Caller, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Also if it has resumed jobs by then: a job that runs on would keep the process alive, which
    does not listen, and which no service manager starts again.
    """
    async with served(caller.simulator.url, tmp_path, SECRETS__KEY=OLD) as proxy:
        status = await caller.begin(proxy)
        await proxy.kill()
    caller.simulator.release()
    start = Runner.start

    async def broken(runner: Runner) -> None:
        await start(runner)
        raise StoreUnavailable("away")

    with monkeypatch.context() as patched:
        patched.setattr(Runner, "start", broken)
        with pytest.raises(StartFailed, match="away"):
            await app.start(settings_of(caller.simulator.url, tmp_path, {"SECRETS__KEY": OLD}))
    assert [task for task in asyncio.all_tasks() if task.get_name().startswith("job ")] == []
    async with served(caller.simulator.url, tmp_path, SECRETS__KEY=OLD) as proxy:
        await caller.assert_whole(proxy, status)


@pytest.mark.parametrize("after", [{"SECRETS__KEY": NEW}, {}], ids=["another key", "no key"])
async def test_without_the_right_key_a_killed_job_waits_for_a_call(
    caller: Caller, tmp_path: Path, after: dict[str, str]
) -> None:
    """§9: Suspended; its owner's next call resumes it."""
    async with served(caller.simulator.url, tmp_path, SECRETS__KEY=OLD) as proxy:
        status = await caller.begin(proxy)
        await proxy.kill()
    caller.simulator.release()
    async with served(caller.simulator.url, tmp_path, **after) as proxy:
        assert (await caller.job(proxy))["phase"] == "Suspended"
        assert caller.posts == 1
        await caller.assert_whole(proxy, status)
        assert caller.posts == 2


async def test_without_a_key_no_credentials_are_stored(caller: Caller, tmp_path: Path) -> None:
    """§9: in memory only, not even encrypted."""
    async with served(caller.simulator.url, tmp_path) as proxy:
        status = await caller.begin(proxy)
        await proxy.kill()
    assert_nothing_readable(caller, tmp_path)
    assert not any(b"gAAAAA" in content for content in at_rest(tmp_path).values())
    caller.simulator.release()
    async with served(caller.simulator.url, tmp_path) as proxy:
        await caller.assert_whole(proxy, status)
        await proxy.stop()
    assert_nothing_readable(caller, tmp_path)


async def test_a_suspended_job_that_is_not_resumed_fails(caller: Caller, tmp_path: Path) -> None:
    """§9 `exports.suspend_ttl`: Interrupted, retryable, and VB365 got no second request."""
    async with served(caller.simulator.url, tmp_path) as proxy:
        status = await caller.begin(proxy)
        await proxy.kill()
    async with served(caller.simulator.url, tmp_path, EXPORTS__SUSPEND_TTL="1s") as proxy:
        while (await caller.job(proxy))["status"] == "Running":  # noqa: ASYNC110  # the event is in another process
            await asyncio.sleep(0.1)  # waiting for it with a request would resume the job
        response = (await caller.get(proxy, status)).json()
    assert (response["status"], response["error"]["code"], response["error"]["retryable"]) == (
        "Failed",
        "Interrupted",
        True,
    )
    assert caller.posts == 1


async def test_stored_files_are_accessible_to_their_user_only(
    caller: Caller, tmp_path: Path
) -> None:
    """§9: files 0600, directories 0700, with any umask."""
    data = tmp_path / "data"
    async with served(caller.simulator.url, data) as proxy:
        status = await caller.begin(proxy)
        caller.simulator.release()
        await caller.assert_whole(proxy, status)
        assert data.stat().st_mode & 0o077 == 0
        assert (data / "owner.key").stat().st_mode & 0o177 == 0
        inside = [file for file in data.rglob("*") if file.is_file() and file.parent == data]
        assert all(file.stat().st_mode & 0o077 == 0 for file in inside), inside
