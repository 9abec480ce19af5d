"""Lines that are rendered without structlog, and the thread that writes the log (CONTRACT §15)."""

from __future__ import annotations

import io
import json
import logging
import os
import re
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from datetime import UTC, datetime
from pathlib import Path

import pytest
import structlog

from proxy import logs
from proxy.core.http.heads import parse_request
from proxy.downstream.access_log import AccessLog
from proxy.downstream.endings import Ending
from proxy.logs import DirectEvent, direct, writer
from proxy.logs.direct import Value
from proxy.logs.rotated_file import RotatedFile
from proxy.logs.stream import Stream
from proxy.logs.writer import Writer
from tests.support.threads import no_new_thread

ROOT = Path(__file__).parents[2]
NAME = "proxy.test"
HOSTILE: list[Value] = [
    *(
        "",
        " ",
        "=",
        "'",
        '"',
        "\"'",
        "\\",
        "%s %(a)s {0}",
        "a\r\nforged\t[info]",
        "\x7f\x80\x9b31m",
    ),
    *("\x00\x07\x1b[2J", "\x9f\xa0\xad\xff", "\u2028\u202e\u200b", "\udc9b\ud800", "\U0001f600é"),
    *(None, 0, -1, 499, 10**30, 0.0, -0.0, 1e-7, 0.000001, 1e22, 12345.678901, 0.1 + 0.2),
]
EVENT = DirectEvent("request", logger=NAME, fields=("path",))
FIELDS = ("path", "b", "_c", "client", "status", "A", "job")


@pytest.fixture(autouse=True)
def restore() -> Iterator[None]:
    """Restore the log's configuration."""
    root = logging.getLogger()
    handlers, level = root.handlers, root.level
    yield
    logs.close()
    logs.configure("console", "info")
    root.handlers, root.level = handlers, level
    logging.captureWarnings(False)
    structlog.reset_defaults()


def without_time(line: str) -> str:
    """The line with the same time as any other."""
    pattern = r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d(\.\d{6})?Z"
    replaced, number = re.subn(pattern, "TIME", line, count=1)
    assert number == 1
    return replaced


@pytest.mark.parametrize("format", ["console", "json"])
def test_a_line_is_the_one_that_structlog_makes(format: str) -> None:
    """Each value in each field: what must be escaped, and what must not be quoted."""
    stream = io.StringIO()
    logs.configure(format, "info", stream)
    event, slow = DirectEvent("request", logger=NAME, fields=FIELDS), structlog.get_logger(NAME)
    for start in range(len(HOSTILE)):
        values = [HOSTILE[(start + step) % len(HOSTILE)] for step in range(len(FIELDS))]
        with structlog.contextvars.bound_contextvars(client="bound"):
            event.log(*values)
            slow.info("request", **dict(zip(FIELDS, values, strict=True)))
        quick, reference, rest = stream.getvalue().split("\n")
        assert without_time(quick) == without_time(reference)
        assert (rest, quick.isprintable()) == ("", True)
        stream.seek(0)
        stream.truncate()


@pytest.mark.parametrize("format", ["console", "json"])
def test_numbers_and_words_are_as_structlog_writes_them(format: str) -> None:
    stream = io.StringIO()
    logs.configure(format, "info", stream)
    fields = ("word", "number", "text")
    quick = DirectEvent("request", logger=NAME, fields=fields, numbers=["number"], words=["word"])
    for number in (value for value in HOSTILE if isinstance(value, int | float)):
        values = (Ending.CLIENT_LEFT, number, "a b")
        quick.log(*values)
        structlog.get_logger(NAME).info("request", **dict(zip(fields, values, strict=True)))
    found = [without_time(line) for line in stream.getvalue().splitlines()]
    assert len(found) > 10
    assert found[::2] == found[1::2]


def test_escaped_values_that_are_remembered_are_bounded() -> None:
    """In number and length, whatever clients send; the others are escaped each time."""
    stream = io.StringIO()
    logs.configure("json", "info", stream)
    event = DirectEvent("request", logger=NAME, fields=("path",))
    for number in range(direct._REMEMBERED + 2):
        event.log(f"{number}")
        event.log(f"{number}" + "\x00" * direct._SHORT)
    remembered = [value for value in direct._JSON if isinstance(value, str)]
    assert 0 < len(remembered) <= direct._REMEMBERED
    assert max(map(len, remembered)) <= direct._SHORT
    last = json.loads(stream.getvalue().splitlines()[-1])["path"]
    assert last == f"{direct._REMEMBERED + 1}" + "\x00" * direct._SHORT


