"""The problems of access checks and of requests that are passed through (CONTRACT §9, §11)."""

from __future__ import annotations

from proxy.core.errors import Problem
from proxy.ports import LocalShortage, UpstreamFailure, UpstreamTimedOut

_RETRY_AFTER = 5


def unauthorized() -> Problem:
    """Return the 401 for a request without credentials, or with ones that VB365 rejects."""
    return Problem(
        "unauthorized",
        (
            "Send the credentials (Authorization or Cookie) with which Veeam Backup for "
            "Microsoft 365 is used."
        ),
        headers=(("WWW-Authenticate", "Bearer"),),
    )


def not_found() -> Problem:
    """Return the 404 for a job that does not exist or is another caller's: the two look alike."""
    return Problem(
        "job-not-found", "There is no export job with this id among those that you may see."
    )


def unreachable() -> Problem:
    """Return the 503 for a check that VB365 does not answer now."""
    return Problem(
        "upstream-unreachable",
        "Veeam Backup for Microsoft 365 cannot be asked whether you may see this job. Try again.",
        retry_after=_RETRY_AFTER,
        status=503,
    )


def not_connected(failure: UpstreamFailure) -> Problem:
    """Return the 502, 503 or 504 for a request that could not be sent: no connection was made."""
    if isinstance(failure, UpstreamTimedOut):
        return Problem(
            "upstream-timeout", "Veeam Backup for Microsoft 365 could not be reached in time."
        )
    if isinstance(failure, LocalShortage):
        return Problem(
            "capacity-exhausted",
            "The proxy has no descriptor, port or memory for another connection. Try again.",
            retry_after=_RETRY_AFTER,
        )
    return Problem("upstream-unreachable", "Veeam Backup for Microsoft 365 could not be reached.")


def no_response() -> Problem:
    """Return the 502 for a connection that VB365 closed before its response."""
    return Problem(
        "upstream-unreachable",
        "Veeam Backup for Microsoft 365 closed the connection without a response.",
    )


def malformed_response() -> Problem:
    """Return the 502 for a response that is not valid HTTP."""
    return Problem(
        "upstream-unreachable", "Veeam Backup for Microsoft 365 sent a malformed response."
    )


def not_taken() -> Problem:
    """Return the 503 for a request whose body VB365 does not read, while too much waits for it."""
    return Problem(
        "capacity-exhausted",
        "Veeam Backup for Microsoft 365 does not read the request, and others wait for it, too.",
        retry_after=_RETRY_AFTER,
    )
