"""Errors that end a command, with their exit codes (CONTRACT §15)."""

from __future__ import annotations

from proxy.core.job import Status

#: Exit codes by the status of the job.
EXIT_CODES = {Status.SUCCESS: 0, Status.WARNING: 3, Status.FAILED: 1, Status.CANCELLED: 4}
EXIT_INTERRUPTED = 130
#: As a shell reports a process that SIGTERM ended.
EXIT_TERMINATED = 143


class CommandError(Exception):
    """An error that ends the command with a message and an exit code."""

    def __init__(self, message: str, *, code: int = 1) -> None:
        super().__init__(message)
        self.code = code


class ErrorResponse(CommandError):
    """The server responded with an error status."""

    def __init__(self, message: str, status: int) -> None:
        super().__init__(message)
        self.status = status


class Unreachable(CommandError):
    """The connection failed or broke before the response was complete. Another try may succeed."""


class CorruptFile(CommandError):
    """The downloaded file does not have the announced digest."""
