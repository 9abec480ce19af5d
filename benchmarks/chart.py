"""The chart of the results: an SVG with one bar per target."""

from __future__ import annotations

import math
from collections.abc import Sequence
from html import escape

from benchmarks.report import Row

_WIDTH, _LABELS, _LINE, _TOP = 900, 420, 22, 46
#: The ends of the logarithmic scale, as multiples of the target.
_LOW, _HIGH = 0.25, 4.0
_TITLE = "Each figure as a multiple of its target: a bar to the right of 1 meets it"
_STYLE = """
text { font: 13px system-ui, "DejaVu Sans", sans-serif; fill: #1f2933; }
.small { font-size: 12px; fill: #52606d; }
.met { fill: #2b6cb0; } .missed { fill: #c05621; }
line { stroke: #9aa5b1; } .target { stroke: #1f2933; stroke-width: 1.5; }
@media (prefers-color-scheme: dark) {
  text { fill: #e4e7eb; } .small { fill: #b0bac5; }
  .met { fill: #63b3ed; } .missed { fill: #f6ad55; }
  line { stroke: #616e7c; } .target { stroke: #e4e7eb; }
}
"""


def chart(rows: Sequence[Row]) -> str:
    """Return the SVG: how far each target is reached."""
    judged = [(row, row.ratio) for row in rows if row.ratio is not None]
    bottom = _TOP + _LINE * len(judged)
    parts = [
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {_WIDTH} {bottom + 12}">',
        "<title>How far each target is reached</title>",
        f"<style>{_STYLE}</style>",
        f'<text x="8" y="18">{_TITLE}</text>',
    ]
    for mark in (0.25, 0.5, 1, 2, 4):
        x, kind = _x(mark), ' class="target"' if mark == 1 else ""
        parts.append(f'<line x1="{x:.1f}" x2="{x:.1f}" y1="{_TOP - 4}" y2="{bottom}"{kind}/>')
        parts.append(
            f'<text class="small" x="{x:.1f}" y="{_TOP - 8}" text-anchor="middle">{mark:g}</text>'
        )
    for at, (row, ratio) in enumerate(judged):
        parts += _bar(row, ratio, _TOP + _LINE * at)
    return "\n".join([*parts, "</svg>", ""])


def _bar(row: Row, ratio: float, y: float) -> list[str]:
    start, end = sorted((_x(1), _x(ratio)))
    right = ratio >= 1
    x, anchor = (end + 4, "start") if right else (start - 4, "end")
    kind, width = "met" if right else "missed", max(end - start, 1)
    return [
        f'<text x="{_LABELS - 12}" y="{y + 15}" text-anchor="end">{escape(row.work)}</text>',
        f'<rect class="{kind}" x="{start:.1f}" y="{y + 4}" width="{width:.1f}" height="14"/>',
        f'<text class="small" x="{x:.1f}" y="{y + 15}" text-anchor="{anchor}">{ratio:.2f}</text>',
    ]


def _x(ratio: float) -> float:
    """The place of a multiple of the target on the scale; beyond its ends, the end."""
    share = math.log(min(max(ratio, _LOW), _HIGH) / _LOW) / math.log(_HIGH / _LOW)
    return _LABELS + 28 + share * (_WIDTH - _LABELS - 80)
