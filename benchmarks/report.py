"""The table of results, with the target of each figure."""

from __future__ import annotations

import operator
from dataclasses import dataclass


@dataclass(frozen=True)
class Row:
    """A measured figure.

    `target` and `stretch` are the value to reach and a more ambitious one; `higher_is_better` says
    in which direction. `note` has other figures of the same benchmark.
    """

    work: str
    value: float
    unit: str
    note: str = ""
    target: float | None = None
    stretch: float | None = None
    higher_is_better: bool = True

    def verdict(self) -> str:
        """Return whether the target is met and by what margin; "" without a target."""
        if self.target is None:
            return ""
        reaches = operator.ge if self.higher_is_better else operator.le
        if self.stretch is not None and reaches(self.value, self.stretch):
            return "stretch target met"
        margin = 0.0
        if self.value:
            better, worse = (
                (self.value, self.target) if self.higher_is_better else (self.target, self.value)
            )
            margin = better / worse - 1
        return f"{'met' if reaches(self.value, self.target) else 'MISSED'} ({margin:+.0%})"

    def cells(self) -> tuple[str, ...]:
        """Return the cells of the row as text."""
        sign = "≥" if self.higher_is_better else "≤"
        limits = (self.target, self.stretch)
        targets = [f"{sign} {_figure(limit)}" for limit in limits if limit is not None]
        measured = f"{_figure(self.value)} {self.unit}".rstrip()
        return self.work, measured, " / ".join(targets), self.verdict(), self.note


def _figure(value: float) -> str:
    return f"{value:,.0f}" if abs(value) >= 100 else f"{value:.3g}"


def table(rows: list[Row]) -> str:
    """Return the rows as a Markdown table."""
    header = ("work", "measured", "target / stretch", "", "details")
    lines = [header, *(row.cells() for row in rows)]
    widths = [max(len(cell) for cell in column) for column in zip(*lines, strict=True)]
    texts = [
        "| "
        + " | ".join(cell.ljust(width) for cell, width in zip(line, widths, strict=True))
        + " |"
        for line in lines
    ]
    rule = "|" + "|".join("-" * (width + 2) for width in widths) + "|"
    return "\n".join([texts[0], rule, *texts[1:]])
