"""The benchmarks run; what they find is no test's business."""

from __future__ import annotations

import os
import sys
import xml.etree.ElementTree as ET
from dataclasses import replace
from pathlib import Path
from subprocess import CompletedProcess

import pytest

from tests.support.commands import PYTHON, finished

if sys.platform != "linux":
    pytest.skip(
        "benchmarks read Linux's clocks and pin programs to cores: they are not tested here",
        allow_module_level=True,
    )

from benchmarks import results
from benchmarks.chart import chart
from benchmarks.others import Moment, Process, disturbing, parse, taken
from benchmarks.report import Row, Run, ratios, table

NAMES = ["small", "through", "artifact", "spool", "latency", "rescue", "jobs", "startup"]
NAMES += ["memory", "webhooks", "workers", "redis", "replicas", "bucket", "connections", "records"]
FAST = Row("fast work", 1.5, "times", "peer 3 µs", 0.9, 1.2, span=(1.4, 1.6))
SLOW = Row("slow work", 30, "ms", "", 20, 10, higher_is_better=False)
BARE = Row("bare work", 7, "µs")
RUN = Run("2026-01-02", 1.25, 0.03, "", [FAST, SLOW, BARE])


def benchmarks(*arguments: str) -> CompletedProcess[str]:
    return finished(*arguments, program=(*PYTHON, "-m", "benchmarks"), timeout=250)


@pytest.mark.timeout(300)  # each starts several servers, on a machine that may be busy
@pytest.mark.parametrize("name", NAMES)
def test_each_benchmark_runs_and_prints_its_rows(name: str) -> None:
    """PERFORMANCE: every aim has a benchmark that measures it."""
    kept = results.RESULTS.read_bytes() if results.RESULTS.exists() else None
    ran = benchmarks("--tiny", "--only", name)
    if "NOT run" in ran.stdout:
        pytest.skip(ran.stdout.strip().strip("*").strip())
    assert ran.returncode == 0, ran.stdout + ran.stderr
    assert "≥" in ran.stdout or "≤" in ran.stdout
    assert kept == (results.RESULTS.read_bytes() if results.RESULTS.exists() else None)


def test_an_unknown_name_is_reported_with_the_known_ones() -> None:
    ran = benchmarks("--only", "fastest")
    assert ran.returncode == 2
    assert f"unknown benchmark: fastest (known: {', '.join(NAMES)})" in ran.stderr


@pytest.mark.parametrize(
    ("value", "higher_is_better", "verdict"),
    [
        (2.0, True, "stretch target met (2.00)"),
        (1.0, True, "met (1.00)"),
        (0.99, True, "**missed** (0.99)"),
        (0.4, False, "stretch target met (2.50)"),
        (1.0, False, "met (1.00)"),
        (2.0, False, "**missed** (0.50)"),
        (0.0, False, "stretch target met (inf)"),
    ],
)
def test_a_figure_is_judged_by_its_targets(
    value: float, higher_is_better: bool, verdict: str
) -> None:
    stretch = 1.5 if higher_is_better else 0.5
    row = Row("work", value, "", "", 1.0, stretch, higher_is_better)
    assert row.verdict() == verdict


def test_a_figure_without_a_target_is_not_judged() -> None:
    assert (BARE.ratio, BARE.verdict(), BARE.limits()) == (None, "", "")


def test_a_ratio_has_the_range_of_its_rounds() -> None:
    assert ratios([2, 4, 1], [2, 2, 2]) == (1.0, (0.5, 2.0))
    assert ratios([4], [2]) == (0.5, None)


def test_a_row_of_the_table_has_target_range_result_load_and_date() -> None:
    lines = table([RUN]).splitlines()
    cells = [cell.strip() for cell in lines[2].strip("|").split("|")]
    assert cells == [
        "fast work",
        "≥ 0.9 / 1.2",
        "1.5 (1.4 to 1.6) times",
        "stretch target met (1.67)",
        "1.2, 3%",
        "peer 3 µs; 2026-01-02",
    ]
    assert "**missed** (0.67)" in lines[3]
    assert len(lines) == 5


def test_nothing_is_judged_beside_a_loud_process() -> None:
    text = table([replace(RUN, disturbed="pytest (7) takes 45% of a core")])
    assert text.count("not judged") == 3
    assert "met" not in text
    assert "missed" not in text


def test_results_survive_being_kept(tmp_path: Path) -> None:
    file = tmp_path / "results.json"
    assert results.load(file) == {}
    results.save({"one": RUN}, file)
    assert results.load(file) == {"one": RUN}


