"""What the user sees on stderr: a bar on a terminal, plain lines elsewhere."""

from __future__ import annotations

import time
from collections.abc import Callable

from rich.console import Console
from rich.progress import BarColumn, Progress, SpinnerColumn, TextColumn, TimeElapsedColumn

from proxy.client.job import Job
from proxy.client.output import on_terminal

Clock = Callable[[], float]

#: Seconds between plain lines while nothing but numbers changes.
_EVERY = 10.0


class Display:
    """Plain lines: one for each new phase, then one every ten seconds."""

    def __init__(self, console: Console, clock: Clock = time.monotonic) -> None:
        self._console = console
        self._clock = clock
        self._meter = Meter(clock)
        self._heading = ""
        self._since = self._said = clock()

    def __enter__(self) -> Display:
        return self

    def __exit__(self, *exc_info: object) -> None:
        """Leave the terminal as it was."""

    def say(self, sentence: str) -> None:
        """A line that stays."""
        self._console.print(on_terminal(sentence), markup=False, highlight=False, soft_wrap=True)

    def exporting(self, job: Job) -> None:
        """The job as the server sees it now."""
        if not job.transferring:
            self._step(job.phase, "", 0, None)
            return
        detail = describe(job.received, job.size, job.rate, job.seconds_left)
        self._step(job.phase, detail, job.received, job.size)

    def downloading(self, received: int, size: int) -> None:
        """Bytes on disk, of so many."""
        rate = self._meter.rate(received)
        left = (size - received) / rate if rate else None
        self._step("Downloading", describe(received, size, rate, left), received, size)

    def _step(self, heading: str, detail: str, done: int, total: int | None) -> None:
        now = self._clock()
        new = heading != self._heading
        if new:
            self._heading, self._since = heading, now
        if new or now - self._said >= _EVERY:
            self._said = now
            self.say(
                "  ".join(
                    filter(None, (heading, duration(now - self._since) if not new else "", detail))
                )
            )


class Bar(Display):
    """A bar that is redrawn in place: its number of bytes, rate and time left, and the time since
    the phase began.
    """

    def __init__(self, console: Console, clock: Clock = time.monotonic) -> None:
        super().__init__(console, clock)
        columns = (
            SpinnerColumn("dots" if console.encoding.startswith("utf") else "line"),
            TextColumn("{task.description:<12}"),
            BarColumn(30),
            TextColumn("{task.fields[detail]}"),
            TimeElapsedColumn(),
        )
        self._progress = Progress(*columns, console=console, transient=True, refresh_per_second=5)
        self._task = self._progress.add_task("", total=None, detail="", visible=False)

    def __enter__(self) -> Bar:
        self._progress.start()
        return self

    def __exit__(self, *exc_info: object) -> None:
        """Take the bar away."""
        self._progress.stop()

    def _step(self, heading: str, detail: str, done: int, total: int | None) -> None:
        if heading != self._heading:
            self._heading = heading
            self._progress.reset(self._task, description=heading, visible=True, detail=detail)
        self._progress.update(self._task, completed=done, total=total, detail=detail)


class Meter:
    """Bytes per second over the last few seconds."""

    def __init__(self, clock: Clock) -> None:
        self._clock = clock
        self._marks: list[tuple[float, int]] = []

    def rate(self, received: int) -> float | None:
        """The rate, now that `received` bytes are here; None in the first moment."""
        now = self._clock()
        if self._marks and received < self._marks[-1][1]:
            self._marks.clear()
        if not self._marks or now - self._marks[-1][0] >= 0.5:
            self._marks = [*self._marks[-10:], (now, received)]
        since, before = self._marks[0]
        return (received - before) / (now - since) if now > since else None


def display(console: Console) -> Display:
    """The right one for the console."""
    return Bar(console) if console.is_terminal else Display(console)


def amount(size: float) -> str:
    """Bytes as people read them."""
    for unit in ("B", "KiB", "MiB", "GiB"):
        if size < 1024:
            return f"{size:.0f} {unit}" if unit == "B" else f"{size:.1f} {unit}"
        size /= 1024
    return f"{size:.1f} TiB"


def duration(seconds: float) -> str:
    """Seconds as m:ss or h:mm:ss."""
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02}:{rest:02}" if hours else f"{minutes}:{rest:02}"


def describe(received: int, size: int | None, rate: float | None, left: float | None) -> str:
    """Bytes, share, rate and time left, as far as they are known."""
    words = [
        f"{amount(received)} of {amount(size)}, {100 * received // size} %"
        if size
        else amount(received)
    ]
    if rate:
        words.append(f"{amount(rate)}/s")
    if left is not None:
        words.append(f"{duration(left)} left")
    return ", ".join(words)
