"""The benchmarks run; what they find is no test's business."""

from __future__ import annotations

import sys
from subprocess import CompletedProcess

import pytest

from tests.support.commands import PYTHON, finished

NAMES = ["small", "through", "artifact", "spool", "latency", "rescue", "memory", "jobs"]
NAMES += ["workers", "redis", "replicas", "bucket"]


def benchmarks(*arguments: str) -> CompletedProcess[str]:
    return finished(*arguments, program=(*PYTHON, "-m", "benchmarks"), timeout=100)


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


def test_an_unknown_name_is_reported_with_the_known_ones() -> None:
    ran = benchmarks("fastest")
    assert ran.returncode == 2
    assert "fastest" in ran.stderr
    names = benchmarks("--help").stdout.partition("name  ")[2].partition("\n\n")[0]
    assert "".join(names.split()).split(",") == NAMES
