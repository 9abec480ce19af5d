"""What a check has found, and the report of all of them."""

from __future__ import annotations

import json
from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass
from enum import StrEnum

from proxy.core.text import visible


class State(StrEnum):
    """How a check ended."""

    OK = "ok"
    WARNING = "warning"
    FAILED = "failed"


@dataclass(frozen=True, slots=True)
class Finding:
    """What a check has found: the setting or the thing that it is about, what is there, and how to
    fix it, "" if nothing has to be.

    `check` is its name in JSON, which does not change.
    """

    check: str
    state: State
    subject: str
    message: str
    fix: str = ""

    def __str__(self) -> str:
        end = "" if self.message.endswith((".", "?", "…")) or not self.fix else "."
        return visible(f"{self.subject}: {self.message}{end} {self.fix}".rstrip())


def ok(check: str, subject: str, message: str) -> Finding:
    """A check that found nothing wrong."""
    return Finding(check, State.OK, subject, message)


def warning(check: str, subject: str, message: str, fix: str) -> Finding:
    """A check that found what works, but is rarely meant."""
    return Finding(check, State.WARNING, subject, message, fix)


def failed(check: str, subject: str, message: str, fix: str = "") -> Finding:
    """A check that found what prevents something from working. The message may contain the fix."""
    return Finding(check, State.FAILED, subject, message, fix)


def has_failed(findings: Iterable[Finding]) -> bool:
    """Whether a check has failed."""
    return any(each.state is State.FAILED for each in findings)


def to_text(findings: Sequence[Finding]) -> str:
    """A line for each finding, and one with their numbers."""
    lines = [f"{each.state:<7}  {each}" for each in findings]
    states = [each.state for each in findings]
    counts = (f"{states.count(state)} {state}" for state in reversed(State) if state in states)
    return "\n".join([*lines, ", ".join(counts)])


def to_json(findings: Sequence[Finding]) -> str:
    """The findings as a JSON object, in ASCII."""
    checks = [asdict(each) for each in findings]
    return json.dumps({"ok": not has_failed(findings), "checks": checks}, indent=2)
