"""The chaos test in its short and its long form: every accepted job ends, and every file is
correct.
"""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.faults import chaos


async def _chaos(
    place: Path, capsys: pytest.CaptureFixture[str], *, exports: int, seconds: float, seed: int
) -> None:
    report = await chaos.run(place, exports=exports, seconds=seconds, seed=seed)
    with capsys.disabled():
        print(f"\n{report}")  # noqa: T201  # the report is what `make chaos` is for
    jobs = report.outcomes.total()
    assert jobs == exports
    assert report.outcomes["Success"] > exports // 3
    assert report.faults["proxy killed (SIGKILL)"] > 0


async def test_chaos_in_short(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """§10: cuts, stalls, resets, wrong lengths, restarts, kills and a full disk at the same time,
    for some seconds.
    """
    await _chaos(tmp_path, capsys, exports=50, seconds=8, seed=1)


@pytest.mark.slow
@pytest.mark.timeout(900)
@pytest.mark.parametrize("seed", [2, 3])
async def test_chaos_at_length(
    seed: int, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """The same for minutes."""
    await _chaos(tmp_path, capsys, exports=500, seconds=150, seed=seed)
