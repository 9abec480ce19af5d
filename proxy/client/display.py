"""Progress on stderr: a bar on a terminal, else lines; on request JSON lines, or nothing."""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Iterable
from enum import StrEnum
from typing import Any, Self

from rich.console import Console, RenderableType
from rich.progress import BarColumn, Progress, SpinnerColumn, TextColumn, TimeElapsedColumn

from proxy.client.job import Job
from proxy.client.output import print_error, printable

Clock = Callable[[], float]

#: Seconds between lines in the same phase.
_INTERVAL = 10.0
#: Frames of the bar in a second. Between two polls it moves with the last known rate.
_FRAMES = 5


class Mode(StrEnum):
    """How to show progress. `AUTO`: a bar on a terminal, else lines."""

    AUTO = "auto"
    NONE = "none"
    PLAIN = "plain"
    BAR = "bar"
    JSON = "json"


class Display:
    """Progress as lines: one for each new phase, and one every ten seconds."""

    def __init__(self, console: Console, clock: Clock = time.monotonic) -> None:
        self._console = console
        self._clock = clock
        self._meter = RateMeter(clock)
        self._heading = ""
        self._since = self._said = clock()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exc_info: object) -> None:
        """Do nothing."""

    def say(self, sentence: str) -> None:
        """Print a line."""
        self._console.print(printable(sentence), markup=False, highlight=False, soft_wrap=True)

    def exporting(self, job: Job) -> None:
        """Show the state of the job."""
        if not job.transferring:
            self._step(job.phase, "", 0, None, None)
            return
        detail = format_progress(job.received, job.size, job.rate, job.seconds_left)
        self._step(job.phase, detail, job.received, job.size, job.rate)

    def downloading(self, received: int, size: int) -> None:
        """Show that `received` of `size` bytes are downloaded."""
        rate = self._meter.rate(received)
        left = (size - received) / rate if rate else None
        detail = format_progress(received, size, rate, left)
        self._step("Downloading", detail, received, size, None)

    def fail(self, message: str, code: int) -> None:
        """Print the error that ends the command."""
        print_error(message)

    def _step(
        self, heading: str, detail: str, done: int, total: int | None, rate: float | None
    ) -> None:
        now = self._clock()
        new = heading != self._heading
        if new:
            self._heading, self._since = heading, now
        if new or now - self._said >= _INTERVAL:
            self._said = now
            self.say(
                "  ".join(
                    filter(
                        None,
                        (heading, format_duration(now - self._since) if not new else "", detail),
                    )
                )
            )


class Quiet(Display):
    """Only warnings and errors; no progress."""

    def say(self, sentence: str) -> None:
        """Print a warning; drop anything else."""
        if sentence.startswith("WARNING"):
            super().say(sentence)

    def _step(
        self, heading: str, detail: str, done: int, total: int | None, rate: float | None
    ) -> None:
        """Do nothing."""


class JsonLines(Display):
    """Each message and each change as a line of JSON (NDJSON) with its `event`."""

    def say(self, sentence: str) -> None:
        """Write a `message`."""
        self._write("message", text=sentence)

    def exporting(self, job: Job) -> None:
        """Write the `job` with what is known of its progress."""
        known = {"bytesReceived": job.received, "bytesTotal": job.size}
        rate = {"bytesPerSecond": job.rate, "secondsRemaining": job.seconds_left}
        about = {"id": job.id, "status": job.status, "phase": job.phase}
        self._write("job", **about, **known, **rate)

    def downloading(self, received: int, size: int) -> None:
        """Write the progress of a `download`, at most every half second, and its end."""
        now = self._clock()
        if received == size or now - self._said >= 1 / 2:
            self._said = now
            self._write("download", bytesReceived=received, bytesTotal=size)

    def fail(self, message: str, code: int) -> None:
        """Write the `error` with the exit code."""
        self._write("error", text=message, exitCode=code)

    def _write(self, event: str, **members: Any) -> None:
        line = json.dumps({"event": event} | members)  # in ASCII, so nothing controls a terminal
        self._console.print(line, markup=False, highlight=False, soft_wrap=True)


