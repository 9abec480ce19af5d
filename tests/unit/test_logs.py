"""The log: two formats, a level that can be changed, and no secrets by way of tracebacks."""

from __future__ import annotations

import io
import itertools
import json
import logging
import os
import signal
import subprocess
import sys
import threading
import time
import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import structlog

from proxy import logs
from proxy.logs import writer
from proxy.logs.rotated_file import RotatedFile


@pytest.fixture
def stream() -> Iterator[io.StringIO]:
    root = logging.getLogger()
    handlers, level = root.handlers, root.level
    yield io.StringIO()
    logs.configure("console", "info")
    root.handlers, root.level = handlers, level
    logging.captureWarnings(False)
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
def test_no_client_writes_lines_of_any_length(format: str, stream: io.StringIO) -> None:
    logs.configure(format, "info", stream)
    structlog.get_logger("proxy.test").info("refused", path="\x80" * 64_000, status=404)
    assert 4096 * 4 < len(stream.getvalue()) < 4096 * 6 + 300
    assert "404" in stream.getvalue()


@pytest.mark.parametrize("format", ["console", "json"])
def test_no_text_forges_a_line_or_controls_the_terminal(format: str, stream: io.StringIO) -> None:
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


JOBS = "proxy.jobs.events"
SMALL = logs.Rotation(max_size=300, keep=2)


def lines(path: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]


