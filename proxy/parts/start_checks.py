"""What prevents the proxy from starting on this machine, as far as it is known without opening its
stores (CONTRACT §15).
"""

from __future__ import annotations

from contextlib import suppress

from proxy.config import Problem, Settings, startup_problems
from proxy.stores.disk_jobs.layout import newer_layout


def start_problems(settings: Settings) -> list[Problem]:
    """Return all problems, also with what another version has stored."""
    problems = startup_problems(settings)
    directory = settings.storage.dir
    if settings.storage.jobs != "disk" or any(each.key == "storage.dir" for each in problems):
        return problems
    with suppress(OSError):  # the start reports it
        if (found := newer_layout(directory)) is not None:
            text, fix = found
            problems.append(Problem("configuration", "storage.dir", f"= {directory}: {text}", fix))
    return problems