class _Moving(Progress):
    """A bar that calls `before` for each frame."""

    before: Callable[[], None] = staticmethod(lambda: None)

    def get_renderables(self) -> Iterable[RenderableType]:
        """Yield what a frame shows."""
        self.before()
        yield from super().get_renderables()


class Bar(Display):
    """Progress as a bar with bytes, rate, remaining time and the time since the phase began."""

    def __init__(self, console: Console, clock: Clock = time.monotonic) -> None:
        super().__init__(console, clock)
        columns = (
            SpinnerColumn("dots" if console.encoding.startswith("utf") else "line"),
            TextColumn("{task.description:<12}", markup=False),  # a phase is text of the server
            BarColumn(30),
            TextColumn("{task.fields[detail]}"),
            TimeElapsedColumn(),
            TextColumn("elapsed"),
        )
        self._progress = _Moving(
            *columns, console=console, transient=True, refresh_per_second=_FRAMES
        )
        self._progress.before = self._move
        self._task = self._progress.add_task("", total=None, detail="", visible=False)
        #: What was known last: bytes, size, bytes per second, and when.
        self._known: tuple[int, int, float, float] | None = None

    def __enter__(self) -> Self:
        self._progress.start()
        return self

    def __exit__(self, *exc_info: object) -> None:
        """Remove the bar."""
        self._progress.stop()

    def _step(
        self, heading: str, detail: str, done: int, total: int | None, rate: float | None
    ) -> None:
        if heading != self._heading:
            self._heading = heading
            shown = printable(heading)
            self._progress.reset(self._task, description=shown, visible=True, detail=detail)
        self._known = (done, total, rate, self._clock()) if total and rate else None
        self._progress.update(self._task, completed=done, total=total, detail=detail)

    def _move(self) -> None:
        """Move the bar with the last known rate, up to a second before the end."""
        if self._known is None:
            return
        done, total, rate, since = self._known
        moved = min(done + rate * (self._clock() - since), max(done, total - rate))
        detail = format_progress(int(moved), total, rate, (total - moved) / rate)
        self._progress.update(self._task, completed=moved, detail=detail)


class RateMeter:
    """Bytes per second over the last few seconds."""

    def __init__(self, clock: Clock) -> None:
        self._clock = clock
        self._marks: list[tuple[float, int]] = []

    def rate(self, received: int) -> float | None:
        """Return the rate after `received` bytes; None at the first call."""
        now = self._clock()
        if self._marks and received < self._marks[-1][1]:
            self._marks.clear()
        if not self._marks or now - self._marks[-1][0] >= 0.5:
            self._marks = [*self._marks[-10:], (now, received)]
        since, before = self._marks[0]
        return (received - before) / (now - since) if now > since else None


def display(console: Console, mode: Mode = Mode.AUTO) -> Display:
    """Return the display for this console."""
    if mode is Mode.AUTO:
        mode = Mode.BAR if console.is_terminal else Mode.PLAIN
    kinds = {Mode.NONE: Quiet, Mode.PLAIN: Display, Mode.BAR: Bar, Mode.JSON: JsonLines}
    return kinds[mode](console)


def format_size(size: float) -> str:
    """Return bytes in a readable unit."""
    for unit in ("B", "KiB", "MiB", "GiB"):
        if size < 1024:
            return f"{size:.0f} {unit}" if unit == "B" else f"{size:.1f} {unit}"
        size /= 1024
    return f"{size:.1f} TiB"


def format_duration(seconds: float) -> str:
    """Return seconds as m:ss or h:mm:ss."""
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02}:{rest:02}" if hours else f"{minutes}:{rest:02}"


def format_progress(received: int, size: int | None, rate: float | None, left: float | None) -> str:
    """Return bytes, percentage, rate and remaining time, as far as they are known."""
    words = [
        f"{format_size(received)} of {format_size(size)}, {100 * received // size} %"
        if size
        else format_size(received)
    ]
    if rate:
        words.append(f"{format_size(rate)}/s")
    if left is not None:
        words.append(f"{format_duration(left)} left")
    return ", ".join(words)
