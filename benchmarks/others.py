"""The CPU time of other processes while a benchmark runs: beside them, nothing can be judged."""

from __future__ import annotations

import os
import time
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

#: The share of a core that another process may take.
LIMIT = 0.10
#: The flag of threads of the kernel in /proc/<pid>/stat: they work for the benchmark.
_KERNEL_THREAD = 0x00200000
_TICK = os.sysconf("SC_CLK_TCK")


class Process(NamedTuple):
    """A process at a moment: CPU times in seconds, `reaped` is that of children that have ended."""

    name: str
    parent: int
    own: float
    reaped: float


@dataclass(frozen=True)
class Moment:
    """The processes of the machine by their id, at `at` seconds of the monotonic clock."""

    at: float
    processes: Mapping[int, Process]

    @classmethod
    def now(cls) -> Moment:
        """Read them."""
        found = {}
        for directory in Path("/proc").iterdir():
            if directory.name.isdecimal():
                try:
                    process = parse((directory / "stat").read_text(errors="replace"))
                except OSError:  # it has ended
                    continue
                if process is not None:
                    found[int(directory.name)] = process
        return cls(time.monotonic(), found)


def parse(stat: str) -> Process | None:
    """Parse /proc/<pid>/stat (proc(5)). None for a thread of the kernel."""
    head, _, rest = stat.rpartition(")")
    values = rest.split()
    if int(values[6]) & _KERNEL_THREAD:
        return None
    own, reaped = (sum(map(int, values[at : at + 2])) / _TICK for at in (11, 13))
    return Process(head.partition("(")[2], int(values[1]), own, reaped)


def taken(before: Moment, after: Moment, root: int) -> dict[str, float]:
    """Return what the processes took between the moments, as shares of one core by name and id.

    `root` and the processes below it are left out. The time of a process that ended meanwhile
    counts as its parent's.
    """
    seconds = after.at - before.at
    spent = {pid: _spent(now, before.processes.get(pid)) for pid, now in after.processes.items()}
    for pid, process in before.processes.items():
        if pid not in after.processes:
            reaper = _first_in(spent, process.parent, before.processes)
            if reaper is not None:
                spent[reaper] -= process.own + process.reaped
    return {
        f"{after.processes[pid].name} ({pid})": max(0.0, time) / seconds
        for pid, time in spent.items()
        if not _below(pid, root, after.processes)
    }


def _spent(now: Process, before: Process | None) -> float:
    earlier = before.own + before.reaped if before is not None else 0.0
    return now.own + now.reaped - earlier


def _first_in(alive: Mapping[int, float], pid: int, processes: Mapping[int, Process]) -> int | None:
    """Return the process, or its first ancestor, that is still there; None if there is none."""
    while pid not in alive and pid in processes:
        pid = processes[pid].parent
    return pid if pid in alive else None


def _below(pid: int, root: int, processes: Mapping[int, Process]) -> bool:
    while pid != root and pid in processes:
        pid = processes[pid].parent
    return pid == root


def disturbing(shares: Mapping[str, float], limit: float = LIMIT) -> str:
    """Return which processes took more than the limit; "" if none did."""
    loud = sorted((share, name) for name, share in shares.items() if share > limit)
    return ", ".join(f"{name} takes {share:.0%} of a core" for share, name in reversed(loud))
