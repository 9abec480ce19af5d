"""The threads of the stores."""

from __future__ import annotations

import os
import sys
from pathlib import Path

import pytest

from proxy.stores.file_artifacts.store import FileArtifacts


@pytest.mark.skipif(sys.platform != "linux", reason="only Linux has a priority for each thread")
async def test_a_thread_that_receives_an_export_yields_to_the_event_loop(tmp_path: Path) -> None:
    def priority() -> int:
        return os.getpriority(os.PRIO_PROCESS, 0)

    artifacts = await FileArtifacts.at(tmp_path)
    try:
        own = priority()
        assert await artifacts.begin(priority) == own
        assert await artifacts.receive(priority) == min(19, own + 10)
    finally:
        await artifacts.close()
