"""The proxy as a program that stops itself, as SIGSTOP does, at one step of an export.

The environment variable TESTS_STOP_AT names the step: `before NAME` or `after NAME`. The steps are
calls of the stores, which are replaced here, in the process of the test alone.
"""

from __future__ import annotations

import asyncio
import functools
import os
import signal
import threading
from collections.abc import Callable
from typing import Any

from proxy.cli import main as command
from proxy.core.job import Job
from proxy.jobs.run import Run
from proxy.jobs.runner import Runner
from proxy.stores.file_artifacts import files, spool
from proxy.stores.file_artifacts.spool import Spool
from proxy.stores.object_artifacts import partial
from proxy.stores.object_artifacts.bucket import Bucket
from proxy.stores.redis_jobs.store import RedisJobs

#: What the process writes to stderr: before it stops, and when a run has ended.
STOPPED, ENDED = "tests: stopped\n", "tests: run ended\n"

#: The name of a call from its arguments, None if it is no step.
Name = Callable[..., str | None]


def main() -> None:
    """Run the command of the proxy."""
    _replace(RedisJobs, "add_within", lambda *_: "accepting")
    _replace(RedisJobs, "replace", _change)
    _replace(Spool, "append", lambda *_: "writing")
    _replace(Spool, "_check", lambda *_: "checking the file")
    _replace(spool, "write_sidecar", lambda *_, **__: "writing the sidecar")
    _replace(files, "write_file", lambda *_, **__: "writing its draft")
    _replace(Spool, "_publish", lambda *_: "renaming the file")
    _replace(spool, "sync_directory", lambda *_: "syncing the directory")
    _replace(Bucket, "store", _stored)
    _replace(Bucket, "remove", _removed)
    _replace(Spool, "create", lambda *_, **__: "creating the file")
    partial.SEGMENT = 512 << 10
    drive = Runner._drive

    async def driven(self: Runner, run: Run) -> None:
        try:
            await drive(self, run)
        finally:
            _say(ENDED)

    Runner._drive = driven  # type: ignore[method-assign]
    command.main()


def _replace(owner: Any, attribute: str, name: Name) -> None:
    setattr(owner, attribute, _stepped(getattr(owner, attribute), name))


def _stepped(call: Any, name: Name) -> Any:
    if asyncio.iscoroutinefunction(call):

        @functools.wraps(call)
        async def asynchronous(*args: Any, **kwargs: Any) -> Any:
            step = name(*args, **kwargs)
            _reach("before", step)
            result = await call(*args, **kwargs)
            _reach("after", step)
            return result

        return asynchronous

    @functools.wraps(call)
    def synchronous(*args: Any, **kwargs: Any) -> Any:
        step = name(*args, **kwargs)
        _reach("before", step)
        result = call(*args, **kwargs)
        _reach("after", step)
        return result

    return synchronous


def _change(jobs: RedisJobs, old: Job, new: Job) -> str | None:
    if jobs.replica not in {old.holder, new.holder}:
        return None  # of a job that this replica does not run
    return "recording progress" if old.phase is new.phase else f"recording {new.phase}"


def _stored(_: Bucket, key: str, content: bytes) -> str | None:
    name = key.rpartition("/")[2]
    if name.endswith(".partial"):
        return "creating the file"
    if name.endswith(".json"):
        return "committing the file"
    return "writing" if "artifacts/" in key else None


def _removed(_: Bucket, keys: Any) -> str | None:
    return "tidying" if any(key.endswith(".partial") for key in keys) else None


def _reach(when: str, name: str | None) -> None:
    if name is None or os.environ.get("TESTS_STOP_AT") != f"{when} {name}":
        return
    del os.environ["TESTS_STOP_AT"]
    _say(STOPPED)
    # for this thread: it does not return before the process has stopped and continues
    signal.pthread_kill(threading.get_ident(), signal.SIGSTOP)


def _say(line: str) -> None:
    os.write(2, line.encode())
