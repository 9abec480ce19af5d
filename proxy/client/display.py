"""Progress on stderr: a bar on a terminal, else lines."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Self

from rich.console import Console
from rich.progress import BarColumn, Progress, SpinnerColumn, TextColumn, TimeElapsedColumn

from proxy.client.job import Job
from proxy.client.output import printable

Clock = Callable[[], float]

#: Seconds between lines in the same phase.
_INTERVAL = 10.0


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
            self._step(job.phase, "", 0, None)
            return
        detail = format_progress(job.received, job.size, job.rate, job.seconds_left)
        self._step(job.phase, detail, job.received, job.size)

    def downloading(self, received: int, size: int) -> None:
        """Show that `received` of `size` bytes are downloaded."""
        rate = self._meter.rate(received)
        left = (size - received) / rate if rate else None
        self._step("Downloading", format_progress(received, size, rate, left), received, size)

    def _step(self, heading: str, detail: str, done: int, total: int | None) -> None:
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
        )
        self._progress = Progress(*columns, console=console, transient=True, refresh_per_second=5)
        self._task = self._progress.add_task("", total=None, detail="", visible=False)

    def __enter__(self) -> Self:
        self._progress.start()
        return self

    def __exit__(self, *exc_info: object) -> None:
        """Remove the bar."""
        self._progress.stop()

    def _step(self, heading: str, detail: str, done: int, total: int | None) -> None:
        if heading != self._heading:
            self._heading = heading
            shown = printable(heading)
            self._progress.reset(self._task, description=shown, visible=True, detail=detail)
        self._progress.update(self._task, completed=done, total=total, detail=detail)


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


def display(console: Console) -> Display:
    """Return the display for this console."""
    return Bar(console) if console.is_terminal else Display(console)


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
