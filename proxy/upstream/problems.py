"""The problems that access checks raise (CONTRACT §9, §11)."""

from __future__ import annotations

from proxy.core.errors import Problem

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
