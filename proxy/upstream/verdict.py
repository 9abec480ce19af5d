"""What the status of VB365's response to an access check means (CONTRACT §9)."""

#: VB365's statuses for a missing resource, a version that it does not serve, and a malformed id.
UNKNOWN = (400, 404)
DENIED = (401, 403, *UNKNOWN)
#: VB365's statuses that decide nothing, whatever credentials were sent.
UNDECIDED = (429, *range(500, 600))


def is_decision(status: int) -> bool:
    """Report whether the status allows or denies."""
    return is_success(status) or status in DENIED


def is_success(status: int) -> bool:
    """Report whether the status is 2xx."""
    return 200 <= status < 300
