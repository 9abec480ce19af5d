"""The proxy as a process of its own, so that its memory can be measured."""

from __future__ import annotations

import contextlib
import os
import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest


class Proxy:
    """A running proxy: where it listens, and how much memory it holds."""

    def __init__(self, process: subprocess.Popen[str], port: int) -> None:
        self._process = process
        self.port = port

    def memory(self) -> int:
        """Resident bytes."""
        if not sys.platform.startswith("linux"):
            pytest.skip("resident memory is read from /proc")
        status = Path(f"/proc/{self._process.pid}/status").read_text(encoding="ascii")
        found = re.search(r"VmRSS:\s+(\d+) kB", status)
        assert found
        return int(found[1]) << 10


@contextlib.contextmanager
def proxy(upstream: int, place: Path, **settings: str) -> Iterator[Proxy]:
    """A proxy in front of that port of this machine; `settings` are environment variables without
    their prefix.
    """
    command = [sys.executable, "-m", "proxy", "serve", "--upstream", f"http://127.0.0.1:{upstream}"]
    command += ["--listen", "127.0.0.1:0", "--admin", "127.0.0.1:0", "--data-dir", str(place)]
    environment = {
        **os.environ,
        **{f"VB365_PROXY_{name}": value for name, value in settings.items()},
    }
    log = (place / "log").open("w+", encoding="utf-8")
    process = subprocess.Popen(
        command, stderr=subprocess.PIPE, stdout=log, text=True, env=environment
    )
    try:
        assert process.stderr is not None
        for line in process.stderr:
            ready = re.search(r"listening on https?://127\.0\.0\.1:(\d+)", line)
            if ready:
                yield Proxy(process, int(ready[1]))
                return
        pytest.fail("the proxy did not start")
    finally:
        process.terminate()
        with contextlib.suppress(subprocess.TimeoutExpired):
            process.communicate(timeout=10)
        process.kill()
        process.wait()
        assert process.stderr is not None
        process.stderr.close()
        log.close()
