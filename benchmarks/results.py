"""The results that are kept: results.json, from which docs/performance.md is written."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any

from benchmarks.chart import chart
from benchmarks.report import Row, Run, table

ROOT = Path(__file__).parents[1]
RESULTS = ROOT / "benchmarks" / "results.json"
PAGE = ROOT / "docs" / "performance.md"
CHART = ROOT / "docs" / "images" / "performance.svg"
_BEGIN, _END = "<!-- results, written by make bench -->", "<!-- end of the results -->"


def load(file: Path = RESULTS) -> dict[str, Run]:
    """Return the kept results by the name of the benchmark."""
    if not file.exists():
        return {}
    kept = json.loads(file.read_text(encoding="utf-8"))
    return {
        name: Run(**{**run, "rows": [_row(row) for row in run["rows"]]})
        for name, run in kept.items()
    }


def _row(values: dict[str, Any]) -> Row:
    span = values.pop("span")
    return Row(**values, span=None if span is None else (span[0], span[1]))


def save(runs: Mapping[str, Run], file: Path = RESULTS) -> None:
    """Write the results."""
    content = {name: asdict(run) for name, run in runs.items()}
    file.write_text(json.dumps(content, indent=1, ensure_ascii=False) + "\n", encoding="utf-8")


def merged(kept: Mapping[str, Run], new: Mapping[str, Run], order: Iterable[str]) -> dict[str, Run]:
    """Return the kept results with the new ones in their place, in this order.

    A benchmark that another process disturbed keeps its old results. One that no longer exists has
    none.
    """
    judged = {name: run for name, run in new.items() if not run.disturbed}
    known = {**kept, **judged}
    return {name: known[name] for name in order if name in known}


def with_table(page: str, text: str) -> str:
    """Return the page with this text between its marks. Raises ValueError if it has none."""
    before, begin, rest = page.partition(_BEGIN)
    _, end, after = rest.partition(_END)
    if not end:
        raise ValueError(f"the page has no {_BEGIN} … {_END}")
    return f"{before}{begin}\n\n{text}\n\n{end}{after}"


def publish(runs: Mapping[str, Run], page: Path = PAGE, picture: Path = CHART) -> None:
    """Write the table of the page, and the chart."""
    content = with_table(page.read_text(encoding="utf-8"), table(runs.values()))
    page.write_text(content, encoding="utf-8")
    rows = [row for run in runs.values() for row in run.rows]
    picture.write_text(chart(rows), encoding="utf-8")
