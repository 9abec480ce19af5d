"""The memory limit of request fields (CONTRACT §3.5)."""

from __future__ import annotations

import threading

import pytest

from proxy.core.errors import Problem
from proxy.jobs.held_fields import HeldFields
from proxy.jobs.run import Run

FIELDS = [(b"a", b"b" * 799)]  # 1,000 bytes


async def test_a_run_counts_until_it_leaves_the_memory() -> None:
    """In whichever thread."""
    held = HeldFields(2_000)
    runs = [Run("x", FIELDS), Run("y", FIELDS)]
    for run in runs:
        held.take(run)
    del run
    with pytest.raises(Problem):
        held.take(Run("z", FIELDS))
    thread = threading.Thread(target=runs.clear)
    thread.start()
    thread.join()
    again = [Run("x", FIELDS), Run("y", FIELDS)]
    for each in again:
        held.take(each)
    with pytest.raises(Problem):
        held.take(Run("z", FIELDS))
