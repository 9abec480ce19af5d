"""Logging: structlog on top of the standard library, so that entries of libraries look the same.

Use `structlog.get_logger()`. The last call of `configure` applies to all loggers, including earlier
ones.
"""

from __future__ import annotations

import logging
import sys
from io import StringIO
from typing import TextIO

import structlog

from proxy.core.text import visible

_SHARED: list[structlog.typing.Processor] = [
    structlog.contextvars.merge_contextvars,
    structlog.stdlib.add_log_level,
    structlog.stdlib.add_logger_name,
    structlog.processors.TimeStamper(fmt="iso", utc=True),
]


def configure(format: str, level: str, stream: TextIO | None = None) -> None:
    """Log entries of at least `level` to `stream` (default stderr), in the format "console" or
    "json".
    """
    structlog.configure(
        processors=[
            structlog.stdlib.filter_by_level,
            *_SHARED,
            structlog.stdlib.ProcessorFormatter.wrap_for_formatter,
        ],
        wrapper_class=structlog.stdlib.BoundLogger,
        logger_factory=structlog.stdlib.LoggerFactory(),
        cache_logger_on_first_use=True,
    )
    stream = stream or sys.stderr
    handler = logging.StreamHandler(stream)
    handler.setFormatter(_formatter(format, colors=stream.isatty()))
    root = logging.getLogger()
    root.handlers = [handler]
    set_level(level)


def set_level(level: str) -> None:
    """Set the lowest level that is logged: debug, info, warning or error."""
    logging.getLogger().setLevel(level.upper())


def _on_one_line(
    logger: object, method: str, entry: structlog.typing.EventDict
) -> structlog.typing.EventDict:
    """Escape characters that are not printable. Paths, reasons and messages may contain
    any bytes, which must not start a line or control a terminal.
    """
    return {name: value if name == "exc_info" else _clean(value) for name, value in entry.items()}


def _clean(value: object) -> object:
    return value if value is None or isinstance(value, bool | int | float) else visible(str(value))


def _traceback(stream: TextIO, exc_info: structlog.typing.ExcInfo) -> None:
    """Write the traceback indented, so that a line feed in the message of an exception does not
    start a log line.
    """
    text = StringIO()
    structlog.dev.plain_traceback(text, exc_info)
    stream.write("\n".join(f"  {visible(line)}" for line in text.getvalue().split("\n")))


def _formatter(format: str, *, colors: bool) -> logging.Formatter:
    """The formatter. Tracebacks omit local variables, which hold credentials (CONTRACT §9)."""
    last: list[structlog.typing.Processor]
    if format == "json":
        frames = structlog.tracebacks.ExceptionDictTransformer(show_locals=False)
        last = [
            structlog.processors.ExceptionRenderer(frames),
            structlog.processors.JSONRenderer(default=str),
        ]
    else:
        last = [
            _on_one_line,
            structlog.dev.ConsoleRenderer(colors=colors, exception_formatter=_traceback),
        ]
    return structlog.stdlib.ProcessorFormatter(
        foreign_pre_chain=_SHARED,
        processors=[structlog.stdlib.ProcessorFormatter.remove_processors_meta, *last],
    )
