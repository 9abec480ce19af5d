"""Durations, sizes, numbers, booleans and choices (CONTRACT §15)."""

from __future__ import annotations

import re
from functools import partial
from typing import Annotated, Any

from proxy.config.syntax import Syntax, invalid, text

_SECONDS = {"d": 86400.0, "h": 3600.0, "m": 60.0, "s": 1.0, "ms": 0.001}
_BYTES = {"TiB": 1 << 40, "GiB": 1 << 30, "MiB": 1 << 20, "KiB": 1 << 10, "B": 1}
#: More than ten years is a typing error, and thousands of years are outside the range of dates.
_MAX_SECONDS = 3650 * 86400.0
_MAX_COUNT = 10**9
_BOOLEANS = dict.fromkeys(("true", "yes", "on", "1"), True)
_BOOLEANS |= dict.fromkeys(("false", "no", "off", "0"), False)


def _quantity(value: Any, units: dict[str, Any]) -> float | None:
    if not isinstance(value, str):
        return None
    match = re.fullmatch(r"(\d{1,18}(?:\.\d{1,9})?)\s*([A-Za-z]+)", value.strip())
    return float(match[1]) * units[match[2]] if match and match[2] in units else None


def parse_duration(value: Any, *, positive: bool = False) -> float:
    """Return the seconds of a duration such as 250ms or 24h. Raises ValueError."""
    seconds = _quantity(value, _SECONDS)
    if seconds is None:
        hint = "write a number and a unit, for example 250ms, 2s, 10m, 24h or 7d"
        raise invalid("is not a duration", hint)
    if seconds > _MAX_SECONDS:
        raise invalid("is too long", "write at most 3650d")
    if positive and not seconds:
        raise invalid("must be more than zero", "write for example 10s")
    return seconds


def parse_size(value: Any) -> int:
    """Return the bytes of a size such as 16MiB. Raises ValueError."""
    size = _quantity(value, _BYTES)
    if size is None:
        hint = "write a number and a unit, for example 512KiB, 16MiB or 5GiB"
        raise invalid("is not a size", hint)
    return int(size)


def _show_quantity(value: int, units: dict[str, int], *, unless_one: str = "") -> str:
    """Return the value in the largest unit that makes it a whole number, else in the smallest."""
    for unit, factor in units.items():
        count, rest = divmod(value, factor)
        if count and not rest and not (count == 1 and unit in unless_one):
            return f"{count}{unit}"
    return f"{value / factor:.3f}".rstrip("0").rstrip(".") + unit


def show_duration(seconds: float) -> str:
    """Return seconds in the syntax of the configuration: 24h and 60s instead of 1d and 1m."""
    microseconds = {unit: round(factor * 1e6) for unit, factor in _SECONDS.items()}
    return _show_quantity(round(seconds * 1e6), microseconds, unless_one="dm")


def show_size(size: int) -> str:
    """Return bytes in the syntax of the configuration: 16777216 is 16MiB."""
    return _show_quantity(size, _BYTES)


def _count(value: Any, *, minimum: int) -> int:
    digits = isinstance(value, str) and re.fullmatch(r"\d{1,9}", value.strip())
    number = int(value) if digits else value
    is_int = isinstance(number, int) and not isinstance(number, bool)
    if not is_int or not minimum <= number < _MAX_COUNT:
        raise invalid(f"is not a whole number of at least {minimum}", "write digits only")
    return int(number)


def _boolean(value: Any) -> bool:
    boolean = _BOOLEANS.get(value.strip().lower()) if isinstance(value, str) else value
    if not isinstance(boolean, bool):
        raise invalid("is not true or false", "write true or false")
    return boolean


def _choice(value: Any, *, choices: tuple[str, ...]) -> str:
    word = text(value).lower()
    if word not in choices:
        hint = f"write {', '.join(choices[:-1])} or {choices[-1]}"
        raise invalid("is not a known value", hint)
    return word


def _choice_of(*choices: str) -> Syntax:
    return Syntax(partial(_choice, choices=choices), str, {"type": "string", "enum": list(choices)})


def _segment(value: Any) -> str:
    segment = text(value)
    if not re.fullmatch(r"_[A-Za-z0-9_-]+", segment):
        hint = (
            "begin it with an underscore, as no path of VB365 does, and use letters, digits, "
            "- and _ only"
        )
        raise invalid("is not a valid path segment", hint)
    return segment


_DURATION_SCHEMA = {
    "type": "string",
    "pattern": r"^(|\d+(\.\d+)?\s*(ms|s|m|h|d))$",
    "examples": ["250ms", "24h"],
}
_SIZE_SCHEMA = {
    "type": "string",
    "pattern": r"^(|\d+(\.\d+)?\s*([KMGT]i)?B)$",
    "examples": ["16MiB", "5GiB"],
}
_SEGMENT_SCHEMA = {"type": "string", "pattern": "^(|_[A-Za-z0-9_-]+)$"}

Duration = Annotated[float, Syntax(parse_duration, show_duration, _DURATION_SCHEMA)]
#: A duration that must not be zero.
Timeout = Annotated[
    float, Syntax(partial(parse_duration, positive=True), show_duration, _DURATION_SCHEMA)
]
Size = Annotated[int, Syntax(parse_size, show_size, _SIZE_SCHEMA)]
Count = Annotated[int, Syntax(partial(_count, minimum=0), int, {"type": "integer", "minimum": 0})]
Positive = Annotated[
    int, Syntax(partial(_count, minimum=1), int, {"type": "integer", "minimum": 1})
]
Switch = Annotated[bool, Syntax(_boolean, bool, {"type": "boolean"})]
LogFormat = Annotated[str, _choice_of("console", "json")]
LogLevel = Annotated[str, _choice_of("debug", "info", "warning", "error")]
Segment = Annotated[str, Syntax(_segment, str, _SEGMENT_SCHEMA)]
