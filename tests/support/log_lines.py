"""The log of a block of a test, as `log.format = json` writes it, and the documented events."""

from __future__ import annotations

import contextlib
import io
import json
import logging
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import structlog

from proxy import logs

PAGE = Path(__file__).parents[2] / "docs" / "operations.md"
#: Fields of every entry, of every `job.*` event, and of entries that are written during a call.
EVERY = {"event", "timestamp", "level", "logger"}
OF_A_JOB = {"job", "export", "session", "caller"}
OF_A_CALL = {"request_id", "client"}


class LogLines(io.StringIO):
    """What was logged."""

    @property
    def entries(self) -> list[dict[str, Any]]:
        return [json.loads(line) for line in self.getvalue().splitlines()]

    def named(self, name: str) -> list[dict[str, Any]]:
        """The entries of one event."""
        return [entry for entry in self.entries if entry["event"] == name]

    @property
    def names(self) -> list[str]:
        return [entry["event"] for entry in self.entries]


@contextlib.contextmanager
def logged(level: str = "info", *, audit: Path | None = None) -> Iterator[LogLines]:
    """Collect what is logged in the block."""
    root = logging.getLogger()
    handlers, before = root.handlers, root.level
    lines = LogLines()
    logs.configure("json", level, lines, audit=audit)
    structlog.configure(cache_logger_on_first_use=False)  # a later test configures them again
    try:
        yield lines
    finally:
        logs.configure("console", level)  # closes the audit file
        logging.captureWarnings(False)
        root.handlers, root.level = handlers, before
        structlog.reset_defaults()


def documented() -> dict[str, set[str]]:
    """The events of the table in docs/operations.md, each with its fields."""
    _, _, section = PAGE.read_text(encoding="utf-8").partition("\n### Events\n")
    section = section.partition("\n## ")[0]
    found = {}
    for name, fields in re.findall(r"^\| `([a-z_.]+)` \|([^|]*)\|", section, re.MULTILINE):
        own = set(re.findall(r"`(\w+)`", fields))
        found[name] = EVERY | own | (OF_A_JOB if name.startswith("job.") else set())
    return found


def check_documented(entries: list[dict[str, Any]]) -> None:
    """Check that each named event is in the table, with exactly its fields."""
    table = documented()
    for entry in entries:
        name = entry["event"]
        if " " in name:
            continue  # a sentence, for people
        assert name in table, f"{name} is not in docs/operations.md"
        fields = set(entry) - (OF_A_CALL if set(entry) >= OF_A_CALL else set())
        assert fields == table[name], f"{name}: {fields ^ table[name]}"