def test_a_partial_run_updates_only_its_rows() -> None:
    old, new = {"one": RUN, "two": RUN, "gone": RUN}, replace(RUN, date="2026-02-03")
    kept = results.merged(old, {"two": new, "three": new}, ["three", "two", "one"])
    assert kept == {"three": new, "two": new, "one": RUN}
    assert list(kept) == ["three", "two", "one"]


def test_a_disturbed_benchmark_keeps_its_old_results() -> None:
    disturbed = replace(RUN, disturbed="cc1 (9) takes 90% of a core")
    assert results.merged({"one": RUN}, {"one": disturbed, "two": disturbed}, ["one", "two"]) == {
        "one": RUN
    }


def test_the_results_are_published_into_the_page(tmp_path: Path) -> None:
    page, picture = tmp_path / "page.md", tmp_path / "chart.svg"
    page.write_text(results.PAGE.read_text(encoding="utf-8"), encoding="utf-8")
    for _ in range(2):  # what is there is replaced
        results.publish({"one": RUN}, page, picture)
        text = page.read_text(encoding="utf-8")
        assert text.count("| fast work ") == 1
        assert text.count("| benchmark ") == 1
    assert text.startswith("# Performance\n")
    assert "\n## Tuning\n" in text
    assert "fast work" in picture.read_text(encoding="utf-8")
    with pytest.raises(ValueError, match="results"):
        results.with_table("no marks", "text")


def test_the_page_shows_what_is_kept() -> None:
    """`make bench` writes the table and the chart from results.json: nobody edits them."""
    runs = results.load()
    page = results.PAGE.read_text(encoding="utf-8")
    assert results.with_table(page, table(runs.values())) == page
    rows = [row for run in runs.values() for row in run.rows]
    assert results.CHART.read_text(encoding="utf-8") == chart(rows)
    assert runs.keys() <= set(NAMES)


def test_the_chart_has_a_bar_per_target_and_both_colour_schemes() -> None:
    text = chart([replace(FAST, work="a < b & c"), SLOW, BARE])
    picture = ET.fromstring(text)
    space = {"svg": picture.tag.partition("}")[0].strip("{")}
    bars = picture.findall("svg:rect", space)
    assert [bar.get("class") for bar in bars] == ["met", "missed"]
    assert "a < b & c" in "".join(picture.itertext())
    assert "bare work" not in text
    assert "prefers-color-scheme: dark" in text
    width = float(picture.attrib["viewBox"].split()[2])
    for bar in bars:
        assert float(bar.attrib["x"]) + float(bar.attrib["width"]) <= width


STAT = "7 (a (b) c) S 3 7 7 0 -1 {flags} 0 0 0 0 150 50 200 100 20 0 1 0 5 0 0"


def test_a_process_is_parsed_and_threads_of_the_kernel_are_left_out() -> None:
    tick = os.sysconf("SC_CLK_TCK")
    expected = Process("a (b) c", 3, 200 / tick, 300 / tick)
    assert parse(STAT.format(flags=4194560)) == expected
    assert parse(STAT.format(flags=0x00200040)) is None


def test_other_processes_count_and_the_benchmark_does_not() -> None:
    """The time of a process that has ended is in its parent's, or its first ancestor's that is
    left: only what it took meanwhile counts.
    """
    before = Moment(
        10.0,
        {
            1: Process("init", 0, 5.0, 5.0),
            20: Process("shell", 1, 1.0, 0.0),
            21: Process("make", 20, 2.0, 3.0),
            22: Process("cc1", 21, 4.0, 0.0),
            50: Process("bench", 1, 0.0, 0.0),
        },
    )
    after = Moment(
        20.0,
        {
            1: Process("init", 0, 5.0, 5.0),
            20: Process("shell", 1, 1.0, 2.0 + 3.0 + 4.0 + 6.0),
            30: Process("new", 1, 0.5, 0.0),
            50: Process("bench", 1, 9.0, 0.0),
            51: Process("proxy", 50, 9.0, 0.0),
        },
    )
    shares = taken(before, after, 50)
    assert shares == {"init (1)": 0.0, "shell (20)": 0.6, "new (30)": 0.05}
    assert disturbing(shares) == "shell (20) takes 60% of a core"
    assert disturbing({"a (1)": 0.1, "b (2)": 0.0}) == ""


def test_this_process_is_among_those_of_the_machine() -> None:
    """/proc is read, and what this process takes is not another's."""
    moment = Moment.now()
    assert moment.processes[os.getpid()].parent == os.getppid()
    later = replace(Moment.now(), at=moment.at + 1)
    assert not any(f"({os.getpid()})" in name for name in taken(moment, later, os.getpid()))
