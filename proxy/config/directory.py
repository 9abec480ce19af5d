"""A check that nobody but the proxy can write to the data directory.

Others who can write there can replace files, job records and the owner key.
"""

from __future__ import annotations

import os
import shlex
import stat
import sys
from pathlib import Path

if sys.platform == "win32":

    def foreign_access(directory: Path) -> tuple[str, str] | None:
        """Return None: Windows has access control lists, which the operator sets."""
        return None

else:

    def foreign_access(directory: Path) -> tuple[str, str] | None:
        """Return how others can write to or replace `directory`, and a command that prevents it.

        Returns None if they cannot. A directory that does not exist yet is created with mode 0700,
        so that only its parents matter. Root may own it, since root can write everywhere. Raises
        OSError.
        """
        directory = directory.resolve()
        if directory.exists():
            status, me, name = directory.stat(), os.geteuid(), shlex.quote(str(directory))
            if status.st_uid not in {me, 0}:
                return "belongs to another user", f"chown -R {me} {name} && chmod 700 {name}"
            if status.st_mode & (stat.S_IWGRP | stat.S_IWOTH):
                chown = "" if status.st_uid == me else f"chown {me} {name} && "
                problem = f"can be written by others ({_mode(status)})"
                return problem, f"{chown}chmod 700 {name}"
        for parent in filter(Path.exists, directory.parents):
            status, name = parent.stat(), shlex.quote(str(parent))
            if status.st_mode & stat.S_IWOTH and not status.st_mode & stat.S_ISVTX:
                problem = f"can be replaced by others: {parent} has {_mode(status)}"
                return problem, f"chmod o-w {name}"
        return None

    def _mode(status: os.stat_result) -> str:
        return f"mode {stat.S_IMODE(status.st_mode):04o}"
