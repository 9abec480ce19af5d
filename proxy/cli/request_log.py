"""The log of `simulate`: a line per request."""

from __future__ import annotations

from datetime import datetime

from proxy.core import amounts
from proxy.core.text import visible
from proxy.simulator.calls import RecordedRequest

_KIB = 1024


def line(request: RecordedRequest) -> str:
    """Return the line of a request that has ended.

    Local time, method, target, status (`-` without a response), bytes sent after the head, duration
    in seconds, and if known the user, the faults, and how a transfer ended early. Characters that
    are not printable are escaped.
    """
    time = datetime.fromtimestamp(request.time).astimezone().strftime("%H:%M:%S")
    sent = request.sent
    size = amounts.size(sent) if sent >= _KIB else f"{sent} B"
    words = [time, request.method, request.target, str(request.status or "-"), size]
    words.append(f"{request.seconds:.2f} s")
    if request.user:
        words.append(f"user={request.user}")
    if request.faults:
        words.append(f"faults={','.join(request.faults)}")
    if request.outcome in ("cut", "disconnected"):
        words.append(request.outcome)
    return visible(" ".join(words))
