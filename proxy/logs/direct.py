"""Entries that are rendered without structlog, whose processors take 100 µs for each.

An event with fixed fields, such as the access line, has one template for each format. Its lines
are the same as structlog's.
"""

from __future__ import annotations

import functools
import json
import logging
from collections.abc import Sequence
from datetime import UTC, datetime
from json.encoder import encode_basestring_ascii
from typing import cast

import structlog

from proxy.core.text import visible

#: The values of fields; numbers are finite. Anything else has to be text already.
Value = str | int | float | None
#: Values with one of these are quoted in the console format.
_QUOTED = frozenset(" \t=\r\n\"'")


class LineHandler(logging.Handler):
    """A handler of logging that takes the values of direct events, too.

    `direct` is the format of their lines, "json" or "console"; None if it only takes entries.
    """

    direct: str | None = None

    def put(self, event: DirectEvent, values: Sequence[Value]) -> None:
        """Write the line of an event that happens now."""
        raise NotImplementedError


class DirectEvent:
    """One event of the level info and of one logger, with fixed fields."""

    def __init__(self, event: str, *, logger: str, fields: Sequence[str]) -> None:
        self._logger = logging.getLogger(logger)
        self._root = logging.getLogger()
        self._structlog = structlog.get_logger(logger)
        self._event = event
        self._fields = tuple(fields)
        self._sorted = sorted(range(len(fields)), key=lambda number: fields[number])
        self._json = _json_template(logger, event, fields)
        self._console = _console_template(logger, event, fields)

    def log(self, *values: Value) -> None:
        """Log the values, in the order of the fields."""
        if not self._logger.isEnabledFor(logging.INFO):
            return
        handlers = self._root.handlers
        for handler in handlers:
            if not isinstance(handler, LineHandler) or handler.direct is None:
                self._structlog.info(self._event, **dict(zip(self._fields, values, strict=True)))
                return
        for handler in cast("list[LineHandler]", handlers):
            handler.put(self, values)

    def line(self, format: str | None, values: Sequence[Value], now: int) -> str:
        """The line of these values in the format "json" or "console", without a line feed. `now`
        is the time of the event in nanoseconds since the epoch.
        """
        moment = _timestamp(*divmod(now // 1000, 1_000_000))
        if format == "json":
            return self._json % (*[_as_json(value) for value in values], moment)
        return self._console % (moment, *[_as_text(values[number]) for number in self._sorted])


def _json_template(logger: str, event: str, fields: Sequence[str]) -> str:
    names = [f"{json.dumps(name)}: %s" for name in fields]
    same = json.dumps({"event": event, "level": "info", "logger": logger})[1:-1]
    return "{" + ", ".join([*names, same, '"timestamp": "%s"']) + "}"


def _console_template(logger: str, event: str, fields: Sequence[str]) -> str:
    """The columns of structlog's ConsoleRenderer."""
    shown = [f"{name}=%s" for name in sorted(fields)]
    return " ".join(["%s", f"[{'info':<9}]", f"{event:<30}", f"[{logger}]", *shown])


@functools.lru_cache(maxsize=2)
def _second(second: int) -> str:
    return datetime.fromtimestamp(second, UTC).strftime("%Y-%m-%dT%H:%M:%S")


def _timestamp(second: int, microsecond: int) -> str:
    """The time in UTC, as `datetime.isoformat` writes it."""
    return f"{_second(second)}.{microsecond:06}Z" if microsecond else f"{_second(second)}Z"


def _as_json(value: Value) -> str:
    if type(value) is str:
        return encode_basestring_ascii(value)
    return "null" if value is None else repr(value)


def _as_text(value: Value) -> str:
    if not isinstance(value, str):
        return repr(value)
    text = visible(value)
    return text if _QUOTED.isdisjoint(text) else repr(text)
