"""Entries that are rendered without structlog, whose processors take 100 µs for each.

An event with fixed fields, such as the access line, has one template for each format. Its lines
are the same as structlog's. Values that clients repeat, such as a path, are escaped once.
"""

from __future__ import annotations

import functools
import json
import logging
from collections.abc import Callable, Iterable, Sequence
from datetime import UTC, datetime
from json.encoder import encode_basestring_ascii
from operator import itemgetter
from typing import Any, cast

import structlog

from proxy.core.text import visible

#: The values of fields; numbers are finite. Bytes are text in Latin-1.
Value = str | bytes | int | float | None
#: Values with one of these are quoted in the console format.
_QUOTED = frozenset(" \t=\r\n\"'")
#: Texts of at most so many characters are remembered with their escaped form, and how many.
_SHORT, _REMEMBERED = 128, 1024


class _Escaped(dict[Value, str]):
    """Values as a format shows them. Those that clients repeat, such as short paths, are kept."""

    def __init__(self, none: str, escape: Callable[[str], str]) -> None:
        super().__init__()
        self._none = none
        self._escape = escape

    def __missing__(self, value: Value) -> str:
        if not isinstance(value, str | bytes):
            return self._none if value is None else repr(value)
        escaped = self._escape(_text(value))
        if len(value) <= _SHORT:
            if len(self) >= _REMEMBERED:
                self.clear()
            self[value] = escaped
        return escaped


def _text(value: str | bytes) -> str:
    return value.decode("latin-1") if isinstance(value, bytes) else value


def _quoted(text: str) -> str:
    text = visible(text)
    return text if _QUOTED.isdisjoint(text) else repr(text)


_JSON, _CONSOLE = _Escaped("null", encode_basestring_ascii), _Escaped("None", _quoted)


class LineHandler(logging.Handler):
    """A handler of logging that takes the values of direct events, too.

    `direct` is the format of their lines, "json" or "console"; None if it only takes entries.
    """

    direct: str | None = None

    def put(self, event: DirectEvent, values: Sequence[object]) -> None:
        """Write the line of an event that happens now. `values` are those of `DirectEvent.log`."""
        raise NotImplementedError


#: An event, the values of `DirectEvent.log`, and the time in nanoseconds since the epoch.
Entry = tuple["DirectEvent", Sequence[object], int]


class DirectEvent:
    """One event of the level info and of one logger, with fixed fields.

    `numbers` are the fields that always have a number, and `words` those that always have a text of
    ASCII letters, digits, ".", "_" and "-": neither is escaped.

    `prepare` turns what is given to `log` into the values of the fields, when the line is rendered.
    """

    def __init__(
        self,
        event: str,
        *,
        logger: str,
        fields: Sequence[str],
        numbers: Sequence[str] = (),
        words: Sequence[str] = (),
        prepare: Callable[..., tuple[Value, ...]] | None = None,
    ) -> None:
        self._prepare = prepare or _as_given
        self._logger = logging.getLogger(logger)
        self._root = logging.getLogger()
        self._structlog = structlog.get_logger(logger)
        self._event = event
        self._fields = tuple(fields)
        self._escaped = [
            number for number, name in enumerate(fields, 1) if name not in {*numbers, *words}
        ]
        shown = sorted(range(1, len(fields) + 1), key=lambda number: fields[number - 1])
        #: For each format: the template, the order of its values, and how these are escaped.
        self._formats = {
            "json": (
                _json_template(logger, event, fields, words),
                itemgetter(*range(1, len(fields) + 1), 0),
                _JSON,
            ),
            "console": (
                _console_template(logger, event, fields),
                itemgetter(0, *shown),
                _CONSOLE,
            ),
        }

    def log(self, *values: object) -> None:
        """Log the values, in the order of the fields, or as `prepare` takes them."""
        if not self._logger.isEnabledFor(logging.INFO):
            return
        handlers = self._root.handlers
        for handler in handlers:
            if not isinstance(handler, LineHandler) or handler.direct is None:
                fields = zip(self._fields, self._prepare(*values), strict=True)
                shown = {name: _text(v) if isinstance(v, bytes) else v for name, v in fields}
                self._structlog.info(self._event, **shown)
                return
        for handler in cast("list[LineHandler]", handlers):
            handler.put(self, values)

    def lines(self, format: str | None, entries: Iterable[Entry]) -> str:
        """The lines of entries of this event in the format "json" or "console", each with a line
        feed.
        """
        template, order, escaped = self._formats[format or "console"]
        all_shown: list[Value] = []
        count = 0
        for _, values, now in entries:
            second, fraction = divmod(now, 1_000_000_000)
            shown = [_timestamp(second, fraction // 1000), *self._prepare(*values)]
            for number in self._escaped:
                shown[number] = escaped[shown[number]]
            all_shown += order(shown)
            count += 1
        return template * count % tuple(all_shown)


def _as_given(*values: Any) -> tuple[Value, ...]:
    return values


def _json_template(logger: str, event: str, fields: Sequence[str], words: Sequence[str]) -> str:
    values = ['"%s"' if name in words else "%s" for name in fields]
    names = [f"{json.dumps(name)}: {value}" for name, value in zip(fields, values, strict=True)]
    same = json.dumps({"event": event, "level": "info", "logger": logger})[1:-1]
    return "{" + ", ".join([*names, same, '"timestamp": "%s"']) + "}\n"


def _console_template(logger: str, event: str, fields: Sequence[str]) -> str:
    """The columns of structlog's ConsoleRenderer."""
    shown = [f"{name}=%s" for name in sorted(fields)]
    return " ".join(["%s", f"[{'info':<9}]", f"{event:<30}", f"[{logger}]", *shown]) + "\n"


@functools.lru_cache(maxsize=2)
def _second(second: int) -> str:
    return datetime.fromtimestamp(second, UTC).strftime("%Y-%m-%dT%H:%M:%S")


def _timestamp(second: int, microsecond: int) -> str:
    """The time in UTC, as `datetime.isoformat` writes it."""
    return f"{_second(second)}.{microsecond:06}Z" if microsecond else f"{_second(second)}Z"
