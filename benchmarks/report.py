"""The results: figures, their judgement, and the table that shows them."""

from __future__ import annotations

import operator
import statistics
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field


@dataclass(frozen=True)
class Row:
    """A measured figure.

    `span` is the range over the rounds, None if there was one only. `target` and `stretch` are the
    value to reach and a more ambitious one; `higher_is_better` says in which direction. `note` has
    other figures of the same benchmark.
    """

    work: str
    value: float
    unit: str
    note: str = ""
    target: float | None = None
    stretch: float | None = None
    higher_is_better: bool = True
    span: tuple[float, float] | None = None

    @property
    def ratio(self) -> float | None:
        """How far the target is reached: 1 is the target, more is better. None without one."""
        if self.target is None:
            return None
        better, worse = (
            (self.value, self.target) if self.higher_is_better else (self.target, self.value)
        )
        return better / worse if worse else float("inf")

    def verdict(self) -> str:
        """Return whether the target is met, and the value as a multiple of the target; "" without a
        target.
        """
        ratio = self.ratio
        if ratio is None:
            return ""
        reaches = operator.ge if self.higher_is_better else operator.le
        if self.stretch is not None and reaches(self.value, self.stretch):
            word = "stretch target met"
        else:
            word = "met" if ratio >= 1 else "**missed**"
        return f"{word} ({ratio:.2f})"

    def measured(self) -> str:
        """Return the value, its range and its unit as text."""
        value = _figure(self.value)
        if self.span is not None:
            value += f" ({' to '.join(map(_figure, self.span))})"
        return f"{value} {self.unit}".rstrip()

    def limits(self) -> str:
        """Return the target and the stretch target as text."""
        sign = "≥" if self.higher_is_better else "≤"
        limits = [limit for limit in (self.target, self.stretch) if limit is not None]
        return f"{sign} {' / '.join(map(_figure, limits))}" if limits else ""


@dataclass(frozen=True)
class Run:
    """The results of a benchmark: when and under which load they were measured.

    `date` is an ISO 8601 date, `load` the system's load of the last minute at the end, the
    benchmark's own included, `others` the CPU time of all other processes as a share of one core.
    `disturbed` says which of them took too much, "" if none.
    """

    date: str
    load: float
    others: float
    disturbed: str = ""
    rows: list[Row] = field(default_factory=list)

    def conditions(self) -> str:
        """Return the load as text."""
        return f"{self.load:.1f}, {self.others:.0%}"


def spread(values: Sequence[float]) -> tuple[float, float] | None:
    """Return the range of the values; None for fewer than two."""
    return (min(values), max(values)) if len(values) > 1 else None


def ratios(
    ours: Sequence[float], theirs: Sequence[float]
) -> tuple[float, tuple[float, float] | None]:
    """Return the median ratio of what the peer and the proxy needed in each round, and its
    range.
    """
    values = [peer / own for own, peer in zip(ours, theirs, strict=True)]
    return statistics.median(values), spread(values)


def _figure(value: float) -> str:
    return f"{value:,.0f}" if abs(value) >= 100 else f"{value:.3g}"


def table(runs: Iterable[Run], judged: bool = True) -> str:
    """Return the rows as a Markdown table."""
    header = ("benchmark", "target / stretch", "measured (range)", "result", "load", "details")
    lines = [header]
    for run in runs:
        for row in run.rows:
            verdict = row.verdict() if judged and not run.disturbed else "not judged"
            details = f"{row.note}; {run.date}" if row.note else run.date
            conditions = run.conditions()
            lines.append((row.work, row.limits(), row.measured(), verdict, conditions, details))
    widths = [max(len(cell) for cell in column) for column in zip(*lines, strict=True)]
    texts = [
        "| "
        + " | ".join(cell.ljust(width) for cell, width in zip(line, widths, strict=True))
        + " |"
        for line in lines
    ]
    rule = "|" + "|".join("-" * (width + 2) for width in widths) + "|"
    return "\n".join([texts[0], rule, *texts[1:]])
