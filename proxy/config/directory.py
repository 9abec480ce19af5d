"""Whether the data directory is the proxy's alone: who else can write there can replace files,
records and the key.
"""

from __future__ import annotations

import os
import shlex
import stat
import sys
from pathlib import Path

if sys.platform == "win32":

    def shared(directory: Path) -> tuple[str, str] | None:
        """None: file modes mean nothing here, access control lists are the operator's."""
        return None

else:

    def shared(directory: Path) -> tuple[str, str] | None:
        """How others can write to `directory`, or replace it, and the command that fixes it; None
        if they cannot.

        A directory that does not exist yet is made for the proxy alone; then only its parents
        count. Root may own it: root can write everywhere. Raises OSError.
        """
        directory = directory.resolve()
        if directory.exists():
            found, me, name = directory.stat(), os.geteuid(), shlex.quote(str(directory))
            if found.st_uid not in {me, 0}:
                return "belongs to another user", f"chown -R {me} {name} && chmod 700 {name}"
            if found.st_mode & (stat.S_IWGRP | stat.S_IWOTH):
                give = "" if found.st_uid == me else f"chown {me} {name} && "
                return f"can be written by others ({_mode(found)})", f"{give}chmod 700 {name}"
        for parent in filter(Path.exists, directory.parents):
            above, name = parent.stat(), shlex.quote(str(parent))
            if above.st_mode & stat.S_IWOTH and not above.st_mode & stat.S_ISVTX:
                return (
                    f"can be replaced by others: {parent} has {_mode(above)}",
                    f"chmod o-w {name}",
                )
        return None

    def _mode(found: os.stat_result) -> str:
        return f"mode {stat.S_IMODE(found.st_mode):04o}"
