"""Replicas act as one while processes, networks and stores fail (CONTRACT §18): every accepted job
ends, and every file is right.
"""

from __future__ import annotations

from pathlib import Path

import pytest
from cryptography.fernet import Fernet

from tests.cluster import chaos

pytestmark = pytest.mark.timeout(400)
removed_at_once = pytest.fixture(autouse=True)(chaos.without_grace)


async def _chaos(
    place: Path,
    capsys: pytest.CaptureFixture[str],
    *,
    exports: int,
    seconds: float,
    seed: int,
    largest: float = 22,
    endpoint: str | None = None,
    **settings: str,
) -> None:
    report = await chaos.run(
        place,
        exports=exports,
        seconds=seconds,
        seed=seed,
        largest=largest,
        endpoint=endpoint,
        **settings,
    )
    with capsys.disabled():
        print(f"\n{report}")  # noqa: T201  # the report is what `make chaos` is for
    assert report.outcomes["Success"] > exports // 3
    assert report.faults["replica killed (SIGKILL)"] > 0


async def test_chaos_on_a_shared_directory(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """With `secrets.key`: jobs go on by themselves."""
    key = Fernet.generate_key().decode()
    await _chaos(tmp_path, capsys, exports=40, seconds=20, seed=1, SECRETS__KEY=key)


async def test_chaos_on_a_bucket(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], s3_endpoint: str
) -> None:
    """Without `secrets.key`: the owner's next call resumes a job."""
    await _chaos(tmp_path, capsys, exports=40, seconds=20, seed=2, endpoint=s3_endpoint)


@pytest.mark.slow
@pytest.mark.timeout(900)
@pytest.mark.parametrize("sealed", [True, False], ids=["sealed", "in memory"])
@pytest.mark.parametrize("bucket", [False, True], ids=["directory", "bucket"])
async def test_chaos_at_length(
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    s3_endpoint: str,
    *,
    bucket: bool,
    sealed: bool,
) -> None:
    """The same for minutes."""
    settings = {"SECRETS__KEY": Fernet.generate_key().decode()} if sealed else {}
    where = s3_endpoint if bucket else None
    await _chaos(
        tmp_path, capsys, exports=200, seconds=100, seed=3, largest=24, endpoint=where, **settings
    )
