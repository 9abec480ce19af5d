"""The event loop of the commands that serve."""

from __future__ import annotations

import asyncio
import errno
import inspect
import subprocess
import sys
import threading
from typing import Any

import pytest

from proxy.cli.loop import run_loop
from proxy.ports import StoreUnavailable
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


def test_a_loop_that_cannot_be_made_says_why(monkeypatch: pytest.MonkeyPatch) -> None:
    """As without descriptors: the work has not begun, and can be closed."""

    def none_left() -> asyncio.AbstractEventLoop:
        raise OSError(errno.EMFILE, "Too many open files")

    monkeypatch.setattr("proxy.cli.loop._factory", lambda: none_left)
    work = _is_uvloop()
    with pytest.raises(StoreUnavailable, match="no event loop can be made: Too many open files"):
        run_loop(work)
    assert inspect.getcoroutinestate(work) == inspect.CORO_CREATED
    work.close()


def test_a_loop_whose_first_step_fails_says_why(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """uvloop cannot be closed then, which is no news."""

    class Failing(asyncio.SelectorEventLoop):
        fails = True

        def run_until_complete(self, future: Any) -> Any:
            if self.fails:
                self.fails = False
                raise OSError(errno.EMFILE, "Too many open files")
            return super().run_until_complete(future)

        def close(self) -> None:
            super().close()
            raise RuntimeError("Cannot close a running event loop")

    monkeypatch.setattr("proxy.cli.loop._factory", lambda: Failing)
    work = _is_uvloop()
    with pytest.raises(StoreUnavailable, match="no event loop can be made: Too many open files"):
        run_loop(work)
    work.close()
    assert not caplog.records


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
