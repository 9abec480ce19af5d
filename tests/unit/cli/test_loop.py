"""The event loop of the commands that serve."""

from __future__ import annotations

import asyncio
import subprocess
import sys
import threading

import pytest

from proxy.cli.loop import run_loop
from tests.support.threads import no_new_thread


async def _is_uvloop() -> int:
    """Whether the loop is uvloop's."""
    return int(type(asyncio.get_running_loop()).__module__.startswith("uvloop"))


def test_it_is_uvloop_where_it_is_installed(monkeypatch: pytest.MonkeyPatch) -> None:
    """On Windows it is not."""
    monkeypatch.delenv("VB365_LOOP", raising=False)
    assert run_loop(_is_uvloop()) == 1
    monkeypatch.setitem(sys.modules, "uvloop", None)
    assert run_loop(_is_uvloop()) == 0


def test_asyncio_can_be_selected(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("VB365_LOOP", "asyncio")
    assert run_loop(_is_uvloop()) == 0


@pytest.mark.parametrize("loop", ["asyncio", "uvloop"])
def test_blocking_work_is_done_while_the_system_starts_no_thread(
    monkeypatch: pytest.MonkeyPatch, loop: str
) -> None:
    monkeypatch.setenv("VB365_LOOP", loop)

    async def work() -> int:
        with no_new_thread():
            works = (asyncio.to_thread(threading.get_ident) for _ in range(3))
            return len(set(await asyncio.gather(*works)))

    assert run_loop(work()) == 1


@pytest.mark.skipif(
    sys.platform != "linux",
    reason="the limit is Linux's: names without threads are not tested elsewhere",
)
@pytest.mark.parametrize("loop", ["asyncio", "uvloop"])
def test_a_name_is_looked_up_while_the_system_starts_no_thread(
    monkeypatch: pytest.MonkeyPatch, loop: str
) -> None:
    """libuv aborts the process if it gets no threads for its first name."""
    monkeypatch.setenv("VB365_LOOP", loop)
    command = [sys.executable, "-m", "tests.unit.cli.unthreaded"]
    ended = subprocess.run(command, capture_output=True, check=False)
    assert ended.returncode == 0, ended.stderr.decode()
