"""The log: two formats, a level that can be changed, and no secrets by way of tracebacks."""

from __future__ import annotations

import io
import json
import logging
from collections.abc import Iterator

import pytest
import structlog

from proxy import logs


@pytest.fixture
def stream() -> Iterator[io.StringIO]:
    root = logging.getLogger()
    handlers, level = root.handlers, root.level
    yield io.StringIO()
    root.handlers, root.level = handlers, level
    structlog.reset_defaults()


def test_json_lines_are_the_same_for_ours_and_for_libraries(stream: io.StringIO) -> None:
    """§15 log.format."""
    logs.configure("json", "info", stream)
    structlog.get_logger("proxy.test").info("job finished", job="5f0c")
    logging.getLogger("aiohttp.server").warning("odd %s", "request")
    ours, theirs = map(json.loads, stream.getvalue().splitlines())
    assert ours["event"] == "job finished"
    assert (ours["level"], ours["logger"], ours["job"]) == ("info", "proxy.test", "5f0c")
    assert (theirs["event"], theirs["level"], theirs["logger"]) == (
        "odd request",
        "warning",
        "aiohttp.server",
    )
    assert ours["timestamp"].endswith("Z")


def test_the_console_format_is_one_plain_line_without_a_terminal(stream: io.StringIO) -> None:
    logs.configure("console", "info", stream)
    structlog.get_logger().info("job finished", job="5f0c")
    (line,) = stream.getvalue().splitlines()
    assert "job finished" in line
    assert "job=5f0c" in line
    assert "\x1b" not in line


def test_the_level_can_be_changed_at_run_time(stream: io.StringIO) -> None:
    """§15: SIGHUP reloads the log level; loggers made before follow."""
    logs.configure("json", "warning", stream)
    logger = structlog.get_logger("proxy.test")
    logger.info("too quiet")
    logs.set_level("debug")
    logger.debug("loud enough")
    logs.set_level("error")
    logger.warning("too quiet again")
    assert [json.loads(line)["event"] for line in stream.getvalue().splitlines()] == ["loud enough"]


@pytest.mark.parametrize("format", ["console", "json"])
def test_tracebacks_hold_no_local_variables(format: str, stream: io.StringIO) -> None:
    """§9: logs never hold a credential; a local variable may be one."""
    logs.configure(format, "info", stream)
    authorization = "Bearer c4" + "nary"
    try:
        raise RuntimeError("it broke")
    except RuntimeError:
        structlog.get_logger().exception("failed")
        logging.getLogger("library").exception("failed too")
    assert authorization
    assert stream.getvalue().count("it broke") >= 2
    assert "test_logs.py" in stream.getvalue()
    assert "c4nary" not in stream.getvalue()


@pytest.mark.parametrize("format", ["console", "json"])
def test_nobody_forges_a_line_or_speaks_to_the_terminal(format: str, stream: io.StringIO) -> None:
    """§9: bytes of a request or of U in a message or in a value stay within their line."""
    logs.configure(format, "info", stream)
    hostile = "a\r\nforged\x1b[2J\x9b31m\u2028b"
    structlog.get_logger().info(hostile, path=hostile)
    logging.getLogger("library").warning("it said %s", hostile)
    assert len(stream.getvalue().splitlines()) == 2
    assert not set("\r\x1b\x9b\u2028") & set(stream.getvalue())


HOSTILE = [
    "/v8/\x9b31mx",
    "/v8/\x80\x85\x9f",
    "/v8/\x7f",
    "/v8/\u202e\u200b",
    "/v8/\udc9b",
    "a b\x9d0;title\x07",
]


@pytest.mark.parametrize("hostile", HOSTILE)
@pytest.mark.parametrize("format", ["console", "json"])
def test_every_value_of_a_line_is_printable(format: str, hostile: str, stream: io.StringIO) -> None:
    """C1 control characters drive a terminal as escape sequences do; a path or reason may hold
    them.
    """
    logs.configure(format, "info", stream)
    structlog.get_logger().info(
        hostile, path=hostile, reason=OSError(hostile), fields=[hostile, {hostile: hostile}]
    )
    with structlog.contextvars.bound_contextvars(request=hostile):
        structlog.get_logger().info("bound")
    logging.getLogger("library").warning("it said %s", hostile)
    assert len(stream.getvalue().split("\n")) == 4
    assert all(line.isprintable() for line in stream.getvalue().split("\n"))


@pytest.mark.parametrize("hostile", [*HOSTILE, "it broke\n2026-11-25T20:00:00Z [info] forged"])
@pytest.mark.parametrize("format", ["console", "json"])
def test_the_text_of_an_exception_is_printable_and_begins_no_line(
    format: str, hostile: str, stream: io.StringIO
) -> None:
    logs.configure(format, "info", stream)
    try:
        raise RuntimeError(hostile)
    except RuntimeError:
        structlog.get_logger().exception("failed")
        logging.getLogger("library").exception("failed too")
    lines = stream.getvalue().removesuffix("\n").split("\n")
    assert all(line.isprintable() for line in lines)
    assert len([line for line in lines if not line.startswith("  ")]) == 2
