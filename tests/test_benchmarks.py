"""The benchmarks run; what they find is no test's business."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
NAMES = ["small", "through", "artifact", "spool", "latency", "memory", "jobs"]
NAMES += ["workers", "redis", "bucket"]


def benchmarks(*arguments: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "benchmarks", *arguments]
    return subprocess.run(
        command, cwd=ROOT, capture_output=True, text=True, timeout=100, check=False
    )


@pytest.mark.skipif(
    sys.platform != "linux", reason="benchmarks read Linux's clocks and pin programs to cores"
)
@pytest.mark.parametrize("name", NAMES)
def test_each_benchmark_runs_and_prints_its_rows(name: str) -> None:
    """PERFORMANCE: every aim has a benchmark that measures it."""
    ran = benchmarks("--tiny", name)
    if "NOT run" in ran.stdout:
        pytest.skip(ran.stdout.strip().strip("*").strip())
    assert ran.returncode == 0, ran.stdout + ran.stderr
    assert "≥" in ran.stdout or "≤" in ran.stdout


def test_an_unknown_name_is_told_with_those_there_are() -> None:
    ran = benchmarks("fastest")
    assert ran.returncode == 2
    assert "fastest" in ran.stderr
    names = benchmarks("--help").stdout.partition("name  ")[2].partition("\n\n")[0]
    assert "".join(names.split()).split(",") == NAMES
