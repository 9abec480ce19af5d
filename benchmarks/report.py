"""Rows of the table, and the aims they are held against."""

from __future__ import annotations

import operator
from dataclasses import dataclass


@dataclass(frozen=True)
class Row:
    """One measured figure. With an aim it is met or missed; `more` says whether more is better."""

    work: str
    value: float
    unit: str
    note: str = ""
    target: float | None = None
    moonshot: float | None = None
    more: bool = True

    def verdict(self) -> str:
        """Met or missed, and by how much."""
        if self.target is None:
            return ""
        reached = operator.ge if self.more else operator.le
        if self.moonshot is not None and reached(self.value, self.moonshot):
            return "moonshot"
        share = (self.value / self.target if self.more else self.target / self.value) - 1 if self.value else 0.0
        return f"{'met' if reached(self.value, self.target) else 'MISSED'} ({share:+.0%})"

    def cells(self) -> tuple[str, ...]:
        """As text."""
        sign = "≥" if self.more else "≤"
        aims = [f"{sign} {_figure(aim)}" for aim in (self.target, self.moonshot) if aim is not None]
        return self.work, f"{_figure(self.value)} {self.unit}".rstrip(), " / ".join(aims), self.verdict(), self.note


def _figure(value: float) -> str:
    return f"{value:,.0f}" if abs(value) >= 100 else f"{value:.3g}"


def table(rows: list[Row]) -> str:
    """The rows as a Markdown table."""
    lines = [("work", "measured", "target / moonshot", "", "beside it"), *(row.cells() for row in rows)]
    widths = [max(len(line[at]) for line in lines) for at in range(5)]
    shown = [
        "| " + " | ".join(cell.ljust(width) for cell, width in zip(line, widths, strict=True)) + " |" for line in lines
    ]
    rule = "|" + "|".join("-" * (width + 2) for width in widths) + "|"
    return "\n".join([shown[0], rule, *shown[1:]])
