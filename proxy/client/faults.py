"""What ends a command early, and with which exit code (CONTRACT §15)."""

from __future__ import annotations

from proxy.core.job import Status

#: The exit code for each outcome of a job.
EXIT = {Status.SUCCESS: 0, Status.WARNING: 3, Status.FAILED: 1, Status.CANCELLED: 4}
INTERRUPTED = 130


class Fault(Exception):
    """Ends the command with a sentence for its user and an exit code."""

    def __init__(self, message: str, *, code: int = 1) -> None:
        super().__init__(message)
        self.code = code


class Refused(Fault):
    """The server answered with an error `status`."""

    def __init__(self, message: str, status: int) -> None:
        super().__init__(message)
        self.status = status


class Unreachable(Fault):
    """No connection, or it broke before the answer was whole: worth another try."""


class Corrupt(Fault):
    """The bytes on disk are not the bytes the server promised."""
