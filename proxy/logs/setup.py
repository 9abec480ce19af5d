"""Logging: structlog on top of the standard library, so that entries of libraries look the same.

Use `structlog.get_logger()`. The last call of `configure` applies to all loggers, including earlier
ones.
"""

from __future__ import annotations

import logging
import sys
from dataclasses import dataclass
from io import StringIO
from pathlib import Path
from typing import TextIO

import structlog

from proxy.core.text import visible
from proxy.logs.direct import LineHandler
from proxy.logs.rotated_file import RotatedFile
from proxy.logs.stream import Stream, StreamHandler, has_descriptor
from proxy.logs.writer import Writer

#: The events of the audit file: who exported and fetched what.
AUDITED = frozenset(
    {
        *("job.accepted", "job.dropped", "job.delivered", "job.cancelled", "job.deleted"),
        "job.operator_act",
    }
)
#: Characters of a value that are logged: a path may have 64 KiB, each byte of which JSON writes as
#: six.
_LONGEST = 4096
#: The logger of all events of jobs.
_OF_JOBS = "proxy.jobs.events"

_SHARED: list[structlog.typing.Processor] = [
    structlog.contextvars.merge_contextvars,
    structlog.stdlib.add_log_level,
    structlog.stdlib.add_logger_name,
    structlog.processors.TimeStamper(fmt="iso", utc=True),
]


@dataclass(frozen=True, slots=True)
class Rotation:
    """When a file is replaced, in bytes, and how many old ones are kept."""

    max_size: int
    keep: int


def configure(
    format: str,
    level: str,
    stream: TextIO | None = None,
    *,
    file: Path | None = None,
    audit: Path | None = None,
    rotation: Rotation = Rotation(64 << 20, 5),  # immutable
) -> None:
    """Log entries of at least `level` to `file`, or to `stream` (default stderr), in the format
    "console" or "json"; and the events of `AUDITED` to `audit`, in JSON, whatever the level.

    Raises `OSError` if a file cannot be opened.
    """
    close()
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
    handler: LineHandler
    colors = False
    if file is not None:
        handler = _writer(file, rotation)
    else:
        colors = (stream or sys.stderr).isatty()
        handler = _on_stderr() if stream is None else StreamHandler(stream)
    handler.setFormatter(_formatter(format, colors=colors))
    handler.direct = None if colors else format
    logging.getLogger().handlers = [handler]
    _audit_to(None if audit is None else _writer(audit, rotation, durable=True))
    logging.captureWarnings(True)
    set_level(level)


def _writer(path: Path, rotation: Rotation, *, durable: bool = False) -> Writer:
    file = RotatedFile(path, max_size=rotation.max_size, keep=rotation.keep, durable=durable)
    file.open()
    return Writer(file)


def _on_stderr() -> LineHandler:
    return Writer(Stream(sys.stderr)) if has_descriptor(sys.stderr) else StreamHandler(sys.stderr)


def _audit_to(handler: logging.Handler | None) -> None:
    logger = logging.getLogger(_OF_JOBS)
    if handler is None:
        logger.handlers, logger.level = [], logging.NOTSET
        return
    handler.setFormatter(_formatter("json", colors=False))
    handler.addFilter(_is_audited)
    logger.handlers = [handler]
    # the root's handler has a level of its own
    logger.setLevel(logging.INFO)


def _is_audited(record: logging.LogRecord) -> bool:
    return isinstance(record.msg, dict) and record.msg.get("event") in AUDITED


def close() -> None:
    """Write what waits to be written, and close the files. Idempotent."""
    for logger in (logging.getLogger(), logging.getLogger(_OF_JOBS)):
        for handler in list(logger.handlers):
            if isinstance(handler, Writer):
                handler.close()


def set_level(level: str) -> None:
    """Set the lowest level that is logged: debug, info, warning or error."""
    root = logging.getLogger()
    root.setLevel(level.upper())
    for handler in root.handlers:
        handler.setLevel(level.upper())


def _shortened(
    logger: object, method: str, entry: structlog.typing.EventDict
) -> structlog.typing.EventDict:
    """Cut long text off, so that no client writes lines of any length."""
    return {
        name: value[:_LONGEST] if isinstance(value, str) else value for name, value in entry.items()
    }


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
        processors=[
            structlog.stdlib.ProcessorFormatter.remove_processors_meta,
            _shortened,
            *last,
        ],
    )