@pytest.mark.usefixtures("stream")
def test_a_file_replaces_stderr_and_is_rotated(
    tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    path = tmp_path / "proxy.log"
    logs.configure("json", "info", file=path, rotation=SMALL)
    for number in range(20):
        structlog.get_logger("proxy.test").info("happened", number=number)
    logs.close()
    assert capfd.readouterr() == ("", "")
    files = [tmp_path / f"proxy.log{ending}" for ending in (".2", ".1", "")]
    assert sorted(tmp_path.iterdir()) == sorted(files)
    numbers = [entry["number"] for file in files for entry in lines(file)]
    assert numbers == list(range(numbers[0], 20))
    assert all(file.stat().st_size <= 300 for file in files)
    assert all(file.stat().st_mode & 0o077 == 0 for file in files)


def test_a_slow_disk_does_not_stop_the_caller_and_what_is_lost_is_counted(
    tmp_path: Path, stream: io.StringIO, monkeypatch: pytest.MonkeyPatch
) -> None:
    """One entry is being written, two wait, seven are lost: nothing waits for the disk."""
    path, reached, gate = tmp_path / "log", threading.Event(), threading.Event()
    write = RotatedFile.write

    def slow(self: RotatedFile, line: bytes) -> int:
        monkeypatch.setattr(writer, "_MOST", len(line) * 5 // 2)
        reached.set()
        assert gate.wait(20)
        return write(self, line)

    monkeypatch.setattr(RotatedFile, "write", slow)
    logs.configure("json", "info", stream, file=path)
    logger = structlog.get_logger("proxy.test")
    logger.info("happened", number=0)
    assert reached.wait(20)
    for number in range(1, 10):
        logger.info("happened", number=number)
    gate.set()
    while len(lines(path) if path.exists() else []) < 3:
        time.sleep(0.01)
    logger.info("happened", number=10)
    logs.close()
    assert [entry.get("number", entry["event"]) for entry in lines(path)] == [
        *(0, 1, 2),
        "7 entries are lost: they could not be written in time",
        10,
    ]


def test_entries_that_find_no_memory_end_no_log(
    tmp_path: Path, stream: io.StringIO, monkeypatch: pytest.MonkeyPatch
) -> None:
    path, write, failed = tmp_path / "log", RotatedFile.write, threading.Event()

    def lacking(self: RotatedFile, line: bytes) -> int:
        if not failed.is_set():
            failed.set()
            raise MemoryError
        return write(self, line)

    monkeypatch.setattr(writer, "_RETRY", 0.01)
    monkeypatch.setattr(RotatedFile, "write", lacking)
    logs.configure("json", "info", stream, file=path)
    logger = structlog.get_logger("proxy.test")
    logger.info("happened", number=0)
    assert failed.wait(20)
    logger.info("happened", number=1)
    logs.close()
    assert [entry["number"] for entry in lines(path)] == [1]


@pytest.mark.skipif(not hasattr(signal, "pthread_sigmask"), reason="no signal masks: not tested")
def test_the_thread_takes_no_signal_of_the_process(
    tmp_path: Path, stream: io.StringIO, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The supervisor would see later signals before the one that the thread has taken."""
    run, blocked = writer.Writer._run, [set[int]()]

    def noting(self: writer.Writer, *arguments: Any) -> None:
        blocked.append(signal.pthread_sigmask(signal.SIG_BLOCK, ()))
        run(self, *arguments)

    monkeypatch.setattr(writer.Writer, "_run", noting)
    before = signal.pthread_sigmask(signal.SIG_BLOCK, ())
    logs.configure("json", "info", stream, file=tmp_path / "log")
    structlog.get_logger("proxy.test").info("happened")
    logs.close()
    assert {signal.SIGTERM, signal.SIGINT, signal.SIGHUP, signal.SIGCHLD} <= blocked[-1]
    assert signal.pthread_sigmask(signal.SIG_BLOCK, ()) == before


@pytest.mark.parametrize("why", [RuntimeError, MemoryError])
def test_a_thread_that_is_not_started_is_started_with_a_later_entry(
    why: type[Exception], tmp_path: Path, stream: io.StringIO, monkeypatch: pytest.MonkeyPatch
) -> None:
    failures = [why]
    start = threading.Thread.start

    def lacking(self: threading.Thread) -> None:
        if self.name == "log" and failures:
            raise failures.pop()
        start(self)

    logs.configure("json", "info", stream, file=tmp_path / "log")
    monkeypatch.setattr(threading.Thread, "start", lacking)
    logger = structlog.get_logger("proxy.test")
    for number in range(2):
        logger.info("happened", number=number)
    while len(lines(tmp_path / "log") if (tmp_path / "log").exists() else []) < 2:
        time.sleep(0.01)
    logs.close()
    assert [entry["number"] for entry in lines(tmp_path / "log")] == [0, 1]


def test_a_line_that_cannot_be_written_is_tried_again(
    tmp_path: Path,
    stream: io.StringIO,
    monkeypatch: pytest.MonkeyPatch,
    capfd: pytest.CaptureFixture[str],
) -> None:
    """A part of a line that a full disk has left ends before the next one; stderr says so once."""
    path, left = tmp_path / "log", [3, 3, 10_000]
    monkeypatch.setattr(writer, "_RETRY", 0.01)
    real = os.write

    def full(descriptor: int, data: bytes) -> int:
        return real(descriptor, data[: left.pop(0)])

    monkeypatch.setattr("proxy.logs.rotated_file.os.write", full)
    logs.configure("json", "info", stream, file=path)
    structlog.get_logger("proxy.test").info("happened")
    while left:
        time.sleep(0.01)
    logs.close()
    *torn, whole = path.read_text(encoding="utf-8").splitlines()
    assert [len(line) for line in torn] == [3, 2]
    assert json.loads(whole)["event"] == "happened"
    (line,) = capfd.readouterr().err.splitlines()
    assert "No space left on device" in json.loads(line)["event"]


def test_several_processes_write_to_one_file_and_lose_nothing(tmp_path: Path) -> None:
    """As workers do: one renames the file, the others follow."""
    path = tmp_path / "log"
    script = (
        "import sys; from pathlib import Path; from proxy.logs.rotated_file import RotatedFile\n"
        "file = RotatedFile(Path(sys.argv[1]), max_size=1000, keep=1000)\n"
        "for n in range(300): file.write(f'{sys.argv[2]} {n}\\n'.encode())"
    )
    writers = [
        subprocess.Popen([sys.executable, "-c", script, str(path), name]) for name in ("a", "b")
    ]
    assert [each.wait(60) for each in writers] == [0, 0]
    found = [line for file in tmp_path.iterdir() for line in file.read_text().splitlines()]
    assert sorted(found) == sorted(f"{name} {n}" for name in "ab" for n in range(300))
    assert len(list(tmp_path.iterdir())) > 2


def test_the_audit_has_its_events_whatever_the_level_is(
    tmp_path: Path, stream: io.StringIO, monkeypatch: pytest.MonkeyPatch
) -> None:
    """§9: no credential. Each line is synced before the next one is written."""
    path, synced = tmp_path / "audit.jsonl", []
    sync = os.fsync

    def record(descriptor: int) -> None:
        sync(descriptor)
        synced.append(path.stat().st_size)

    monkeypatch.setattr("proxy.logs.rotated_file.os.fsync", record)
    logs.configure("console", "warning", stream, audit=path)
    logger = structlog.get_logger(JOBS)
    for name in ("accepted", "started", "delivered", "ended", "cancelled", "deleted", "dropped"):
        event = f"job.{name}"
        logger.info(event, job="1")
    logger.warning("job.ended", job="2")
    logs.close()
    assert [entry["event"] for entry in lines(path)] == [
        f"job.{name}" for name in ("accepted", "delivered", "cancelled", "deleted", "dropped")
    ]
    ends = list(itertools.accumulate(map(len, path.read_bytes().splitlines(keepends=True))))
    assert synced == ends
    assert "job.accepted" not in stream.getvalue()
    assert stream.getvalue().count("job.ended") == 1


def test_warnings_of_python_are_entries(stream: io.StringIO) -> None:
    logs.configure("json", "info", stream)
    with warnings.catch_warnings():
        warnings.simplefilter("always")
        warnings.warn("it is deprecated", DeprecationWarning, stacklevel=1)
    assert "it is deprecated" in json.loads(stream.getvalue())["event"]