@pytest.mark.parametrize("microsecond", [0, 1, 120, 999_999])
def test_a_time_is_that_of_structlog(microsecond: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """Without a fraction in the first microsecond of a second."""
    stream, seconds = io.StringIO(), 1_790_000_000
    logs.configure("json", "info", stream)
    nanoseconds = (seconds * 1_000_000 + microsecond) * 1000
    monkeypatch.setattr("proxy.logs.stream.time.time_ns", lambda: nanoseconds)
    DirectEvent("request", logger=NAME, fields=("status",)).log(200)
    moment = datetime.fromtimestamp(seconds, UTC).replace(microsecond=microsecond)
    expected = moment.isoformat().replace("+00:00", "Z")
    assert json.loads(stream.getvalue())["timestamp"] == expected


def test_the_level_and_handlers_of_others_are_respected() -> None:
    """A handler that takes no lines, such as a debugger's, gets the entry."""
    stream, entries = io.StringIO(), list[logging.LogRecord]()
    logs.configure("json", "warning", stream)
    event = DirectEvent("request", logger=NAME, fields=("status",))
    event.log(200)
    assert stream.getvalue() == ""
    logs.set_level("info")

    class Other(logging.Handler):
        def emit(self, record: logging.LogRecord) -> None:
            entries.append(record)

    logging.getLogger().addHandler(Other())
    event.log(201)
    assert [json.loads(line)["status"] for line in stream.getvalue().splitlines()] == [201]
    assert len(entries) == 1


def test_a_terminal_gets_colours() -> None:
    class Terminal(io.StringIO):
        def isatty(self) -> bool:
            return True

    stream = Terminal()
    logs.configure("console", "info", stream)
    DirectEvent("request", logger=NAME, fields=("status",)).log(200)
    assert "\x1b[" in stream.getvalue()


def test_lines_are_written_together_and_an_entry_does_not_wait(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """In order; the lines before the entry are in the same write."""
    written: list[bytes] = []
    done = threading.Event()

    def write(self: RotatedFile, data: bytes) -> int:
        written.append(data)
        done.set()
        return len(data)

    monkeypatch.setattr(RotatedFile, "write", write)
    monkeypatch.setattr(writer, "_COLLECTING", 60.0)
    logs.configure("json", "info", file=tmp_path / "log")
    event = DirectEvent("request", logger=NAME, fields=("number",))
    for number in range(100):
        event.log(number)
    assert not written
    structlog.get_logger(NAME).info("job.ended", number=100)
    assert done.wait(30)
    (data,) = written
    assert [json.loads(line)["number"] for line in data.splitlines()] == list(range(101))


def test_bytes_that_wait_are_bounded(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Long lines of a slow disk are lost before they take much memory, and are counted."""
    monkeypatch.setattr(writer, "_MOST", 1000)
    monkeypatch.setattr(writer, "_TOGETHER", 1)
    monkeypatch.setattr(writer, "_COLLECTING", 60.0)
    path = tmp_path / "log"
    logs.configure("json", "info", file=path)
    event = DirectEvent("request", logger=NAME, fields=("path",))
    for _ in range(10):
        event.log("x" * 200)
    monkeypatch.setattr(writer, "_MOST", 2000)
    logs.close()
    entries = [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]
    lost = entries.pop()["event"]
    assert lost == f"{10 - len(entries)} entries are lost: they could not be written in time"
    assert sum(len(json.dumps(entry)) + 1 for entry in entries) <= 1000


@pytest.mark.parametrize("again", [True, False], ids=["for a moment", "to the end"])
def test_lines_wait_while_the_system_starts_no_thread(tmp_path: Path, again: bool) -> None:
    """Logging fails nobody, and nothing is lost."""
    handler = Writer(RotatedFile(tmp_path / "log", max_size=1 << 20, keep=1))
    with no_new_thread():
        handler.put(EVENT, ("first",))
        handler.put(EVENT, ("second",))
        if not again:
            handler.close()
    if again:
        handler.put(EVENT, ("third",))
        handler.close()
    lines = (tmp_path / "log").read_text(encoding="utf-8").splitlines()
    expected = ["first", "second", "third"] if again else ["first", "second"]
    assert [line.partition("path=")[2] for line in lines] == expected


def test_what_is_logged_after_the_end_starts_no_thread(tmp_path: Path) -> None:
    """While Python is being finalized, that would hang the process."""
    handler = Writer(RotatedFile(tmp_path / "log", max_size=1 << 20, keep=1))
    handler.put(EVENT, ("first",))
    handler.close()
    handler.put(EVENT, ("second",))
    handler.emit(logging.makeLogRecord({"msg": "path=third"}))
    assert handler._thread is None
    handler.close()
    lines = (tmp_path / "log").read_text(encoding="utf-8").splitlines()
    assert [line.partition("path=")[2] for line in lines] == ["first", "second", "third"]


def test_a_line_is_written_that_came_just_before_the_end(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The thread has written everything, and looks for the end only after it has come."""
    handler = Writer(RotatedFile(tmp_path / "log", max_size=1000, keep=1))
    idle, take = threading.Event(), writer._Waiting.take

    def slow(waiting: writer._Waiting, size: int) -> bytes:
        taken = take(waiting, size)
        if not taken:
            idle.set()
            waiting.closing.wait(30)
        return taken

    monkeypatch.setattr(writer._Waiting, "take", slow)
    handler.put(EVENT, ("first",))
    assert idle.wait(30)
    handler.put(EVENT, ("last",))
    handler.close()
    lines = (tmp_path / "log").read_text(encoding="utf-8").splitlines()
    assert [line.partition("path=")[2] for line in lines] == ["first", "last"]


@pytest.mark.parametrize("max_size", [10, 1000])
def test_lines_that_are_rendered_together_fill_no_file_beyond_its_size(
    max_size: int, tmp_path: Path
) -> None:
    """Unless one line alone is longer."""
    file = RotatedFile(tmp_path / "log", max_size=max_size, keep=200)
    handler = Writer(file)
    for number in range(100):
        handler.put(EVENT, (f"{number} {'x' * 100}",))
    handler.close()
    files = sorted(tmp_path.glob("log*"), key=lambda path: int(path.suffix[1:] or 0), reverse=True)
    texts = [path.read_text(encoding="utf-8") for path in files]
    assert all(len(text) <= max_size or text.count("\n") == 1 for text in texts)
    found = re.findall(r"path='(\d+) ", "".join(texts))
    assert [int(number) for number in found] == list(range(100))


def test_a_write_that_is_cut_repeats_no_whole_line(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A full disk takes a part of several lines."""
    real, allowed = os.write, [25, 10_000]

    def full(descriptor: int, data: bytes) -> int:
        return real(descriptor, data[: allowed.pop(0)])

    monkeypatch.setattr("proxy.logs.rotated_file.os.write", full)
    file = RotatedFile(tmp_path / "log", max_size=10_000, keep=1)
    lines = b"0123456789\n" * 4
    assert file.write(lines) == 22
    assert file.write(lines[22:]) == 22
    file.close()
    assert (tmp_path / "log").read_bytes().split(b"\n") == [
        *[b"0123456789"] * 2,
        b"012",
        *[b"0123456789"] * 2,
        b"",
    ]


@pytest.mark.parametrize("blocking", [True, False])
def test_a_reader_of_stderr_that_does_not_read_stops_no_caller(blocking: bool) -> None:
    """All lines arrive, whole, once it reads."""
    reading, writing = os.pipe()
    os.set_blocking(writing, blocking)
    with os.fdopen(writing, "w", encoding="utf-8") as stream:
        handler = Writer(Stream(stream))
        for number in range(3000):
            handler.put(EVENT, (f"{number} {'x' * 100}",))  # a pipe takes 64 KiB
        closing = threading.Thread(target=handler.close)
        closing.start()
        data = b""
        while data.count(b"\n") < 3000:
            data += os.read(reading, 1 << 16)
        closing.join(30)
    os.close(reading)
    numbers = [int(line.partition(b"path='")[2].split()[0]) for line in data.splitlines()]
    assert numbers == list(range(3000))


def test_a_reader_of_stderr_that_has_gone_keeps_nothing_waiting(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """The thread that writes ends; `close` does not have to give up."""
    monkeypatch.setattr(writer, "_CLOSING", 60.0)
    reading, writing = os.pipe()
    os.close(reading)
    with os.fdopen(writing, "w", encoding="utf-8") as stream:
        handler = Writer(Stream(stream))
        handler.put(EVENT, ("value",))
        thread = handler._thread
        assert thread is not None
        handler.close()
        assert not thread.is_alive()


PROGRAM = """
import os, signal, sys
from proxy.cli.serve import open_log
from proxy.config import load
from proxy.logs import DirectEvent
open_log(load(None, {"upstream.url": "http://127.0.0.1:9"}, {"VB365_PROXY_LOG__FORMAT": "json"}))
event = DirectEvent("request", logger="proxy.test", fields=("number",))
for number in range(1000):
    event.log(number)
if sys.argv[1] == "error":
    raise RuntimeError("for no reason")
if sys.argv[1] == "late":
    async def never_awaited(): pass
    def fail():
        late = never_awaited()  # which is logged while Python is being finalized
        raise RuntimeError("for no reason")
    fail()
if sys.argv[1] == "running":
    print(flush=True)
    signal.pause()
"""


@pytest.mark.parametrize("how", ["end", "error", "late"])
def test_nothing_is_lost_when_the_process_ends(how: str) -> None:
    """And it ends, although something is logged late."""
    done = subprocess.run(
        [sys.executable, "-c", PROGRAM, how], capture_output=True, cwd=ROOT, check=False, timeout=60
    )
    entries = [json.loads(line) for line in done.stderr.splitlines()]
    assert [entry["number"] for entry in entries[:1000]] == list(range(1000))
    assert [entry["event"] for entry in entries[1000:]] == (
        [] if how == "end" else ["ended by an error"]
    )


def test_lines_are_written_while_the_process_runs() -> None:
    """One that is killed loses those of the last moment only."""
    with subprocess.Popen(
        [sys.executable, "-c", PROGRAM, "running"],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        cwd=ROOT,
    ) as process:
        assert process.stdout is not None
        assert process.stderr is not None
        numbers = [json.loads(process.stderr.readline())["number"] for _ in range(1000)]
        process.send_signal(signal.SIGKILL)
    assert numbers == list(range(1000))


def test_a_line_on_stderr_is_one_write() -> None:
    """§15: the ready line is a line of its own, whatever the log's thread writes meanwhile."""
    ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    with ours, theirs:
        code = "from proxy import logs; logs.say('listening on http://h:1')"
        subprocess.run([sys.executable, "-c", code], cwd=ROOT, stderr=theirs.fileno(), check=True)
        ours.setblocking(False)
        assert ours.recv(1000) == b"listening on http://h:1\n"


def test_the_access_line_costs_little(tmp_path: Path) -> None:
    """Less than a third of what structlog takes for the same entry, whatever the machine."""
    logs.configure("json", "info", file=tmp_path / "log")
    head, access = parse_request(b"GET /v8/x?q HTTP/1.1\r\nHost: h\r\n\r\n"), AccessLog(())
    slow = structlog.get_logger(NAME)

    def quick_line() -> None:
        access.log(
            head,
            peer=b"192.0.2.1",
            request_id="1",
            job=None,
            lane="relay",
            status=200,
            received=1,
            sent=2,
            seconds=0.1,
            ending=Ending.SERVED,
        )

    def slow_line() -> None:
        slow.info("request", **dict.fromkeys(FIELDS, "value"))

    def seconds(line: Callable[[], None]) -> float:
        begin = time.thread_time()
        for _ in range(100):
            line()
        return time.thread_time() - begin

    rounds = [(seconds(quick_line), seconds(slow_line)) for _ in range(30)]
    assert min(quick for quick, _ in rounds) * 3 < min(slow for _, slow in rounds)
