"""Replicas act as one while processes, networks and stores fail (CONTRACT §18): every accepted job
ends, and every file is right.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import pytest
from cryptography.fernet import Fernet

from tests.cluster import chaos
from tests.cluster.chaos import ClusterChaos
from tests.cluster.forgetful import LOST, ForgetfulChaos
from tests.cluster.rescuing import RescueChaos

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
    kind: Callable[..., ClusterChaos] = ClusterChaos,
    **settings: str,
) -> None:
    report = await chaos.run(
        place,
        exports=exports,
        seconds=seconds,
        seed=seed,
        largest=largest,
        endpoint=endpoint,
        kind=kind,
        **settings,
    )
    with capsys.disabled():
        print(f"\n{report}")  # noqa: T201  # the report is what `make chaos` is for
    assert report.outcomes["Success"] > (exports - report.outcomes[LOST]) // 3
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


async def test_chaos_while_the_job_store_loses_its_data(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """A job is rebuilt from its file, or reported as gone; new exports work."""
    kind = partial(ForgetfulChaos, place=tmp_path)
    await _chaos(tmp_path, capsys, exports=30, seconds=15, seed=4, kind=kind)


@pytest.mark.parametrize("bucket", [False, True], ids=["directory", "bucket"])
async def test_14_chaos_with_clients_that_only_try_again(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], request: pytest.FixtureRequest, bucket: bool
) -> None:
    """§14: each response that looks whole is the whole file, from whichever replica."""
    endpoint = request.getfixturevalue("s3_endpoint") if bucket else None
    await _chaos(
        tmp_path,
        capsys,
        exports=40,
        seconds=25,
        seed=6,
        endpoint=endpoint,
        kind=RescueChaos,
        EXPORTS__RESCUE_SYNC="true",
    )


@pytest.mark.slow
@pytest.mark.timeout(900)
@pytest.mark.parametrize("bucket", [False, True], ids=["directory", "bucket"])
async def test_chaos_with_lost_data_at_length(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], s3_endpoint: str, *, bucket: bool
) -> None:
    """The same for minutes."""
    kind, where = partial(ForgetfulChaos, place=tmp_path), s3_endpoint if bucket else None
    await _chaos(tmp_path, capsys, exports=150, seconds=60, seed=5, endpoint=where, kind=kind)


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
    key = Fernet.generate_key().decode()
    settings: dict[str, Any] = {"SECRETS__KEY": key} if sealed else {}
    where = s3_endpoint if bucket else None
    await _chaos(
        tmp_path, capsys, exports=200, seconds=100, seed=3, largest=24, endpoint=where, **settings
    )
