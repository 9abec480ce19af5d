"""The memory limit of request fields (CONTRACT §3.5)."""

from __future__ import annotations

import threading

import pytest

from proxy.core.errors import Problem
from proxy.jobs.admission import UnacceptedCallers
from proxy.jobs.held_fields import HeldFields
from proxy.jobs.run import Run

FIELDS = [(b"a", b"b" * 799)]  # 1,000 bytes


async def test_a_run_counts_until_it_leaves_the_memory() -> None:
    """In whichever thread."""
    held = HeldFields(2_000)
    runs = [Run("x", FIELDS), Run("y", FIELDS)]
    for run in runs:
        held.take(run, None, accepted=True)
    del run
    with pytest.raises(Problem):
        held.take(Run("z", FIELDS), None, accepted=True)
    thread = threading.Thread(target=runs.clear)
    thread.start()
    thread.join()
    again = [Run("x", FIELDS), Run("y", FIELDS)]
    for each in again:
        held.take(each, None, accepted=True)
    with pytest.raises(Problem):
        held.take(Run("z", FIELDS), None, accepted=True)


async def test_callers_that_vb365_never_accepted_get_a_quarter() -> None:
    """Their runs leave the rest to others, and make room for each other when they end."""
    held = HeldFields(8_000)
    runs = [Run("x", FIELDS), Run("y", FIELDS)]
    for run in runs:
        held.take(run, None, accepted=False)
    del run
    with pytest.raises(UnacceptedCallers):
        held.take(Run("z", FIELDS), None, accepted=False)
    others = [Run("x", FIELDS) for _ in range(6)]
    for each in others:
        held.take(each, None, accepted=True)
    with pytest.raises(Problem, match="unfinished exports"):
        held.take(Run("z", FIELDS), None, accepted=True)
    runs.clear()
    held.take(Run("z", FIELDS), None, accepted=False)


async def test_sealed_fields_count_as_well() -> None:
    """The record of a running job has them."""
    held = HeldFields(2_000)
    with pytest.raises(Problem):
        held.take(Run("x", FIELDS), "s" * 1_001, accepted=True)
    run = Run("x", FIELDS)
    held.take(run, "s" * 1_000, accepted=True)
    with pytest.raises(Problem):
        held.take(Run("y", []), "s", accepted=True)
    del run
    held.take(Run("x", FIELDS), "s" * 1_000, accepted=True)
