"""The threads of the stores."""

from __future__ import annotations

import os
import sys
from pathlib import Path

import pytest

from proxy.ports import StoreUnavailable
from proxy.stores.file_artifacts.store import FileArtifacts
from tests.support.threads import no_new_thread


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


async def test_a_store_for_which_the_system_starts_no_thread_does_not_open(tmp_path: Path) -> None:
    with no_new_thread(), pytest.raises(StoreUnavailable, match="starts no more threads"):
        await FileArtifacts.at(tmp_path)
